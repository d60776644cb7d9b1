# mypyc: compiled
"""Requests that somebody follows, as they end: picked in the worker, so that nothing else is encoded or passed on.

Law: MOST_WAITING wait to be handed over; what ends beyond that is counted, and told to whoever follows.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from agent.requests.filter import Filter
from agent.requests.picking import Picker

MOST_WAITING: Final = 1000


class Follow(Picker):
    """What one filter picks."""

    __slots__ = ("id", "lost", "rows")

    def __init__(self, id: str, wanted: Filter) -> None:
        super().__init__(wanted)
        self.id = id
        self.rows: deque[tuple[Any, ...]] = deque()
        self.lost = 0

    def offer(self, row: tuple[Any, ...]) -> None:
        """A request ended; a row is as `agent.proxy.report.access` has it."""
        if not self.picks(row[1], row[2], row[3], row[5], row[7], row[8], row[9], row[18]):
            return
        if len(self.rows) >= MOST_WAITING:
            self.lost += 1
        else:
            self.rows.append(row)

    def take(self, most: int) -> tuple[list[tuple[Any, ...]], int]:
        """The oldest, and how many were lost behind all that waited; 0 where some go on waiting."""
        rows = self.rows
        taken = [rows.popleft() for _ in range(min(most, len(rows)))]
        lost = 0
        if not rows:
            lost, self.lost = self.lost, 0
        return taken, lost
