"""Connections of a TCP port that anybody may connect to: bounded in number, and each in what it may take.

Laws
- There are never more than `most`. Where it is full, whoever has waited longest without a whole request makes way: a
  scraper gets in however many connections idle or drip. Where all are being answered, the newcomer is told so.
- A WebSocket has no time of its own: who answers it bounds it, and its connection goes when it is over.
- It has one request at a time: HTTP/1.1, whatever it asks for.
- Of a WebSocket's message no more is kept than it may have (`said`).
- A head has to come within what an idle connection has (Hypercorn's keep_alive_timeout), however it drips; an answer
  has REQUEST_S to be made, and each piece of it SEND_S to be taken.
- Who is gone without a word (his network is) has SEND_S, too: what the kernel has for him, and he does not acknowledge,
  ends the connection. A WebSocket is sent something every few seconds (`admin/live`), so that this is noticed.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from agent.process.said import SAID, Said, bound_messages

REQUEST_S: Final = 60.0
SEND_S: Final = 30.0
_OF_BODY: Final = frozenset((b"content-length", b"transfer-encoding"))
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nserver: shoal\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: text/plain\r\ncontent-length: 28\r\n\r\ntoo many connections; again\n"
)
bound_messages()
log = structlog.get_logger()


def bound(stream: trio.SocketStream) -> None:
    """Has the kernel give a TCP connection up when nothing of what it was sent is acknowledged for SEND_S: it would try
    for a quarter of an hour, and buffers take whatever is said until then."""
    if stream.socket.family in (socket.AF_INET, socket.AF_INET6):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_S * 1000))


class BoundedStream(trio.abc.HalfCloseableStream):
    """One whose other side has to take what it is sent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """In pieces, each within SEND_S. Raises BrokenResourceError for who does not take one."""
        whole = memoryview(data)
        for at in range(0, len(whole), 65536):
            with trio.move_on_after(SEND_S) as limit:
                await self._stream.send_all(whole[at : at + 65536])
            if limit.cancelled_caught:
                raise trio.BrokenResourceError("it does not take its answer")

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream's own."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream's own."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the stream's own."""
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """As the stream's own."""
        await self._stream.aclose()


class Connection(TCPServer):
    """One that ends when its client does: Hypercorn's own stays for as long as an idle one may; and when he says too
    much on a WebSocket."""

    async def _read_data(self) -> None:
        said = Said()
        SAID.set(said)
        spoken: Any = self.protocol.protocol
        spoken._check_protocol = _as_it_stands
        while not said.too_much:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(RawData(bytes(data)))
            if not data:
                break
        await self.protocol.handle(Closed())
        await self.idle_task.stop()


async def _as_it_stands(_: object) -> None:
    """In place of what turns a connection to HTTP/2, which nobody is offered: it would have a hundred requests at a
    time, whose answers are kept for a minute after it is gone."""


class Guest(NamedTuple):
    """Who has come."""

    stream: trio.abc.Stream
    said: dict[str, Any]
    """What the scope of each of his requests has of him."""


async def unknown(stream: trio.SocketStream) -> Guest:
    """One of whom nothing is asked."""
    return Guest(BoundedStream(stream), {})


class Guests:
    """Of one port."""

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        config: Config,
        most: int,
        greet: Callable[[trio.SocketStream], Awaitable[Guest | None]] = unknown,
        *,
        request_s: float | None = None,
    ) -> None:
        """`greet`: who has connected; None: nobody who is let in. `request_s`: for an answer, other than REQUEST_S."""
        self._request_s = REQUEST_S if request_s is None else request_s
        self._application = application
        self._greet = greet
        self._config = config
        self._context = WorkerContext(None)
        self._most = most
        self._open = 0
        self._waiting: dict[trio.CancelScope, None] = {}
        """Those without a request, the longest first."""

    async def serve(self, listener: trio.SocketListener) -> None:
        """Until cancelled."""
        async with listener:
            await trio.serve_listeners(self._one, [listener])

    async def _one(self, stream: trio.SocketStream) -> None:
        bound(stream)
        if self._open >= self._most:
            longest = next(iter(self._waiting), None)
            if longest is None:
                await _turn_away(stream)
                return
            del self._waiting[longest]
            longest.cancel()
        scope = trio.CancelScope()
        self._open += 1
        self._waiting[scope] = None
        try:
            with scope:
                guest = await self._greet(stream)
                if guest is not None:
                    app: Callable[..., Any] = partial(self._answer, scope, guest.said)
                    await Connection(
                        ASGIWrapper(app),
                        self._config,
                        self._context,
                        ConnectionState({}),
                        guest.stream,  # type: ignore[arg-type]
                    )
        except Exception:  # one connection must not end the others
            log.exception("a connection of a port for people failed")
        finally:
            self._open -= 1
            self._waiting.pop(scope, None)
            await trio.aclose_forcefully(stream)

    async def _answer(self, guest: trio.CancelScope, said: dict[str, Any], scope: Any, receive: Any, send: Any) -> None:
        async def heard() -> Any:
            message = await receive()
            if not message.get("more_body"):
                self._waiting.pop(guest, None)
            return message

        if scope["type"] == "websocket":
            self._waiting.pop(guest, None)
            await to_its_end(guest, self._application({**scope, **said}, receive, send))
            return
        if not any(name in _OF_BODY for name, _ in scope["headers"]):
            self._waiting.pop(guest, None)
        with trio.move_on_after(self._request_s) as limit:
            await self._application({**scope, **said}, heard, send)
        if limit.cancelled_caught:
            guest.cancel()
        else:
            self._waiting[guest] = None


async def to_its_end(connection: trio.CancelScope, answering: Awaitable[None]) -> None:
    """A WebSocket stays for as long as it bounds itself (`admin/live`), and its connection ends with it. Hypercorn's
    own would wait for its next ping, and for ever where more was said than anybody has heard."""
    try:
        await answering
    finally:
        connection.cancel()


async def _turn_away(stream: trio.SocketStream) -> None:
    with trio.move_on_after(1):
        try:
            await stream.send_all(_FULL)
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)
