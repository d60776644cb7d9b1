# mypyc: compiled
"""Exchanges that wait for a word of control's, by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


class Waiting:
    """A bounded number of them."""

    __slots__ = ("_by_number", "_most", "_number")

    def __init__(self, most: int) -> None:
        self._by_number: dict[int, Exchange] = {}
        self._number = 0
        self._most = most

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._by_number) >= self._most

    def add(self, exchange: Exchange) -> int | None:
        """Its number; None when there are too many."""
        if self.full:
            return None
        self._number += 1
        self._by_number[self._number] = exchange
        return self._number

    def take(self, number: int) -> Exchange | None:
        """The one that waits under a number, if it still does."""
        exchange = self._by_number.pop(number, None)
        return exchange if exchange is not None and exchange.down.exchange is exchange else None

    def forget(self, exchange: Exchange) -> None:
        """It waits no longer."""
        for number, waiting in list(self._by_number.items()):
            if waiting is exchange:
                del self._by_number[number]

    def all(self) -> list[Exchange]:
        """All that still wait; none does from now on."""
        numbers = list(self._by_number)
        found = [self.take(number) for number in numbers]
        return [exchange for exchange in found if exchange is not None]
