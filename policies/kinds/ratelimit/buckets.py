# mypyc: compiled
"""Rate limits, counted: token buckets, one a limit or one a key, and the question that each request asks of them.

Laws
- A bucket fills at its rate and holds at most its burst, so within any t seconds no more than burst + rate x t pass.
- A request takes from every limit that it matches, or from none. It is refused when any of them is empty.
- Figures belong to documents, what was counted to `Buckets`, which outlive them: no edit fills a bucket, and what came
  in before a rate or a share changed came in at the smaller of both.
- The workers of an agent take from the same buckets, in memory that they share (`cells`). Of a limit of the whole mesh,
  or without such memory, a worker has a share: its buckets have that share of rate and burst, but room for at least one
  request.
- Memory is bounded: of a limit with a key the least recently used buckets are forgotten, and a long value is hashed.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from policies.hashing import hash64
from policies.kinds.ratelimit.cells import MOST_TOKENS, Cells, age_s, key_of, tokens_in, word_of
from policies.request import RequestView, cookie, query_parameter

LONG: Final = 64
"""Characters of a key's value that are kept as they are."""
_ONE: Final = 1 - 1e-9
"""A token, but for what rounding took of it."""


class Limited(NamedTuple):
    """Why a request is refused, and when another may pass."""

    name: str
    status: int
    body: str
    """Empty: the mesh's own."""
    retry_after_s: int
    limit: int
    """Requests in `window_s`, which together say the rate of the whole limit in whole numbers."""
    window_s: int
    remaining: int
    reset_s: int
    reason: str


class Key:
    """What gets a bucket of its own: everything that is named here, taken together."""

    __slots__ = ("_caller", "_claim", "_cookie", "_header", "_path", "_query")

    def __init__(self, caller: bool, claim: str, header: str, cookie: str, query: str, path: bool) -> None:
        self._caller = caller
        self._claim = claim
        self._header = header.lower()
        self._cookie = cookie
        self._query = query
        self._path = path

    def value(self, request: RequestView) -> str:
        """A request's key; what it does not have counts as empty."""
        parts: list[str] = []
        if self._caller:
            parts.append(request.caller)
        if self._claim:
            parts.append(request.claim(self._claim) or "")
        if self._header:
            parts.append(request.header(self._header) or "")
        if self._cookie:
            parts.append(cookie(request, self._cookie) or "")
        if self._query:
            parts.append(query_parameter(request, self._query) or "")
        if self._path:
            parts.append(request.path)
        found = parts[0] if len(parts) == 1 else "\0".join(parts)
        return found if len(found) <= LONG else f"\0{hash64(found):016x}"


class Limit:
    """The figures of one limit of a document."""

    __slots__ = (
        "body",
        "burst",
        "key",
        "matches",
        "max_keys",
        "name",
        "quota",
        "rate",
        "reason",
        "shared",
        "status",
        "window_s",
    )

    def __init__(
        self,
        name: str,
        rate: float,
        burst: float,
        *,
        quota: int = 1,
        window_s: int = 1,
        key: Key | None = None,
        matches: Callable[[RequestView], bool] | None = None,
        max_keys: int = 10_000,
        status: int = 429,
        body: str = "",
        reason: str = "",
        shared: bool = False,
    ) -> None:
        self.name = name
        self.rate = rate
        """Requests a second."""
        self.burst = burst
        self.quota = quota
        self.window_s = window_s
        self.key = key
        self.matches = matches
        self.max_keys = max_keys
        self.status = status
        self.body = body
        self.reason = reason
        self.shared = shared
        """Whether all agents have it together."""

    def refusal(self, wait_s: float) -> Limited:
        """What a request is told that could pass in `wait_s`; no later than after a window, when shares have moved."""
        wait = max(1, math.ceil(min(wait_s, float(self.window_s)) - 1e-6))
        return Limited(
            self.name, self.status, self.body, wait, self.quota, self.window_s, 0, wait, self.reason
        )  # fmt: skip


