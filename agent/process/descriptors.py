# mypyc: interpreted, because it is asked when a process starts, and when descriptors have run out
"""How many descriptors a process may have, what that is enough for, and whose fault it is when there is none.

Laws
- A process takes as many as the system lets it have, at once: what it needs is not known beforehand.
- What fails for want of a descriptor, memory, a port or a way out is told of this host, and of nobody who was asked.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any, Final

SPARE: Final = 128
"""For everything that is no connection of a client's, nor one to an endpoint."""
NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""No descriptor: of this process, or of the whole host."""
OURS: Final = NONE_LEFT | {errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.ENOSPC}
"""A connection could not even be tried: no descriptor, no memory, no free port or address of this host."""
NO_WAY_OUT: Final = OURS | {errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV}
"""Nor is there an interface or a route that leads away from here."""


def raise_limit() -> int:
    """As many as the system allows; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # the kernel's own bound (fs.nr_open) is below it
    return limit()


def limit() -> int:
    """How many there may be now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def affordable(descriptors: int) -> int:
    """How many connections a listener of a worker may have. Each may need one to an endpoint, and what one listener
    takes must leave the other its part."""
    return max(16, (descriptors - SPARE) // 4)


class Reserve:
    """One descriptor that is kept, so that a client can be told that there are no others."""

    def __init__(self) -> None:
        self._fd = -1
        self.take_back()

    @property
    def lent(self) -> bool:
        """Whether somebody has it."""
        return self._fd < 0

    def accept(self, listening: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a client with it, for which there is no other. Raises OSError; BlockingIOError when nobody waits."""
        self.close()
        try:
            return listening.accept()
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Have it again, if there is one."""
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass  # somebody was quicker: the next time

    def close(self) -> None:
        """Give it away."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
