"""Records as syslog, at receivers that are sockets of the test: well, hanging, refusing, closing, coming back."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agent.control.records import syslog
from agent.control.records.records import Records
from agent.control.records.syslog import Datagrams, Stream
from agent.settings.file import parse
from registry.etcd.server import free_port
from tests.support import web_pki

MESSAGE = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([\x21-\x7e]{1,255}) shoal (\d+) "
    rb"(access|audit|events) - (\{.*\})\Z"
)
RECORD = b'{"time":1764201600.25,"n":%d}\n'


def of(to: str, more: str = "") -> Records:
    return Records(
        parse(f'host = "web-1"\n[[records.sinks]]\nto = "{to}"\nkinds = ["access", "audit"]\n{more}', "agent.toml")
    )


def many(first: int, count: int) -> bytes:
    return b"".join(RECORD % number for number in range(first, first + count))


def numbers(messages: list[bytes]) -> list[int]:
    """Of records; each message is what RFC 5424 says."""
    found = []
    for message in messages:
        parsed = MESSAGE.match(message)
        assert parsed, message
        assert parsed[2] == b"2025-11-27T00:00:00.250000Z" and parsed[3] == b"web-1"
        assert parsed[1] == (b"134" if parsed[5] == b"access" else b"133")
        found.append(int(parsed[6].partition(b'"n":')[2].rstrip(b"}")))
    return found


async def until(question: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not question():
            await trio.sleep(0.005)


@pytest.mark.parametrize(("facility", "access", "audit"), [(0, 6, 5), (4, 38, 37), (23, 190, 189)])
async def test_the_facility_is_as_the_settings_say(facility: int, access: int, audit: int) -> None:
    """Of each kind; a facility that RFC 5424 does not have is refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        records = of(f"syslog+udp://127.0.0.1:{receiver.getsockname()[1]}", f"facility = {facility}\n")
        async with started(records):
            for kind, priority in (("access", access), ("audit", audit)):
                records.offer(kind, RECORD % 1)  # type: ignore[arg-type]
                got = await trio.to_thread.run_sync(receiver.recv, 65536)
                assert got.startswith(b"<%d>1 " % priority)
    with pytest.raises(Exception, match="facility"):
        of("syslog+udp://127.0.0.1:514", "facility = 24\n")


@asynccontextmanager
async def started(records: Records) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        records.start(nursery)
        yield records.sinks[0]
        nursery.cancel_scope.cancel()


