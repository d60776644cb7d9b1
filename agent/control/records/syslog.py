"""Records as messages of syslog: RFC 5424 over datagrams (RFC 5426, a local socket), over TCP with octet counting
(RFC 6587), and over TLS (RFC 5425).

Laws
- A message is a record, whole: what does not fit into a datagram is lost, never cut.
- A stream is given up where it takes nothing for SEND_S, and begun anew with what it was not known to have taken: a
  receiver may hear the last records before a break twice. What lay in the kernel when a receiver died is lost without
  a word, as syslog has no answers; where the receiver closes in order, that is seen before anything more is sent.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import trio

from agent.control.records.reading import Line, lines_of, rfc3339
from agent.control.records.shown import Shown, reason_of
from agent.control.records.sink import Sink
from agent.control.records.waiting import Batch, Kind
from agent.settings.sinks import Place
from registry.backoff import Backoff

CONNECT_S: Final = 10.0
SEND_S: Final = 10.0
JUDGED_S: Final = 0.5
"""How long a receiver has to refuse our certificate before anything is sent."""
LISTEN_S: Final = 0.05
FAREWELL_S: Final = 0.5
MAX_DATAGRAM: Final = 65_000
CHUNK_BYTES: Final = 64 * 1024
"""Of messages that are sent over a stream at a time, and again where it breaks."""
NOTICE, INFORMATIONAL = 5, 6
SEVERITIES: Final[dict[Kind, int]] = {
    "access": INFORMATIONAL,
    "audit": NOTICE,
    "events": NOTICE,
    "traces": INFORMATIONAL,
}
_NOT_PRINTABLE: Final = re.compile(r"[^\x21-\x7e]")


class Header:
    """What stands before each message."""

    def __init__(self, facility: int, host: str) -> None:
        name = _NOT_PRINTABLE.sub("?", host)[:255] or "-"
        self._starts = {kind: f"<{facility * 8 + severity}>1 ".encode() for kind, severity in SEVERITIES.items()}
        self._rest = {kind: f" {name} shoal {os.getpid()} {kind} - ".encode() for kind in SEVERITIES}

    def message(self, line: Line) -> bytes:
        """RFC 5424, section 6: the text is UTF-8 without a mark, as parsers of JSON want it."""
        return b"%b%b%b%b" % (self._starts[line.kind], rfc3339(line.at).encode(), self._rest[line.kind], line.text)


def counted(message: bytes) -> bytes:
    """A message in a stream: RFC 6587, section 3.4.1."""
    return b"%d %b" % (len(message), message)


class Datagrams(Sink):
    """To a port, or to a socket of this host."""

    def __init__(
        self, place: Place, name: str, kinds: Collection[Kind], most_bytes: int, *, facility: int, host: str
    ) -> None:
        super().__init__(name, kinds, most_bytes)
        self._place = place
        self._header = Header(facility, host)
        self._sock: trio.socket.SocketType | None = None
        self._backoff = Backoff(0.1, 30.0)

    async def deliver(self, batches: list[Batch]) -> None:
        """One after the other: what is refused at once is lost, since nobody could say of a second try what had come
        of the first; a socket that takes nothing is waited for."""
        now = time.time()
        for batch in batches:
            for message in await _messages(self._header, batch, now):
                sent = await self._send(message)
                self.account(batch.kind, sent, not sent)

    async def _send(self, message: bytes) -> bool:
        if len(message) > MAX_DATAGRAM:
            self.lost_for(
                f"a record makes a message of {len(message)} bytes, and a datagram has at most {MAX_DATAGRAM}"
            )
            return False
        while True:
            sock = self._sock or await self._connected()
            try:
                with trio.fail_after(SEND_S):
                    await sock.send(message)
            except trio.TooSlowError:
                self._close(f"it has taken nothing for {SEND_S:g} s")
            except ConnectionRefusedError as error:  # of one before: the port answered that nobody is there
                self._close(f"{error.strerror}")
                return False
            except OSError as error:
                self._close(f"{error.strerror or error}")
                if self._place.way == "udp":
                    return False
            else:
                self.well()
                return True

    async def _connected(self) -> trio.socket.SocketType:
        while True:
            try:
                with trio.fail_after(CONNECT_S):
                    self._sock = await self._connect()
            except trio.TooSlowError:
                self.failed(f"not found within {CONNECT_S:g} s")
            except OSError as error:
                self.failed(f"{error.strerror or error}")
            else:
                self._backoff.reset()
                return self._sock
            await trio.sleep(self._backoff.next_s())

    async def _connect(self) -> trio.socket.SocketType:
        family: int = socket.AF_UNIX
        address: object = self._place.path
        if self._place.way == "udp":
            found = await trio.socket.getaddrinfo(self._place.host, self._place.port, type=socket.SOCK_DGRAM)
            family, address = found[0][0], found[0][4]
        sock = trio.socket.socket(family, socket.SOCK_DGRAM)
        try:
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _close(self, reason: str) -> None:
        self.failed(reason)
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def end(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()


class Stream(Sink):
    """Over TCP, and TLS."""

    def __init__(
        self,
        place: Place,
        name: str,
        kinds: Collection[Kind],
        most_bytes: int,
        *,
        facility: int,
        host: str,
        shown: Shown | None = None,
    ) -> None:
        """`shown`: what is shown and believed over TLS; None: it is plain TCP."""
        super().__init__(name, kinds, most_bytes)
        self._place = place
        self._shown = shown
        self._header = Header(facility, host)
        self._backoff = Backoff(0.1, 30.0)
        self._stream: trio.abc.Stream | None = None
        self._sock: socket.socket | None = None
        """Beneath it, to be asked whether anybody is still there."""

    async def deliver(self, batches: list[Batch]) -> None:
        """On one connection after the other, until it is all sent."""
        now = time.time()
        for batch in batches:
            for chunk in _chunks(await _messages(self._header, batch, now)):
                await self._send(b"".join(map(counted, chunk)))
                self.account(batch.kind, len(chunk))

    async def _send(self, chunk: bytes) -> None:
        while True:
            stream = await self._connected()
            try:
                with trio.fail_after(SEND_S):
                    await stream.send_all(chunk)
            except trio.TooSlowError:
                await self._drop(f"it has taken nothing for {SEND_S:g} s")
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                await self._drop(reason_of(error))
            else:
                self.well()
                self._backoff.reset()
                return

    async def _connected(self) -> trio.abc.Stream:
        while self._stream is None or await self._is_gone(self._stream):
            try:
                with trio.fail_after(CONNECT_S):
                    self._stream = await self._connect()
            except trio.TooSlowError:
                await self._drop(f"no connection within {CONNECT_S:g} s")
            except (trio.BrokenResourceError, OSError) as error:
                await self._drop(reason_of(error))
            else:
                break
            await trio.sleep(self._backoff.next_s())
        return self._stream

    async def _connect(self) -> trio.abc.Stream:
        context = await trio.to_thread.run_sync(self._shown.context) if self._shown is not None else None
        tcp = await trio.open_tcp_stream(self._place.host, self._place.port)
        self._sock = socket.socket(fileno=os.dup(tcp.socket.fileno()))
        if context is None:
            return tcp
        tls = trio.SSLStream(tcp, context, server_hostname=self._place.host, https_compatible=True)
        try:
            await tls.do_handshake()
            await _accepted(tls)
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls

    async def _is_gone(self, stream: trio.abc.Stream) -> bool:
        """Whether the receiver has closed: what is sent then would be lost without a word."""
        assert self._sock is not None
        try:
            seen = self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            seen = b""
        with trio.move_on_after(LISTEN_S) as patience:
            try:
                if seen and await stream.receive_some(4096):  # TLS has words of its own; nothing else is expected
                    return False
            except (trio.BrokenResourceError, OSError):
                pass
        if patience.cancelled_caught:
            return False
        await self._drop("the receiver has closed the connection")
        return True

    async def _drop(self, reason: str) -> None:
        self.failed(reason)
        await self.end()

    async def end(self) -> None:
        """Close the connection; without farewell where it hangs."""
        stream, self._stream = self._stream, None
        sock, self._sock = self._sock, None
        if stream is not None:
            with trio.move_on_after(FAREWELL_S):
                await stream.aclose()
        if sock is not None:
            sock.close()


async def _accepted(tls: trio.SSLStream[trio.SocketStream]) -> None:
    """With TLS 1.3 we are through before the receiver has judged our certificate, and syslog never answers: what it
    thinks of us can only be waited for. Raises trio.BrokenResourceError for a refusal."""
    with trio.move_on_after(JUDGED_S):
        if not await tls.receive_some(1):
            raise trio.BrokenResourceError("the receiver has closed the connection before anything was sent")


async def _messages(header: Header, batch: Batch, now: float) -> list[bytes]:
    """In a thread: there may be thousands."""
    return await trio.to_thread.run_sync(lambda: [header.message(line) for line in lines_of(batch, now)])


def _chunks(messages: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Never longer together than CHUNK_BYTES, where they are several."""
    chunk: list[bytes] = []
    size = 0
    for message in messages:
        if chunk and size + len(message) > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += len(message)
    if chunk:
        yield chunk
