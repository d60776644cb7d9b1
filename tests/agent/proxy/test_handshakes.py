"""Handshakes over real sockets: who is handed on, who is refused and how it is told, and floods."""

from __future__ import annotations

import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.identity.revocations import Revocations, Revoked
from agent.identity.spiffe import service_id
from agent.proxy.engine.credentials import AGENT
from agent.proxy.engine.half_open import TURN_S, HalfOpen, Waiting
from agent.proxy.engine.handshake import MAX_BYTES
from agent.proxy.engine.reactor import Reactor
from agent.tls.greeting import GREETING
from tests.support.identity import PETS, SHOP, der
from tests.support.light import until
from tests.support.tls import (
    OURS,
    STRANGER,
    WEB,
    Echo,
    in_thread,
    judging,
    python_client,
    python_context,
    running_loop,
    services,
    shown,
)

TOMORROW = datetime.fromtimestamp(time.time() + 86400, UTC)


def revoked(**what: Any) -> Revocations:
    """One thing."""
    return Revocations([Revoked(TOMORROW, **what)])


async def test_both_prove_who_they_are(tmp_path: Path) -> None:
    """SNI says who is called, the certificate who calls; each by what it was called."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        for callee in (PETS, SHOP):
            client = await loop.call(port, shown(tmp_path, SHOP), callee)
            assert isinstance(client, Echo) and client.identity.id == callee
            client.say(b"hello")
            await until(lambda client=client: client.heard == b"hello")
            assert loop.secured[-1].identity.id == SHOP
            client.close()
        agent = await loop.call(port, shown(tmp_path, WEB), WEB, sni=AGENT)
        assert isinstance(agent, Echo) and loop.secured[-1].identity.id == WEB
        agent.close()
        assert loop.half_open.secured == 3 and loop.failed == [] and len(loop.half_open) == 0


async def test_others_clients(tmp_path: Path) -> None:
    """Python's and openssl's, with our line (ALPN) and without."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        caller = shown(tmp_path, SHOP)

        def talk(protocols: list[str] | None) -> bytes:
            with python_client(port, python_context(caller, protocols)) as client:
                client.sendall(b"hello")
                heard = b""
                while not heard.endswith(b"hello"):
                    heard += client.recv(100)
                return heard

        assert await in_thread(talk, [GREETING]) == b"accepted\r\nhello"
        assert await in_thread(talk, ["http/1.1"]) == b"hello"
        assert await in_thread(talk, None) == b"hello"
        done = await in_thread(s_client, port, caller, "-alpn", GREETING)
        assert "accepted" in done.stdout and "Verify return code: 0 (ok)" in done.stdout
        assert "TLSv1.3" in done.stdout and "No ALPN" not in done.stdout


def s_client(port: int, caller: Any, *options: str) -> subprocess.CompletedProcess[str]:
    """What openssl says of a port."""
    (caller.chain.parent / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(DER_ROOT))
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "pets.production", "-CAfile"]
    command += [str(caller.chain.parent / "root.pem"), "-cert", str(caller.chain), "-cert_chain", str(caller.chain)]
    command += ["-key", str(caller.key), *options]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    seen = ""
    try:
        for line in process.stdout:
            seen += line
            if line.startswith(("accepted", "refused")) or "alert" in line:
                break
    finally:
        process.stdin.close()
        process.kill()
        seen += process.stdout.read()
        process.stdout.close()
        process.wait()
    return subprocess.CompletedProcess(command, 0, seen)


(DER_ROOT,) = der([OURS.root.certificate])


async def test_others_servers(tmp_path: Path) -> None:
    """A server that is none of ours says no line, and is asked for none."""
    async with running_loop() as loop:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pets = shown(tmp_path, PETS)
        context.load_cert_chain(pets.chain, pets.key)
        context.load_verify_locations(cadata=DER_ROOT)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["http/1.1"])
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve() -> bytes:
                sock, _ = listening.accept()
                sock.settimeout(60)
                with context.wrap_socket(sock, server_side=True) as client:
                    heard = client.recv(100)
                    client.sendall(b"answer to " + heard)
                    return heard

            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, serve)
                client = await loop.call(listening.getsockname()[1], shown(tmp_path, SHOP), PETS)
                assert isinstance(client, Echo)
                client.say(b"hello")
                await until(lambda: client.broken)  # Python's server says no close_notify: that is no end
                assert client.heard == b"answer to hello" and not client.ended
                assert "cut" in str(client.broken)


