# mypyc: compiled
"""A listening socket of a worker, and which protocol a client is answered in: the one place that names them."""

from __future__ import annotations

import logging
import socket
from typing import Any, Final

from agent.identity.users import User, Users
from agent.process.descriptors import NONE_LEFT, OURS
from agent.process.local_peers import owner_of, user_of
from agent.proxy.budget import Budget, Guest
from agent.proxy.engine.connection import Wire
from agent.proxy.engine.reactor import Timed
from agent.proxy.http1.answers import closing_answer
from agent.proxy.http1.server import ServerConnection
from agent.proxy.messages.answers import Refusal
from agent.proxy.peer import Peer, Proof, peer_at
from agent.proxy.proof.arrival import Arrival
from agent.proxy.proof.local_user import LocalUser
from agent.proxy.stream import Server

ACCEPTS_PER_EVENT: Final = 64

log = logging.getLogger("shoal.worker")


def speak(server: Server, sock: Wire, peer: Peer, budget: Budget, *, outsider: bool) -> Guest:
    """A client's connection, in the protocol that it speaks."""
    return ServerConnection(server, sock, peer, budget, outsider=outsider)


def turn_away(sock: Wire, refusal: Refusal) -> None:
    """Tell a client that its connection is not taken, if it can be told at once."""
    try:
        sock.send(closing_answer(refusal))
    except OSError:
        pass
    sock.close()


class Listener(Timed):
    """A listening socket that is served by the reactor; pauses when the process is out of descriptors."""

    __slots__ = ("budget", "inbound", "port", "server", "sock")

    def __init__(self, server: Server, fd: int, budget: Budget) -> None:
        super().__init__()
        self.server = server
        self.budget = budget
        self.inbound = budget.inbound
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.port = 0 if self.sock.family == socket.AF_UNIX else int(self.sock.getsockname()[1])
        """0: it is a path."""
        server.reactor.add(self.sock.fileno(), self.on_event)

    def on_event(self, events: int) -> None:
        """Accept what waits."""
        for _ in range(ACCEPTS_PER_EVENT):
            try:
                sock, address = self._accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self.accepted(sock, address)

    def take(self, sock: Wire, address: str, proof: Proof | None) -> None:
        """A client is there."""
        peer = peer_at(address, self.server.agents if self.inbound else None, proof)
        self.server.on_accepted(sock, peer, self.budget)

    def accepted(self, sock: socket.socket, address: Any) -> None:
        """Somebody has connected."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        security = self.server.security
        if self.inbound and security.listens is not None and not self.server.reserve.lent:
            Arrival(security, sock, address[0], self.take).begin(self.server.reactor, security.listens)
        else:
            self.take(sock, address[0], None)

    def _accept(self) -> tuple[socket.socket, Any]:
        try:
            return self.sock.accept()
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            return self.server.reserve.accept(self.sock)

    def _pause(self, error: OSError) -> None:
        if error.errno not in OURS:
            log.error("accept failed: %s", error)
        self.server.reactor.remove(self.sock.fileno())
        self.server.reactor.wheel.arm(self, self.server.reactor.now + 0.1)

    def on_deadline(self, now: float) -> None:
        """Accept again."""
        if not self.server.draining:
            self.server.reactor.add(self.sock.fileno(), self.on_event)

    def abort(self) -> None:
        """A callback failed: there is nothing to close."""

    def close(self) -> None:
        """Accept no more. Control's copy of the socket stays."""
        self.server.reactor.remove(self.sock.fileno())
        self.sock.close()


class CallerListener(Listener):
    """One where the kernel says who calls: of a service's own (`service`), or for whoever is known by its user."""

    __slots__ = ("service", "users")

    def __init__(self, server: Server, fd: int, budget: Budget, users: Users, service: str) -> None:
        super().__init__(server, fd, budget)
        self.users = users
        self.service = service

    def accepted(self, sock: socket.socket, address: Any) -> None:
        """A program of this host: once it is asked whose."""
        user: User | None
        if self.port:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            user = owner_of(sock, groups=self.users.by_group)
        else:
            try:
                user = user_of(sock)
            except OSError:
                user = None
        local = LocalUser(user, self.users, self.service)
        self.server.on_accepted(sock, Peer(address[0] if self.port else "127.0.0.1", None, None, local), self.budget)
