# mypyc: compiled
"""What waits to be handed over to control: so many rows, of so many bytes; beyond that the newest is refused.

Law: who adds a row pays for its place alone. What rows hold is `measured` beside requests, ten times a second, each row
once; so for that long there may be more bytes than MOST.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

MOST_BYTES: Final = 32 * 1024 * 1024
"""Of what callers write as long as they like, up to the bound of a head."""
PORTION_BYTES: Final = 1024 * 1024
"""That are handed over at once."""
UNMEASURED: Final = 256
"""So few rows are not worth a look."""


class Ring:
    """Of one kind."""

    __slots__ = ("_bytes", "_measured", "_most", "_most_bytes", "_most_rows", "_rows", "_size_of")

    def __init__(self, most: int, size_of: Callable[[Any], int], most_bytes: int = MOST_BYTES) -> None:
        """`size_of`: what a row holds that has no bound but that of a head."""
        self._rows: deque[Any] = deque()
        self._most = self._most_rows = most
        self._most_bytes = most_bytes
        self._size_of = size_of
        self._measured = 0
        """So many of the oldest rows are,"""
        self._bytes = 0
        """and hold this."""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def add(self, row: Any) -> bool:
        """Whether there was room."""
        if len(self._rows) >= self._most:
            return False
        self._rows.append(row)
        return True

    def measure(self) -> None:
        """How many rows there may be until the next time, by what those that wait hold."""
        count = len(self._rows)
        if count < UNMEASURED and not self._measured:
            self._most = self._most_rows
            return
        for row in islice(self._rows, self._measured, None):
            self._bytes += self._size_of(row)
        self._measured = count
        self._most = self._most_rows if self._bytes < self._most_bytes else count

    def take(self, most: int, most_bytes: int = PORTION_BYTES) -> list[Any]:
        """The oldest: up to `most`, and but for one no more than so many bytes."""
        taken: list[Any] = []
        rows, size = self._rows, 0
        while rows and len(taken) < most:
            row_size = self._size_of(rows[0])
            size += row_size
            if taken and size > most_bytes:
                break
            taken.append(rows.popleft())
            if self._measured:
                self._measured -= 1
                self._bytes -= row_size
        return taken
