"""What is to be printed, bounded: what comes too quickly, or is not taken, is counted and told. Pure.

Laws
- Of each sort so many lines a second are told, and so a flood of one sort hides no other.
- A slow reader costs no memory: beyond `MOST_HELD` nothing is kept.
- What is left out is told, by sort and with its revisions, at most once a second.
"""

from __future__ import annotations

from typing import Final

from agent.cli.watching.line import Line

A_SECOND: Final = 100
MOST_HELD: Final = 2000


class Outgoing:
    """Lines that nobody has taken yet. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._second = -1
        self._spent: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._first, self._last = 0, 0
        self._told_at = -1.0

    def has_room(self, sort: str, now: float) -> bool:
        """Whether a line of a sort would be told: else it need not be made, but has to be counted (`leave_out`)."""
        if int(now) != self._second:
            self._second, self._spent = int(now), {}
        return self._spent.get(sort, 0) < A_SECOND and len(self._lines) < MOST_HELD

    def add(self, line: Line, now: float) -> None:
        """A line."""
        if not self.has_room(line.what, now):
            self.leave_out(line.what, line.revision)
            return
        self._spent[line.what] = self._spent.get(line.what, 0) + 1
        self._lines.append(line)

    def leave_out(self, sort: str, revision: int) -> None:
        """One that is only counted."""
        self._left_out[sort] = self._left_out.get(sort, 0) + 1
        if revision:
            self._first = min(self._first or revision, revision)
            self._last = max(self._last, revision)

    def take(self, at: float, now: float, *, all_of_it: bool = False) -> list[Line]:
        """What is to be told by now. `at`: seconds since 1970; `all_of_it`: what was left out, too."""
        lines, self._lines = self._lines, []
        if self._left_out and (all_of_it or now - self._told_at >= 1):
            self._told_at = now
            left, self._left_out = self._left_out, {}
            counts = ", ".join(f"{count} of {sort.replace('_', ' ')}" for sort, count in sorted(left.items()))
            text = f"{sum(left.values())} lines, for which there was no room: {counts}"
            if self._first:
                text += f"; revisions {self._first} to {self._last}"
            more = {"lines": left, "first": self._first, "last": self._last}
            lines.append(Line(at, self._last, "left_out", text, more, note=True))
            self._first = self._last = 0
        return lines