class Receiver:
    """RFC 6587 with octet counting, over TCP or TLS."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.messages: list[bytes] = []
        self.connections: list[trio.abc.Stream] = []
        self.open = trio.Event()
        self.open.set()

    async def serve(self, listener: trio.SocketListener) -> None:
        await trio.serve_listeners(self._one, [listener])

    async def _one(self, tcp: trio.SocketStream) -> None:
        stream: Any = trio.SSLStream(tcp, self.context, server_side=True) if self.context else tcp
        self.connections.append(stream)
        held = b""
        try:
            while await self._ready() and (data := await stream.receive_some(65536)):
                held += data
                while b" " in held:
                    size, _, rest = held.partition(b" ")
                    if len(rest) < int(size):
                        break
                    self.messages.append(rest[: int(size)])
                    held = rest[int(size) :]
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass

    async def _ready(self) -> bool:
        await self.open.wait()
        return True


async def listening(port: int = 0) -> tuple[trio.SocketListener, int]:
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    return listener, listener.socket.getsockname()[1]


@pytest.mark.parametrize("way", ["udp", "unix"])
async def test_datagrams(tmp_path: Path, way: str) -> None:
    """One a record, whole; one that is too large is lost and the others are not."""
    family, address = (socket.AF_INET, ("127.0.0.1", 0)) if way == "udp" else (socket.AF_UNIX, str(tmp_path / "log"))
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        theirs = trio.socket.from_stdlib_socket(receiver)
        to = f"syslog+unix://{address}" if way == "unix" else f"syslog+udp://127.0.0.1:{receiver.getsockname()[1]}"
        records = of(to)
        async with started(records) as sink:
            assert isinstance(sink, Datagrams)
            records.offer("access", many(0, 3), 3)
            records.offer("audit", b'{"x":"%b"}' % (b"x" * 70_000))
            records.offer("audit", RECORD % 3)
            with trio.fail_after(60):
                messages = [await theirs.recv(100_000) for _ in range(4)]
            await until(lambda: sink.waiting.delivered.total() == 4)
            assert numbers(messages) == [0, 1, 2, 3]
            assert +sink.waiting.lost == {"audit": 1}


async def test_a_socket_that_is_not_there_yet(tmp_path: Path) -> None:
    """What waits is sent when it comes; nothing is lost."""
    path = tmp_path / "log"
    records = of(f"syslog+unix://{path}")
    async with started(records) as sink:
        records.offer("audit", many(0, 2), 2)
        await until(lambda: sink.trouble)
        assert sink.trouble == "No such file or directory"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            receiver.setblocking(False)
            theirs = trio.socket.from_stdlib_socket(receiver)
            with trio.fail_after(60):
                assert numbers([await theirs.recv(9000), await theirs.recv(9000)]) == [0, 1]
            await until(lambda: not sink.trouble)
            assert sink.waiting.lost.total() == 0


async def test_a_port_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of datagrams to it the kernel says that they were refused: they are counted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    records = of(f"syslog+udp://127.0.0.1:{port}")
    async with started(records) as sink:
        for number in range(6):
            records.offer("audit", RECORD % number)
            await until(lambda sent=number + 1: (sink.waiting.delivered + sink.waiting.lost).total() == sent)
            await trio.sleep(0.02)
        assert sink.waiting.lost["audit"] >= 2 and sink.trouble == "Connection refused"


async def test_over_tcp_every_record_comes_and_in_order() -> None:
    """Thousands at once, in messages that are counted."""
    receiver = Receiver()
    listener, port = await listening()
    records = of(f"syslog+tcp://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            assert isinstance(sink, Stream)
            for first in range(0, 5000, 1000):
                records.offer("access", many(first, 1000), 1000)
            await until(lambda: len(receiver.messages) == 5000)
            assert numbers(receiver.messages) == list(range(5000))
            await until(lambda: sink.waiting.delivered["access"] == 5000)
            assert len(receiver.connections) == 1
        nursery.cancel_scope.cancel()


async def test_a_receiver_that_closes_and_comes_back() -> None:
    """What is sent after it has closed goes to the next connection: nothing is lost, and nothing comes twice."""
    receiver = Receiver()
    listener, port = await listening()
    records = of(f"syslog+tcp://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            for number in range(5):
                records.offer("audit", RECORD % number)
                await until(lambda have=number + 1: len(receiver.messages) == have)
                await receiver.connections[-1].aclose()
                await trio.sleep(0.02)
            assert numbers(receiver.messages) == list(range(5)) and len(receiver.connections) == 5
            assert sink.waiting.lost.total() == 0
        nursery.cancel_scope.cancel()


async def test_a_receiver_that_is_away_for_a_while() -> None:
    """What waits is bounded; the newest are lost and counted, the others come when it is there."""
    listener, port = await listening()
    await listener.aclose()
    records = of(f"syslog+tcp://127.0.0.1:{port}", "max_waiting_bytes = 65536\n")
    size = len(RECORD % 100)
    async with started(records) as sink:
        records.offer("access", RECORD % 100)
        await until(lambda: sink.trouble)
        assert "Connection refused" in sink.trouble
        for number in range(101, 101 + 3000):
            records.offer("access", RECORD % number)
        kept = 1 + 3000 - sink.waiting.lost["access"]
        assert 0 < kept - 1 <= 65536 // size + 1
        receiver = Receiver()
        listener, _ = await listening(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.serve, listener)
            await until(lambda: sink.waiting.delivered["access"] == kept)
            await until(lambda: len(receiver.messages) >= kept)
            assert numbers(receiver.messages) == list(range(100, 100 + kept)) and sink.trouble == ""
            nursery.cancel_scope.cancel()


async def test_a_receiver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and what it was not known to have taken is sent again: some may come twice, none is missing."""
    monkeypatch.setattr(syslog, "SEND_S", 0.2)
    receiver = Receiver()
    receiver.open = trio.Event()
    listener, port = await listening()
    records = of(f"syslog+tcp://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            lines = b"".join(b'{"time":1764201600.25,"pad":"%b","n":%d}\n' % (b"x" * 2000, n) for n in range(5000))
            records.offer("access", lines, 5000)
            await until(lambda: sink.trouble)
            assert "has taken nothing" in sink.trouble
            receiver.open.set()
            await until(lambda: sink.waiting.delivered["access"] == 5000)
            await until(lambda: set(numbers(receiver.messages)) == set(range(5000)))
            assert sink.waiting.lost.total() == 0
        nursery.cancel_scope.cancel()


def pki(folder: Path, name: str = "localhost", above: str = "a root") -> tuple[ssl.SSLContext, str]:
    """A receiver's side, which wants a certificate too, and the settings of ours."""
    (folder / "server.pem").write_bytes(web_pki.certificate(name, above=above))
    (folder / "client.pem").write_bytes(web_pki.certificate("web-1", []))
    (folder / "ca.pem").write_text(web_pki.root())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    pem = folder / "client.pem"
    return context, f'ca = "{folder}/ca.pem"\ncert = "{pem}"\nkey = "{pem}"\n'


async def test_over_tls_both_show_who_they_are(tmp_path: Path) -> None:
    """And a receiver that closes is seen there too, tickets of TLS 1.3 or not."""
    context, settings = pki(tmp_path)
    receiver = Receiver(context)
    listener, port = await listening()
    records = of(f"syslog+tls://localhost:{port}", settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            for number in range(3):
                records.offer("audit", RECORD % number)
                await until(lambda have=number + 1: len(receiver.messages) == have)
                if number == 1:
                    await receiver.connections[-1].aclose()
                    await trio.sleep(0.05)
            assert numbers(receiver.messages) == [0, 1, 2] and len(receiver.connections) == 2
            assert sink.waiting.lost.total() == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["another name", "another root", "no TLS", "no such file", "we are refused"])
async def test_nobody_else_is_told_anything(tmp_path: Path, what: str) -> None:
    """The reason is said, and what waits goes on waiting."""
    name, above = ("elsewhere" if what == "another name" else "localhost"), "a root"
    context, settings = pki(tmp_path, name, "another root" if what == "another root" else above)
    if what == "no such file":
        (tmp_path / "ca.pem").unlink()
    if what == "we are refused":
        (tmp_path / "client.pem").write_bytes(web_pki.certificate("web-1", [], "another root"))
    receiver = Receiver(None if what == "no TLS" else context)
    listener, port = await listening()
    records = of(f"syslog+tls://localhost:{port}", settings)
    async with trio.open_nursery() as nursery:
        if what == "no TLS":

            async def plain(stream: trio.SocketStream) -> None:
                await stream.send_all(b"220 hello\r\n" * 10)

            nursery.start_soon(trio.serve_listeners, plain, [listener])
        else:
            nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            records.offer("audit", RECORD % 1)
            await until(lambda: sink.trouble)
            words = {
                "another name": "its certificate is refused: Hostname mismatch",
                "another root": "its certificate is refused: ",
                "no TLS": "wrong version number",
                "no such file": "No such file or directory",
                "we are refused": "closed the connection before anything was sent",
            }
            assert words[what].lower() in sink.trouble.lower().replace("_", " "), sink.trouble
            assert receiver.messages == [] and sink.waiting.delivered.total() == 0
        nursery.cancel_scope.cancel()


async def test_garbage_is_passed_on_as_it_is() -> None:
    """What says no time, or a senseless one, has that of now; nothing raises."""
    receiver = Receiver()
    listener, port = await listening()
    records = of(f"syslog+tcp://127.0.0.1:{port}")
    odd = [b"{}", b"[1]", b"nonsense", b'{"time":1e400}', b'{"time":"soon"}', b'{"time":-5}', b"[" * 5000]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.serve, listener)
        async with started(records) as sink:
            records.offer("audit", b"\n".join(odd), len(odd))
            await until(lambda: len(receiver.messages) == len(odd))
            assert [message.partition(b" - ")[2] for message in receiver.messages] == odd
            assert sink.trouble == ""
        nursery.cancel_scope.cancel()


