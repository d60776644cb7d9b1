# mypyc: compiled
"""A ring or a table as it was drawn last, and of whom. It outlives the list of endpoints, and is drawn again only when
an endpoint has come, has left, or has another weight; whether they can take requests is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policies.endpoint import Endpoint

FEW: Final = 8
"""Where fewer than one in so many members can take requests a ring is drawn, or a table filled, with these alone."""


class Drawn:
    """Of one level of preference."""

    __slots__ = ("_entries", "_ids", "_size", "_weights")

    def __init__(self) -> None:
        self._size = 0
        self._ids: list[str] = []
        self._weights: list[float] = []
        self._entries: list[int] = []

    def again(self, members: Sequence[Endpoint], size: int) -> list[int] | None:
        """The entries, if they were drawn for just these and of this size."""
        ids, weights = self._ids, self._weights
        if size != self._size or len(members) != len(ids):
            return None
        for n, member in enumerate(members):
            if member.id != ids[n] or member.weight != weights[n]:
                return None
        return self._entries

    def keep(self, members: Sequence[Endpoint], size: int, entries: list[int]) -> None:
        """They were drawn for these."""
        self._size = size
        self._ids = [member.id for member in members]
        self._weights = [member.weight for member in members]
        self._entries = entries


class Members:
    """Who a ring or a table is drawn of, and who of them can take requests now."""

    __slots__ = ("all", "drawn", "taking")

    def __init__(self, all: Sequence[Endpoint], taking: Sequence[Endpoint], drawn: Drawn | None = None) -> None:
        """`taking` are some of `all`. Where they are few they are drawn for by themselves: too many would be passed
        over."""
        few = FEW * len(taking) < len(all)
        self.all = taking if few else all
        self.drawn = Drawn() if few or drawn is None else drawn
        self.taking: list[bool] | None = None
        """By index of `all`; None: all of them can."""
        if len(taking) < len(self.all):
            able = {member.id for member in taking}
            self.taking = [member.id in able for member in self.all]
