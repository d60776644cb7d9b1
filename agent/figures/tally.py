"""What was counted, of one edge of one window or of the whole mesh: whole numbers that are added up. Pure.

Laws
- Adding is associative and commutative, and the sum of parts is what one would have counted who saw everything: all is
  whole numbers (milliseconds of thousandths, and so on), and a sum stays at MOST instead of going beyond it.
- What there is too much of is folded into OTHERS, at first within its service, so that sums stay what they are.
- What others say is bounded by its types: a name, a count or a bucket that makes no sense is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

N = TypeVar("N", int, str)
MOST: Final = 2**53
OTHERS: Final = "others"
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MOST)]
Name: TypeAlias = Annotated[str, Meta(max_length=512)]

IN_FLIGHT: Final = "in_flight_m"
PENDING: Final = "pending_m"
CPU: Final = "cpu_m"
GAUGES: Final = frozenset((IN_FLIGHT, PENDING, CPU))
"""In thousandths: requests with an instance, requests that wait for a connection, cores. Of several windows the mean
counts; of everything else the sum."""
SHED: Final = "shed/"
REFUSED: Final = "refused/"
"""Followed by what became of it, and by the kind of policy."""


class Key(NamedTuple):
    """Of what; empty: of all, or not known."""

    service: Name = ""
    caller: Name = ""
    route: Name = ""
    version: Name = ""
    instance: Name = ""


DIMENSIONS: Final[dict[str, tuple[str, ...]]] = {
    "service": ("service",),
    "edge": ("service", "caller"),
    "route": ("service", "route"),
    "version": ("service", "version"),
    "instance": ("service", "instance"),
}
"""By what figures are told apart."""


class Tally(msgspec.Struct, array_like=True):
    """Requests that ended, and what else was counted."""

    requests: dict[Annotated[int, Meta(ge=0, le=9)], Count] = {}
    """By class of status; 0: the client went away before an answer."""
    duration_us: Count = 0
    """Of all of them."""
    buckets: dict[Annotated[int, Meta(ge=0, le=63)], Count] = {}
    """As `agent.figures.histogram` has them."""
    counts: Annotated[dict[Annotated[str, Meta(max_length=64)], Count], Meta(max_length=200)] = {}
    """GAUGES, and what begins with SHED or REFUSED."""

    def add(self, other: Tally) -> None:
        """Have the other in it too."""
        _add(self.requests, other.requests)
        self.duration_us = min(MOST, self.duration_us + other.duration_us)
        _add(self.buckets, other.buckets)
        _add(self.counts, other.counts)

    def copy(self) -> Tally:
        """One that may be added to."""
        return Tally(dict(self.requests), self.duration_us, dict(self.buckets), dict(self.counts))

    def less(self, before: Tally | None) -> Tally:
        """What came since; never below nothing: who counts anew begins from nothing."""
        if before is None:
            return self.copy()
        if any(self.requests.get(status, 0) < count for status, count in before.requests.items()):
            return self.less(None)
        return Tally(
            _less(self.requests, before.requests),
            max(0, self.duration_us - before.duration_us),
            _less(self.buckets, before.buckets),
            _less(self.counts, before.counts),
        )

    def mean(self, windows: int) -> Tally:
        """The sum of several windows, with the gauges of one."""
        counts = {n: count // windows if n in GAUGES else count for n, count in self.counts.items()}
        return Tally(self.requests, self.duration_us, self.buckets, counts)

    @property
    def total(self) -> int:
        """Requests."""
        return sum(self.requests.values())

    def __bool__(self) -> bool:
        return bool(self.requests or self.counts)


Rows: TypeAlias = dict[Key, Tally]


def add(rows: Rows, key: Key, tally: Tally) -> None:
    """Have a tally in rows; it is not kept itself."""
    known = rows.get(key)
    if known is None:
        rows[key] = tally.copy()
    else:
        known.add(tally)


def merged(parts: Iterable[Iterable[tuple[Key, Tally]]]) -> Rows:
    """Everything that was counted anywhere."""
    rows: Rows = {}
    for part in parts:
        for key, tally in part:
            add(rows, key, tally)
    return rows


def grouped(rows: Mapping[Key, Tally], by: str) -> Rows:
    """Told apart by some things only: one of DIMENSIONS. Instances are counted beside the edges, and not among them:
    requests are told from one of both, and never twice."""
    kept = DIMENSIONS[by]
    found: Rows = {}
    for key, tally in rows.items():
        if bool(key.instance) == (by == "instance"):
            add(found, Key(**{name: getattr(key, name) for name in kept}), tally)
    return found


def others(key: Key, service: str = OTHERS) -> Key:
    """What a row is folded into: that of its service, or of all; edges and instances apart."""
    return Key(service, OTHERS, OTHERS, OTHERS, OTHERS if key.instance else "")


def fold(rows: Rows, most: int) -> tuple[Rows, int]:
    """At most so many (4 at least), those with most requests; and how many went into others. Sums stay as they are."""
    if len(rows) <= most:
        return rows, 0
    ordered = sorted(rows, key=lambda key: (-rows[key].total, key))
    services = list(dict.fromkeys(key.service for key in ordered if key.service != OTHERS))
    own = set(services[: (most - 2) // 4])
    """Those whose rest stands in rows of its own, of edges and of instances."""
    kept = ordered[: most - 2 * len(own) - 2]
    found: Rows = {}
    for key in kept:
        add(found, key, rows[key])
    for key in ordered[len(kept) :]:
        service = key.service if key.service in own else OTHERS
        add(found, others(key, service), rows[key])
    return found, len(ordered) - len(kept)


def _add(to: dict[N, int], other: Mapping[N, int]) -> None:
    for name, count in other.items():
        to[name] = min(MOST, to.get(name, 0) + count)


def _less(now: Mapping[N, int], before: Mapping[N, int]) -> dict[N, int]:
    found = {name: count - before.get(name, 0) for name, count in now.items()}
    return {name: count for name, count in found.items() if count > 0}