class Bucket:
    """Tokens, one for each request that may pass now. Of one that workers have together: what was seen of it last."""

    __slots__ = ("_at", "_capacity", "_cells", "_key", "_keyed", "_rate", "_updated", "tokens")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self.tokens = capacity
        self._rate = rate
        self._capacity = capacity
        self._updated = now
        self._cells: Cells | None = None
        self._key = 0
        self._keyed = False
        self._at = -1

    def share(self, cells: Cells | None, key: int, keyed: bool, now: float) -> None:
        """Have it together with other workers: as it stands there, or else as it is here. None: alone."""
        self._cells = cells
        self._key = key
        self._keyed = keyed
        self._at = -1
        if cells is not None:
            self.fill(self._rate, self._capacity, now)

    @property
    def shared(self) -> bool:
        """Whether other workers take from it."""
        return self._cells is not None

    def _load(self, now: float) -> None:
        cells = self._cells
        if cells is None:
            return
        if self._at >= 0:
            key: int = cells.words[self._at]
            if key != self._key:
                self._at = -1
        if self._at < 0:
            self._at = cells.find(self._key, self._keyed)
            if self._at < 0:
                self._at = cells.claim(self._key, self._keyed, word_of(self.tokens, self._updated), now)
                return
        word: int = cells.words[self._at + 1]
        self.tokens = tokens_in(word)
        self._updated = now - age_s(word, now)

    def _store(self, now: float) -> None:
        if self._cells is not None and self._at >= 0:
            self._cells.words[self._at + 1] = word_of(self.tokens, now)

    def take(self, now: float) -> None:
        """One of them, as they are by now: others may have taken some since they were looked at."""
        if self._cells is not None:
            self.fill(self._rate, self._capacity, now)
        self.tokens -= 1.0
        self._store(now)

    def fill(self, rate: float, capacity: float, now: float) -> None:
        """Bring it up to `now`."""
        if self._cells is not None:
            self._load(now)
        edited = rate != self._rate or capacity != self._capacity
        self._capacity = capacity
        passed = now - self._updated
        if passed > 0:
            self.tokens += passed * (rate if rate < self._rate else self._rate)
            self._updated = now
        self._rate = rate
        if self.tokens > capacity:
            self.tokens = capacity
        if edited:
            self._store(now)

    def filled(self, rate: float, capacity: float, now: float) -> Bucket:
        """What it would be after `fill`."""
        if self._cells is not None:
            self._load(now)
        other = Bucket(self._rate, self.tokens, self._updated)
        other.fill(rate, capacity, now)
        return other


def _together(limit: Limit) -> bool:
    """Whether workers may have the buckets of a limit together."""
    return not limit.shared and limit.burst <= MOST_TOKENS


class Meter:
    """One limit as one worker counts it."""

    __slots__ = ("_cells", "_keyed", "_only", "_service", "demand", "share")

    def __init__(self, share: float, service: str = "", cells: Cells | None = None) -> None:
        self.share = share
        self._service = service
        self._cells = cells
        self.demand = 0.0
        self._only: Bucket | None = None
        self._keyed: OrderedDict[str, Bucket] = OrderedDict()

    def bucket(self, limit: Limit, request: RequestView, now: float) -> Bucket:
        """The bucket of a request, brought up to `now`."""
        rate = limit.rate * self.share
        capacity = limit.burst * self.share
        if capacity < 1.0:
            capacity = 1.0
        if limit.key is not None:
            return self._of_key(limit, limit.key.value(request), rate, capacity, now)
        found = self._only
        if found is None:
            found = self._only = Bucket(rate, capacity, now)
            self._join(found, limit, "", now)
            return found
        if self._cells is not None and found.shared is not _together(limit):  # its scope is another now
            self._join(found, limit, "", now)
        found.fill(rate, capacity, now)
        return found

    def _join(self, bucket: Bucket, limit: Limit, value: str, now: float) -> None:
        """Of this agent's workers together, unless the limit is of all agents."""
        cells = self._cells if _together(limit) else None
        key = key_of(self._service, limit.name, value) if cells is not None else 0
        bucket.share(cells, key, limit.key is not None, now)

    def _of_key(self, limit: Limit, value: str, rate: float, capacity: float, now: float) -> Bucket:
        keyed = self._keyed
        found = keyed.get(value)
        if found is None:
            found = keyed[value] = Bucket(rate, capacity, now)
            self._join(found, limit, value, now)
            # Two at most: where a document has lowered the bound, no single request pays for all of them.
            for _ in range(2):
                if len(keyed) > limit.max_keys:
                    keyed.popitem(last=False)
        else:
            keyed.move_to_end(value)
            if self._cells is not None and found.shared is not _together(limit):
                self._join(found, limit, value, now)
            found.fill(rate, capacity, now)
        return found

    def look(self, limit: Limit, request: RequestView, now: float) -> Bucket:
        """What `bucket` would find; nothing is made or moved."""
        rate = limit.rate * self.share
        capacity = limit.burst * self.share
        if capacity < 1.0:
            capacity = 1.0
        value = limit.key.value(request) if limit.key is not None else ""
        found = self._keyed.get(value) if limit.key is not None else self._only
        if found is None:
            found = Bucket(rate, capacity, now)
            if self._cells is None or not _together(limit):
                return found
            at = self._cells.find(key_of(self._service, limit.name, value), limit.key is not None)
            if at < 0:
                return found
            self._join(found, limit, value, now)
        return found.filled(rate, capacity, now)

    def size(self) -> int:
        """Keys that have a bucket."""
        return len(self._keyed)


