"""`balance`: which endpoint of a service takes a request."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from policies.algorithms import (
    Algorithm,
    BalanceState,
    LeastRequest,
    Maglev,
    PeakEwma,
    RandomChoice,
    RingHash,
    RoundRobin,
    SlowStart,
    Weighted,
    observe,
)
from policies.document import Document, Fault
from policies.duration import Duration, seconds
from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.locality import candidates
from policies.request import RequestView, cookie, query_parameter

__all__ = ["Balance", "BalanceState", "Balancer", "compile", "observe"]

_COOKIE_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

AlgorithmName = Literal["round-robin", "weighted", "least-request", "ring-hash", "maglev", "peak-ewma", "random"]

# The document.


class HashKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to hash; exactly one field."""

    header: str = ""
    cookie: str = ""
    query: str = ""
    path: bool = False
    caller: bool = False


class StickySession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client stays on the endpoint that it had first, as long as that can take requests."""

    cookie: Annotated[str, Meta(description="Name of the cookie that the mesh sets", max_length=128)] = "shoal-session"
    ttl: Annotated[Duration, Meta(description="Max-Age; 0 is until the browser closes")] = 0
    path: Annotated[str, Meta(pattern=r"^/[\x21-\x3a\x3c-\x7e]*$", max_length=1024)] = "/"


class SlowStartRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ease traffic onto an endpoint that has just become healthy (least-request only)."""

    window: Duration
    aggression: Annotated[float, Meta(ge=0.1, le=10)] = 1
    floor: Annotated[float, Meta(ge=0.01, le=1, description="The least share it gets, so that it is never starved")] = (
        0.1
    )


class Locality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The caller's zone first."""

    prefer: Annotated[bool, Meta(description="false: zones do not matter")] = True
    failover: Annotated[tuple[str, ...], Meta(description="Zones to try next, in order; then any")] = ()


class Balance(Document, frozen=True, kw_only=True):
    """The document."""

    algorithm: AlgorithmName = "least-request"
    hash: Annotated[tuple[HashKey, ...], Meta(description="For ring-hash and maglev: the first that is present")] = ()
    sticky: StickySession | None = None
    slow_start: SlowStartRule | None = None
    locality: Locality = Locality()
    panic: Annotated[float, Meta(ge=0, le=100, description="Percent healthy below which health is ignored")] = 50
    bounded_load: Annotated[
        float,
        Meta(ge=0, le=1000, description="ring-hash: percent of its fair share that one may have in flight; 0 off"),
    ] = 125
    ring_min: Annotated[int, Meta(ge=1, le=1_048_576)] = 1024
    ring_max: Annotated[int, Meta(ge=1, le=1_048_576)] = 131_072
    table: Annotated[int, Meta(ge=0, le=524_287, description="maglev: slots, a prime; 0 chooses by itself")] = 0
    decay: Annotated[Duration, Meta(description="peak-ewma: how fast a latency is forgotten")] = "10s"
    initial: Annotated[Duration, Meta(description="peak-ewma: what an unknown endpoint counts as")] = "30ms"

    def check(self) -> None:
        """Everything the types let pass."""
        hashes = self.algorithm in ("ring-hash", "maglev")
        if hashes and not self.hash:
            raise Fault(
                "$.hash", f'missing: {self.algorithm} needs to know what to hash, such as [{{"header": "x-user"}}]'
            )
        if self.hash and not hashes:
            raise Fault("$.hash", f"{self.algorithm} hashes nothing; that is for ring-hash and maglev")
        for n, key in enumerate(self.hash):
            _check_key(key, f"$.hash[{n}]")
        if self.slow_start is not None:
            _check_duration("$.slow_start.window", self.slow_start.window, 0.1, 3600)
            if self.algorithm != "least-request":
                raise Fault("$.slow_start", f"only least-request eases endpoints in, not {self.algorithm}")
        if self.sticky is not None:
            _check_duration("$.sticky.ttl", self.sticky.ttl, 0, 366 * 86400)
            if not _COOKIE_NAME.match(self.sticky.cookie):
                raise Fault("$.sticky.cookie", f"{self.sticky.cookie[:40]!r} is no cookie name")
        if 0 < self.bounded_load <= 100:
            raise Fault(
                "$.bounded_load", f"{self.bounded_load:g}; more than 100 percent of the fair share, or 0 for no bound"
            )
        if self.ring_min > self.ring_max:
            raise Fault("$.ring_min", "more than $.ring_max")
        if self.table and not _is_prime(self.table):
            raise Fault("$.table", f"{self.table} is no prime; 65537 is one")
        _check_duration("$.decay", self.decay, 0.1, 3600)
        _check_duration("$.initial", self.initial, 0.0001, 60)


def _check_key(key: HashKey, path: str) -> None:
    given = [name for name in ("header", "cookie", "query", "path", "caller") if getattr(key, name)]
    if len(given) != 1:
        raise Fault(
            path, f"exactly one of header, cookie, query, path and caller; here: {' and '.join(given) or 'none'}"
        )


def _check_duration(path: str, value: float | str, least: float, most: float) -> None:
    try:
        length = seconds(value)
    except ValueError as error:
        raise Fault(path, str(error)) from None
    if not least <= length <= most:
        raise Fault(path, f"{length:g} s; from {least:g} s to {most:g} s")


