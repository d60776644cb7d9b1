# mypyc: compiled
"""A connection on which it is proven who is at the other end before anything is sent: another host's agent, and both
sides have shown who they are; or an instance that speaks TLS itself.

It is being connected until the other side is proven, and an agent has said that it accepts us
(`agent.proxy.engine.handshake`). What fails until then has sent nothing: any request may go elsewhere. An instance says
no such line. By TLS 1.3 it judges us behind our first request, and nothing of that is read before it has: an alert
about our certificate that comes first says that nothing was.
"""

from __future__ import annotations

import os
import socket
from typing import cast

from agent.identity.verdict import Identity
from agent.proxy.engine.connection import Tally
from agent.proxy.engine.handshake import Handshake, Outcome
from agent.proxy.engine.reactor import READ, Reactor
from agent.proxy.engine.tls import TlsSocket
from agent.proxy.http1.client import ClientConnection, Home, Lane
from agent.proxy.http1.phase import Phase
from agent.proxy.proof.origins import OriginWay
from agent.proxy.stream import ResponseHandler
from agent.tls.words import REFUSED
from policies.kinds.tls.document import Origin


class Vault(Home):
    """A home that knows which of its connections are secured."""

    __slots__ = ()

    def hold(self, connection: SecuredConnection, *, held: bool) -> None:
        """A connection is secured; or, not `held`, it is no more."""
        raise NotImplementedError


class OriginLane(Lane):
    """To the instances of one service that speak TLS themselves."""

    __slots__ = ("open", "origin", "retired")

    def __init__(self, way: OriginWay, origin: Origin) -> None:
        super().__init__(way)
        self.origin = origin
        """What the document says of them."""
        self.open: set[SecuredConnection] = set()
        self.retired = False

    def hold(self, connection: SecuredConnection, *, held: bool) -> None:
        """A connection is secured; or, not `held`, it is no more."""
        if not held:
            self.open.discard(connection)
        elif self.retired:
            connection.spent = True
        else:
            self.open.add(connection)

    def retire(self) -> None:
        """Nothing more is sent by its connections than what is under way."""
        self.retired = True
        for connection in list(self.open):
            connection.retire()


class SecuredConnection(ClientConnection):
    """One of them."""

    __slots__ = ("_began", "_handshake", "_shown_until_s", "_vault", "fresh", "identity", "spent")

    def __init__(
        self,
        reactor: Reactor,
        vault: Vault,
        sock: socket.socket,
        dial: tuple[str, int],
        attempt: ResponseHandler,
        tally: Tally | None,
        lane: Lane,
    ) -> None:
        super().__init__(reactor, vault, sock, dial, attempt, tally, lane)
        self._vault = vault
        self._handshake: Handshake | None = None
        self._shown_until_s = 0.0
        self._began = 0.0
        """When the handshake did."""
        self.fresh = True
        """Whether nothing was answered yet."""
        self.spent = False
        """Nothing more is sent by it than what is under way."""
        self.identity: Identity | None = None
        """Who is at the other end, once that is proven."""

    @property
    def ends_s(self) -> float:
        """When the first certificate of either side ends, in seconds of the epoch."""
        identity = self.identity
        return self._shown_until_s if identity is None else min(self._shown_until_s, identity.ends_s)

    def on_event(self, events: int) -> None:
        """The reactor's callback; the first event tells how connecting went."""
        if self.phase is not Phase.CONNECTING:
            super().on_event(events)
            return
        sock, way = cast(socket.socket, self.sock), self.lane.way
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.on_broken(OSError(code, os.strerror(code)))
            return
        assert way is not None
        self.reactor.remove(self.fd)
        self._shown_until_s, self._began = way.ends_s, self.reactor.now
        outcome = Outcome(self._on_secured, self._on_refused)
        try:
            self._handshake = Handshake(self.reactor, sock, way.context, way.judge, outcome, sni=way.sni)
        except OSError as error:  # epoll takes no more
            self.reactor.add(self.fd, self.on_event, self._events)
            self.on_broken(error)

    def _on_secured(self, sock: TlsSocket, identity: Identity) -> None:
        self._handshake = None
        self.sock = sock
        self.identity = identity
        self._events = READ
        self.reactor.add(self.fd, self.on_event, READ)
        self._vault.hold(self, held=True)
        if self.attempt is not None:
            self.attempt.tls_s = self.reactor.now - self._began
        self.on_ready()
        if not self.closed and sock.pending():
            self.on_event(READ)

    def retire(self) -> None:
        """Nothing more is sent by it."""
        self.spent = True
        if self.attempt is None:
            self.close()

    def on_broken(self, error: OSError) -> None:
        """Connecting failed, or the connection did; or who is at the other end has judged us only now."""
        reason = error.strerror or ""
        if self.fresh and self.phase is Phase.HEAD and reason.startswith(REFUSED):
            self._fail(f"{reason}; nothing was read of the request")
        else:
            super().on_broken(error)

    def _on_refused(self, reason: str) -> None:
        """The handshake has closed the socket."""
        self._handshake = None
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        way = self.lane.way
        if isinstance(way, OriginWay):
            way.refused(f"{self.dial[0]}:{self.dial[1]}", reason)
        attempt, self.attempt = self.attempt, None
        self.close()
        if attempt is not None:
            attempt.on_lost(reason, connecting=True, sent=False)

    def close(self) -> None:
        """Close, wherever it stands."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.cancel()
        if self.identity is not None and not self.closed:
            self._vault.hold(self, held=False)
        super().close()
