# mypyc: compiled
"""A connection to another host's agent on which both sides have shown who they are, before anything is sent.

It is being connected until the other side is proven, and has said that it accepts us (`agent.proxy.engine.handshake`).
What fails until then has sent nothing: any request may go elsewhere.
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
from agent.proxy.stream import ResponseHandler


class Vault(Home):
    """A home that knows which of its connections are secured."""

    __slots__ = ()

    def hold(self, connection: SecuredConnection, *, held: bool) -> None:
        """A connection is secured; or, not `held`, it is no more."""
        raise NotImplementedError


class SecuredConnection(ClientConnection):
    """One of them."""

    __slots__ = ("_handshake", "_shown_until_s", "_vault", "identity", "spent")

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
        self._shown_until_s = way.ends_s
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
        self.on_ready()
        if not self.closed and sock.pending():
            self.on_event(READ)

    def _on_refused(self, reason: str) -> None:
        """The handshake has closed the socket."""
        self._handshake = None
        attempt, self.attempt = self.attempt, None
        super().close()
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
