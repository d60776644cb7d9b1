# mypyc: compiled
"""Rate limits, counted: token buckets, one a limit or one a key, and the question that each request asks of them.

Laws
- A bucket fills at its rate and holds at most its burst, so within any t seconds no more than burst + rate x t pass.
- A request takes from every limit that it matches, or from none. It is refused when any of them is empty.
- Figures belong to documents, what was counted to `Buckets`, which outlive them: no edit fills a bucket, and what came
  in before a rate or a share changed came in at the smaller of both.
- The workers of an agent take from the same buckets, in memory that they share (`cells`). Of a limit of the whole mesh
  an agent has a share, and without such memory a worker has: its buckets have that share of rate and burst, but room
  for at least one request. What an agent may hold is never less than the burst's equal part, so that it has something
  to begin with after a silence, however little comes in.
- Of a limit of the whole mesh with a key each agent has an equal part of every key, but of those that have parts of
  their own (`hot`). Who is told of keys is told their hashes: what stands in a header or a cookie leaves no host.
- Memory is bounded: of a limit with a key the least recently used buckets are forgotten, and a long value is hashed.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from policies.hashing import hash64
from policies.kinds.ratelimit.bucket import Bucket
from policies.kinds.ratelimit.cells import MOST_TOKENS, Cells, key_of
from policies.kinds.ratelimit.limit import Limit, Limited, Quota
from policies.request import RequestView

MOST_TOUCHED: Final = 4096
"""Keys whose requests are counted until somebody wants to know."""
_ONE: Final = 1 - 1e-9
"""A token, but for what rounding took of it."""


def together(limit: Limit) -> bool:
    """Whether the workers of an agent may have the buckets of a limit together."""
    return limit.burst <= MOST_TOKENS


class Meter:
    """One limit as one worker counts it."""

    __slots__ = ("_cells", "_keyed", "_only", "_service", "_touched", "demand", "keys", "least", "rest", "share")

    def __init__(self, share: float, service: str = "", cells: Cells | None = None) -> None:
        self.share = share
        """Of its rate, and of its burst ..."""
        self.least = 0.0
        """... of which it has at least this part ..."""
        self.rest = 0.0
        """... and this part of its rate comes in while nobody asks."""
        self.keys: dict[str, float] = {}
        """Parts of keys that have one of their own, by the ids of their buckets."""
        self._service = service
        self._cells = cells
        self.demand = 0.0
        self._only: Bucket | None = None
        self._keyed: OrderedDict[str, Bucket] = OrderedDict()
        self._touched: list[Bucket] = []

    def bucket(self, limit: Limit, request: RequestView, now: float) -> Bucket:
        """The bucket of a request, brought up to `now`."""
        if limit.key is not None:
            return self._of_key(limit, limit.key.value(request), now)
        found = self._only
        rate, capacity = limit.rate * self.share, self._capacity(limit, self.share)
        if found is None:
            found = self._only = Bucket(rate, capacity, now)
            self._join(found, limit, "", now)
            return found
        if self._cells is not None and found.shared is not together(limit):
            self._join(found, limit, "", now)
        found.fill(rate, capacity, now, limit.rate * self.rest)
        return found

    def _capacity(self, limit: Limit, part: float) -> float:
        return max(limit.burst * max(part, self.least), 1.0)

    def _join(self, bucket: Bucket, limit: Limit, value: str, now: float) -> None:
        """Of this agent's workers together, if that can be."""
        cells = self._cells if together(limit) else None
        key = key_of(self._service, limit.name, value) if cells is not None else 0
        bucket.share(cells, key, limit.key is not None, now)

    def _of_key(self, limit: Limit, value: str, now: float) -> Bucket:
        keyed = self._keyed
        found = keyed.get(value)
        if found is None:
            id = f"{hash64(value):016x}" if limit.shared else ""
            part = self.keys.get(id, self.share)
            found = keyed[value] = Bucket(limit.rate * part, self._capacity(limit, part), now, id)
            self._join(found, limit, value, now)
            # Two at most: where a document has lowered the bound, no single request pays for all of them.
            for _ in range(2):
                if len(keyed) > limit.max_keys:
                    keyed.popitem(last=False)
            return found
        keyed.move_to_end(value)
        if self._cells is not None and found.shared is not together(limit):
            self._join(found, limit, value, now)
        if limit.shared and not found.id:
            found.id = f"{hash64(value):016x}"
        part = self.keys.get(found.id, self.share) if self.keys else self.share
        found.fill(limit.rate * part, self._capacity(limit, part), now)
        return found

    def look(self, limit: Limit, request: RequestView, now: float) -> Bucket:
        """What `bucket` would find; nothing is made or moved."""
        value = limit.key.value(request) if limit.key is not None else ""
        part = self.keys.get(f"{hash64(value):016x}", self.share) if self.keys else self.share
        rate, capacity = limit.rate * part, self._capacity(limit, part)
        found = self._keyed.get(value) if limit.key is not None else self._only
        if found is None:
            found = Bucket(rate, capacity, now)
            if self._cells is None or not together(limit):
                return found
            at = self._cells.find(key_of(self._service, limit.name, value), limit.key is not None)
            if at < 0:
                return found
            self._join(found, limit, value, now)
        return found.filled(rate, capacity, now, limit.rate * self.rest if limit.key is None else 0.0)

    def ask(self, limit: Limit, bucket: Bucket) -> None:
        """A request wants a token of a bucket."""
        self.demand += 1.0
        if limit.shared and limit.key is not None:
            if not bucket.asked and len(self._touched) < MOST_TOUCHED:
                self._touched.append(bucket)
            bucket.asked += 1

    def take_asked(self, most: int) -> dict[str, int]:
        """By the ids of keys: how often each was asked for since this was called last; those that were most often."""
        touched, self._touched = self._touched, []
        touched.sort(key=_by_asked)
        found: dict[str, int] = {}
        for bucket in touched:
            if len(found) < most:
                found[bucket.id] = bucket.asked
            bucket.asked = 0
        return found

    def give(self, limit: Limit, tokens: Mapping[str, float], now: float) -> None:
        """Tokens for keys that have parts of their own, by their ids."""
        for bucket in list(self._keyed.values()):
            if bucket.id in tokens:
                part = self.keys.get(bucket.id, self.share)
                bucket.fill(limit.rate * part, self._capacity(limit, part), now)
                bucket.add(tokens[bucket.id], now)

    def size(self) -> int:
        """Keys that have a bucket."""
        return len(self._keyed)