class Buckets:
    """What one worker has counted for one service. Outlives the documents."""

    __slots__ = ("_cells", "_default_share", "_meters", "_service", "latest")

    def __init__(self, default_share: float = 1.0, service: str = "", cells: Cells | None = None) -> None:
        """`cells`: where the workers of the agent have the buckets of a service together."""
        self._service = service
        self._cells = cells
        self.latest = -math.inf
        """The latest time that any request came with."""
        self._default_share = default_share
        self._meters: dict[str, Meter] = {}

    def configure(self, names: Collection[str]) -> None:
        """Forget the limits that are no longer among `names`; the others keep what was counted."""
        self._meters = {name: meter for name, meter in self._meters.items() if name in names}

    def begin(self, limit_name: str, share: float) -> None:
        """The part of a limit that nobody has handed out a part of yet."""
        if limit_name not in self._meters:
            self.set_share(limit_name, share)

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
    """The limits of a document, ready to be asked."""

    __slots__ = ("limits", "names")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = list(limits)
        self.names = [limit.name for limit in limits]
        """For `Buckets.configure`."""

    def peek(self, state: Buckets, request: RequestView, now: float) -> Limited | None:
        """What `decide` would say; nothing is taken and nothing counted."""
        return self.decide(state, request, now, takes=False)

    def decide(self, state: Buckets, request: RequestView, now: float, takes: bool = True) -> Limited | None:
        """None when the request may go on, which then has taken from each limit that it matches; else which limit
        refuses it: of several the one that is longest empty."""
        if now < state.latest:
            now = state.latest
        elif takes:
            state.latest = now
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
                    meter.demand += 1.0
                rate = limit.rate * meter.share
                wait_s = (1.0 - bucket.tokens) / rate if rate > 0.0 else math.inf
                if empty is None or wait_s > longest_s:
                    empty = limit
                    longest_s = wait_s
            elif empty is None:
                meters.append(meter)
                buckets.append(bucket)
        if empty is not None:
            return empty.refusal(longest_s)
        if takes:
            for bucket in buckets:
                bucket.take(now)
            for meter in meters:
                meter.demand += 1.0
        return None


def fields(limited: Limited) -> list[tuple[str, str]]:
    """Header fields of a refusal: Retry-After (RFC 9110 section 10.2.3), and those of
    draft-ietf-httpapi-ratelimit-headers-10."""
    return [
        ("retry-after", str(limited.retry_after_s)),
        ("ratelimit-policy", f'"{limited.name}";q={limited.limit};w={limited.window_s}'),
        ("ratelimit", f'"{limited.name}";r={limited.remaining};t={limited.reset_s}'),
    ]
