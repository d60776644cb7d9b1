"""`balance`: which endpoint of a service takes a request."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from policies import sticky
from policies.algorithms import (
    Algorithm,
    BalanceState,
    LeastRequest,
    RandomChoice,
    RoundRobin,
    SlowStart,
    Weighted,
)
from policies.document import Document, Fault
from policies.duration import Duration, seconds
from policies.endpoint import Endpoint, Load
from policies.ewma import DECAY_S, PeakEwma, observe
from policies.hashing import hash64
from policies.locality import Tier, candidates, choose
from policies.maglev import Maglev
from policies.request import RequestView, cookie, query_parameter
from policies.ring import RingHash
from policies.sticky import TOKEN, StickySession, point

__all__ = ["Balance", "BalanceState", "Balancer", "compile", "observe"]

AlgorithmName = Literal["round-robin", "weighted", "least-request", "ring-hash", "maglev", "peak-ewma", "random"]

# The document.


class HashKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to hash; exactly one field."""

    header: str = ""
    cookie: str = ""
    query: str = ""
    path: bool = False
    caller: bool = False

    def check(self, path: str) -> None:
        """Raises Fault."""
        given = [name for name in ("header", "cookie", "query", "path", "caller") if getattr(self, name)]
        if len(given) != 1:
            here = " and ".join(given) or "none"
            raise Fault(path, f"exactly one of header, cookie, query, path and caller; here: {here}")
        for name in ("header", "cookie"):
            value = getattr(self, name)
            if value and not TOKEN.match(value):
                raise Fault(f"{path}.{name}", f"{value[:40]!r} is no {name} name")


class SlowStartRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ease traffic onto an endpoint that has just become healthy (least-request only)."""

    window: Duration
    aggression: Annotated[float, Meta(ge=0.1, le=10, description="1 rises evenly, more rises sooner")] = 1
    floor: Annotated[float, Meta(ge=0.01, le=1, description="The least share it gets, so that it is never starved")] = (
        0.1
    )


class Locality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The caller's zone first."""

    prefer: Annotated[bool, Meta(description="false: zones do not matter")] = True
    failover: Annotated[tuple[str, ...], Meta(max_length=64, description="Zones to try next, in order; then any")] = ()

    def check(self) -> None:
        """Raises Fault."""
        if self.failover and not self.prefer:
            raise Fault("$.locality.failover", "does nothing when $.locality.prefer is false; leave one of them out")
        for n, zone in enumerate(self.failover):
            if not zone:
                raise Fault(f"$.locality.failover[{n}]", "empty; the name of a zone")
            if zone in self.failover[:n]:
                raise Fault(f"$.locality.failover[{n}]", f"{zone[:40]!r} stands in the list twice")


class Balance(Document, frozen=True, kw_only=True):
    """The document."""

    algorithm: AlgorithmName = "least-request"
    hash: Annotated[
        tuple[HashKey, ...], Meta(max_length=8, description="For ring-hash and maglev: the first that is present")
    ] = ()
    sticky: StickySession | None = None
    slow_start: SlowStartRule | None = None
    locality: Locality = Locality()
    panic: Annotated[float, Meta(ge=0, le=100, description="Percent healthy below which health is ignored")] = 50
    bounded_load: Annotated[
        float,
        Meta(ge=0, le=1000, description="ring-hash: percent of its fair share that one may have in flight; 0 off"),
    ] = 125
    ring_min: Annotated[int, Meta(ge=1, le=1_048_576, description="ring-hash: points on the ring, at least")] = 512
    ring_max: Annotated[int, Meta(ge=1, le=1_048_576, description="ring-hash: points on the ring, at most")] = 131_072
    table: Annotated[int, Meta(ge=0, le=524_287, description="maglev: slots, a prime; 0 chooses by itself")] = 0
    decay: Annotated[Duration, Meta(description="peak-ewma: how fast a latency is forgotten")] = "10s"
    initial: Annotated[
        Duration, Meta(description="peak-ewma: what one that never answered counts as while a request is on its way")
    ] = "30ms"

    def check(self) -> None:
        """Everything the types let pass."""
        self._check_hash()
        self._check_idle_options()
        if self.slow_start is not None:
            _check_duration("$.slow_start.window", self.slow_start.window, 0.1, 3600)
        if self.sticky is not None:
            _check_duration("$.sticky.ttl", self.sticky.ttl, 0, 366 * 86400)
            self.sticky.check()
        self.locality.check()
        if 0 < self.bounded_load <= 100:
            raise Fault(
                "$.bounded_load", f"{self.bounded_load:g}; more than 100 percent of the fair share, or 0 for no bound"
            )
        if self.ring_min > self.ring_max:
            raise Fault("$.ring_min", f"{self.ring_min}, more than $.ring_max, which is {self.ring_max}")
        if self.table and not _is_prime(self.table):
            raise Fault("$.table", f"{self.table} is no prime; 65537 is one")
        _check_duration("$.decay", self.decay, 0.1, 3600)
        _check_duration("$.initial", self.initial, 0.0001, 60)

    def _check_hash(self) -> None:
        hashes = self.algorithm in _HASHING
        if hashes and not self.hash:
            raise Fault(
                "$.hash", f'missing: {self.algorithm} needs to know what to hash, such as [{{"header": "x-user"}}]'
            )
        if self.hash and not hashes:
            raise Fault("$.hash", f"{self.algorithm} hashes nothing; that is for ring-hash and maglev")
        for n, key in enumerate(self.hash):
            key.check(f"$.hash[{n}]")

    def _check_idle_options(self) -> None:
        """An option that another algorithm has would do nothing, and whoever wrote it would not know."""
        for option, algorithm in _OPTIONS.items():
            if self.algorithm != algorithm and getattr(self, option) != getattr(_DEFAULT, option):
                raise Fault(f"$.{option}", f"an option of {algorithm}; the algorithm here is {self.algorithm}")