# Refusals: a client is through before it is judged, and hears all the same that nothing was sent.


async def test_a_caller_who_is_refused_hears_why(tmp_path: Path) -> None:
    """Revoked, by a clock that is off, and of a domain that is not ours: by our line, or by an alert of TLS's own."""
    before = datetime.fromtimestamp(time.time(), UTC)
    for judge, said in (
        (judging(revocations=revoked(service="shop.production", before=before)), "revoked: service shop.production"),
        (judging(off_s=-3600.0), "one of the clocks is off"),
        (judging(off_s=25 * 3600.0), "has ended"),
        (judging(WEB), f"where {WEB} was expected"),
    ):
        async with running_loop() as loop:
            port = loop.serve(services(tmp_path), judge)
            refusal = await loop.call(port, shown(tmp_path, SHOP), PETS)
            assert isinstance(refusal, str) and refusal.startswith("identity refused, nothing was sent: ")
            assert said in refusal
            await until(lambda loop=loop: loop.failed)
            assert said in loop.failed[0] and loop.secured == [] and loop.half_open.failed == 1


async def test_a_stranger_is_refused(tmp_path: Path) -> None:
    """A chain to no root of ours: TLS's own alert, told as what it is."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        theirs = service_id("stranger.example", "shop.production")
        refusal = await loop.call(port, shown(tmp_path, theirs, STRANGER.svid(theirs)), PETS)
        assert refusal == "identity refused by the other side: unknown ca; nothing was sent"
        await until(lambda: loop.failed)


async def test_who_shows_nothing_is_refused(tmp_path: Path) -> None:
    """A client without a certificate, by each protocol."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))

        def ask() -> str:
            try:
                with python_client(port, python_context(None)) as client:
                    return repr(client.recv(10))
            except OSError as error:
                return str(error)

        assert "CERTIFICATE_REQUIRED" in await in_thread(ask)
        await until(lambda: loop.failed)
        assert loop.secured == []


async def test_right_chain_but_wrong_service(tmp_path: Path) -> None:
    """An instance that shows another service's SVID is sent nothing: not even who calls."""
    async with running_loop() as loop:
        port = loop.serve({**services(tmp_path), "pets.production": shown(tmp_path, SHOP)})
        refusal = await loop.call(port, shown(tmp_path, SHOP), PETS)
        assert refusal == f"this is {SHOP}, where {PETS} was expected; nothing was sent"
        await until(lambda: loop.failed)
        assert loop.failed == ["it closed without a word"] and loop.secured == []


async def test_a_service_that_is_not_here(tmp_path: Path) -> None:
    """SNI names what nobody here holds: no certificate is shown at all, in place of another's."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path, SHOP))
        refusal = await loop.call(port, shown(tmp_path, SHOP), PETS)
        assert refusal == "identity refused by the other side: unrecognized name; nothing was sent"


async def test_a_server_whose_root_we_do_not_know(tmp_path: Path) -> None:
    """Is sent nothing."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        roots = der([STRANGER.root.certificate])
        refusal = await loop.call(port, shown(tmp_path, SHOP), PETS, roots=roots)
        assert (
            isinstance(refusal, str)
            and "its certificate is not believed: " in refusal
            and "nothing was sent" in refusal
        )


