"""How long revisions take from when this agent hears of them to when all of its workers run them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

BOUNDS_S: Final = tuple(0.001 * 2**n for n in range(17))
"""From a millisecond to about a minute."""
MOST: Final = 10_000
"""Revisions under way; of more the oldest are not counted."""


class Convergence:
    """Of one agent."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self._under_way: deque[tuple[int, float]] = deque(maxlen=MOST)

    def hear(self, revision: int, now_s: float) -> None:
        """etcd tells of it."""
        if not self._under_way or revision > self._under_way[-1][0]:
            self._under_way.append((revision, now_s))

    def run(self, revision: int, now_s: float) -> None:
        """Every worker runs it, and with it all that were before."""
        while self._under_way and self._under_way[0][0] <= revision:
            took_s = now_s - self._under_way.popleft()[1]
            self.buckets[bisect_left(BOUNDS_S, took_s)] += 1
            self.sum_s += took_s
