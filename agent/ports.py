"""Ports in settings: numbers, and ranges such as "9000-9100"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")


class Ports:
    """Some ports."""

    __slots__ = ("_ranges",)

    def __init__(self, entries: Iterable[int | str] = ()) -> None:
        """Raises ValueError that says which entry is none."""
        self._ranges = [_range(entry) for entry in entries]

    def __contains__(self, port: int) -> bool:
        return any(low <= port <= high for low, high in self._ranges)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first and the last port of each range, ascending; none overlaps another."""
        found: list[tuple[int, int]] = []
        for low, high in sorted(self._ranges):
            if found and low <= found[-1][1] + 1:
                found[-1] = (found[-1][0], max(found[-1][1], high))
            else:
                found.append((low, high))
        return found


def _range(entry: int | str) -> tuple[int, int]:
    found = _RANGE.match(str(entry))
    low, high = (int(found[1]), int(found[2] or found[1])) if found is not None else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise ValueError(f'{entry!r} is no port and no range of ports, such as 8081 or "9000-9100"')
    return low, high