def _by_asked(bucket: Bucket) -> int:
    return -bucket.asked


class Buckets:
    """What one worker has counted for one service. Outlives the documents."""

    __slots__ = ("_cells", "_default_share", "_meters", "_service", "latest", "left")

    def __init__(self, default_share: float = 1.0, service: str = "", cells: Cells | None = None) -> None:
        """`cells`: where the workers of the agent have the buckets of a service together."""
        self._service = service
        self._cells = cells
        self.left: Quota | None = None
        """Of the limit that has least, behind the request that passed last."""
        self.latest = -math.inf
        """The latest time that any request came with."""
        self._default_share = default_share
        self._meters: dict[str, Meter] = {}

    def configure(self, names: Collection[str]) -> None:
        """Forget the limits that are no longer among `names`; the others keep what was counted."""
        self._meters = {name: meter for name, meter in self._meters.items() if name in names}

    def begin(self, limit_name: str, share: float) -> None:
        """The part of a limit that nobody has handed out a part of yet; of its burst it is the least from now on."""
        if limit_name not in self._meters:
            self.set_share(limit_name, share)
        self.meter(limit_name).least = share

    def own(self, limit_name: str, share: float) -> None:
        """The part of a limit that nobody but this agent's workers has."""
        self.set_share(limit_name, share)
        meter = self.meter(limit_name)
        meter.least, meter.rest, meter.keys = 0.0, 0.0, {}

    def set_share(self, limit_name: str, share: float) -> None:
        """This worker's part of a limit, from 0 to 1."""
        self.meter(limit_name).share = min(max(share, 0.0), 1.0)

    def share(self, limit_name: str) -> float:
        """The part that is in force."""
        meter = self._meters.get(limit_name)
        return self._default_share if meter is None else meter.share

    def demand(self, limit_name: str) -> float:
        """Requests that asked for a token since ever; what other limits alone refused is not among them."""
        meter = self._meters.get(limit_name)
        return 0.0 if meter is None else meter.demand

    def size(self, limit_name: str) -> int:
        """Keys of a limit that have a bucket."""
        meter = self._meters.get(limit_name)
        return 0 if meter is None else meter.size()

    def meter(self, limit_name: str) -> Meter:
        """A limit's own."""
        found = self._meters.get(limit_name)
        if found is None:
            found = self._meters[limit_name] = Meter(self._default_share, self._service, self._cells)
        return found

    def look(self, limit_name: str) -> Meter:
        """What `meter` would find; none is kept."""
        found = self._meters.get(limit_name)
        return Meter(self._default_share, self._service, self._cells) if found is None else found


class Compiled:
    """The limits of a document, ready to be asked: those of the callers' agents, or those of the service's."""

    __slots__ = ("limits", "names")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = list(limits)
        self.names = [limit.name for limit in limits]

    def peek(self, state: Buckets, request: RequestView, now: float) -> Limited | None:
        """What `decide` would say; nothing is taken and nothing counted."""
        return self.decide(state, request, now, takes=False)

    def decide(self, state: Buckets, request: RequestView, now: float, takes: bool = True) -> Limited | None:
        """None when the request may go on, which then has taken from each limit that it matches, and `state.left` is
        what it leaves; else which limit refuses it: of several the one that is longest empty."""
        if now < state.latest:
            now = state.latest
        elif takes:
            state.latest = now
        limits: list[Limit] = []
        meters: list[Meter] = []
        buckets: list[Bucket] = []
        empty: Limit | None = None
        longest_s = 0.0
        for limit in self.limits:
            matches = limit.matches
            if matches is not None and not matches(request):
                continue
            meter = state.meter(limit.name) if takes else state.look(limit.name)
            bucket = meter.bucket(limit, request, now) if takes else meter.look(limit, request, now)
            if bucket.tokens < _ONE:
                if takes:
                    # Whom another limit alone refuses asks nothing of this one: a flood that is held back elsewhere
                    # must not draw shares to where it cannot use them.
                    meter.ask(limit, bucket)
                wait_s = (1.0 - bucket.tokens) / bucket.rate if bucket.rate > 0.0 else math.inf
                if empty is None or wait_s > longest_s:
                    empty = limit
                    longest_s = wait_s
            elif empty is None:
                limits.append(limit)
                meters.append(meter)
                buckets.append(bucket)
        if empty is not None:
            return empty.refusal(longest_s)
        if takes:
            for n in range(len(meters)):
                meters[n].ask(limits[n], buckets[n])
            state.left = _take(limits, buckets, now)
        return None


def _take(limits: Sequence[Limit], buckets: Sequence[Bucket], now: float) -> Quota | None:
    """One of each; returns what is left of the one that has least."""
    least = 0
    for n in range(len(buckets)):
        buckets[n].take(now)
        if buckets[n].tokens < buckets[least].tokens:
            least = n
    if not buckets:
        return None
    found = buckets[least]
    return limits[least].left(found.tokens, found.capacity, found.rate)
