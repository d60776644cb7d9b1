# mypyc: compiled
"""A listening socket of a worker."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

from agent.proxy.reactor import Timed

if TYPE_CHECKING:
    from agent.proxy.worker import Worker

ACCEPTS_PER_EVENT: Final = 64
STRANGERS_PERCENT: Final = 75
"""Of the inbound listener's connections: the rest is for agents."""

log = logging.getLogger("shoal.worker")


def plain(peer: str) -> str:
    """A peer's address; that of an IPv4 client of an IPv6 socket (`::ffff:10.0.0.5`) as the IPv4 address it is."""
    return peer[7:] if peer.startswith("::ffff:") and "." in peer else peer


class Budget:
    """What clients of one listener, the outbound or the inbound one, may take in this worker; each has its own, so that
    whoever floods one of them locks nobody out of the other. Of the inbound one, a part is kept for agents."""

    __slots__ = ("inbound", "open", "strangers", "waiting")

    def __init__(self, *, inbound: bool) -> None:
        self.inbound = inbound
        self.open = 0
        """Connections."""
        self.strangers = 0
        """Those of them that no agent made."""
        self.waiting = 0
        """Requests that wait for the first table."""

    def enter(self, most: int, *, agent: bool) -> bool:
        """Take a connection, of `most` that there may be; False when it is one too many."""
        if self.open >= most:
            return False
        if self.inbound and not agent:
            if self.strangers >= max(1, most * STRANGERS_PERCENT // 100):
                return False
            self.strangers += 1
        self.open += 1
        return True

    def leave(self, *, agent: bool) -> None:
        """It closed; `agent` as it was when it came."""
        self.open -= 1
        if self.inbound and not agent:
            self.strangers -= 1


class Listener(Timed):
    """A listening socket that is served by the reactor; pauses when the process is out of descriptors."""

    __slots__ = ("budget", "inbound", "sock", "worker")

    def __init__(self, worker: Worker, fd: int, budget: Budget) -> None:
        super().__init__()
        self.worker = worker
        self.budget = budget
        self.inbound = budget.inbound
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        worker.reactor.add(self.sock.fileno(), self.on_event)

    def on_event(self, events: int) -> None:
        """Accept what waits."""
        for _ in range(ACCEPTS_PER_EVENT):
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self.worker.on_accepted(sock, plain(address[0]), self.budget)

    def _pause(self, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.error("accept failed: %s", error)
        self.worker.reactor.remove(self.sock.fileno())
        self.worker.reactor.wheel.arm(self, self.worker.reactor.now + 0.1)

    def on_deadline(self, now: float) -> None:
        """Accept again."""
        if not self.worker.draining:
            self.worker.reactor.add(self.sock.fileno(), self.on_event)

    def abort(self) -> None:
        """A callback failed: there is nothing to close."""

    def close(self) -> None:
        """Accept no more. Control's copy of the socket stays."""
        self.worker.reactor.remove(self.sock.fileno())
        self.sock.close()