# A real receiver.

RSYSLOG = """
module(load="imudp") module(load="imtcp") module(load="imuxsock" SysSock.Use="off")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
input(type="imuxsock" Socket="{socket}" UseSpecialParser="off" ParseHostname="on" IgnoreTimestamp="off")
global(maxMessageSize="64k")
template(name="told" type="string"
    string="%protocol-version%|%pri%|%timereported:::date-rfc3339%|%hostname%|%app-name%|%msgid%|%msg%\\n")
*.* action(type="omfile" file="{output}" template="told" flushInterval="1")
"""


@pytest.mark.skipif(shutil.which("rsyslogd") is None, reason="no rsyslogd here")
async def test_a_real_rsyslog_reads_every_field(tmp_path: Path) -> None:
    """Over UDP, TCP and a Unix socket, as RFC 5424 with its time, host, name, kind and text."""
    udp, tcp, output, log = free_port(), free_port(), tmp_path / "told", tmp_path / "log.sock"
    settings = tmp_path / "rsyslog.conf"
    settings.write_text(RSYSLOG.format(udp=udp, tcp=tcp, socket=log, output=output))
    argv = ["rsyslogd", "-n", "-f", str(settings), "-i", str(tmp_path / "pid")]
    with open(tmp_path / "rsyslog.log", "wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file)
    try:
        with trio.fail_after(60):
            while not log.exists():
                await trio.sleep(0.02)
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", tcp)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.02)
        for kind, to in (
            ("audit", f"syslog+udp://127.0.0.1:{udp}"),
            ("access", f"syslog+tcp://127.0.0.1:{tcp}"),
            ("audit", f"syslog+unix://{log}"),
        ):
            output.unlink(missing_ok=True)
            records = of(to)
            async with started(records):
                records.offer(kind, many(0, 20), 20)  # type: ignore[arg-type]
                await until(lambda: output.exists() and output.read_text().count("\n") == 20)
            rows = [line.split("|") for line in output.read_text().splitlines()]
            assert [row[6].strip() for row in rows] == [line.decode() for line in many(0, 20).splitlines()]
            told = {tuple(row[:6]) for row in rows}
            priority = "134" if kind == "access" else "133"
            assert len(told) == 1, told
            version, pri, at, host, name, msgid = told.pop()
            assert (version, pri, host, name, msgid) == ("1", priority, "web-1", "shoal", kind)
            assert datetime.fromisoformat(at) == datetime.fromisoformat("2025-11-27T00:00:00.250+00:00")
            process.send_signal(signal.SIGHUP)  # it opens its file anew
            await trio.sleep(0.3)
    finally:
        process.kill()
        process.wait()
