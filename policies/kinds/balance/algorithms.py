# mypyc: compiled
"""How one endpoint of several equals is chosen. Each algorithm is made for a fixed list of endpoints.

Laws
- `pick` gets the request's hash (None without one), the time and the source of chance, looks at the live loads, and
  always returns one of the list; the list is never empty.
- Only the ratio of weights counts. They are scaled first, so that no weight can overflow a sum or divide by zero.
- What an algorithm has to remember beyond its list is in a BalanceState, which outlives it.
- What is costly to prepare is prepared at the first pick: most workers never ask for most services.

The consistent ones are in `ring` and `maglev`, the one that looks at latency is in `ewma`.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from policies.endpoint import Endpoint, Load
from policies.kinds.balance.drawn import Drawn
from policies.kinds.balance.penalty import busier

Endpoints = Sequence[Endpoint]

LEAST_WEIGHT: Final = 1e-9
"""Who weighs less than this share of the heaviest counts as having it."""
BEFORE_THE_FIRST: Final = -1
"""In place of a turn."""
_REDRAWS: Final = 5


class Turn:
    """Whose turn it is in a rotation; BEFORE_THE_FIRST."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = BEFORE_THE_FIRST


class BalanceState:
    """What outlives a list of endpoints, for each tier of zones: a rotation's turn, and what was drawn."""

    __slots__ = ("_drawn", "_turns")

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._drawn: dict[str, Drawn] = {}

    def turn(self, tier: str) -> Turn:
        """The rotation of a tier."""
        return self._turns.setdefault(tier, Turn())

    def drawn(self, what: str, tier: str) -> Drawn:
        """A ring or a table of a tier."""
        return self._drawn.setdefault(f"{what} {tier}", Drawn())

    def forget_drawn(self) -> None:
        """It may be that nobody asks for any of it again."""
        self._drawn.clear()


class Algorithm(Protocol):
    """Chooses from a list that is not empty."""

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """One of the endpoints."""
        ...

    def mark(self) -> object:
        """Whose turn it is, for `reset`; None where there are no turns."""
        ...

    def reset(self, mark: object) -> None:
        """As if nothing had been picked since `mark`."""
        ...


def weights(endpoints: Endpoints) -> list[float]:
    """Weights as shares of the heaviest, from LEAST_WEIGHT to 1; all 1 when nobody weighs anything."""
    raw = [min(e.weight, sys.float_info.max) if e.weight > 0 else 0.0 for e in endpoints]
    heaviest = max(raw)
    if not heaviest:
        return [1.0] * len(raw)
    return [max(weight / heaviest, LEAST_WEIGHT) for weight in raw]


class RoundRobin:
    """Each in turn; weights do not matter. Over any stretch the counts differ by at most one."""

    __slots__ = ("_endpoints", "_turn")

    def __init__(self, endpoints: Endpoints, turn: Turn) -> None:
        self._endpoints = endpoints
        self._turn = turn

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The next one."""
        endpoints = self._endpoints
        turn = self._turn
        position = turn.position
        if position < 0:
            # Begin anywhere: all the mesh's workers learn of a service together, and must not all begin with the same.
            position = int(rng.random() * len(endpoints))
        turn.position = position + 1
        return endpoints[position % len(endpoints)]

    def mark(self) -> object:
        """Whose turn it is."""
        return self._turn.position

    def reset(self, mark: object) -> None:
        """As if nothing had been picked since `mark`."""
        assert isinstance(mark, int)
        self._turn.position = mark


class Weighted:
    """Each as often as its weight says, evenly interleaved: earliest deadline first, O(log n)."""

    __slots__ = ("_endpoints", "_heap", "_number")

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._heap: list[tuple[float, int, float, Endpoint]] = []
        self._number = 0

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The one whose turn comes first."""
        if not self._heap:
            self._begin(rng)
        turn, _, interval, endpoint = self._heap[0]
        self._number += 1
        heapq.heapreplace(self._heap, (turn + interval, self._number, interval, endpoint))
        return endpoint

    def _begin(self, rng: random.Random) -> None:
        # At a random phase: workers that learn of a change together must not all begin with the heaviest.
        intervals = [1 / weight for weight in weights(self._endpoints)]
        self._heap = [
            (rng.random() * interval, n, interval, endpoint)
            for n, (interval, endpoint) in enumerate(zip(intervals, self._endpoints, strict=True))
        ]
        heapq.heapify(self._heap)
        self._number = len(self._heap)

    def mark(self) -> object:
        """Whose turn it is."""
        return (list(self._heap), self._number)

    def reset(self, mark: object) -> None:
        """As if nothing had been picked since `mark`."""
        assert isinstance(mark, tuple)
        self._heap, self._number = mark


