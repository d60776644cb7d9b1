"""The last lines of programs, by run: bounded, and with nothing lost uncounted. Pure.

Laws
- A run is a program from its start to its end. Its lines are numbered where they come from, so what is missing among
  the numbers is lost, wherever that was.
- RING_BYTES of each, MOST_RUNS, RUNS_EACH of one instance. Who comes when all have a place takes that of one which has
  ended, or whose instance is gone; there being none, he is refused.
- A run is whose user told of it first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Final, TypeAlias

from agent.control.output.said import Identity, Line

RING_BYTES: Final = 256 * 1024
LINE_BYTES: Final = 256
"""What a line costs beside its text: a program may write lines of nothing."""
MOST_RUNS: Final = 128
RUNS_EACH: Final = 3
Wanted: TypeAlias = Callable[[Line], bool]


def any_line(_: Line) -> bool:
    """Who wants all of them."""
    return True


class Run:
    """One program's."""

    def __init__(self, name: str, identity: Identity, uid: int) -> None:
        self.name = name
        self.identity = identity
        self.uid = uid
        self.ended = False
        self.followed_at = float("-inf")
        """When somebody asked for what comes last (s, monotonic)."""
        self.next = 0
        """The number of the next line."""
        self._lines: deque[tuple[Line, int]] = deque()
        self._size = 0

    def add(self, lines: Sequence[Line], following: int) -> tuple[int, int]:
        """Lines in order, of which some may be known already; `following`: the number behind them. How many there
        were, and how many are lost."""
        before, told = self.next, 0
        for line in lines:
            if self.next <= line.number < following:
                self._add(line)
                self.next, told = line.number + 1, told + 1
        self.next = max(self.next, following)
        return told, self.next - before - told

    def _add(self, line: Line) -> None:
        size = len(line.text.encode("utf-8", "replace")) + LINE_BYTES
        self._lines.append((line, size))
        self._size += size
        while self._size > RING_BYTES and len(self._lines) > 1:
            self._size -= self._lines.popleft()[1]

    def last(self, count: int, most_bytes: int, wanted: Wanted = any_line) -> list[Line]:
        """The last ones that are wanted; one in any case."""
        found: list[Line] = []
        for line, line_size in reversed(self._lines):
            if not wanted(line):
                continue
            most_bytes -= line_size
            if len(found) >= count or (found and most_bytes < 0):
                break
            found.append(line)
        return found[::-1]

    def read(self, after: int, most_bytes: int, wanted: Wanted = any_line) -> tuple[list[Line], int, int]:
        """From a number on, one line in any case: the lines that are wanted, how many of any kind are lost among them,
        and where to go on."""
        found: list[Line] = []
        size = lost = 0
        for line, line_size in self._behind(after):
            if wanted(line):
                if found and size + line_size > most_bytes:
                    return found, lost, after
                found.append(line)
                size += line_size
            lost += line.number - after
            after = line.number + 1
        return found, lost + max(0, self.next - after), max(after, self.next)

    def _behind(self, after: int) -> list[tuple[Line, int]]:
        """From a number on; the others are not looked at."""
        return list(takewhile(lambda each: each[0].number >= after, reversed(self._lines)))[::-1]


class Kept:
    """One host's. `there`: whether an instance is registered here."""

    def __init__(self, there: Callable[[Identity], bool]) -> None:
        self._there = there
        self._runs: dict[str, Run] = {}
        """By name, the oldest first."""

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def find(self, name: str) -> Run | None:
        """A run that is known."""
        return self._runs.get(name)

    def live(self, identity: Identity) -> bool:
        """Whether an instance's output is told of."""
        return any(run.identity == identity and not run.ended for run in self)

    def begin(self, name: str, identity: Identity, uid: int) -> Run | None:
        """A new one; None: there is no room."""
        own = [run for run in self if run.identity == identity]
        for run in own[: len(own) + 1 - RUNS_EACH]:
            del self._runs[run.name]
        if len(self._runs) >= MOST_RUNS:
            gone = next((run for run in self if run.ended or not self._there(run.identity)), None)
            if gone is None:
                return None
            del self._runs[gone.name]
        found = self._runs[name] = Run(name, identity, uid)
        return found
