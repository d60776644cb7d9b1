"""A TLS connection behaves as a plain socket does, whatever records do: nothing hides, nothing is lost, nothing is cut
short, and the path of requests does not know of it."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.identity.verdict import Identity
from agent.proxy.engine.tls import TlsSocket
from agent.proxy.peer import Proof, peer_at
from tests.support.identity import PETS, SHOP
from tests.support.light import until
from tests.support.proxy import OK, Client, endpoint, running_proxy
from tests.support.tls import Echo, Loop, in_thread, python_client, python_context, running_loop, services, shown

MIB = 1024 * 1024


def talking(
    loop: Loop, folder: Path, talk: Callable[[ssl.SSLSocket], Any], protocols: list[str] | None = None
) -> Callable[[], Any]:
    """What blocks: a client of Python's that talks to a port of ours."""
    port = loop.serve(services(folder))
    context = python_context(shown(folder, SHOP), protocols)

    def run() -> Any:
        with python_client(port, context) as client:
            return talk(client)

    return run


def read(client: ssl.SSLSocket, size: int) -> bytes:
    """So much."""
    found = bytearray()
    while len(found) < size:
        data = client.recv(65536)
        assert data, f"it ended after {len(found)} bytes"
        found += data
    return bytes(found)


async def test_much_goes_both_ways(tmp_path: Path) -> None:
    """Sixteen megabytes and their echo, to a client that reads none before it has sent all of the first: back-pressure
    on both sides, and every byte once."""
    data = os.urandom(16 * MIB)

    def talk(client: ssl.SSLSocket) -> bool:
        client.sendall(data[:MIB])
        found, sent = bytearray(read(client, MIB)), MIB
        client.setblocking(False)
        while len(found) < len(data):  # one thread: OpenSSL's connections are not for two
            select.select([client], [client] if sent < len(data) else [], [], 60)
            with suppress(ssl.SSLWantReadError):
                while more := client.recv(65536):
                    found += more
            with suppress(ssl.SSLWantWriteError):
                sent += client.send(data[sent : sent + 65536])
        return found == data

    async with running_loop() as loop:
        assert await in_thread(talking(loop, tmp_path, talk))


async def test_nothing_hides_from_the_loop(tmp_path: Path) -> None:
    """Many records, small and whole, and what ends them, sent at once: all is read, by events only."""
    async with running_loop() as loop:
        loop.take = lambda sock, identity: quiet.append(silent(loop, sock, identity))
        quiet: list[Echo] = []

        def talk(client: ssl.SSLSocket) -> None:
            corked = b"".join(b"%03d" % number for number in range(200))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            for number in range(200):
                client.sendall(corked[3 * number : 3 * number + 3])
            client.sendall(b"x" * 50_000)
            with pytest.raises(ssl.SSLError):  # it says that it ends, and hears data instead of an end
                client.settimeout(0)
                client.unwrap()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            client.settimeout(60)
            quiet_ended.wait()

        quiet_ended = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, talking(loop, tmp_path, talk))
            await until(lambda: quiet and quiet[0].ended)
            quiet_ended.set()
        assert bytes(quiet[0].heard) == b"".join(b"%03d" % number for number in range(200)) + b"x" * 50_000
        quiet[0].close()


def silent(loop: Loop, sock: TlsSocket, identity: Identity) -> Echo:
    """Who only listens."""
    echo = Echo(loop.reactor, sock, identity)
    echo.silent = True
    return echo


async def test_what_came_with_the_handshake(tmp_path: Path) -> None:
    """A request in the same segment as the handshake's end is not forgotten, though the socket is silent then."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        context = python_context(shown(tmp_path, SHOP), ["http/1.1"])

        def talk() -> bytes:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="pets.production")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(65536))
                tls.write(b"early")
                sock.sendall(outgoing.read())  # Finished and the first record
                while True:
                    incoming.write(sock.recv(65536))
                    try:
                        return tls.read(100)
                    except ssl.SSLWantReadError:
                        pass

        assert await in_thread(talk) == b"early"


async def test_half_an_end(tmp_path: Path) -> None:
    """Who says no more still hears: what was on its way then arrives whole. An ssl.SSLSocket would have lost it."""
    async with running_loop() as loop:
        taken: list[TlsSocket] = []
        loop.take = lambda sock, identity: taken.append(sock)

        def talk(client: ssl.SSLSocket) -> bytes:
            client.sendall(b"late answer")
            assert client.recv(10) == b""  # our half of the end
            client.sendall(b" and later")
            return b"done"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, talking(loop, tmp_path, talk))
            await until(lambda: taken)
            (sock,) = taken
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(sock.fileno())  # it is on its way, and not read
            sock.shutdown(socket.SHUT_WR)
            heard = b""
            while not heard.endswith(b"later"):
                with trio.fail_after(60):
                    await trio.lowlevel.wait_readable(sock.fileno())
                try:
                    heard += sock.recv(65536)
                except BlockingIOError:
                    pass
            assert heard == b"late answer and later"
        sock.close()


def test_an_sslsocket_would_lose_it(tmp_path: Path) -> None:
    """Why there is none here. When this fails, Python's got better, and engine/tls.py may be simpler."""
    pets = shown(tmp_path, PETS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pets.chain, pets.key)
    context.num_tickets = 0
    ours, theirs = socket.socketpair()
    server: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: server.append(context.wrap_socket(theirs, server_side=True)))
    thread.start()
    with python_context(None).wrap_socket(ours) as client:
        thread.join()
        server[0].sendall(b"late answer")
        client.setblocking(False)
        with pytest.raises(ssl.SSLError, match="APPLICATION_DATA_AFTER_CLOSE_NOTIFY"):
            client._sslobj.shutdown()  # type: ignore[attr-defined]
        assert client.recv(100) == b""
        server[0].close()


