"""`balance`: which endpoint of a service takes a request."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.kinds.balance.entries import MOST
from policies.kinds.balance.session import TOKEN, StickySession
from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.plain import Flaw

HASHING: Final = ("ring-hash", "maglev")
"""Algorithms that hash something of the request."""
AlgorithmName = Literal["round-robin", "weighted", "least-request", "ring-hash", "maglev", "peak-ewma", "random"]


class HashKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to hash; exactly one field."""

    header: str = ""
    cookie: str = ""
    query: str = ""
    claim: Annotated[str, Meta(max_length=512, description="Of a verified token")] = ""
    path: bool = False
    caller: bool = False

    def check(self, path: str) -> None:
        """Raises Flaw."""
        given = [name for name in ("header", "cookie", "query", "claim", "path", "caller") if getattr(self, name)]
        if len(given) != 1:
            here = " and ".join(given) or "none"
            raise Flaw(path, f"exactly one of header, cookie, query, claim, path and caller; here: {here}")
        for name in ("header", "cookie"):
            value = getattr(self, name)
            if value and not TOKEN.match(value):
                raise Flaw(f"{path}.{name}", f"{value[:40]!r} is no {name} name")


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
        """Raises Flaw."""
        if self.failover and not self.prefer:
            raise Flaw("$.locality.failover", "does nothing when $.locality.prefer is false; leave one of them out")
        for n, zone in enumerate(self.failover):
            if not zone:
                raise Flaw(f"$.locality.failover[{n}]", "empty; the name of a zone")
            if zone in self.failover[:n]:
                raise Flaw(f"$.locality.failover[{n}]", f"{zone[:40]!r} stands in the list twice")


class Balance(Document, frozen=True, kw_only=True):
    """The document."""

    algorithm: AlgorithmName = "least-request"
    hash: Annotated[
        tuple[HashKey, ...], Meta(max_length=8, description="For ring-hash and maglev: the first that is present")
    ] = ()
    sticky: StickySession | None = None
    slow_start: SlowStartRule | None = None
    locality: Locality = Locality()
    panic: Annotated[
        float,
        Meta(ge=0, le=100, description="Percent healthy below which a zone ignores health, unless others carry it"),
    ] = 50
    bounded_load: Annotated[
        float,
        Meta(ge=0, le=1000, description="ring-hash: percent of its fair share that one may have in flight; 0 off"),
    ] = 125
    ring_min: Annotated[int, Meta(ge=1, le=MOST, description="ring-hash: points on the ring, at least")] = 512
    ring_max: Annotated[int, Meta(ge=1, le=MOST, description="ring-hash: points on the ring, at most")] = MOST
    table: Annotated[int, Meta(ge=0, le=MOST + 1, description="maglev: slots, a prime; 0 chooses by itself")] = 0
    decay: Annotated[Duration, Meta(description="peak-ewma: how fast a latency is forgotten")] = "10s"
    initial: Annotated[
        Duration, Meta(description="peak-ewma: what one that never answered counts as while a request is on its way")
    ] = "30ms"

    def check(self) -> None:
        """Everything the types let pass."""
        self._check_hash()
        self._check_idle_options()
        if self.slow_start is not None:
            bounded("$.slow_start.window", self.slow_start.window, 0.1, 3600)
        if self.sticky is not None:
            bounded("$.sticky.ttl", self.sticky.ttl, 0, 366 * 86400)
            self.sticky.check()
        self.locality.check()
        if 0 < self.bounded_load <= 100:
            raise Flaw(
                "$.bounded_load", f"{self.bounded_load:g}; more than 100 percent of the fair share, or 0 for no bound"
            )
        if self.ring_min > self.ring_max:
            raise Flaw("$.ring_min", f"{self.ring_min}, more than $.ring_max, which is {self.ring_max}")
        if self.table and not _is_prime(self.table):
            raise Flaw("$.table", f"{self.table} is no prime; 65537 is one")
        bounded("$.decay", self.decay, 0.1, 3600)
        bounded("$.initial", self.initial, 0.0001, 60)

    def _check_hash(self) -> None:
        hashes = self.algorithm in HASHING
        if hashes and not self.hash:
            raise Flaw(
                "$.hash", f'missing: {self.algorithm} needs to know what to hash, such as [{{"header": "x-user"}}]'
            )
        if self.hash and not hashes:
            raise Flaw("$.hash", f"{self.algorithm} hashes nothing; that is for ring-hash and maglev")
        for n, key in enumerate(self.hash):
            key.check(f"$.hash[{n}]")

    def _check_idle_options(self) -> None:
        """An option that another algorithm has would do nothing, and whoever wrote it would not know."""
        for option, algorithm in _OPTIONS.items():
            if self.algorithm != algorithm and getattr(self, option) != getattr(DEFAULT, option):
                raise Flaw(f"$.{option}", f"an option of {algorithm}; the algorithm here is {self.algorithm}")


_OPTIONS: Final = {
    "slow_start": "least-request",
    "bounded_load": "ring-hash",
    "ring_min": "ring-hash",
    "ring_max": "ring-hash",
    "table": "maglev",
    "decay": "peak-ewma",
    "initial": "peak-ewma",
}


def _is_prime(number: int) -> bool:
    return number > 2 and number % 2 == 1 and all(number % n for n in range(3, int(number**0.5) + 1, 2))


DEFAULT: Final = Balance()
