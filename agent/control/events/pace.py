"""How fast a hook may be told: as its service asks. Pure.

Law: a limit that the service named slows the whole hook: nothing is sent for as long as it said, or for at least a
minute, longer each time that it is named again, and then one at a time until it has been kept for a while
(docs.github.com/rest/using-the-rest-api, "Best practices", asks for just that).
"""

from __future__ import annotations

from typing import Final

AT_ONCE_EACH: Final = 4
"""Deliveries under way for one hook."""
LEAST_S: Final = 60.0
"""Where the service did not say for how long."""
MOST_S: Final = 3600.0
CAREFUL_S: Final = 600.0
"""After a limit, for so long only one at a time."""


class Pace:
    """Of one hook."""

    __slots__ = ("_careful", "_row", "until")

    def __init__(self) -> None:
        self.until = float("-inf")
        """Nothing is sent before that."""
        self._careful = float("-inf")
        self._row = 0

    def hands(self, now: float) -> int:
        """How many deliveries may be under way."""
        if now < self.until:
            return 0
        return 1 if now < self._careful else AT_ONCE_EACH

    def limited(self, now: float, after_s: float | None) -> float:
        """The service named a limit, perhaps with when to come again; returns for how long nothing is sent."""
        if now >= self.until:  # else another delivery was under way, and heard the same
            self._row += 1
        least_s = (LEAST_S if after_s is None else 1.0) * 2 ** min(self._row - 1, 10)
        pause_s = min(MOST_S, max(least_s, after_s or 0.0))
        self.until = max(self.until, now + pause_s)
        self._careful = self.until + CAREFUL_S
        return self.until - now

    def told(self) -> None:
        """Something was taken."""
        self._row = 0
