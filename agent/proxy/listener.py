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

log = logging.getLogger("shoal.worker")


class Listener(Timed):
    """A listening socket that is served by the reactor; pauses when the process is out of descriptors."""

    __slots__ = ("inbound", "sock", "worker")

    def __init__(self, worker: Worker, fd: int, *, inbound: bool) -> None:
        super().__init__()
        self.worker = worker
        self.inbound = inbound
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
            self.worker.on_accepted(sock, address[0], inbound=self.inbound)

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
