"""What fails fast, refuses, or is slow and given up does not attract: simulated, and its laws."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from policies.endpoint import Endpoint, Load
from policies.kinds.balance.decide import Balancer, make
from policies.kinds.balance.document import Balance
from policies.kinds.balance.penalty import MOST, burden, forgive, penalise
from tests.support.endpoints import endpoints, weighing

Behaviour = Callable[[Endpoint, float], tuple[float, bool]]
"""How long a try at an endpoint takes at a time, in seconds, and whether it is good."""


def simulate(
    balancer: Balancer, fleet: list[Endpoint], behaves: Behaviour, seconds: float, rate: float, start: float = 100
) -> Counter[str]:
    """How many requests each got; a request ends when its endpoint says so."""
    rng, order = random.Random(1), count()
    found: Counter[str] = Counter()
    ends: list[tuple[float, int, Endpoint, float, bool]] = []
    for n in range(int(seconds * rate)):
        now = start + n / rate
        while ends and ends[0][0] <= now:
            at, _, endpoint, took_s, ok = heapq.heappop(ends)
            endpoint.load.active -= 1
            balancer.observe(endpoint.load, took_s, ok, at)
        picked = balancer.pick(None, now, rng)
        assert picked is not None
        picked.load.active += 1
        found[picked.id] += 1
        took_s, ok = behaves(picked, now)
        heapq.heappush(ends, (now + took_s, next(order), picked, took_s, ok))
    return found


def balanced(fleet: list[Endpoint], **document: Any) -> Balancer:
    return make(Balance(**document), fleet)


@pytest.mark.parametrize("algorithm", ["least-request", "peak-ewma"])
@pytest.mark.parametrize("rate", [5, 100, 1000])
@pytest.mark.parametrize("weights", [[100.0] * 4, [200.0, 100.0, 100.0, 100.0]])
def test_what_fails_fast_gets_its_share_at_most(algorithm: str, rate: float, weights: list[float]) -> None:
    """A millisecond where the others need fifty: of least-request it got up to twice its share. Where much is in flight
    it gets next to nothing."""
    fleet = weighing(weights)

    def behaves(endpoint: Endpoint, now: float) -> tuple[float, bool]:
        return (0.001, False) if endpoint is fleet[0] else (0.05, True)

    found = simulate(balanced(fleet, algorithm=algorithm), fleet, behaves, 60, rate)
    share = weights[0] / sum(weights)
    assert 0 < found["pets-0"] <= found.total() * share * {5: 1.15, 100: 0.75, 1000: 0.5}[rate]


def test_it_is_tried_again_when_it_has_recovered() -> None:
    """In the ten seconds after that it has nearly its share."""
    fleet = endpoints(4)

    def behaves(endpoint: Endpoint, now: float) -> tuple[float, bool]:
        return (0.001, False) if endpoint is fleet[0] and now < 130 else (0.05, True)

    balancer = balanced(fleet)
    simulate(balancer, fleet, behaves, 40, 100)
    for one in fleet:
        one.load.active = 0
    found = simulate(balancer, fleet, lambda endpoint, now: (0.05, True), 10, 100, 140)
    assert found["pets-0"] >= 0.15 * found.total()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_nobody_starves(rate: float) -> None:
    """In a service so quiet that nobody has anything in flight also one that fails always gets its share."""
    fleet = endpoints(2)
    found = simulate(balanced(fleet), fleet, lambda endpoint, now: (0.001, endpoint is fleet[0]), 600, rate)
    assert found["pets-1"] == pytest.approx(0.5 * found.total(), abs=0.15 * found.total())


def test_where_all_fail_all_get_alike() -> None:
    """An outage of what they all need moves nothing; and a newcomer does not get everything afterwards."""
    fleet = endpoints(4)
    found = simulate(balanced(fleet), fleet, lambda endpoint, now: (0.001, False), 20, 1000)
    assert max(found.values()) <= 1.3 * min(found.values())
    assert all(0 < one.load.penalty <= MOST for one in fleet)


def test_what_has_faded_is_forgotten() -> None:
    """With the next good answer, and not before."""
    load = Load()
    for _ in range(3):
        penalise(load, 10.0)
    assert burden(load, 10.0) == pytest.approx(3)
    forgive(load, 12.0)
    assert 1.5 < burden(load, 12.0) < 3
    assert burden(load, 20.0) == 0 and load.penalty
    forgive(load, 20.0)
    assert not load.penalty
    penalise(load, 5.0)
    assert burden(load, 1.0) == 1.0, "a clock that jumps back"


@pytest.mark.parametrize("algorithm", ["least-request", "peak-ewma"])
def test_a_slow_one_that_is_given_up_does_not_attract(algorithm: str) -> None:
    """Whoever asks it gives up after a tenth of a second, and asks another: it gets less than half of its share."""
    fleet = endpoints(4)
    balancer = balanced(fleet, algorithm=algorithm)
    rng, ends = random.Random(1), list[tuple[float, int, Endpoint]]()
    order, found = count(), Counter[str]()
    for n in range(6000):
        now = 100 + n / 100
        while ends and ends[0][0] <= now:
            at, _, endpoint = heapq.heappop(ends)
            endpoint.load.active -= 1
            if endpoint is fleet[0]:
                penalise(endpoint.load, at)
                balancer.observe_cut(endpoint.load, 0.1, at)
            else:
                balancer.observe(endpoint.load, 0.03, True, at)
        picked = balancer.pick(None, now, rng)
        assert picked is not None
        picked.load.active += 1
        found[picked.id] += 1
        heapq.heappush(ends, (now + (0.1 if picked is fleet[0] else 0.03), next(order), picked))
    assert 0 < found["pets-0"] <= 0.125 * found.total()
