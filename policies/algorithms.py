"""How one endpoint of several equals is chosen. Each algorithm is made for a fixed list of endpoints.

`pick` gets the request's hash (None without one), the time and the source of chance, and looks at the live loads.
What an algorithm has to remember beyond its list is in a BalanceState, which outlives it.
"""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Sequence
from typing import Final, Protocol

from policies.endpoint import Endpoint, Load
from policies.hashing import hash64, hashes64

Endpoints = Sequence[Endpoint]

FAILURE_PENALTY_S: Final = 5.0
"""What a failed try counts as, for peak-ewma: fast failures must not attract traffic (Linkerd's figure)."""
DEFAULT_RTT_S: Final = 0.03
_RING_POINTS: Final = 160
_PRIMES: Final = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537, 131071, 262139, 524287)


class BalanceState:
    """What outlives a list of endpoints."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = 0


class Algorithm(Protocol):
    """Chooses from a list that is not empty."""

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """One of the endpoints."""
        ...


class RoundRobin:
    """Each in turn; weights do not matter. Over any stretch the counts differ by at most one."""

    __slots__ = ("_endpoints", "_state")

    def __init__(self, endpoints: Endpoints, state: BalanceState) -> None:
        self._endpoints = endpoints
        self._state = state

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The next one."""
        state = self._state
        state.position = position = state.position + 1
        return self._endpoints[position % len(self._endpoints)]


class Weighted:
    """Each as often as its weight says, evenly interleaved: earliest deadline first, O(log n)."""

    __slots__ = ("_endpoints", "_heap", "_number")

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._heap: list[tuple[float, int, Endpoint]] = []
        self._number = 0

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The one whose turn comes first."""
        if not self._heap:
            # Begin at a random phase: agents that learn of a change together must not all begin with the heaviest.
            self._heap = [(rng.random() / e.weight, n, e) for n, e in enumerate(self._endpoints)]
            heapq.heapify(self._heap)
            self._number = len(self._heap)
        turn, _, endpoint = self._heap[0]
        self._number += 1
        heapq.heapreplace(self._heap, (turn + 1 / endpoint.weight, self._number, endpoint))
        return endpoint


class RandomChoice:
    """At random, in proportion to the weights."""

    __slots__ = ("_cumulative", "_endpoints", "_equal")

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._equal = len({e.weight for e in endpoints}) == 1
        self._cumulative = [] if self._equal else _cumulate(endpoints)

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """Any."""
        endpoints = self._endpoints
        if self._equal:
            return endpoints[int(rng.random() * len(endpoints))]
        cumulative = self._cumulative
        return endpoints[min(bisect.bisect_right(cumulative, rng.random() * cumulative[-1]), len(endpoints) - 1)]


def _cumulate(endpoints: Endpoints) -> list[float]:
    total = 0.0
    sums = []
    for endpoint in endpoints:
        total += endpoint.weight
        sums.append(total)
    return sums


class SlowStart:
    """How much of its share a newly healthy endpoint gets: from `floor` up to all of it over `window_s`."""

    __slots__ = ("_exponent", "_floor", "_window_s")

    def __init__(self, window_s: float, aggression: float, floor: float) -> None:
        self._window_s = window_s
        self._exponent = 1 / aggression
        self._floor = floor

    def share(self, load: Load, now: float) -> float:
        """From `floor` to 1. A clock that jumped back counts as the very beginning, never as less."""
        age_s = now - load.healthy_since
        if age_s >= self._window_s:
            return 1.0
        return float(max(self._floor, (max(age_s, 0.0) / self._window_s) ** self._exponent))


class LeastRequest:
    """Two drawn in proportion to their weights; the one with fewer requests in flight for its weight.

    Two choices keep the fullest queue exponentially shorter than one choice does, without a herd: Mitzenmacher, "The
    power of two choices in randomized load balancing", 2001.
    """

    __slots__ = ("_draw", "_endpoints", "_equal", "_slow_start")

    def __init__(self, endpoints: Endpoints, slow_start: SlowStart | None) -> None:
        self._endpoints = endpoints
        self._equal = len({e.weight for e in endpoints}) == 1
        self._draw = RandomChoice(endpoints)
        self._slow_start = slow_start

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The less busy of two."""
        endpoints = self._endpoints
        size = len(endpoints)
        if size == 1:
            return endpoints[0]
        if self._slow_start is not None:
            return self._less_busy(self._eased(now, rng), self._eased(now, rng))
        if not self._equal:
            return self._less_busy(self._draw.pick(None, now, rng), self._draw.pick(None, now, rng))
        one = int(rng.random() * size)
        two = int(rng.random() * (size - 1))
        first = endpoints[one]
        second = endpoints[two if two < one else two + 1]
        return first if first.load.active <= second.load.active else second

    def _eased(self, now: float, rng: random.Random) -> Endpoint:
        assert self._slow_start is not None
        endpoint = self._draw.pick(None, now, rng)
        for _ in range(2):
            if rng.random() < self._slow_start.share(endpoint.load, now):
                break
            endpoint = self._draw.pick(None, now, rng)
        return endpoint

    @staticmethod
    def _less_busy(first: Endpoint, second: Endpoint) -> Endpoint:
        return first if first.load.active * second.weight <= second.load.active * first.weight else second


