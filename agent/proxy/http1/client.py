# mypyc: compiled
"""An endpoint that is spoken HTTP/1 to: one request at a time. The connection reads answers (`reading`), its stream
sends requests and goes back to the pool.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, cast

from agent.process.descriptors import OURS
from agent.proxy.engine.connection import Tally
from agent.proxy.engine.credentials import Way
from agent.proxy.engine.reactor import INFINITY, READ, WRITE, Reactor
from agent.proxy.http1.framing import chunk, last_chunk
from agent.proxy.http1.phase import Phase
from agent.proxy.http1.reading import Answers
from agent.proxy.messages.head import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadRules,
    RequestHead,
)
from agent.proxy.proof.doorkeeper import Doorkeeper
from agent.proxy.stream import ResponseHandler, Upstream
from agent.trust import bind_source

_WITHOUT_BODY: Final = frozenset({b"GET", b"HEAD"})


class Lane:
    """Idle connections that may take each other's place, by the address that they lead to."""

    __slots__ = ("idle", "name", "way")

    def __init__(self, way: Way | None, name: tuple[str, str] | None = None) -> None:
        self.name = name
        """Caller and callee, of those that are forgotten with them; None: it is kept by who made it."""
        self.way = way
        """Who is shown and expected on them; None: nobody, they are in plain text."""
        self.idle: dict[tuple[str, int], list[ClientStream]] = {}


class Home:
    """Where connections come from, and go back to when they are free (`agent.proxy.http1.pool`)."""

    __slots__ = ("doorkeeper", "heads", "opened")

    def __init__(self, heads: HeadRules) -> None:
        self.heads = heads
        self.doorkeeper: Doorkeeper | None = None
        """Asked about connections to instances of this host; None: settings say of no service who may be it."""
        self.opened = 0
        """Upstream connections open now, busy or idle."""

    def put(self, stream: ClientStream) -> None:
        """Free for the next request."""
        raise NotImplementedError

    def forget(self, connection: ClientConnection) -> None:
        """An idle one closed."""
        raise NotImplementedError


class ClientConnection(Answers):
    """One connection to an endpoint's address. Owned by an attempt while busy, by the pool while idle."""

    __slots__ = ("dial", "lane", "pool", "sent", "tally")

    def __init__(
        self,
        reactor: Reactor,
        pool: Home,
        sock: socket.socket,
        dial: tuple[str, int],
        attempt: ResponseHandler,
        tally: Tally | None,
        lane: Lane,
    ) -> None:
        super().__init__(reactor, sock, WRITE, pool.heads, attempt)
        self.pool = pool
        self.dial = dial
        self.lane = lane
        """Where it is kept while it is idle."""
        self.sent = False
        """Whether any byte of the current request reached the kernel: from then on the endpoint may have seen it."""
        pool.opened += 1
        self.tally = tally
        """Who counts it."""
        if tally is not None:
            tally.connecting += 1

    def on_event(self, events: int) -> None:
        """The reactor's callback; the first event tells how connecting went."""
        if self.phase is not Phase.CONNECTING:
            Answers.on_event(self, events)
            return
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.on_broken(OSError(code, os.strerror(code)))
            return
        keeper, attempt = self.pool.doorkeeper, self.attempt
        if keeper is not None and attempt is not None and attempt.expected:
            stranger = keeper.stranger(attempt.expected, self.sock)
            if stranger:
                self.on_broken(OSError(errno.EACCES, stranger))
                return
        self._want(READ)
        self.on_ready()

    def on_ready(self) -> None:
        """It can be used."""
        self.phase = Phase.IDLE
        if self.tally is not None:
            self.tally.connecting -= 1
            self.tally.open += 1
        self.deadline = INFINITY
        assert self.attempt is not None
        self.attempt.on_connected()

    def is_stale(self) -> bool:
        """Whether an idle connection is known to be of no use: closed, or with bytes nobody asked for."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def on_eof(self) -> None:
        """The upstream closed: the end of an answer that is framed so, and a failure anywhere else."""
        attempt = self.attempt
        if self.phase is Phase.TUNNEL and attempt is not None:
            self.pause_reading()
            attempt.on_tunnel_eof()
        elif self.phase is Phase.BODY and self._framing == UNTIL_CLOSE and attempt is not None:
            self.reusable = False
            attempt.on_response_end([])
        else:
            self.on_broken(OSError(errno.ECONNRESET, "closed by the upstream"))

    def on_write_failed(self, error: OSError) -> None:
        """It takes no more of the request; but it may have answered: who refuses an upload need not read it first."""
        if self.sent and self.phase in (Phase.HEAD, Phase.BODY):
            self.fall_mute()
            if self.attempt is not None:
                self.attempt.on_drained()
        else:
            self.on_broken(error)

    def on_broken(self, error: OSError) -> None:
        """Connecting failed, or the connection did."""
        attempt, self.attempt = self.attempt, None
        connecting = self.phase is Phase.CONNECTING
        self.close()
        if attempt is None:
            return
        reason = error.strerror or str(error)
        if connecting and error.errno in OURS:
            attempt.on_unable(reason, elsewhere=error.errno == errno.EADDRNOTAVAIL)
        else:
            attempt.on_lost(reason, connecting=connecting, sent=self.sent)

    def on_deadline(self, now: float) -> None:
        """Idle for too long; or connecting, or the answer's head, took longer than this try may."""
        attempt, self.attempt = self.attempt, None
        phase = self.phase
        self.close()
        if attempt is not None:
            attempt.on_timeout(connecting=phase is Phase.CONNECTING)

    def on_drained(self) -> None:
        """What was held of the request is sent: its client may go on."""
        if self.attempt is not None:
            self.attempt.on_drained()

    # How it ends.

    def close(self) -> None:
        """Close, wherever it stands."""
        if not self.closed:
            if self.phase is Phase.IDLE and self.attempt is None:
                self.pool.forget(self)
            self.pool.opened -= 1
            tally = self.tally
            if tally is not None:
                if self.phase is Phase.CONNECTING:
                    tally.connecting -= 1
                else:
                    tally.open -= 1
                super().close()
                if tally.most:
                    tally.on_gone(self)
                return
        super().close()

    def count_for(self, tally: Tally) -> None:
        """It was idle, and is used for another service from now on, of which either counts how many there may be."""
        before, self.tally = self.tally, tally
        if before is not None:
            before.open -= 1
            if before.most:
                before.on_gone(self)
        tally.open += 1

    def abort(self) -> None:
        """A callback of this connection failed."""
        self.on_broken(OSError(errno.EIO, "an error of the agent's own"))


