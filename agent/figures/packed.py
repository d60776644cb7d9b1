"""The windows of one agent, packed: an hour of them in bounded memory. Pure.

    windows = Windows(10, 360)
    windows.add(1_700_000_010, rows)              # what was counted from ...000 to ...010
    windows.sum(until=1_700_000_010, last_s=60)

Laws
- A window takes `most_bytes` at most, and there are `most` of them. What does not fit is folded into others, those with
  fewest requests first; `folded` counts what was.
- Names stand in a table, once for all windows, and leave it with the last window that has them; where it is full, what
  is new is folded too.
- Windows are named by the time at which they end, a multiple of their length: those of all hosts go together. One
  that ends before the last one did (a clock that was set back) adds to that; where it is long before it, the clock was
  ahead, and what it has named cannot be found: that is forgotten, or nothing would be told until that time has come.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from agent.figures.tally import OTHERS, Key, Rows, Tally, add, fold, others

MOST_BYTES: Final = 24 * 1024
MOST_ROWS: Final = 1024
LEAST_ROWS: Final = 4
MOST_KEYS: Final = 8192
AHEAD_S: Final = 60
"""By more than so much no clock is set back that was right."""
T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[int, Tally]])


class Summed(NamedTuple):
    """Of several windows."""

    rows: Rows
    covered_s: int
    """From the first window that was asked for, or that there ever was, to the last one that there is."""
    missed: int
    """Windows in between that there are not."""


class Picked(NamedTuple):
    """Several windows as they are packed."""

    packed: list[bytes]
    keys: dict[int, Key]
    covered_s: int
    missed: int

    @property
    def size_bytes(self) -> int:
        """Of what is packed."""
        return sum(map(len, self.packed))

    def sum(self) -> Summed:
        """Of all of them; of gauges the mean."""
        found: Rows = {}
        for packed in self.packed:
            for number, tally in _decoder.decode(packed):
                add(found, self.keys[number], tally)
        rows = {key: tally.mean(len(self.packed)) for key, tally in found.items()}
        return Summed(rows, self.covered_s, self.missed)


class Kept(msgspec.Struct, frozen=True):
    """Windows as another process takes them over."""

    length_s: int
    began: int
    packed: list[tuple[int, bytes]]
    names: list[tuple[int, Key, int]]
    """Number, name, and when it was needed last."""


class Windows:
    """Of one length."""

    def __init__(self, length_s: int, most: int, most_bytes: int = MOST_BYTES, most_keys: int = MOST_KEYS) -> None:
        self.length_s = length_s
        self._most = most
        self._most_bytes = most_bytes
        self._packed: OrderedDict[int, bytes] = OrderedDict()
        self._began = 0
        """When the first window ended, that may be gone."""
        self._keys: _Table[Key] = _Table(most_keys, others(Key()), others(Key(instance=OTHERS)))
        self.folded = 0

    @property
    def size_bytes(self) -> int:
        """Of what is packed, without the table of names."""
        return sum(map(len, self._packed.values()))

    @property
    def names(self) -> int:
        """How many stand in the table."""
        return len(self._keys)

    def add(self, end: int, rows: Rows) -> None:
        """A window that ends at a unix time (s), a multiple of its length."""
        while (last := next(reversed(self._packed), 0)) > end + AHEAD_S:
            del self._packed[last]
            self._began = min(self._began, end)
        if end <= last:
            end, rows = last, _both(self._rows(last), rows)
        self._began = self._began or end
        oldest = end - self.length_s * (self._most - 1)
        while self._packed and next(iter(self._packed)) < oldest:
            self._packed.popitem(last=False)
        self._keys.forget(oldest)
        self._packed[end] = self._fitting(end, rows)

    def kept(self) -> Kept:
        """For the process that is executed next."""
        return Kept(self.length_s, self._began, list(self._packed.items()), self._keys.kept())

    def take_over(self, kept: Kept) -> None:
        """What the process before had; before anything is added. Windows of another length say nothing here."""
        if kept.length_s == self.length_s:
            self._began = kept.began
            self._packed = OrderedDict(kept.packed)
            self._keys.take_over(kept.names)

    def sum(self, until: int, last_s: int) -> Summed:
        """The windows that end after `until - last_s`, and not after `until`."""
        return self.pick(until, last_s).sum()

    def pick(self, until: int, last_s: int) -> Picked:
        """The same, to be added up in a thread."""
        return self._picked(until, last_s, self._keys.things())

    def spans(self, until: int, step_s: int, count: int) -> list[Picked]:
        """So many spans of windows, each as `pick` has it, the last of which ends at `until`; but what is missed is
        told of all of them together: from the first window there to the last one, wherever spans begin."""
        keys = self._keys.things()
        last = next((end for end in reversed(self._packed) if end <= until), 0)
        return [self._picked(until - step_s * back, step_s, keys, last) for back in range(count - 1, -1, -1)]

    def _picked(self, until: int, last_s: int, keys: dict[int, Key], there_s: int = 0) -> Picked:
        """`there_s`: until when windows should be there, if they do not only until the last of these (Unix time)."""
        last = until // self.length_s * self.length_s
        count = (last - (until - last_s) - 1) // self.length_s + 1
        ends = [end for back in range(count - 1, -1, -1) if (end := last - self.length_s * back) in self._packed]
        first = max(self._began - self.length_s, until - last_s)
        covered_s = ends[-1] - first if ends else 0
        until_there = max(min(last, there_s), ends[-1] if ends else 0)
        missed = max(0, until_there // self.length_s - first // self.length_s - len(ends))
        return Picked([self._packed[end] for end in ends], keys, covered_s, missed)

    def _rows(self, end: int) -> Rows:
        things = self._keys.things()
        found: Rows = {}
        for number, tally in _decoder.decode(self._packed[end]):
            add(found, things[number], tally)
        return found

    def _fitting(self, end: int, rows: Rows) -> bytes:
        most = MOST_ROWS
        while True:
            kept, folded = fold(rows, most)
            packed = _encoder.encode([(self._number(key, end), tally) for key, tally in kept.items()])
            if len(packed) <= self._most_bytes:
                self.folded += folded
                return packed
            if most <= LEAST_ROWS:
                self.folded += len(rows)
                return _encoder.encode([])
            most = max(LEAST_ROWS, min(most, len(kept)) // 2)

    def _number(self, key: Key, end: int) -> int:
        """That of others, at first of the same service, where there is no room for the name."""
        number = self._keys.number(key, end, self._keys.most // 8)
        if number is None:
            self.folded += 1
            number = self._keys.number(others(key, key.service), end)
        return self._keys.always(others(key)) if number is None else number


def _both(one: Rows, other: Rows) -> Rows:
    for key, tally in other.items():
        add(one, key, tally)
    return one


class _Table(Generic[T]):
    """Numbers for things, given again when nothing has them any more."""

    def __init__(self, most: int, *always: T) -> None:
        """`always`: what stays."""
        self.most = most
        self._always = always
        self._numbers: dict[T, int] = {thing: number for number, thing in enumerate(always)}
        self._things: dict[int, T] = dict(enumerate(always))
        self._last: dict[int, int] = {}
        """When a number was needed last."""
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, thing: T, at: int, spare: int = 0) -> int | None:
        """None: it is not in the table, and there is no room but what is to be spared."""
        found = self._numbers.get(thing)
        if found is None:
            if len(self._numbers) >= self.most - spare:
                return None
            found = self._free.pop() if self._free else len(self._numbers)
            self._numbers[thing] = found
            self._things[found] = thing
        if found >= len(self._always):
            self._last[found] = at
        return found

    def always(self, thing: T) -> int:
        """Of one that stays."""
        return self._always.index(thing)

    def things(self) -> dict[int, T]:
        """By number."""
        return dict(self._things)

    def forget(self, before: int) -> None:
        for number in [number for number, last in self._last.items() if last < before]:
            del self._last[number], self._numbers[self._things[number]]
            del self._things[number]
            self._free.append(number)

    def kept(self) -> list[tuple[int, T, int]]:
        """What does not stay by itself."""
        return [(number, self._things[number], last) for number, last in self._last.items()]

    def take_over(self, kept: list[tuple[int, T, int]]) -> None:
        """With the numbers that they had."""
        for number, thing, last in kept:
            self._numbers[thing], self._things[number], self._last[number] = number, thing, last
        self._free = [number for number in range(max(self._things) + 1) if number not in self._things]
