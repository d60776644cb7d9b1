# mypyc: compiled
"""A client of an inbound listener, before it is known who that is, and whether that is proven.

Clients by TLS and in plain text come by one port, and are told apart by their first byte. What a service thinks of
plain text its own policy says, once a request names the service.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from agent.identity.verdict import Identity
from agent.proxy.engine.handshake import Handshake, Outcome
from agent.proxy.engine.reactor import Reactor
from agent.proxy.engine.tls import TlsSocket
from agent.proxy.peer import Proof

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.proxy.engine.connection import Wire
    from agent.proxy.proof.security import Security

    Taker = Callable[[Wire, str, Proof | None], None]
    """Who takes a client, with its address, and what it has proven."""


class Arrival:
    """One of them."""

    __slots__ = ("_address", "_security", "_sock", "_take")

    def __init__(self, security: Security, sock: socket.socket, address: str, take: Taker) -> None:
        self._security = security
        self._sock = sock
        self._address = address
        self._take = take

    def begin(self, reactor: Reactor, context: ssl.SSLContext) -> None:
        """Hear what it begins with."""
        security = self._security
        outcome = Outcome(self._on_secured, self._on_failed, self._on_plain)
        self._sock.setblocking(False)
        try:
            Handshake(reactor, self._sock, context, security.judge_caller, outcome, security.half_open)
        except OSError as error:  # epoll takes no more
            self._sock.close()
            self._on_failed(error.strerror or str(error))

    def _on_secured(self, sock: TlsSocket, identity: Identity) -> None:
        security = self._security
        here = identity.id.trust_domain == security.trust_domain
        foreign = bool(identity.id.path) and not here
        proof = Proof(identity, security.called(sock.context), ours=here and identity.id.member, foreign=foreign)
        self._take(sock, self._address, proof)
        security.on_settled()

    def _on_failed(self, reason: str) -> None:
        self._security.note(self._address, reason)
        self._security.on_settled()

    def _on_plain(self, sock: socket.socket) -> None:
        self._take(sock, self._address, None)
        self._security.on_settled()
