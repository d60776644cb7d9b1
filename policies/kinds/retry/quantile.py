# mypyc: compiled
"""A quantile of what was seen lately, cheap enough for every request: the last few hundred values, sorted at times."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 256
ENOUGH: Final = 32
"""Fewer values say nothing about a quantile."""
RENEW: Final = 32


class Recent:
    """The last WINDOW values."""

    __slots__ = ("_at", "_fresh", "_sorted", "_values")

    def __init__(self) -> None:
        self._values: list[float] = []
        self._at = 0
        self._sorted: list[float] = []
        self._fresh = 0

    def observe(self, value: float) -> None:
        """Take a value in, and the oldest out."""
        if len(self._values) < WINDOW:
            self._values.append(value)
        else:
            self._values[self._at] = value
            self._at = (self._at + 1) % WINDOW
        self._fresh += 1

    def quantile(self, share: float) -> float | None:
        """What a `share` (0 to 1) of the values does not exceed, as of at most RENEW values ago; None at first."""
        if len(self._values) < ENOUGH:
            return None
        if self._fresh >= RENEW or not self._sorted:
            self._sorted = sorted(self._values)
            self._fresh = 0
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]
