# mypyc: compiled
"""`peak-ewma`: who is expected to answer first, learnt from the answers.

An average that jumps up at once and comes down slowly, times the queue; after Finagle's. What was slow a moment ago is
avoided at once, and comes back as its average is forgotten.

Laws
- A failure counts as a slow answer, however fast it came: otherwise whoever refuses everything attracts everything.
- Nobody starves: an average fades until its endpoint is the cheapest, and a newcomer costs nothing until it is tried.
- Nobody is flooded by being unknown or forgotten: while such an endpoint has a request in flight it counts as slow.
"""

from __future__ import annotations

import math
import random
from typing import Final

from policies.endpoint import Endpoint, Load
from policies.kinds.balance.algorithms import Endpoints, RandomChoice, weights
from policies.kinds.balance.penalty import forgive, penalise

FAILURE_PENALTY_S: Final = 5.0
"""What a failed try counts as (Linkerd's figure)."""
DECAY_S: Final = 10.0
INITIAL_S: Final = 0.03
_LEAST_S: Final = 1e-6


class PeakEwma:
    """Two choices by expected latency."""

    __slots__ = ("_decay_s", "_draw", "_endpoints", "_initial_s", "_weights")

    def __init__(self, endpoints: Endpoints, decay_s: float = DECAY_S, initial_s: float = INITIAL_S) -> None:
        self._endpoints = endpoints
        self._weights = weights(endpoints)
        self._draw = RandomChoice(endpoints)
        self._decay_s = decay_s
        self._initial_s = initial_s

    def pick(self, key: int | None, now: float, rng: random.Random) -> Endpoint:
        """The one of two that is expected to answer first."""
        draw = self._draw.draw
        first, second = draw(rng), draw(rng)
        if first == second:
            second = draw(rng)
        return self._endpoints[first if self._cost(first, now) <= self._cost(second, now) else second]

    def mark(self) -> object:
        """There are no turns."""
        return None

    def reset(self, mark: object) -> None:
        """Nothing to take back."""

    def _cost(self, index: int, now: float) -> float:
        load = self._endpoints[index].load
        known_s = load.ewma_s
        if not known_s:
            expected_s = self._initial_s if load.active else 0.0
        else:
            expected_s = max(known_s * math.exp(-max(0.0, now - load.ewma_at) / self._decay_s), _LEAST_S)
            if load.active:
                expected_s = max(expected_s, min(known_s, self._initial_s))
        return expected_s * (load.active + 1) / self._weights[index]


def observe(load: Load, latency_s: float, ok: bool, now: float, decay_s: float = DECAY_S) -> None:
    """Take a try that ended into what is known of its endpoint: its average, and what it is penalised for. Not `ok`: it
    failed, or was refused for too many. A clock that jumped back forgets nothing."""
    if not ok:
        penalise(load, now)
        if latency_s < FAILURE_PENALTY_S:
            latency_s = FAILURE_PENALTY_S
    elif load.penalty:
        forgive(load, now)
    if latency_s < _LEAST_S:
        latency_s = _LEAST_S
    if latency_s >= load.ewma_s:
        load.ewma_s = latency_s
    else:
        kept = math.exp(-max(0.0, now - load.ewma_at) / decay_s)
        load.ewma_s = load.ewma_s * kept + latency_s * (1 - kept)
    load.ewma_at = now


def observe_cut(load: Load, waited_s: float, now: float, decay_s: float = DECAY_S) -> None:
    """A try was given up before its answer: it would have taken longer than that."""
    if waited_s > load.ewma_s * math.exp(-max(0.0, now - load.ewma_at) / decay_s):
        load.ewma_s = max(waited_s, _LEAST_S)
        load.ewma_at = now