_HASHING: Final = ("ring-hash", "maglev")
_OPTIONS: Final = {
    "slow_start": "least-request",
    "bounded_load": "ring-hash",
    "ring_min": "ring-hash",
    "ring_max": "ring-hash",
    "table": "maglev",
    "decay": "peak-ewma",
    "initial": "peak-ewma",
}


def _check_duration(path: str, value: float | str, least: float, most: float) -> None:
    try:
        length = seconds(value)
    except ValueError as error:
        raise Fault(path, str(error)) from None
    if not least <= length <= most:
        raise Fault(path, f"{length:g} s; from {least:g} s to {most:g} s")


def _is_prime(number: int) -> bool:
    return number > 2 and number % 2 == 1 and all(number % n for n in range(3, int(number**0.5) + 1, 2))


_DEFAULT: Final = Balance()


# The decision.

_KEYS: Final = (1 << 64) - 1
_NEXT_KEY: Final = 0x9E3779B97F4A7C15  # odd and without a pattern: each try of a key is another place, always the same


class Balancer:
    """Chooses among a service's endpoints. Made anew when they or the document change; cheap until first asked."""

    __slots__ = (
        "_algorithms",
        "_decay_s",
        "_only",
        "_panic",
        "_pool",
        "_sessions",
        "_tiers",
        "_usable",
        "document",
        "needs_key",
        "sticky",
    )

    def __init__(self, document: Balance, endpoints: Sequence[Endpoint], zone: str, state: BalanceState) -> None:
        self.document = document
        rule = document.locality
        found = candidates(endpoints, zone, rule.failover, document.panic, rule.prefer)
        self._tiers, self._usable, self._pool, self._panic = found
        self._algorithms = [_algorithm(document, tier, state) for tier in found.tiers]
        self._only = self._algorithms[0] if len(self._algorithms) == 1 else None
        self.needs_key = document.algorithm in _HASHING
        """Whether `pick` wants the request's `key`."""
        self.sticky = document.sticky is not None
        """Whether to ask `sticky_endpoint` first."""
        self._sessions = sticky.compile(document.sticky, found) if document.sticky is not None else None
        self._decay_s = seconds(document.decay) if document.algorithm == "peak-ewma" else DECAY_S

    def pick(
        self, key: int | None, now: float, rng: random.Random, avoid: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """An endpoint for a request with a hash `key`, at monotonic time `now`; not one of `avoid` while another is
        left. None when there is no endpoint at all."""
        algorithm = self._only
        if algorithm is None:
            if not self._tiers:
                return None
            algorithm = self._algorithms[choose(self._tiers, rng.random() if key is None else point(key))]
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
        for group in (*(tier.endpoints for tier in self._tiers), self._usable):
            others = [e for e in group if e not in avoid]
            if others:
                return rng.choice(others)
        return endpoint

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

    # Sticky sessions.

    def sticky_endpoint(self, request: RequestView) -> Endpoint | None:
        """The endpoint that the client has had, if it can take requests."""
        return self._sessions.endpoint(request) if self._sessions is not None else None

    def sticky_cookie(self, endpoint: Endpoint) -> str | None:
        """The Set-Cookie value that keeps a client on an endpoint; None when no cookie does that."""
        return self._sessions.cookie(endpoint) if self._sessions is not None else None

    # For people.

    def candidates(self) -> list[Endpoint]:
        """Everyone who may be picked now."""
        return [e for tier in self._tiers for e in tier.endpoints]

    def describe(self) -> dict[str, Any]:
        """The algorithm, and who gets how much."""
        return {
            "algorithm": self.document.algorithm,
            "sticky": self.sticky,
            "using": self._pool,
            "panic": self._panic,
            "tiers": [
                {"zone": tier.name, "share": round(tier.share, 4), "endpoints": len(tier.endpoints)}
                for tier in self._tiers
            ],
        }


def compile(
    document: Balance | None, endpoints: Sequence[Endpoint], *, zone: str = "", state: BalanceState | None = None
) -> Balancer:
    """A balancer for a caller in `zone`; without a document the default one (least-request)."""
    return Balancer(document or _DEFAULT, endpoints, zone, state or BalanceState())


def _algorithm(document: Balance, tier: Tier, state: BalanceState) -> Algorithm:
    endpoints = tier.endpoints
    match document.algorithm:
        case "round-robin":
            return RoundRobin(endpoints, state.turn(tier.name))
        case "weighted":
            return Weighted(endpoints)
        case "random":
            return RandomChoice(endpoints)
        case "ring-hash":
            return RingHash(endpoints, document.bounded_load / 100, document.ring_min, document.ring_max)
        case "maglev":
            return Maglev(endpoints, document.table)
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
    return request.path if source.path else request.caller
