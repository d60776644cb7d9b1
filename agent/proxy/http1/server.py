# mypyc: compiled
"""A client that speaks HTTP/1: requests in, answers out, one at a time, in order (RFC 9112 section 9). The connection
reads requests, its stream writes answers (`agent.proxy.http1.answering`).

Laws
- The next request is read only after the answer to the one before is complete; what comes early waits in the buffer,
  and a client that sends too much of it is not read from.
- When a request or its answer cannot be brought to a clean end, the connection is closed behind it, after an answer
  where one is still possible. What stands in the buffer is then thrown away, never taken for a request.
- A whole head has to come within its time, however it drips; a connection without a request is closed when idle.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from agent.proxy.budget import Budget
from agent.proxy.engine.connection import Wire
from agent.proxy.http1.answering import Answered, ServerStream
from agent.proxy.http1.answers import closing_answer
from agent.proxy.http1.framing import ChunkedDecoder
from agent.proxy.http1.gathering import Gathered
from agent.proxy.http1.head import parse_request
from agent.proxy.messages.answers import FULL, Refusal
from agent.proxy.messages.head import CHUNKED, LENGTH, NO_BODY, BadHead, RequestHead
from agent.proxy.peer import Peer
from agent.proxy.stream import RequestHandler, Server

PIPELINE_BYTES: Final = 64 * 1024
LINGER_S: Final = 2.0

_RESET: Final = struct.pack("ii", 1, 0)
"""To close is to reset: where the end of the answer is the end of the connection, nothing else says that it was cut."""


class ServerConnection(Answered):
    """One client's connection."""

    __slots__ = (
        "_decoder",
        "_early",
        "_framing",
        "_head_due",
        "_left",
        "_lingers",
        "_looping",
        "served",
        "server",
        "stream",
    )

    def __init__(self, server: Server, sock: Wire, peer: Peer, budget: Budget, *, outsider: bool) -> None:
        super().__init__(server.reactor, sock, budget, peer.address, outsider=outsider)
        self.server = server
        self.stream: ServerStream | None = ServerStream(self, peer)
        """Where its requests come by; None once it is closed."""
        self.served = 0
        self._early = Gathered(server.heads)
        """What no exchange has taken: of the next request, and of those behind it."""
        self._head_due = True
        """Whether the time for the head that is awaited runs. It runs over the whole of it, and once."""
        self._framing = NO_BODY
        """Of the request body that is being read; NO_BODY once it is whole."""
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._lingers = False
        """It is closed for writing, and what still comes is thrown away."""
        self._looping = False
        self.arm(server.reactor.now + server.limits.head_s)

    # Reading requests.

    def on_data(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self.exchange
        if self._lingers:
            return
        if exchange is None:
            self._early.feed(data)
            self._read_requests()
        elif exchange.switched:
            exchange.on_tunnel_data(data)
        elif self._framing != NO_BODY:
            self._read_body(exchange, data)
        else:
            self._early.feed(data)
            self.count_unread(len(self._early))
            if len(self._early) > PIPELINE_BYTES:
                self.pause_reading()

    def _read_requests(self) -> None:
        """Begin every request that the buffer holds whole, one after the other."""
        if self._looping:
            return
        self._looping = True
        try:
            while self.exchange is None and len(self._early) and not self.closing and not self.closed:
                if self.full:  # answers that nobody takes
                    self.pause_reading()
                    break
                if not self._read_head():
                    break
        finally:
            self._looping = False

    def _read_head(self) -> bool:
        early = self._early
        early.skip_empty_line()
        head: bytes | None = None
        try:
            head = early.head()
            if head is None:
                self.count_unread(len(self._early))
                self._wait_for_head()
                self.resume_reading()  # one may be longer than what is read early
                return False
            request = parse_request(head, self.server.heads)
        except BadHead as bad:
            self.give_up(Refusal(bad.status, "http", bad.reason), early.begin() if head is None else head)
            return False
        self._begin(request)
        return True

    def _wait_for_head(self) -> None:
        if not self._head_due:
            self._head_due = True
            self.arm(self.reactor.now + self.server.limits.head_s)

    def _begin(self, request: RequestHead) -> None:
        self.served += 1
        if self.served == 1:
            self.budget.head_came(self)
        self._head_due = False
        self.count_unread(len(self._early))
        framing = request.framing
        if framing == LENGTH and not request.length:
            framing = NO_BODY
        self._framing = framing
        self._left = request.length
        if framing == CHUNKED:
            self._decoder = ChunkedDecoder()
        if request.close or self.server.draining:
            self.closing = True
        stream = self.stream
        assert stream is not None
        exchange = self.exchange = self.server.handler(stream, request)
        exchange.request_sent = framing == NO_BODY
        self.server.begin(stream, exchange)
        if framing != NO_BODY and len(self._early) and self.exchange is exchange:
            self.resume_reading()
            self._read_body(exchange, self.take_rest())

    def _read_body(self, exchange: RequestHandler, data: bytes) -> None:
        if self._framing == LENGTH:
            if len(data) > self._left:
                self._early.feed(data[self._left :])
                data = data[: self._left]
            self._left -= len(data)
            exchange.on_request_data(data)
            if not self._left and self.exchange is exchange:
                self._framing = NO_BODY
                exchange.on_request_end([])
            return
        decoder = self._decoder
        assert decoder is not None
        try:
            payload = decoder.feed(data)
        except BadHead as bad:
            self.closing = True
            exchange.on_bad_request(bad.status, bad.reason)
            return
        if payload:
            exchange.on_request_data(payload)
        if decoder.done and self.exchange is exchange:
            self._early.feed(decoder.rest)
            self._decoder = None
            self._framing = NO_BODY
            exchange.on_request_end(decoder.trailers)

    def on_eof(self) -> None:
        """The client closed. A request in flight is given up: nobody is there to take the answer."""
        exchange = self.exchange
        if exchange is not None and exchange.switched:
            self.pause_reading()
            exchange.on_tunnel_eof()
            return
        self.closing = True
        if exchange is not None:
            exchange.on_client_gone()
        self.close()

    def on_broken(self, error: OSError) -> None:
        """The connection failed."""
        self.closing = True
        exchange = self.exchange
        self.close()
        if exchange is not None:
            exchange.on_client_gone()

    def on_deadline(self, now: float) -> None:
        """Too slow with a head, too long without a request, or the current request's time is up."""
        if self.exchange is not None:
            self.exchange.on_client_timeout()
        elif self._lingers or not len(self._early):
            self.close()
        else:
            late = Refusal(408, "http", f"no whole request head within {self.server.limits.head_s:g} s")
            self.give_up(late, self._early.begin())

    # Answers, which its stream writes.

    def persistence(self) -> bytes:
        """The Connection field of an answer: whether another request is taken behind it."""
        if self._framing != NO_BODY:  # the request never came whole: what follows is not a request
            self.closing = True
        if self.closing or self.server.draining:
            self.closing = True
            return b"connection: close\r\n"
        exchange = self.exchange
        return b"connection: keep-alive\r\n" if exchange is not None and exchange.request.http10 else b""

    def on_handler_end(self) -> None:
        """The request is over: the next one, or the end of the connection."""
        self.exchange = None
        if self.closed:
            return
        if self.closing or self._framing != NO_BODY:
            self.close_soon()
            return
        self.arm(self.reactor.now + self.server.limits.idle_s)
        self._next()

    def _next(self) -> None:
        if len(self._early) <= PIPELINE_BYTES:  # else each request would let in more than it has taken
            self.resume_reading()
        if len(self._early):
            self._read_requests()

    def take_rest(self) -> bytes:
        """What came behind the request, which is none any more."""
        rest = self._early.take()
        self.count_unread(len(self._early))
        return rest

    def on_drained(self) -> None:
        """The client took what was held."""
        if self._lingers:
            self.finish_writing()
        elif self.exchange is not None:
            self.exchange.on_drained()
        else:
            self._next()

    # Closing.

    def give_up(self, refusal: Refusal, said: bytes) -> None:
        """Answer what cannot be understood, and close."""
        self.closing = True
        self.server.on_refused(refusal, self.address, self.budget.inbound, said)
        self.write(closing_answer(refusal))
        self.close_soon()

    def close_soon(self) -> None:
        """Close for writing once all is written, and throw away what still comes, for LINGER_S: closing at once, with
        bytes unread, would have the kernel take the answer back (RFC 9112 section 9.6)."""
        if self.closed or self._lingers:
            return
        self.closing = True
        self._lingers = True
        self._early.clear()
        self.count_unread(len(self._early))
        self.arm(self.reactor.now + LINGER_S)
        self.resume_reading()
        if self.flushed:
            self.finish_writing()

    def close(self) -> None:
        """Close, wherever it stands."""
        if not self.closed:
            self.stream = None  # they refer to each other: garbage that only a collection would find
            self.budget.leave(self)
            self.server.forget(self)
        super().close()

    @property
    def waits(self) -> bool:
        """Whether nothing is under way by it: no whole head has come, or its answer is out."""
        return self.exchange is None

    def make_way(self) -> None:
        """Close, for another; who has begun to say something is told why."""
        if len(self._early):
            self.server.on_refused(FULL, self.address, self.budget.inbound, self._early.begin())
            self.write(closing_answer(FULL))
        self.close()

    def finish(self) -> None:
        """Take no more than what is under way: the next answer is the last."""
        self.closing = True
        if self.exchange is None:
            self.catch_up()
            if self.exchange is None and not self.closed:
                self.close()

    def judge_anew(self) -> None:
        """Rules have changed: the request under way may not be allowed any more."""
        if self.exchange is not None:
            self.exchange.judge_anew()

    def abort(self) -> None:
        """Give the connection up: the client sees that the answer did not come whole."""
        self.closing = True
        exchange = self.exchange
        if self.stream is not None and self.stream.ends_by_closing:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()
        if exchange is not None:
            exchange.on_cut()