async def test_a_server_that_closes_without_a_word(tmp_path: Path) -> None:
    """Before its handshake, and after it where our line is due: never told as if something might have been sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pets = shown(tmp_path, PETS)
    context.load_cert_chain(pets.chain, pets.key)
    context.set_alpn_protocols([GREETING])
    async with running_loop() as loop:
        for shakes in (False, True):
            with socket.create_server(("127.0.0.1", 0)) as listening:

                def serve(listening: socket.socket = listening, shakes: bool = shakes) -> None:
                    sock, _ = listening.accept()
                    sock.settimeout(60)
                    if shakes:
                        sock = context.wrap_socket(sock, server_side=True)
                    sock.close()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(in_thread, serve)
                    refusal = await loop.call(listening.getsockname()[1], shown(tmp_path, SHOP), PETS)
                    assert isinstance(refusal, str) and refusal.endswith("nothing was sent")
                    assert ("it may have refused our identity" in refusal) == shakes


async def test_a_server_that_says_something_else(tmp_path: Path) -> None:
    """In place of whether it accepts: an answer, a line that does not end, more than a line."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pets = shown(tmp_path, PETS)
    context.load_cert_chain(pets.chain, pets.key)
    context.set_alpn_protocols([GREETING])
    async with running_loop() as loop:
        for line in (b"HTTP/1.1 200 OK\r\n", b"a" * 5000, b"accepted\r\nHTTP/1.1 200 OK\r\n\r\n"):
            with socket.create_server(("127.0.0.1", 0)) as listening:

                def serve(listening: socket.socket = listening, line: bytes = line) -> None:
                    sock, _ = listening.accept()
                    sock.settimeout(60)
                    with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as client:
                        client.sendall(line)
                        try:
                            assert client.recv(10) == b""
                        except OSError:
                            pass

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(in_thread, serve)
                    refusal = await loop.call(listening.getsockname()[1], shown(tmp_path, SHOP), PETS)
                    assert refusal == "it said something else than whether it accepts us; nothing was sent"


async def test_nobody_listens(tmp_path: Path) -> None:
    """Is what it is."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    async with running_loop() as loop:
        assert await loop.call(port, shown(tmp_path, SHOP), PETS) == "Connection refused"


# What TLS can do, and may not.


async def test_tls_12_is_refused(tmp_path: Path) -> None:
    """And told so."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))

        def ask() -> str:
            context = python_context(shown(tmp_path, SHOP))
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            try:
                python_client(port, context).close()
            except ssl.SSLError as error:
                return str(error.reason)
            return "accepted"

        assert await in_thread(ask) == "TLSV1_ALERT_PROTOCOL_VERSION"
        await until(lambda: loop.failed)
        assert "unsupported protocol" in loop.failed[0]


async def test_nothing_is_resumed(tmp_path: Path) -> None:
    """No ticket is given, so a session that is shown again is a whole handshake: revocations and ends are looked at."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        context = python_context(shown(tmp_path, SHOP))

        def talk(session: ssl.SSLSession | None) -> tuple[Any, bool]:
            with python_client(port, context, session=session) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
                return client.session, bool(client.session_reused)

        session, reused = await in_thread(talk, None)
        assert not reused and not session.has_ticket
        assert (await in_thread(talk, session))[1] is False
        assert loop.half_open.secured == 2


# Plain text.


async def test_the_first_byte_tells(tmp_path: Path) -> None:
    """What is no TLS is handed on untouched where that is taken, and is a failure where it is not."""
    async with running_loop() as loop:
        for permissive in (True, False):
            port = loop.serve(services(tmp_path), permissive=permissive)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET / HTTP/1.1\r\n")
                await until(lambda permissive=permissive: loop.plain if permissive else loop.failed)
        (plain,) = loop.plain
        assert plain.recv(100) == b"GET / HTTP/1.1\r\n"
        assert "does not speak TLS" in loop.failed[0]
        assert (loop.half_open.plain, loop.half_open.failed) == (1, 1)


# What is slow, broken or too much.


async def test_a_byte_at_a_time(tmp_path: Path) -> None:
    """A handshake that comes in single bytes is one."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        context = python_context(shown(tmp_path, SHOP), [GREETING])

        def drip() -> bytes:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="pets.production")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                done = False
                while True:
                    try:
                        if done:
                            return tls.read(100)
                        tls.do_handshake()
                        done = True
                    except ssl.SSLWantReadError:
                        pass
                    for byte in outgoing.read():
                        sock.sendall(bytes([byte]))
                    if not done or not incoming.pending:
                        incoming.write(sock.recv(1))

        assert await in_thread(drip) == b"accepted\r\n"