class PeakEwma:
    """Two choices by expected latency: a moving average that jumps up at once and comes down slowly, times the queue.

    After Finagle's: what was slow a moment ago is avoided at once, and comes back as its average decays.
    """

    __slots__ = ("_decay_s", "_draw", "_initial_s")

    def __init__(self, endpoints: Endpoints, decay_s: float, initial_s: float) -> None:
        self._draw = RandomChoice(endpoints)
        self._decay_s = decay_s
        self._initial_s = initial_s

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The one that is expected to answer first."""
        first = self._draw.pick(None, now, rng)
        second = self._draw.pick(None, now, rng)
        if second is first:
            second = self._draw.pick(None, now, rng)
        return first if self._cost(first, now) <= self._cost(second, now) else second

    def _cost(self, endpoint: Endpoint, now: float) -> float:
        load = endpoint.load
        latency_s = self._initial_s
        if load.ewma_at:
            latency_s = max(load.ewma_s * math.exp(-max(0.0, now - load.ewma_at) / self._decay_s), 1e-6)
        return latency_s * (load.active + 1) / endpoint.weight


def observe(load: Load, latency_s: float, ok: bool, now: float, decay_s: float = 10.0) -> None:
    """Take the latency of a try into an endpoint's average (seconds)."""
    if not ok and latency_s < FAILURE_PENALTY_S:
        latency_s = FAILURE_PENALTY_S
    if latency_s >= load.ewma_s or not load.ewma_at:
        load.ewma_s = latency_s
    else:
        kept = math.exp(-max(0.0, now - load.ewma_at) / decay_s)
        load.ewma_s = load.ewma_s * kept + latency_s * (1 - kept)
    load.ewma_at = now


