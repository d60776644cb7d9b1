# mypyc: compiled
"""Handshakes that are half open: what those of a worker's servers may take together.

Laws
- There are at most so many at once; beyond that the one that has been silent for longest goes. So floods push out
  floods, and who answers at once gets through.
- They have half of the worker's time at most: the rest is for requests that are there already. Who finds none left
  waits for his turn, in order.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from agent.proxy.engine.reactor import Reactor, Timed

MOST_HALF_OPEN: Final = 1024
"""In a worker."""
WINDOW_S: Final = 0.01
TURN_S: Final = 0.005
"""Of each window."""


class Waiting(Timed):
    """A handshake, as far as it concerns the others."""

    __slots__ = ()

    def go_on(self) -> None:
        """There is time for what it has to do."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Give it up, and say why."""
        raise NotImplementedError


class HalfOpen(Timed):
    """The handshakes of one worker's servers: how many there may be, and how much of its time they have."""

    __slots__ = (
        "_clock",
        "_reactor",
        "_resting",
        "_since",
        "_spent_s",
        "_waiting",
        "displaced",
        "failed",
        "most",
        "plain",
        "secured",
    )

    def __init__(self, reactor: Reactor, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most = MOST_HALF_OPEN
        self.displaced = 0
        """How many went for others, since ever."""
        self.failed = 0
        self.plain = 0
        self.secured = 0
        self._clock = clock
        self._reactor = reactor
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        """Who has been silent for longest is first."""
        self._resting: deque[Waiting] = deque()
        """Who has something to do when there is time again."""
        self._since = 0.0
        self._spent_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, handshake: Waiting) -> None:
        """One more."""
        self._waiting[handshake] = None
        if len(self._waiting) > self.most:
            self.displaced += 1
            next(iter(self._waiting)).fail("more handshakes at once than there may be")

    def leave(self, handshake: Waiting) -> None:
        """It is over."""
        self._waiting.pop(handshake, None)

    def end(self) -> None:
        """Give all of them up: the worker ends."""
        for handshake in list(self._waiting):
            handshake.fail("the agent ends")

    def heard(self, handshake: Waiting) -> None:
        """It said something."""
        self._waiting.move_to_end(handshake)

    def may_work(self, handshake: Waiting) -> bool:
        """Whether there is time for a step; else it is called again when there is."""
        now = self._clock()
        if now - self._since >= WINDOW_S:
            self._since, self._spent_s = now, 0.0
        if self._spent_s < TURN_S and not self._resting:
            return True
        self._resting.append(handshake)
        if len(self._resting) == 1:
            self._reactor.wheel.arm(self, self._reactor.now + WINDOW_S)
        return False

    def spend(self, since: float) -> None:
        """A step began then, and is done."""
        self._spent_s += self._clock() - since

    def now(self) -> float:
        """By the clock that turns are measured by."""
        return self._clock()

    def on_deadline(self, now: float) -> None:
        """There is time again."""
        self._since, self._spent_s = self._clock(), 0.0
        while self._resting and self._spent_s < TURN_S:
            self._resting.popleft().go_on()
        if self._resting:
            self._reactor.wheel.arm(self, now + WINDOW_S)
