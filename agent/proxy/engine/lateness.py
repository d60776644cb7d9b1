# mypyc: compiled
"""How late this worker's loop is: a timer that says when it came, against when it was due."""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.reactor import Timed, Wheel

EVERY_S: Final = 0.1
LATE_S: Final = 0.05
"""Less is the wheel's grain, or an ordinary batch of requests."""


class Lateness(Timed):
    """Ten times a second; a request costs nothing more for it."""

    __slots__ = ("_due", "_wheel", "total_s", "worst_s")

    def __init__(self, wheel: Wheel, now: float) -> None:
        super().__init__()
        self._wheel = wheel
        self._due = 0.0
        self.total_s = 0.0
        """For how long it was late in all."""
        self.worst_s = 0.0
        self._arm(now)

    def _arm(self, now: float) -> None:
        self._due = now + EVERY_S
        self._wheel.arm(self, self._due)

    def on_deadline(self, now: float) -> None:
        """The wheel's call."""
        late_s = now - self._due
        if late_s >= LATE_S:
            self.total_s += late_s
            self.worst_s = max(self.worst_s, late_s)
        self._arm(now)
