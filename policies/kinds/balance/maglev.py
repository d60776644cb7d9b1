# mypyc: compiled
"""`maglev`: a look-up table that every endpoint fills in its own order of preference.

Almost perfectly even and of constant time; when an endpoint joins or leaves, a few of the others' keys move as well.
Eisenbud et al., "Maglev: a fast and reliable software network load balancer", 2016, section 3.4.

Who cannot take requests now keeps its slots, and what falls to them is tried in others: a change of health fills no
table, and moves no keys but its own.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Final

from policies.endpoint import Endpoint
from policies.hashing import hashes64
from policies.kinds.balance.algorithms import Endpoints, RandomChoice, weights
from policies.kinds.balance.drawn import Members
from policies.kinds.balance.entries import UNBOUNDED, Entries

_SIZES: Final = (4093, 32749, 65521)
"""Few and far between: where a service outgrows one, all of its keys move. None larger, because filling it stalls the
worker: 65,521 slots take about a twentieth of a second, and still spread 5,000 endpoints to within 8%."""


_TRIES: Final = 64
"""One in eight at least can take requests: it is one of these in all but a few thousandths of the cases."""
_NEXT_SLOT: Final = 0xD1B54A32D192ED03  # odd, without a pattern, and not by what retries go on


def table_size(endpoints: int) -> int:
    """The smallest of three primes with a hundred slots for each endpoint, or the largest."""
    return next((size for size in _SIZES if size >= 100 * endpoints), _SIZES[-1])


class Maglev:
    """The endpoint in the request's slot."""

    __slots__ = ("_any", "_asked", "_endpoints", "_entries", "_members", "_size", "_table")

    def __init__(
        self, endpoints: Endpoints, size: int, entries: Entries = UNBOUNDED, members: Members | None = None
    ) -> None:
        """`size` is a prime; one that is smaller than the number of members, such as 0, is chosen for them, and so it
        is when `entries` does not grant as many. `members`: whom the table is filled with, where `endpoints` are not
        all of them."""
        self._endpoints = endpoints
        self._members = Members(endpoints, endpoints) if members is None else members
        self._asked = size
        self._entries = entries
        self._size = 0
        self._any: RandomChoice | None = None
        self._table: list[int] | None = None

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The owner of a key; any endpoint without one, as their weights are."""
        endpoints = self._endpoints
        if key is None:
            if self._any is None:
                self._any = RandomChoice(endpoints)
            return self._any.pick(key, now, rng)
        table = self._table
        if table is None:
            table = self._table = self._build()
        owner = table[key % self._size]
        taking = self._members.taking
        if taking is None or taking[owner]:
            return self._members.all[owner]
        for _ in range(_TRIES):
            key += _NEXT_SLOT
            owner = table[key % self._size]
            if taking[owner]:
                return self._members.all[owner]
        return endpoints[key % len(endpoints)]

    def mark(self) -> object:
        """There are no turns."""
        return None

    def reset(self, mark: object) -> None:
        """Nothing to take back."""

    def forget(self) -> None:
        """Fill it anew at the next pick: what is granted has changed."""
        if self._asked:
            self._table = None

    def _chosen(self) -> int:
        asked, fitting = self._asked, table_size(len(self._members.all))
        if asked < len(self._members.all):
            return fitting
        return asked if asked <= fitting or self._entries.granted(asked) >= asked - 1 else fitting

    def _build(self) -> list[int]:
        size = self._size = self._chosen()
        members = self._members
        table = members.drawn.again(members.all, size)
        if table is None:
            table = self._fill(size)
            members.drawn.keep(members.all, size, table)
        return table

    def _fill(self, size: int) -> list[int]:
        nexts, steps = [], []
        for endpoint in self._members.all:
            first, step = hashes64(endpoint.id, 2)
            nexts.append(first % size)
            steps.append(step % (size - 1) + 1)
        table = [-1] * size
        for n in itertools.islice(self._turns(), size):
            slot, step = nexts[n], steps[n]
            while table[slot] >= 0:
                slot = (slot + step) % size
            table[slot] = n
            nexts[n] = (slot + step) % size
        return table

    def _turns(self) -> Iterator[int]:
        """Who fills a slot next, in proportion to the weights; the same for every order of the endpoints."""
        endpoints = self._members.all
        order = sorted(range(len(endpoints)), key=lambda n: endpoints[n].id)
        if len({e.weight for e in endpoints}) == 1:
            return itertools.cycle(order)
        scaled = weights(endpoints)
        each = (self._size + len(order)) / math.fsum(scaled)
        turns: list[float] = []
        owners: list[int] = []
        for n in order:
            count = int(each * scaled[n]) + 1
            turns += itertools.accumulate(itertools.repeat(1 / scaled[n], count))
            owners += [n] * count
        # Who comes first in `order` goes first where two have the same turn: sorting is stable.
        return map(owners.__getitem__, sorted(range(len(turns)), key=turns.__getitem__))