class RingHash:
    """Consistent hashing on a ring (Karger's, as ketama lays it out), with bounded loads (Mirrokni, Thorup and
    Zadimoghaddam, 2016): who has more than `bound` times its share in flight passes the request on along the ring.
    """

    __slots__ = ("_bound", "_endpoints", "_hashes", "_max_points", "_min_points", "_owners", "_weight")

    def __init__(self, endpoints: Endpoints, bound: float, min_points: int, max_points: int) -> None:
        self._endpoints = endpoints
        self._bound = bound
        self._min_points = min_points
        self._max_points = max_points
        self._weight = math.fsum(e.weight for e in endpoints)
        self._hashes: list[int] | None = None
        self._owners: list[Endpoint] = []

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The owner of the request's point on the ring; any endpoint without a key."""
        endpoints = self._endpoints
        if key is None:
            return endpoints[int(rng.random() * len(endpoints))]
        hashes = self._hashes
        if hashes is None:
            hashes = self._build()
        start = bisect.bisect_left(hashes, key) % len(hashes)
        owner = self._owners[start]
        if self._bound and owner.load.active and self._is_full(owner):
            return self._next(start)
        return owner

    def _is_full(self, endpoint: Endpoint) -> bool:
        active = sum(e.load.active for e in self._endpoints) + 1
        return endpoint.load.active >= math.ceil(self._bound * active * endpoint.weight / self._weight)

    def _next(self, start: int) -> Endpoint:
        active = sum(e.load.active for e in self._endpoints) + 1
        owners = self._owners
        seen: set[int] = set()
        for step in range(len(owners)):
            owner = owners[(start + step) % len(owners)]
            if id(owner) in seen:
                continue
            seen.add(id(owner))
            if owner.load.active < math.ceil(self._bound * active * owner.weight / self._weight):
                return owner
            if len(seen) == len(self._endpoints):
                break
        return owners[start]

    def _build(self) -> list[int]:
        """Points in proportion to weight. Built when first needed: most workers never ask for most services."""
        size = len(self._endpoints)
        mean = min(max(_RING_POINTS, self._min_points / size), max(1.0, self._max_points / size))
        points: list[tuple[int, int]] = []
        for n, endpoint in enumerate(self._endpoints):
            count = max(1, round(mean * endpoint.weight * size / self._weight))
            points.extend((point, n) for point in hashes64(endpoint.id, min(count, self._max_points)))
        points.sort()
        self._owners = [self._endpoints[n] for _, n in points]
        self._hashes = [point for point, _ in points]
        return self._hashes


class Maglev:
    """A look-up table that every endpoint fills in its own order of preference: almost perfectly even, constant time
    (Eisenbud et al., "Maglev: a fast and reliable software network load balancer", 2016, section 3.4).
    """

    __slots__ = ("_endpoints", "_size", "_table")

    def __init__(self, endpoints: Endpoints, size: int) -> None:
        self._endpoints = endpoints
        self._size = size or table_size(len(endpoints))
        self._table: list[int] | None = None

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The endpoint in the request's slot; any endpoint without a key."""
        endpoints = self._endpoints
        if key is None:
            return endpoints[int(rng.random() * len(endpoints))]
        table = self._table
        if table is None:
            table = self._table = self._build()
        return endpoints[table[key % len(table)]]

    def _build(self) -> list[int]:
        size = self._size
        order = sorted(range(len(self._endpoints)), key=lambda n: self._endpoints[n].id)
        heaviest = max(e.weight for e in self._endpoints)
        places = []
        for n in order:
            first, second = hashes64(self._endpoints[n].id, 2)
            places.append([n, first % size, second % (size - 1) + 1, 0.0, self._endpoints[n].weight / heaviest])
        table = [-1] * size
        filled = 0
        while filled < size:
            for place in places:
                place[3] += place[4]  # a lighter endpoint takes a turn only once it has saved up for one
                if place[3] < 1.0:
                    continue
                place[3] -= 1.0
                slot = int(place[1])
                step = int(place[2])
                while table[slot] >= 0:
                    slot = (slot + step) % size
                table[slot] = int(place[0])
                place[1] = (slot + step) % size
                filled += 1
                if filled == size:
                    break
        return table


def table_size(endpoints: int) -> int:
    """The smallest prime of the list with a hundred slots for each endpoint."""
    return next((prime for prime in _PRIMES if prime >= 100 * endpoints), _PRIMES[-1])


__all__ = [
    "Algorithm",
    "BalanceState",
    "LeastRequest",
    "Maglev",
    "PeakEwma",
    "RandomChoice",
    "RingHash",
    "RoundRobin",
    "SlowStart",
    "Weighted",
    "hash64",
    "observe",
]
