# mypyc: compiled
"""What waits for a word of control's, by number."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """A bounded number of them. Whoever ends without that word is forgotten by its own doing."""

    __slots__ = ("_by_number", "_most", "_number")

    def __init__(self, most: int) -> None:
        self._by_number: dict[int, T] = {}
        self._number = 0
        self._most = most

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._by_number) >= self._most

    def add(self, waiter: T) -> int:
        """Its number; 0 when there are too many."""
        if self.full:
            return 0
        self._number += 1
        self._by_number[self._number] = waiter
        return self._number

    def take(self, number: int) -> T | None:
        """The one that waits under a number, if it still does."""
        return self._by_number.pop(number, None)

    def forget(self, number: int) -> None:
        """It waits no longer."""
        self._by_number.pop(number, None)

    def each(self) -> list[T]:
        """All that wait."""
        return list(self._by_number.values())

    def all(self) -> list[T]:
        """All that still wait; none does from now on."""
        found = list(self._by_number.values())
        self._by_number.clear()
        return found