async def test_an_end_that_is_cut_is_no_end(tmp_path: Path) -> None:
    """It closes without close_notify, by a FIN and by a reset: broken; what came before is handed out first."""
    for how in ("fin", "reset"):
        async with running_loop() as loop:

            def talk(client: ssl.SSLSocket, how: str = how) -> None:
                client.sendall(b"half an answer")
                assert read(client, 14)
                if how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            await in_thread(talking(loop, tmp_path, talk))
            await until(lambda loop=loop: loop.secured[0].broken)
            (echo,) = loop.secured
            assert echo.heard == b"half an answer" and not echo.ended
            assert ("cut" if how == "fin" else "reset") in str(echo.broken)


async def test_a_record_that_was_changed_on_its_way(tmp_path: Path) -> None:
    """Breaks the connection; what came before it was good."""
    async with running_loop() as loop:

        def talk(client: ssl.SSLSocket) -> None:
            client.sendall(b"good")
            assert read(client, 4) == b"good"
            raw = socket.socket(fileno=os.dup(client.fileno()))
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"forged" * 5 + b"xx")
            raw.close()
            with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
                client.recv(10)

        await in_thread(talking(loop, tmp_path, talk))
        await until(lambda: loop.secured[0].broken)
        assert loop.secured[0].heard == b"good"
        assert "decryption failed or bad record mac" in str(loop.secured[0].broken)


async def test_closing_says_so(tmp_path: Path) -> None:
    """An answer that ends with the connection is whole for who sees close_notify; one that is reset is not."""
    for cut in (False, True):
        async with running_loop() as loop:

            def take(sock: TlsSocket, identity: Identity, cut: bool = cut) -> None:
                sock.send(b"answer")
                if cut:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

            loop.take = take

            def talk(client: ssl.SSLSocket) -> bytes:
                heard = b""
                while data := client.recv(100):
                    heard += data
                return heard

            if cut:
                with pytest.raises(OSError):
                    await in_thread(talking(loop, tmp_path, talk))
            else:
                assert await in_thread(talking(loop, tmp_path, talk)) == b"answer"


async def test_an_idle_one_is_looked_at(tmp_path: Path) -> None:
    """As pools do: nothing there raises BlockingIOError, an end does not, and neither takes anything."""
    async with running_loop() as loop:
        port = loop.serve(services(tmp_path))
        client = await loop.call(port, shown(tmp_path, SHOP), PETS)
        assert isinstance(client, Echo)
        with pytest.raises(BlockingIOError):
            client.sock.recv(1, socket.MSG_PEEK)
        loop.reactor.remove(client.fd)
        await until(lambda: loop.secured)
        loop.secured[0].close()
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(client.fd)
        assert client.sock.recv(1, socket.MSG_PEEK)
        assert client.sock.recv(100) == b""
        assert client.sock.recv(1, socket.MSG_PEEK) == b"" == client.sock.recv(100)
        client.sock.close()


async def test_what_is_not_taken_is_offered_again(tmp_path: Path) -> None:
    """The law of `send`: it blocks as a whole, and counts what has left, once."""
    async with running_loop() as loop:
        taken: list[TlsSocket] = []
        loop.take = lambda sock, identity: taken.append(sock)
        data = bytes(range(256)) * (4 * 4096)

        def talk(client: ssl.SSLSocket) -> bytes:
            return read(client, len(data))

        reads: list[bytes] = []

        async def client() -> None:
            reads.append(await in_thread(talking(loop, tmp_path, talk)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await until(lambda: taken)
            (sock,) = taken
            left, blocked = bytearray(data), 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            while left:
                try:
                    del left[: sock.send(left)]
                except BlockingIOError:
                    blocked += 1
                    with trio.fail_after(60):
                        await trio.lowlevel.wait_writable(sock.fileno())
        assert reads == [data] and blocked > 1
        sock.close()


async def test_requests_do_not_know_of_it(tmp_path: Path) -> None:
    """A worker is handed the connection, and serves it as any other: two requests, and megabytes each way."""
    async with running_proxy() as proxy, running_loop(proxy.worker.reactor) as loop:
        worker = proxy.worker

        def take(sock: TlsSocket, identity: Identity) -> None:
            proof = Proof(identity, "pets.production", ours=True)
            worker.on_accepted(sock, peer_at("127.0.0.1", worker.agents, proof), worker.inbound)

        loop.take = take
        answers: list[bytes] = []
        body = os.urandom(3 * MIB)

        async def instance(client: Client) -> None:
            """Says OK, and echoes what has a length."""
            while True:
                head = await client.head()
                if head.startswith(b"POST"):
                    with trio.fail_after(60):
                        while len(client.received) < len(body):
                            client.received += await client.stream.receive_some(65536)
                    echo, client.received = client.received, b""
                    await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(echo) + echo)
                else:
                    await client.send(OK)

        proxy.put(endpoint(await proxy.upstream(instance)))

        def talk(client: ssl.SSLSocket) -> None:
            for _ in range(2):
                client.sendall(b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n")
                heard = b""
                while not heard.endswith(b"\r\n\r\nok"):
                    heard += client.recv(65536)
                answers.append(heard)
            head = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            heard = b""
            while len(heard.partition(b"\r\n\r\n")[2]) < len(body):
                heard += client.recv(1 << 20)
            answers.append(heard.partition(b"\r\n\r\n")[2])

        await in_thread(talking(loop, tmp_path, talk, ["http/1.1"]))
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers[:2])
        assert answers[2] == body