class RandomChoice:
    """At random, in proportion to the weights."""

    __slots__ = ("_cumulative", "_endpoints", "_size", "equal")

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._size = len(endpoints)
        self.equal = len({e.weight for e in endpoints}) == 1
        """Whether all weigh the same."""
        self._cumulative = [] if self.equal else list(itertools.accumulate(weights(endpoints)))

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """Any."""
        return self._endpoints[self.draw(rng)]

    def mark(self) -> object:
        """There are no turns."""
        return None

    def reset(self, mark: object) -> None:
        """Nothing to take back."""

    def draw(self, rng: random.Random) -> int:
        """The index of any."""
        if self.equal:
            return int(rng.random() * self._size)
        cumulative = self._cumulative
        return min(bisect.bisect_right(cumulative, rng.random() * cumulative[-1]), self._size - 1)


class SlowStart:
    """How much of its share a newly healthy endpoint gets: from `floor` up to all of it over `window_s`."""

    __slots__ = ("_exponent", "_floor", "window_s")

    def __init__(self, window_s: float, aggression: float, floor: float) -> None:
        self.window_s = window_s
        self._exponent = 1 / aggression
        self._floor = floor

    def share(self, load: Load, now: float) -> float:
        """From `floor` to 1. A clock that jumped back counts as the very beginning, never as less."""
        age_s = now - load.healthy_since
        if age_s >= self.window_s:
            return 1.0
        return float(max(self._floor, (max(age_s, 0.0) / self.window_s) ** self._exponent))


class LeastRequest:
    """Two drawn in proportion to their weights; the one with fewer requests in flight for its weight, those included
    that failed a moment ago (`penalty`).

    Two choices keep the fullest queue exponentially shorter than one choice does, without a herd: Mitzenmacher, "The
    power of two choices in randomized load balancing", 2001.

    Slow start thins the draw and not the comparison: were a newcomer's load weighed up as well, it would lose every
    comparison on a quiet service, and starve.
    """

    __slots__ = ("_draw", "_eased_until", "_endpoints", "_equal", "_slow_start", "_weights")

    def __init__(self, endpoints: Endpoints, slow_start: SlowStart | None) -> None:
        self._endpoints = endpoints
        self._draw = RandomChoice(endpoints)
        self._equal = self._draw.equal
        self._weights = [] if self._equal else weights(endpoints)
        self._slow_start = slow_start
        self._eased_until = float("-inf")
        if slow_start is not None:
            self._eased_until = max(e.load.healthy_since for e in endpoints) + slow_start.window_s

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The less busy of two."""
        endpoints = self._endpoints
        size = len(endpoints)
        if size == 1:
            return endpoints[0]
        if now < self._eased_until and self._slow_start is not None:
            eased = self._slow_start
            return self._less_busy(self._eased(eased, now, rng), self._eased(eased, now, rng), now)
        if not self._equal:
            return self._less_busy(self._draw.draw(rng), self._draw.draw(rng), now)
        one = int(rng.random() * size)
        two = int(rng.random() * (size - 1))
        first = endpoints[one]
        second = endpoints[two if two < one else two + 1]
        one_load, two_load = first.load, second.load
        if one_load.penalty or two_load.penalty:
            return second if busier(one_load, two_load, 1.0, 1.0, now) else first
        return first if one_load.active <= two_load.active else second

    def mark(self) -> object:
        """There are no turns."""
        return None

    def reset(self, mark: object) -> None:
        """Nothing to take back."""

    def _eased(self, slow_start: SlowStart, now: float, rng: random.Random) -> int:
        for _ in range(_REDRAWS):
            drawn = self._draw.draw(rng)
            if rng.random() < slow_start.share(self._endpoints[drawn].load, now):
                return drawn
        return self._draw.draw(rng)

    def _less_busy(self, one: int, two: int, now: float) -> Endpoint:
        first, second = self._endpoints[one], self._endpoints[two]
        if self._equal:
            return second if busier(first.load, second.load, 1.0, 1.0, now) else first
        return second if busier(first.load, second.load, self._weights[one], self._weights[two], now) else first
