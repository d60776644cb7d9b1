# mypyc: compiled
"""Balancing, decided: a document and a list of endpoints, ready to be asked for each request."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, Final

from policies.endpoint import Endpoint, Load
from policies.hashing import hash64
from policies.kinds.balance import sticky
from policies.kinds.balance.algorithms import (
    BEFORE_THE_FIRST,
    Algorithm,
    BalanceState,
    LeastRequest,
    RandomChoice,
    RoundRobin,
    SlowStart,
    Weighted,
)
from policies.kinds.balance.document import DEFAULT, HASHING, Balance, HashKey
from policies.kinds.balance.drawn import Members
from policies.kinds.balance.entries import LEAST, UNBOUNDED, Entries
from policies.kinds.balance.ewma import DECAY_S, PeakEwma, observe, observe_cut
from policies.kinds.balance.locality import Tier, candidates, choose, spilled
from policies.kinds.balance.maglev import Maglev
from policies.kinds.balance.ring import RingHash
from policies.kinds.balance.sticky import point
from policies.language.duration import seconds
from policies.request import RequestView, cookie, query_parameter

SPILL_S: Final = 0.1
"""For how long it is taken as known who is passed over: a look costs as much as there are endpoints."""
_KEYS: Final = (1 << 64) - 1
_NEXT_KEY: Final = 0x9E3779B97F4A7C15  # odd and without a pattern: each try of a key is another place, always the same


class Balancer:
    """Chooses among a service's endpoints. Made anew when they or the document change; cheap until first asked."""

    __slots__ = (
        "_algorithms",
        "_decay_s",
        "_entries",
        "_levels",
        "_only",
        "_panic",
        "_pool",
        "_serves",
        "_sessions",
        "_spilled",
        "_spills_until",
        "_tiers",
        "document",
        "needs_key",
        "sticky",
    )

    def __init__(
        self,
        document: Balance,
        endpoints: Sequence[Endpoint],
        zone: str,
        state: BalanceState,
        entries: Entries = UNBOUNDED,
        part: float = 1.0,
    ) -> None:
        """`entries` bounds rings and tables; `part` of what the document asks for is for these endpoints."""
        self.document = document
        self._entries = entries
        rule = document.locality
        found = candidates(endpoints, zone, rule.failover, document.panic, rule.prefer)
        self._tiers, self._pool, self._panic = found.tiers, found.pool, found.panic
        self._levels = [*found.tiers, *found.spares]
        """In the order of preference; those behind the tiers get requests when others spill over."""
        self._serves = -1
        """1 or 0, once that was asked."""
        self._spilled: list[Tier] = []
        self._spills_until = float("-inf")
        """Until then `_spilled` says who gets how much, as far as some are passed over."""
        parts = [*_parts(found.tiers, found.tiers), *_parts(found.spares, self._levels)]
        self._algorithms = [
            _algorithm(document, tier, state, entries, part * each)
            for tier, each in zip(self._levels, parts, strict=True)
        ]
        self._only = self._algorithms[0] if len(found.tiers) == 1 else None
        self.needs_key = document.algorithm in HASHING
        """Whether `pick` wants the request's `key`."""
        self.sticky = document.sticky is not None
        """Whether to ask `sticky_endpoint` first."""
        self._sessions = sticky.compile(document.sticky, found, state) if document.sticky is not None else None
        self._decay_s = seconds(document.decay) if document.algorithm == "peak-ewma" else DECAY_S

    def pick(
        self, key: int | None, now: float, rng: random.Random, avoid: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """An endpoint for a request with a hash `key`, at monotonic time `now`; not one of `avoid` while another is
        left. None when there is no endpoint at all."""
        algorithm = self._only
        if algorithm is None or now < self._spills_until:
            tiers = self._spilled if now < self._spills_until else self._tiers
            if not tiers:
                return None
            algorithm = self._algorithms[choose(tiers, rng.random() if key is None else point(key))]
        endpoint = algorithm.pick(key, now, rng)
        if avoid and endpoint in avoid:
            return self._pick_other(algorithm, endpoint, key, now, rng, avoid)
        return endpoint

    def _pick_other(
        self,
        algorithm: Algorithm,
        endpoint: Endpoint,
        key: int | None,
        now: float,
        rng: random.Random,
        avoid: Collection[Endpoint],
    ) -> Endpoint:
        for _ in range(4):
            key = None if key is None else (key + _NEXT_KEY) & _KEYS
            other = algorithm.pick(key, now, rng)
            if other not in avoid:
                return other
        for tier in self._levels:
            others = [e for e in tier.endpoints if e not in avoid]
            if others:
                return rng.choice(others)
        return endpoint

    def note_refusing(self, now: float) -> None:
        """One that was picked is passed over: look who else is, and send on what their levels cannot carry."""
        if len(self._levels) > 1 and now >= self._spills_until:
            self._spilled = spilled(self._levels, now)
            self._spills_until = now + SPILL_S

    def has_other(self, avoid: Collection[Endpoint], now: float) -> bool:
        """Whether anybody is left who is not one of `avoid`, and is not passed over."""
        for tier in self._levels:
            for endpoint in tier.endpoints:
                if endpoint.load.refused_until <= now and endpoint not in avoid:
                    return True
        return False

    def key(self, request: RequestView) -> int | None:
        """The hash of what the document says to hash; None when none of it is there."""
        for source in self.document.hash:
            value = _hashed(source, request)
            if value:
                return hash64(value)
        return None

    def observe(self, load: Load, latency_s: float, ok: bool, now: float) -> None:
        """Take a try that ended into its endpoint's average, which fades as the document says."""
        observe(load, latency_s, ok, now, self._decay_s)

    def observe_cut(self, load: Load, waited_s: float, now: float) -> None:
        """Take a try that was given up into it: it would have taken longer."""
        observe_cut(load, waited_s, now, self._decay_s)

    # For whoever asks without a request.

    def mark(self) -> list[object]:
        """Whose turn it is, and who spills over, for `reset`."""
        sessions = self._sessions.mark() if self._sessions is not None else None
        return [sessions, (self._spilled, self._spills_until), *(algorithm.mark() for algorithm in self._algorithms)]

    def reset(self, mark: list[object]) -> None:
        """As if nothing had been picked since `mark`."""
        if self._sessions is not None:
            self._sessions.reset(mark[0])
        spills = mark[1]
        assert isinstance(spills, tuple)
        self._spilled, self._spills_until = spills
        for algorithm, turn in zip(self._algorithms, mark[2:], strict=True):
            algorithm.reset(turn)

    def forget_turns(self) -> None:
        """Whose turn it is, is drawn at the next pick, and nobody is known to spill over."""
        self._spilled, self._spills_until = [], float("-inf")
        for algorithm in self._algorithms:
            if isinstance(algorithm, RoundRobin):
                algorithm.reset(BEFORE_THE_FIRST)
            elif isinstance(algorithm, Weighted):
                algorithm.reset(([], 0))

    # Sticky sessions.

    def sticky_endpoint(self, request: RequestView) -> Endpoint | None:
        """The endpoint that the client has had, if it can take requests."""
        return self._sessions.endpoint(request) if self._sessions is not None else None

    def sticky_cookie(self, endpoint: Endpoint) -> str | None:
        """The Set-Cookie value that keeps a client on an endpoint; None when no cookie does that."""
        return self._sessions.cookie(endpoint) if self._sessions is not None else None

    def forget(self) -> None:
        """Rings and tables may be larger now, or have to be smaller."""
        for algorithm in self._algorithms:
            if isinstance(algorithm, RingHash | Maglev):
                algorithm.forget()

    # For people.

    def candidates(self) -> list[Endpoint]:
        """Everyone who may be picked, as long as nobody is passed over."""
        return [e for tier in self._tiers for e in tier.endpoints]

    @property
    def serves(self) -> bool:
        """Whether any endpoint is healthy, as far as its checks say; asked for no request but of a split."""
        serves = self._serves
        if serves < 0:
            serves = self._serves = int(self._pool in ("serving", "draining") and self._any_healthy())
        return serves > 0

    def _any_healthy(self) -> bool:
        for tier in self._levels:
            for endpoint in tier.endpoints:
                if endpoint.healthy:
                    return True
        return False

    def describe(self) -> dict[str, Any]:
        """The algorithm, and who gets how much."""
        return {
            "algorithm": self.document.algorithm,
            "sticky": self.sticky,
            "using": self._pool,
            "panic": self._panic,
            **self._described_entries(),
            "tiers": [
                {
                    "zone": tier.name,
                    "share": round(tier.share, 4),
                    "endpoints": len(tier.endpoints),
                    **({"panic": True} if tier.panic else {}),
                }
                for tier in self._tiers
            ],
        }

    def _described_entries(self) -> dict[str, int]:
        asked = asked_entries(self.document)
        return {"entries_asked": asked, "entries_granted": self._entries.granted(asked)} if asked > LEAST else {}


def _parts(tiers: Sequence[Tier], among: Sequence[Tier]) -> list[float]:
    """How much of the members of all `among` each of the tiers has."""
    count = max(1, sum([len(tier.members) for tier in among]))
    return [len(tier.members) / count for tier in tiers]


def asked_entries(document: Balance) -> int:
    """How large a ring or table a document asks for."""
    if document.algorithm == "ring-hash":
        return document.ring_min
    return document.table if document.algorithm == "maglev" else 0


def _algorithm(document: Balance, tier: Tier, state: BalanceState, entries: Entries, part: float) -> Algorithm:
    endpoints = tier.endpoints
    match document.algorithm:
        case "round-robin":
            return RoundRobin(endpoints, state.turn(tier.name))
        case "weighted":
            return Weighted(endpoints)
        case "random":
            return RandomChoice(endpoints)
        case "ring-hash":
            least = document.ring_min if document.ring_min <= LEAST else max(LEAST, int(document.ring_min * part))
            members = Members(tier.members, endpoints, state.drawn("ring", tier.name))
            return RingHash(endpoints, document.bounded_load / 100, least, document.ring_max, entries, members)
        case "maglev":
            members = Members(tier.members, endpoints, state.drawn("table", tier.name))
            return Maglev(endpoints, document.table, entries, members)
        case "peak-ewma":
            return PeakEwma(endpoints, seconds(document.decay), seconds(document.initial))
        case "least-request":
            rule = document.slow_start
            easing = SlowStart(seconds(rule.window), rule.aggression, rule.floor) if rule else None
            return LeastRequest(endpoints, easing)


def _hashed(source: HashKey, request: RequestView) -> str | None:
    if source.header:
        return request.header(source.header.lower())
    if source.cookie:
        return cookie(request, source.cookie)
    if source.query:
        return query_parameter(request, source.query)
    if source.claim:
        return request.claim(source.claim)
    return request.path if source.path else request.caller


def make(
    document: Balance | None,
    endpoints: Sequence[Endpoint],
    *,
    zone: str = "",
    state: BalanceState | None = None,
    entries: Entries = UNBOUNDED,
    part: float = 1.0,
) -> Balancer:
    """A balancer for a caller in `zone`; without a document the default one (least-request).

    `part` of the entries that the document asks for is for these endpoints; `entries` may grant less.
    """
    return Balancer(document or DEFAULT, endpoints, zone, state or BalanceState(), entries, part)
