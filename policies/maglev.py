"""`maglev`: a look-up table that every endpoint fills in its own order of preference.

Almost perfectly even and of constant time; when an endpoint joins or leaves, a few of the others' keys move as well.
Eisenbud et al., "Maglev: a fast and reliable software network load balancer", 2016, section 3.4.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from typing import Final

from policies.algorithms import Endpoints, weights
from policies.endpoint import Endpoint
from policies.hashing import hashes64

_SIZES: Final = (4093, 32749, 131071)
"""Few and far between: where a service outgrows one, all of its keys move. None larger, because filling it stalls the
worker: 131,071 slots take about a tenth of a second, and still spread 5,000 endpoints to within 4%."""


def table_size(endpoints: int) -> int:
    """The smallest of three primes with a hundred slots for each endpoint, or the largest."""
    return next((size for size in _SIZES if size >= 100 * endpoints), _SIZES[-1])


class Maglev:
    """The endpoint in the request's slot."""

    __slots__ = ("_endpoints", "_size", "_table")

    def __init__(self, endpoints: Endpoints, size: int) -> None:
        """`size` is a prime; one that is smaller than the number of endpoints, such as 0, is chosen for them."""
        self._endpoints = endpoints
        self._size = size if size >= len(endpoints) else table_size(len(endpoints))
        self._table: list[int] | None = None

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The owner of a key; any endpoint without one."""
        endpoints = self._endpoints
        if key is None:
            return endpoints[int(rng.random() * len(endpoints))]
        table = self._table
        if table is None:
            table = self._table = self._build()
        return endpoints[table[key % self._size]]

    def _build(self) -> list[int]:
        size = self._size
        nexts, steps = [], []
        for endpoint in self._endpoints:
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
        endpoints = self._endpoints
        order = sorted(range(len(endpoints)), key=lambda n: endpoints[n].id)
        if len({e.weight for e in endpoints}) == 1:
            yield from itertools.cycle(order)
        scaled = weights(endpoints)
        heap = [(1 / scaled[n], place, n) for place, n in enumerate(order)]
        heapq.heapify(heap)
        while True:
            turn, place, n = heap[0]
            yield n
            heapq.heapreplace(heap, (turn + 1 / scaled[n], place, n))
