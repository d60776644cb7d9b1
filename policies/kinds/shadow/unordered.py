# mypyc: interpreted, because it compares answers, and no request waits for that
"""Lists whose order says nothing: what both have is taken out, and the rest is paired, before elements are compared.

Laws
- They are compared as multisets: what stands twice on one side has to stand twice on the other.
- What is ignored does not tell elements apart, nor does the order of a list inside that is declared too.
- What only one has is paired in the order of its text, which is the same whatever the order of the lists was.
- All reading is paid for out of the values that a comparison may look at; None says that there are not enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from policies.kinds.shadow.fieldpath import ELEMENT, FieldSet, step

EXACT: Final = 2.0**53
"""Below it a number is whole or not, and 1.0 is 1."""


class Unordered:
    """The lists that a document declares; `ignore` is not compared."""

    __slots__ = ("_ignore", "_lists")

    def __init__(self, names: Sequence[str], ignore: FieldSet) -> None:
        self._lists = FieldSet(names)
        self._ignore = ignore

    def __bool__(self) -> bool:
        return bool(self._lists)

    def holds(self, steps: Sequence[str]) -> bool:
        """Whether the list at this place is one of them."""
        return self._lists.names(steps)

    def paired(
        self, steps: tuple[str, ...], left: list[Any], right: list[Any], room: int
    ) -> tuple[list[Any], list[Any], int] | None:
        """What only one of two lists has, in an order that says what is compared with what; and the room left."""
        reading = _Reading(self, self._ignore, room)
        inner = (*steps, ELEMENT)
        ours, theirs = reading.keys(left, inner), reading.keys(right, inner)
        if reading.room < 0:
            return None
        return _beyond(ours, theirs), _beyond(theirs, ours), reading.room


def _beyond(some: list[tuple[bytes, Any]], others: list[tuple[bytes, Any]]) -> list[Any]:
    """What is left of some when each of the others has taken out one that is the same; in order."""
    counts = Counter(key for key, _ in others)
    found = []
    for key, value in sorted(some, key=lambda item: item[0]):
        if counts[key]:
            counts[key] -= 1
        else:
            found.append(value)
    return found


class _Reading:
    """Values as text that is the same for the same values."""

    def __init__(self, unordered: Unordered, ignore: FieldSet, room: int) -> None:
        self._unordered = unordered
        self._ignore = ignore
        self.room = room

    def keys(self, values: list[Any], steps: tuple[str, ...]) -> list[tuple[bytes, Any]]:
        """Each with its text; of no use once there is no room."""
        self.room -= len(values)
        if self.room < 0:
            return []
        try:
            return [(_text(self._plain(value, steps)), value) for value in values]
        except RecursionError:
            self.room = -1
            return []

    def _plain(self, value: Any, steps: tuple[str, ...]) -> Any:
        """Without what is ignored, unordered lists in order, and whole numbers as such."""
        if self.room < 0 or self._ignore.covers(steps):
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
            return int(value)
        if isinstance(value, dict):
            self.room -= len(value)
            inside = {name: (*steps, step(name)) for name in value}
            return {
                name: self._plain(each, inside[name])
                for name, each in value.items()
                if not self._ignore.covers(inside[name])
            }
        if isinstance(value, list):
            self.room -= len(value)
            found = [self._plain(each, (*steps, ELEMENT)) for each in value]
            return sorted(found, key=_text) if self._unordered.holds(steps) else found
        return value


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
