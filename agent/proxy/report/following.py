# mypyc: compiled
"""Requests that somebody follows, as they end: picked in the worker, so that nothing else is encoded or passed on.

Law: MOST_WAITING wait to be handed over, of about WAITING_BYTES; what ends beyond that is counted, and told to whoever
follows.
"""

from __future__ import annotations

from typing import Any, Final

from agent.proxy.report.ring import Ring
from agent.proxy.report.rows import size_of
from agent.requests.filter import Filter
from agent.requests.picking import Picker

MOST_WAITING: Final = 1000
WAITING_BYTES: Final = 4 * 1024 * 1024
PORTION_BYTES: Final = 512 * 1024


class Follow(Picker):
    """What one filter picks."""

    __slots__ = ("id", "lost", "rows")

    def __init__(self, id: str, wanted: Filter) -> None:
        super().__init__(wanted)
        self.id = id
        self.rows = Ring(MOST_WAITING, size_of, WAITING_BYTES)
        self.lost = 0

    def offer(self, row: tuple[Any, ...]) -> None:
        """A request ended; a row is as `agent.proxy.report.access` has it."""
        if not self.picks(row[1], row[2], row[3], row[5], row[7], row[8], row[9], row[18]):
            return
        if not self.rows.add(row):
            self.lost += 1

    def take(self, most: int) -> tuple[list[tuple[Any, ...]], int]:
        """The oldest, and how many were lost behind all that waited; 0 where some go on waiting."""
        taken = self.rows.take(most, PORTION_BYTES)
        lost = 0
        if not len(self.rows):
            lost, self.lost = self.lost, 0
        return taken, lost