async def test_a_handshake_has_its_time(tmp_path: Path) -> None:
    """Whether it is silent, stops in the middle, or never says whether it accepts."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2)]
        clients[1].sendall(b"\x16\x03\x01\x02")
        await until(lambda: len(loop.half_open) == 2 and sum(each.state == 2 for each in loop.handshakes) == 1)
        loop.reactor.wheel.expire(time.monotonic() + 6)
        assert loop.failed == ["the handshake was not done within 5 s"] * 2
        assert len(loop.half_open) == 0
        for client in clients:
            assert await in_thread(client.recv, 10) == b""
            client.close()


async def test_a_handshake_has_its_size(tmp_path: Path) -> None:
    """A hello that never ends is not collected."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))

        def flood() -> None:
            piece = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + b"a" * (16384 - 4)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                try:
                    for _ in range(MAX_BYTES // 1000):
                        client.sendall(piece)
                except OSError:
                    pass

        await in_thread(flood)
        await until(lambda: loop.failed)
        assert len(loop.half_open) == 0 and loop.secured == []


@pytest.mark.parametrize(
    "text", [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16" * 600, b"\x16\x03\x03\xff\xff" + b"x" * 70000]
)
async def test_garbage_that_begins_like_tls(tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Is a failure in words, and no error of the loop's."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            try:
                client.sendall(text)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            await until(lambda: loop.failed)
    assert len(loop.failed) == 1 and caplog.records == []


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    if before[1] != resource.RLIM_INFINITY and before[1] < 13_000:
        pytest.skip("not enough descriptors here")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_ten_thousand_that_are_half_open(tmp_path: Path, many_descriptors: None) -> None:
    """Silent ones, and such that stop in the middle: bounded, and whoever means it gets through meanwhile."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        caller = shown(tmp_path, SHOP)
        flood: list[socket.socket] = []
        try:
            for number in range(10_000):
                sock = socket.create_connection(("127.0.0.1", port), timeout=60)
                flood.append(sock)
                if number % 2:
                    sock.sendall(b"\x16\x03\x01\x02\x00\x01")
                if number % 100 == 0:
                    await trio.sleep(0)
                if number % 2500 == 2499:
                    client = await loop.call(port, caller, PETS)
                    assert isinstance(client, Echo)
                    client.close()
            await until(lambda: loop.half_open.displaced >= 10_000 - loop.half_open.most - len(loop.failed))
            assert len(loop.half_open) <= loop.half_open.most
            assert loop.half_open.secured == 4
        finally:
            for sock in flood:
                sock.close()


async def test_handshakes_leave_time_to_others(tmp_path: Path) -> None:
    """A hundred that come at once go through in turns: none takes more than its window has, and none is forgotten."""
    async with running_loop() as loop:
        ticks = iter(range(1_000_000_000))
        clock = [0.0]

        def slow() -> float:  # each look at the clock is 2 ms later: a step takes that
            next(ticks)
            clock[0] += 0.002
            return clock[0]

        loop.half_open = HalfOpen(loop.reactor, slow)
        port = loop.serve(services(tmp_path))
        caller = shown(tmp_path, SHOP)
        found: list[Echo | str] = []

        async def call() -> None:
            found.append(await loop.call(port, caller, PETS))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(call)
        assert all(isinstance(each, Echo) for each in found)
        assert len(found) == loop.half_open.secured == 50
        for each in found:
            each.close()


def test_a_window_has_its_turn() -> None:
    """Beyond half of it nobody begins, and who waits is first in the next one."""
    reactor = Reactor()
    try:
        now = [100.0]
        half_open = HalfOpen(reactor, lambda: now[0])
        assert half_open.may_work(NOBODY)
        now[0] += 1.5 * TURN_S
        half_open.spend(100.0)
        assert not half_open.may_work(NOBODY)
        now[0] += 1.0
        assert not half_open.may_work(NOBODY)  # another is first
    finally:
        reactor.close()


NOBODY = Waiting()