def _is_prime(number: int) -> bool:
    return number > 2 and number % 2 == 1 and all(number % n for n in range(3, int(number**0.5) + 1, 2))


# The decision.


class Balancer:
    """Chooses among a service's endpoints. Made anew when they or the document change; cheap until first asked."""

    __slots__ = (
        "_endpoints",
        "_only",
        "_panic",
        "_shares",
        "_stick",
        "_tiers",
        "_tokens",
        "document",
        "needs_key",
        "sticky",
    )

    def __init__(self, document: Balance, endpoints: Sequence[Endpoint], zone: str, state: BalanceState) -> None:
        self.document = document
        self._endpoints = endpoints
        rule = document.locality
        found = candidates(endpoints, zone, rule.failover, document.panic, rule.prefer)
        self._panic = found.panic
        self._tiers = [(tier, _algorithm(document, tier.endpoints, state)) for tier in found.tiers]
        self._only = self._tiers[0][1] if len(self._tiers) == 1 else None
        self.needs_key = document.algorithm in ("ring-hash", "maglev")
        self.sticky = document.sticky is not None
        self._tokens: dict[str, Endpoint] | None = None

    def pick(
        self, key: int | None, now: float, rng: random.Random, avoid: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """An endpoint for a request with a hash `key`, at monotonic time `now`; not one of `avoid` while another is
        left. None when there is no endpoint at all."""
        algorithm = self._only
        if algorithm is None:
            if not self._tiers:
                return None
            algorithm = self._tier(rng)
        endpoint = algorithm.pick(key, now, rng)
        if avoid and endpoint in avoid:
            return self._pick_other(algorithm, endpoint, now, rng, avoid)
        return endpoint

    def _tier(self, rng: random.Random) -> Algorithm:
        point = rng.random()
        for tier, algorithm in self._tiers:
            point -= tier.share
            if point < 0:
                return algorithm
        return self._tiers[-1][1]

    def _pick_other(
        self, algorithm: Algorithm, endpoint: Endpoint, now: float, rng: random.Random, avoid: Collection[Endpoint]
    ) -> Endpoint:
        for _ in range(4):
            other = algorithm.pick(None, now, rng)
            if other not in avoid:
                return other
        for tier, _ in self._tiers:
            others = [e for e in tier.endpoints if e not in avoid]
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

    # Sticky sessions.

    def sticky_endpoint(self, request: RequestView) -> Endpoint | None:
        """The endpoint that the client's cookie stands for, if it can take requests."""
        if self.document.sticky is None:
            return None
        token = cookie(request, self.document.sticky.cookie)
        if not token:
            return None
        if self._tokens is None:
            usable = [e for tier, _ in self._tiers for e in tier.endpoints]
            self._tokens = {_token(e): e for e in usable}
        return self._tokens.get(token)

    def sticky_cookie(self, endpoint: Endpoint) -> str | None:
        """The Set-Cookie value that keeps a client on an endpoint. It tells nothing of the endpoint's address."""
        rule = self.document.sticky
        if rule is None:
            return None
        age_s = int(seconds(rule.ttl))
        age = f"; Max-Age={age_s}" if age_s else ""
        return f"{rule.cookie}={_token(endpoint)}; Path={rule.path}{age}; HttpOnly; SameSite=Lax"

    # For people.

    def candidates(self) -> list[Endpoint]:
        """Everyone who may be picked now."""
        return [e for tier, _ in self._tiers for e in tier.endpoints]

    def describe(self) -> dict[str, Any]:
        """The algorithm, and who gets how much."""
        return {
            "algorithm": self.document.algorithm,
            "panic": self._panic,
            "tiers": [
                {"zone": tier.name, "share": round(tier.share, 4), "endpoints": len(tier.endpoints)}
                for tier, _ in self._tiers
            ],
        }


_DEFAULT: Final = Balance()


def compile(
    document: Balance | None, endpoints: Sequence[Endpoint], *, zone: str = "", state: BalanceState | None = None
) -> Balancer:
    """A balancer for a caller in `zone`; without a document the default one (least-request)."""
    return Balancer(document or _DEFAULT, endpoints, zone, state or BalanceState())


def _algorithm(document: Balance, endpoints: list[Endpoint], state: BalanceState) -> Algorithm:
    if all(e.weight <= 0 for e in endpoints):
        return RoundRobin(endpoints, state)
    name = document.algorithm
    if name == "round-robin":
        return RoundRobin(endpoints, state)
    if name == "weighted":
        return Weighted(endpoints)
    if name == "random":
        return RandomChoice(endpoints)
    if name == "ring-hash":
        return RingHash(endpoints, document.bounded_load / 100, document.ring_min, document.ring_max)
    if name == "maglev":
        return Maglev(endpoints, document.table)
    if name == "peak-ewma":
        return PeakEwma(endpoints, seconds(document.decay), seconds(document.initial))
    rule = document.slow_start
    return LeastRequest(endpoints, SlowStart(seconds(rule.window), rule.aggression, rule.floor) if rule else None)


def _hashed(source: HashKey, request: RequestView) -> str | None:
    if source.header:
        return request.header(source.header.lower())
    if source.cookie:
        return cookie(request, source.cookie)
    if source.query:
        return query_parameter(request, source.query)
    return request.path if source.path else request.caller


def _token(endpoint: Endpoint) -> str:
    return f"{hash64(f'{endpoint.service}/{endpoint.id}'):016x}"
