# mypyc: compiled
"""Who may take a request at all: health, draining, the caller's zone first, and panic.

Laws
- An endpoint with weight 0, on its way out, or suspected to be gone, takes nothing while any other can.
- A newcomer that has not been healthy yet is not there while anybody is: it is none of those that were lost, by which
  panic is judged, and may not even listen. So a service may grow to any size at once.
- When nobody who stays is healthy, the healthy who are on their way out count as if they stayed: in a rolling update
  of one instance the old one serves until the new one is up.
- Zones are levels of preference: the caller's, those named, any. A level takes all that its healthy share can carry
  (times 1.4), and what is left goes on to the next. Where all levels together cannot carry it, each gets in proportion.
- Panic is a level's own: where too few of it are healthy (the threshold), health is ignored there, since sending
  everything to its last healthy one would only take that down too; but not while the others can carry what it cannot.
  A level without a healthy one gets nothing while any other has one.
- When none is healthy anywhere health is ignored everywhere, whatever the threshold, and all get alike.
- Who is passed over now (ejected, its breaker open, it refused a connection) counts as unhealthy for what its level can
  carry, and brings on no panic: what passes it over has bounds of its own.

As in Envoy: priority levels, their overprovisioning factor, and when panic is disregarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.endpoint import Endpoint

OVERPROVISION: Final = 1.4
_HAIR: Final = 1e-9
"""Less than that is a matter of rounding."""


class Tier(NamedTuple):
    """One level of preference: endpoints of one choice of zones, and the share of traffic that they get."""

    name: str
    endpoints: list[Endpoint]
    """The healthy, or in panic everyone."""
    members: list[Endpoint]
    """Everyone, in any case."""
    share: float
    healthy: float
    """How much of the level is, from 0 to 1."""
    panic: bool


class Candidates(NamedTuple):
    """Who may take requests."""

    tiers: list[Tier]
    """Those with a share above 0, nearest first; empty when there are no endpoints. The shares add up to 1."""
    spares: list[Tier]
    """The levels behind them, which get nothing as long as nobody is passed over."""
    usable: list[Endpoint]
    """Everyone who could take a request, also where no tier sends any; nearest first."""
    pool: str
    """What `usable` is made of: `serving`, or which last resort."""
    panic: bool
    """Whether any level is in panic."""


Level = tuple[str, list[Endpoint]]
"""Its name, and all who belong to it."""


def candidates(
    endpoints: Sequence[Endpoint], zone: str, failover: Sequence[str], panic_percent: float, prefer_zone: bool
) -> Candidates:
    """The tiers for a caller in `zone`."""
    pool, eligible = _eligible(endpoints)
    if not eligible:
        return Candidates([], [], [], pool, False)
    levels = _levels(eligible, zone, failover) if prefer_zone and zone else [("any", eligible)]
    found = _spread(levels, panic_percent)
    tiers = [tier for tier in found if tier.share > 0]
    spares = [tier for tier in found if not tier.share]
    usable = [e for tier in found for e in tier.endpoints]
    return Candidates(tiers, spares, usable, pool, any(tier.panic for tier in found))


def _eligible(endpoints: Sequence[Endpoint]) -> tuple[str, list[Endpoint]]:
    believed = [e for e in endpoints if not e.suspect]
    staying = [e for e in believed if e.weight > 0 and not e.draining]
    if any(e.healthy for e in staying):
        return "serving", _arrived(staying)
    leaving = [e for e in believed if e.weight > 0 and e.draining and e.healthy]
    if leaving:
        return "draining", _arrived(staying) + leaving
    for pool, found in (
        ("serving", staying),
        ("weightless", [e for e in believed if not e.draining]),
        ("draining", believed),
        ("suspect", list(endpoints)),
    ):
        if found:
            return pool, found
    return "none", []


def _arrived(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Without newcomers that have not been healthy yet."""
    return [e for e in endpoints if e.healthy or not e.load.new]


def _levels(eligible: Sequence[Endpoint], zone: str, failover: Sequence[str]) -> list[Level]:
    """Nearest first; none of them empty."""
    named = list(dict.fromkeys([zone, *failover]))
    levels = [(name, [e for e in eligible if e.zone == name]) for name in named]
    levels.append(("any", [e for e in eligible if e.zone not in named]))
    return [level for level in levels if level[1]]


def _spread(levels: Sequence[Level], panic_percent: float) -> list[Tier]:
    """The levels that have anybody to send to."""
    healthy = [[e for e in members if e.healthy] for _, members in levels]
    if not any(healthy):
        count = sum([len(members) for _, members in levels])
        return [Tier(name, members, members, len(members) / count, 0.0, True) for name, members in levels]
    parts = [len(found) / len(members) for found, (_, members) in zip(healthy, levels, strict=True)]
    carried = [_carried(part) for part in parts]
    shares = _shares(carried)
    tiers: list[Tier] = []
    for n, (name, members) in enumerate(levels):
        if healthy[n]:
            panic = 100 * parts[n] < panic_percent and not _relieved(carried, n)
            tiers.append(Tier(name, members if panic else healthy[n], members, shares[n], parts[n], panic))
    return tiers


def _carried(healthy: float) -> float:
    """The share of all traffic that a level can carry of which so much is healthy."""
    return min(1.0, OVERPROVISION * healthy)


def _relieved(carried: Sequence[float], level: int) -> bool:
    """Whether the other levels can carry what this one cannot. A level that is in panic although it could carry all, as
    a threshold above 71% has it, is relieved by others that could do so too."""
    own = carried[level]
    others = sum(carried) - own
    return others + (own if own < 1 else 0.0) > 1 - _HAIR


def _shares(carried: Sequence[float]) -> list[float]:
    """Who gets how much, nearest first; they add up to 1. Somebody can carry something."""
    left = 1.0
    shares: list[float] = []
    for most in carried:
        shares.append(min(left, most) if left > _HAIR else 0.0)
        left -= shares[-1]
    total = sum(shares)
    return [share / total for share in shares]


def spilled(tiers: Sequence[Tier], now: float) -> list[Tier]:
    """The tiers and spares as they share traffic at a time when some of them are passed over; as they are, when all
    are."""
    carried: list[float] = []
    for tier in tiers:
        taking = sum([1 for e in tier.endpoints if e.load.refused_until <= now]) / len(tier.endpoints)
        carried.append(_carried(tier.healthy * taking) if tier.healthy else tier.share * taking)
    if not any(carried):
        return list(tiers)
    return [tier._replace(share=share) for tier, share in zip(tiers, _shares(carried), strict=True)]


def choose(tiers: Sequence[Tier], point: float) -> int:
    """The index of the tier at a point from 0 to 1, when the tiers lie side by side, each as wide as its share."""
    last = 0
    for n, tier in enumerate(tiers):
        if tier.share > 0:
            last = n
            point -= tier.share
            if point < 0:
                return n
    return last
