# mypyc: compiled
"""What an endpoint that failed, refused, or was left to itself still counts as having in flight.

Requests in flight say little of an endpoint that refuses whatever it gets: it has none, and attracts everything. So a
failed try counts on for a while, as if it had taken long (Linkerd does so for 429, of an average latency), and one that
was given up because another answered first does too: the endpoint may still be at it.

Laws
- It weighs against what others have in flight, and between two that have nothing it decides nothing: there nobody
  attracts. So who fails gets his share at most, and in a quiet service just that.
- It fades by itself, and comes to an end.
- It has a bound: where all that an outage left behind is penalised, a newcomer does not get everything.
"""

from __future__ import annotations

import math
from typing import Final

from policies.endpoint import Load

FADES_S: Final = 5.0
"""After so long a third of it is left."""
MOST: Final = 100.0
"""Requests that it counts as."""
_NOTHING: Final = 0.5


def penalise(load: Load, now: float) -> None:
    """One more. A clock that jumped back fades nothing."""
    load.penalty = min(_faded(load, now) + 1.0, MOST)
    load.penalty_at = now


def forgive(load: Load, now: float) -> None:
    """It has answered well: what has faded need not be looked at any more."""
    if not _faded(load, now):
        load.penalty = 0.0


def burden(load: Load, now: float) -> float:
    """In flight, or as good as that."""
    return load.active + _faded(load, now)


def busier(first: Load, second: Load, first_weight: float, second_weight: float, now: float) -> bool:
    """Whether the first of two has more in flight for its weight than the second."""
    if not (first.active or second.active):
        return False
    return burden(first, now) * second_weight > burden(second, now) * first_weight


def _faded(load: Load, now: float) -> float:
    if not load.penalty:
        return 0.0
    left = load.penalty * math.exp(-max(0.0, now - load.penalty_at) / FADES_S)
    return left if left >= _NOTHING else 0.0