class ClientStream(Upstream):
    """Where the requests of one connection go, one after the other."""

    __slots__ = ("_chunked", "connection")

    def __init__(self, connection: ClientConnection, dial: tuple[str, int]) -> None:
        super().__init__(dial)
        self.connection = connection
        self._chunked = False

    def connect(self, source: str = "") -> None:
        """Begin to connect."""
        connection = self.connection
        sock = cast(socket.socket, connection.sock)  # TLS comes later
        try:
            if source:
                bind_source(sock, source)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(self.dial)
        except OSError as error:
            connection.on_broken(error)
            return
        if code not in (0, errno.EINPROGRESS):
            connection.on_broken(OSError(code, os.strerror(code)))

    def send_request(
        self,
        handler: ResponseHandler,
        request: RequestHead,
        target: bytes,
        fields: list[bytes],
        own: list[bytes],
        body: list[bytes],
        trailers: list[bytes] | None,
    ) -> None:
        """Send a request's head, and what there is of its body."""
        connection = self.connection
        connection.attempt = handler
        connection.phase = Phase.HEAD
        connection.sent = False
        # A server that looks for no body in these would take it for its next request.
        has_body = request.length > 0 or request.framing == CHUNKED
        connection.reusable = not has_body or request.method not in _WITHOUT_BODY
        connection.interim = 0
        lines = [request.method, b" ", target, b" HTTP/1.1\r\n"]
        lines += fields
        lines += own
        self._chunked = chunked = request.framing == CHUNKED
        if chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if handler.upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % handler.upgrade)
        lines.append(b"\r\n")
        if chunked:
            lines += [chunk(piece) for piece in body]
            if trailers is not None:
                lines.append(last_chunk(trailers))
        else:
            lines += body
        connection.write(b"".join(lines))
        connection.sent = not connection.closed

    def open_tunnel(self, handler: ResponseHandler) -> None:
        """Send nothing: from here on bytes go both ways, unread."""
        connection = self.connection
        connection.attempt = handler
        connection.phase = Phase.TUNNEL
        connection.sent = True
        connection.reusable = self._chunked = False

    def send_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.connection.write(chunk(data) if self._chunked else data)

    def end_body(self, trailers: list[bytes]) -> None:
        """The end of the request's body."""
        if self._chunked:
            self.connection.write(last_chunk(trailers))

    def finish_writing(self) -> None:
        """Tell the endpoint that no more comes."""
        self.connection.finish_writing()

    @property
    def sent(self) -> bool:
        """Whether the request's head has left."""
        return self.connection.sent

    @property
    def full(self) -> bool:
        """Whether whoever sends should pause."""
        return self.connection.full

    def arm(self, deadline: float) -> None:
        """The connection's deadline is its request's, as long as there is one."""
        self.connection.arm(deadline)

    def pause_reading(self) -> None:
        """Take no more of the answer for now."""
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self.connection.resume_reading()

    def release(self, *, reusable: bool) -> None:
        """The handler is through with it: back to the pool, or closed."""
        connection = self.connection
        connection.attempt = None
        if reusable and connection.reusable and connection.flushed and not connection.closed:
            connection.phase = Phase.IDLE
            connection.resume_reading()
            connection.pool.put(self)
        else:
            connection.close()

    def cut(self) -> None:
        """Give the connection up."""
        self.connection.attempt = None
        self.connection.close()
