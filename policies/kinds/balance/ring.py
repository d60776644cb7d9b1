# mypyc: compiled
"""`ring-hash`: the same key goes to the same endpoint, and when one joins or leaves only its own keys move.

Consistent hashing on a ring (Karger et al., 1997, as ketama lays it out), with bounded loads (Mirrokni, Thorup and
Zadimoghaddam, "Consistent hashing with bounded loads", 2016): who has more than its bound in flight passes the request
on along the ring.

Laws
- An endpoint's points follow from its id alone, so every agent draws the same ring from any order of endpoints.
- How many points it has follows from its weight alone, and from no other endpoint: that is what keeps the others' keys
  where they are. What there is for a weight changes in steps only: by four where the mean weight does, and by two where
  `ring_min` asks for more. Only where `ring_max` allows no more it is divided.
- Who cannot take requests now keeps its points, and what falls to them goes on along the ring: a change of health draws
  nothing, and moves no keys but its own.
"""

from __future__ import annotations

import bisect
import math
import random
import sys
from typing import Final

from policies.endpoint import Endpoint
from policies.hashing import hashes64
from policies.kinds.balance.algorithms import Endpoints, RandomChoice, weights
from policies.kinds.balance.drawn import Members
from policies.kinds.balance.entries import LEAST, UNBOUNDED, Entries

POINTS: Final = 256
"""Points of an endpoint of the usual weight; one of mean weight has half as many at least, and not twice as many. The
error of a share is about 1/sqrt(POINTS) of it: 6%."""
_USUAL: Final = 100.0
"""What an instance weighs of which nobody says."""


class RingHash:
    """The owner of the request's point on the ring, unless it is full. Counts what this worker has in flight."""

    __slots__ = (
        "_any",
        "_bound",
        "_endpoints",
        "_entries",
        "_in_flight",
        "_mask",
        "_max_points",
        "_members",
        "_min_points",
        "_points",
        "_stale_in",
        "_weights",
    )

    def __init__(
        self,
        endpoints: Endpoints,
        bound: float,
        min_points: int,
        max_points: int,
        entries: Entries = UNBOUNDED,
        members: Members | None = None,
    ) -> None:
        """`bound` times its fair share is what an endpoint may have in flight; 0 for no bound. `entries` may grant less
        than `min_points`. `members`: whom the ring is drawn of, where `endpoints` are not all of them."""
        self._entries = entries
        self._endpoints = endpoints
        self._members = Members(endpoints, endpoints) if members is None else members
        self._bound = bound
        self._min_points = min_points
        self._max_points = max_points
        self._weights: list[float] = []
        """Of the members, as parts of what those weigh that can take requests."""
        self._any: RandomChoice | None = None
        self._points: list[int] | None = None
        self._mask = (1 << (len(self._members.all) - 1).bit_length()) - 1
        self._in_flight = 0
        self._stale_in = 0

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The owner of a key; any endpoint without one, as their weights are."""
        if key is None:
            if self._any is None:
                self._any = RandomChoice(self._endpoints)
            return self._any.pick(key, now, rng)
        return self.owner(key)

    def mark(self) -> object:
        """How old the count of what is in flight is."""
        return (self._in_flight, self._stale_in)

    def reset(self, mark: object) -> None:
        """As if nothing had been picked since `mark`."""
        assert isinstance(mark, tuple)
        self._in_flight, self._stale_in = mark

    def owner(self, key: int) -> Endpoint:
        """Whose a key is now."""
        points = self._points
        if points is None:
            points = self._build()
        start = bisect.bisect_left(points, key) % len(points)
        taking = self._members.taking
        if taking is not None:
            while not taking[points[start] & self._mask]:
                start += 1
                if start == len(points):
                    start = 0
        owner = self._members.all[points[start] & self._mask]
        if self._bound and owner.load.active:
            return self._with_room(points, start)
        return owner

    def _with_room(self, points: list[int], start: int) -> Endpoint:
        """The first along the ring from `start` that is below its bound."""
        allowed = self._bound * (self._count_in_flight() + 1)
        mask = self._mask
        members = self._members.all
        taking = self._members.taking
        left = len(self._endpoints)
        seen = [False] * len(members) if taking is None else [not able for able in taking]
        position = start
        while left:
            index = points[position] & mask
            if not seen[index]:
                seen[index] = True
                left -= 1
                endpoint = members[index]
                if endpoint.load.active < math.ceil(allowed * self._weights[index]):
                    return endpoint
            position += 1
            if position == len(points):
                position = 0
        return members[points[start] & mask]

    def _count_in_flight(self) -> int:
        """In flight on all endpoints. With many of them counted anew only every n/32 picks, so that a pick costs the
        same however many there are; the mean is then at most 1/32 request too low."""
        if not self._stale_in:
            self._in_flight = sum([e.load.active for e in self._endpoints])
            self._stale_in = 1 + len(self._endpoints) // 32
        self._stale_in -= 1
        return self._in_flight

    @property
    def size(self) -> int:
        """Points on the ring; 0 before it is needed."""
        return len(self._points or ())

    def forget(self) -> None:
        """Draw it anew at the next pick: what is granted has changed."""
        if self._min_points > LEAST:
            self._points = None

    def _build(self) -> list[int]:
        """Sorted 64-bit points; the low bits of each are its owner's index among the members."""
        members = self._members
        scaled = weights(members.all)
        taking = members.taking
        able = scaled if taking is None else [weight for n, weight in enumerate(scaled) if taking[n]]
        total = math.fsum(able)
        self._weights = [weight / total for weight in scaled]
        counts = self._counts(scaled)
        ring = sum(counts)
        points = members.drawn.again(members.all, ring)
        if points is None:
            points = self._draw(counts)
            members.drawn.keep(members.all, ring, points)
        self._points = points
        return points

    def _counts(self, scaled: list[float]) -> list[int]:
        """How many points each of the members has."""
        members, most = self._members.all, self._max_points
        usual = [min(e.weight, sys.float_info.max) / _USUAL if e.weight > 0 else 0.0 for e in members]
        heaviest, total = max(usual), math.fsum(scaled)
        if not heaviest:
            usual, heaviest = scaled, 1.0
        # Powers of two, which no rounding makes different for one that has other neighbours.
        mean = math.log2(heaviest) + math.log2(total / len(members))
        steps = -2 * math.floor(mean / 2 + 0.5)
        size = POINTS * math.ldexp(heaviest, steps) * total
        least = min(self._entries.granted(self._min_points), most)
        while size < least:
            steps += 1
            size *= 2
        if size > most:
            return [max(1, round(most * (weight / total))) for weight in scaled]
        return [max(1, round(POINTS * math.ldexp(weight, steps))) for weight in usual]

    def _draw(self, counts: list[int]) -> list[int]:
        low = self._mask
        high = ~low
        points: list[int] = []
        for n, (endpoint, count) in enumerate(zip(self._members.all, counts, strict=True)):
            points += [point & high | n for point in hashes64(endpoint.id, count)]
        points.sort()
        return points
