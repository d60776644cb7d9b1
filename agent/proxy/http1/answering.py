# mypyc: compiled
"""Answers to an HTTP/1 client: the side of its connection that writes (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

from agent.proxy.budget import Budget, Guest
from agent.proxy.engine.connection import Wire
from agent.proxy.engine.reactor import Reactor
from agent.proxy.http1.answers import date_line, status_line
from agent.proxy.http1.framing import chunk, last_chunk
from agent.proxy.messages.head import (
    CHUNKED,
    HOP_BY_HOP,
    NO_BODY,
    UNTIL_CLOSE,
    ResponseHead,
    forwarded_fields,
)
from agent.proxy.messages.outgoing import edited
from agent.proxy.peer import Peer
from agent.proxy.stream import RequestHandler, Stream
from policies.decision import Edits


class Answered(Guest):
    """A connection as its answers know it. Whoever reads from it makes the requests that they answer."""

    __slots__ = ("closing", "exchange")

    def __init__(self, reactor: Reactor, sock: Wire, budget: Budget, address: str, *, outsider: bool) -> None:
        super().__init__(reactor, sock, budget, address, outsider=outsider)
        self.exchange: RequestHandler | None = None
        self.closing = False
        """No further request is read here."""

    def persistence(self) -> bytes:
        """The Connection field of an answer: whether another request is taken behind it."""
        raise NotImplementedError

    def take_rest(self) -> bytes:
        """What came behind the request, which is none any more."""
        raise NotImplementedError

    def on_handler_end(self) -> None:
        """The request is over: the next one, or the end of the connection."""
        raise NotImplementedError

    def close_soon(self) -> None:
        """Close once all is written."""
        raise NotImplementedError


class ServerStream(Stream):
    """Where the requests of one connection come by, one after the other, and their answers go."""

    __slots__ = ("_body_framing", "_connection", "_eof")

    def __init__(self, connection: Answered, peer: Peer) -> None:
        super().__init__(connection.reactor, peer, connection.budget)
        self._connection = connection
        self._body_framing = NO_BODY
        """Of the answer's body, towards the client."""
        self._eof = 0
        """In a tunnel: 1 the client is through, 2 the upstream is, 3 both."""

    # The client's side.

    @property
    def closed(self) -> bool:
        """Whether nobody is there any more."""
        return self._connection.closed

    @property
    def ends_by_closing(self) -> bool:
        """Whether the end of the connection is that of the answer under way."""
        return self._body_framing == UNTIL_CLOSE

    @property
    def full(self) -> bool:
        """Whether whoever answers should pause."""
        return self._connection.full

    def arm(self, deadline: float) -> None:
        """The connection's deadline is its request's, as long as there is one."""
        self._connection.arm(deadline)

    def pause_reading(self) -> None:
        """Take no more of the request for now."""
        self._connection.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._connection.resume_reading()

    # The answer.

    def send_continue(self) -> None:
        """100 Continue, of our own."""
        self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send_informational(self, head: ResponseHead) -> None:
        """Relay 100 Continue, 103 Early Hints: to those who know them."""
        exchange = self._connection.exchange
        if exchange is None or not exchange.request.http10:
            self._connection.write(b"".join([head.status_line, *forwarded_fields(head), b"\r\n"]))

    def send_response(
        self, head: ResponseHead, extra: list[bytes], body: bytes, complete: bool, edits: Edits | None
    ) -> None:
        """Relay an answer's head, and its body if that is complete."""
        connection = self._connection
        framing = head.framing
        lines = [head.status_line]
        lines += forwarded_fields(head)
        if not head.dated:
            lines.append(date_line())
        if edits is not None:
            lines = [lines[0], *edited(lines[1:], edits)]
        lines += extra
        if framing in (CHUNKED, UNTIL_CLOSE):
            if connection.exchange is not None and connection.exchange.request.http10:
                framing = UNTIL_CLOSE
                connection.closing = True
            else:
                framing = CHUNKED
                lines.append(b"transfer-encoding: chunked\r\n")
        self._body_framing = framing
        lines.append(connection.persistence())
        lines.append(b"\r\n")
        if body:
            lines.append(body)
        connection.write(b"".join(lines))

    def send_body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        if self._body_framing == CHUNKED:
            data = chunk(data)
        self._connection.write(data)

    def end_body(self, trailers: list[bytes]) -> None:
        """The end of the answer's body."""
        if self._body_framing == CHUNKED:
            self._connection.write(last_chunk(trailers))
        self._body_framing = NO_BODY

    def send_own(self, status: int, fields: list[bytes], body: bytes) -> None:
        """An answer of the mesh's own, whole."""
        connection = self._connection
        lines = [status_line(status), *fields, date_line()]
        bare = status in (204, 304)  # neither has a body, and a length would be that of another answer
        if not bare:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines += [connection.persistence(), b"\r\n"]
        if not bare and (connection.exchange is None or connection.exchange.request.method != b"HEAD"):
            lines.append(body)
        connection.write(b"".join(lines))

    # Upgrade.

    def begin_tunnel(self, head: ResponseHead) -> None:
        """Relay a 101; from here on bytes go both ways, unread."""
        connection = self._connection
        connection.closing = True
        self._body_framing = NO_BODY
        upgrade = next((f.wire for f in head.special if f.name == b"upgrade"), b"")
        fields = [f.wire for f in head.fields if f.code < HOP_BY_HOP]
        end = b"connection: upgrade\r\n\r\n" if head.status == 101 else b"\r\n"
        connection.write(b"".join([head.status_line, *fields, upgrade, end]))
        connection.resume_reading()
        rest = connection.take_rest()
        if rest and connection.exchange is not None:
            connection.exchange.on_tunnel_data(rest)

    def half_close(self, *, from_upstream: bool) -> bool:
        """One side of the tunnel is through. True when both are."""
        self._eof |= 2 if from_upstream else 1
        if from_upstream and self._connection.flushed:
            self._connection.finish_writing()
        return self._eof == 3

    # The end.

    def on_handler_end(self) -> None:
        """The request is over: the next one, or the end of the connection."""
        self._connection.on_handler_end()

    def close_soon(self) -> None:
        """No other request comes by here."""
        self._connection.close_soon()

    def abort(self) -> None:
        """Give the connection up: the client sees that the answer did not come whole."""
        self._connection.abort()
