# mypyc: compiled
"""Who may take a request at all: health, draining, panic, and the caller's zone first.

Laws
- An endpoint with weight 0, on its way out, or suspected to be gone, takes nothing while any other can.
- When nobody who stays is healthy, the healthy who are on their way out count as if they stayed: in a rolling update
  of one instance the old one serves until the new one is up.
- When too few are healthy (the panic threshold) health is ignored: sending everything to the last healthy one would
  only take it down too. When none is healthy, that holds whatever the threshold.
- The local zone takes all that its healthy share can carry (times 1.4), the rest fails over, by health and nothing
  else, to the zones named and then to any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.endpoint import Endpoint

OVERPROVISION: Final = 1.4


class Tier(NamedTuple):
    """Endpoints of one choice of zones, and the share of traffic that they get."""

    name: str
    endpoints: list[Endpoint]
    share: float


class Candidates(NamedTuple):
    """Who may take requests."""

    tiers: list[Tier]
    """Those with a share above 0, nearest first; empty when there are no endpoints. The shares add up to 1."""
    usable: list[Endpoint]
    """Everyone who could take a request, also where no tier sends any."""
    pool: str
    """What `usable` is made of: `serving`, or which last resort."""
    panic: bool


def candidates(
    endpoints: Sequence[Endpoint], zone: str, failover: Sequence[str], panic_percent: float, prefer_zone: bool
) -> Candidates:
    """The tiers for a caller in `zone`."""
    pool, eligible = _eligible(endpoints)
    if not eligible:
        return Candidates([], [], pool, False)
    healthy = [e for e in eligible if e.healthy]
    panic = not healthy or 100 * len(healthy) < panic_percent * len(eligible)
    usable = eligible if panic else healthy
    if prefer_zone and zone:
        return Candidates(_spread(eligible, zone, failover, panic), usable, pool, panic)
    return Candidates([Tier("any", usable, 1.0)], usable, pool, panic)


def _eligible(endpoints: Sequence[Endpoint]) -> tuple[str, list[Endpoint]]:
    believed = [e for e in endpoints if not e.suspect]
    staying = [e for e in believed if e.weight > 0 and not e.draining]
    if any(e.healthy for e in staying):
        return "serving", staying
    leaving = [e for e in believed if e.weight > 0 and e.draining and e.healthy]
    if leaving:
        return "draining", staying + leaving
    for pool, found in (
        ("serving", staying),
        ("weightless", [e for e in believed if not e.draining]),
        ("draining", believed),
        ("suspect", list(endpoints)),
    ):
        if found:
            return pool, found
    return "none", []


def _spread(eligible: Sequence[Endpoint], zone: str, failover: Sequence[str], panic: bool) -> list[Tier]:
    named = list(dict.fromkeys([zone, *failover]))
    levels = [(name, [e for e in eligible if e.zone == name]) for name in named]
    levels.append(("any", [e for e in eligible if e.zone not in named]))
    left = 1.0
    tiers: list[Tier] = []
    for name, members in levels:
        usable = members if panic else [e for e in members if e.healthy]
        if not usable or left < 1e-9:
            continue
        share = min(left, OVERPROVISION * len(usable) / len(members))
        tiers.append(Tier(name, usable, share))
        left -= share
    total = sum(tier.share for tier in tiers)
    return [tier._replace(share=tier.share / total) for tier in tiers]


def choose(tiers: Sequence[Tier], point: float) -> int:
    """The index of the tier at a point from 0 to 1, when the tiers lie side by side, each as wide as its share."""
    for n, tier in enumerate(tiers):
        point -= tier.share
        if point < 0:
            return n
    return len(tiers) - 1
