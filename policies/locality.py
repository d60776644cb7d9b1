"""Who may take a request at all: health, draining, panic, and the caller's zone first.

Laws
- An endpoint with weight 0, on its way out, or suspected to be gone, takes nothing while any other can.
- When too few are healthy (the panic threshold) health is ignored: sending everything to the last healthy one would
  only take it down too.
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
    """Those with a share above 0, nearest first; empty when there are no endpoints."""
    panic: bool


def candidates(
    endpoints: Sequence[Endpoint], zone: str, failover: Sequence[str], panic_percent: float, prefer_zone: bool
) -> Candidates:
    """The tiers for a caller in `zone`."""
    eligible = [e for e in endpoints if e.weight > 0 and not e.draining and not e.suspect]
    if not eligible:
        return Candidates(_last_resort(endpoints), False)
    healthy = [e for e in eligible if e.healthy]
    panic = 100 * len(healthy) < panic_percent * len(eligible) or not healthy
    if not prefer_zone or not zone:
        return Candidates([Tier("any", eligible if panic else healthy, 1.0)], panic)
    return Candidates(_spread(eligible, zone, failover, panic), panic)


def _last_resort(endpoints: Sequence[Endpoint]) -> list[Tier]:
    """Nothing is eligible: healthy ones that drain, then what is left of the rest, then suspects."""
    draining = [e for e in endpoints if e.draining and not e.suspect]
    for name, chosen in (
        ("draining", [e for e in draining if e.healthy]),
        ("weightless", [e for e in endpoints if not e.draining and not e.suspect]),
        ("draining", draining),
        ("suspect", [e for e in endpoints if e.suspect]),
    ):
        if chosen:
            return [Tier(name, chosen, 1.0)]
    return []


def _spread(eligible: Sequence[Endpoint], zone: str, failover: Sequence[str], panic: bool) -> list[Tier]:
    named = [zone, *(z for z in failover if z != zone)]
    levels: list[tuple[str, list[Endpoint]]] = [(name, [e for e in eligible if e.zone == name]) for name in named]
    levels.append(("any", [e for e in eligible if e.zone not in named]))
    left = 1.0
    tiers: list[Tier] = []
    for name, members in levels:
        usable = members if panic else [e for e in members if e.healthy]
        if not usable or left <= 0:
            continue
        share = min(left, OVERPROVISION * len(usable) / len(members))
        tiers.append(Tier(name, usable, share))
        left -= share
    total = sum(tier.share for tier in tiers)
    return [tier._replace(share=tier.share / total) for tier in tiers]
