# mypyc: compiled
"""How fast a worker reads the answers to copies.

A target that answers without end at full speed would otherwise have the worker do nothing else.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from agent.proxy.engine.reactor import Reactor, Timed
from agent.proxy.stream import ResponseHandler

PERIOD_S: Final = 0.01
PERIOD_BYTES: Final = 256 * 1024
"""Of all answers to copies, in PERIOD_S: 25 MiB a second, a worker."""
SHARE_BYTES: Final = 64 * 1024
"""What one that waited is taken to read when it goes on; what it reads beyond that, the next ones wait for."""


class Pace(Timed):
    """A bucket of bytes, and who waits for it."""

    __slots__ = ("_left", "_reactor", "_since", "_waiting")

    def __init__(self, reactor: Reactor) -> None:
        super().__init__()
        self._reactor = reactor
        self._left = PERIOD_BYTES
        self._since = 0.0
        self._waiting: deque[ResponseHandler] = deque()

    def spend(self, copy: ResponseHandler, size: int) -> None:
        """So many bytes were read for a copy; it waits for its turn when there were too many."""
        now = self._reactor.now
        if not self._waiting:
            self._refill(now)
        self._left -= size
        up = copy.up
        if self._left <= 0 and up is not None:
            up.pause_reading()
            self._waiting.append(copy)
            if len(self._waiting) == 1:
                self._reactor.wheel.arm(self, now + PERIOD_S)

    def _refill(self, now: float) -> None:
        self._left = min(PERIOD_BYTES, self._left + int((now - self._since) / PERIOD_S * PERIOD_BYTES))
        self._since = now

    def on_deadline(self, now: float) -> None:
        """The next moment: as many go on as can be read for."""
        self._refill(now)
        for _ in range(min(len(self._waiting), self._left // SHARE_BYTES)):
            up = self._waiting.popleft().up
            if up is not None:
                up.resume_reading()
        if self._waiting:
            self._reactor.wheel.arm(self, now + PERIOD_S)
