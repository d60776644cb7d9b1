"""How long revisions take from when this agent hears of them to when all of its workers run them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

BOUNDS_S: Final = tuple(0.001 * 2**n for n in range(17))
"""From a millisecond to about a minute."""
REMEMBERED: Final = 30
NAMED: Final = 5
"""Documents of a change."""
MOST: Final = 10_000
"""Revisions under way; of more the oldest are not counted."""


class Change(msgspec.Struct):
    """Of documents, at one revision."""

    revision: int
    what: tuple[str, ...]
    """Documents, by kind and pattern."""
    at: float
    """When this agent heard of it, Unix s."""
    took_s: float | None = None
    """From then until every worker of it ran it; None: some do not so far."""


class Convergence:
    """Of one agent."""

    def __init__(self) -> None:
        self.latest: deque[Change] = deque(maxlen=REMEMBERED)
        """Changes of documents, the latest last."""
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self._under_way: deque[tuple[int, float]] = deque(maxlen=MOST)

    def hear(self, revision: int, now_s: float, documents: Sequence[str] = (), at: float = 0.0) -> None:
        """etcd tells of it, at a Unix time; `documents`: which are others by it."""
        if not self._under_way or revision > self._under_way[-1][0]:
            self._under_way.append((revision, now_s))
        if documents:
            left = len(documents) - NAMED
            what = (*documents[:NAMED], *([f"and {left} more"] if left > 0 else []))
            self.latest.append(Change(revision, what, at))

    def run(self, revision: int, now_s: float) -> None:
        """Every worker runs it, and with it all that were before."""
        while self._under_way and self._under_way[0][0] <= revision:
            known, heard_s = self._under_way.popleft()
            took_s = now_s - heard_s
            self.buckets[bisect_left(BOUNDS_S, took_s)] += 1
            self.sum_s += took_s
            for change in reversed(self.latest):
                if change.took_s is not None:
                    break
                if change.revision <= known:
                    change.took_s = took_s
