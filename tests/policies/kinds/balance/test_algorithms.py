"""The algorithms that look at nothing but weights and what is in flight."""

import math
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Load
from policies.kinds.balance.algorithms import (
    LEAST_WEIGHT,
    BalanceState,
    LeastRequest,
    RandomChoice,
    RoundRobin,
    SlowStart,
    Turn,
    Weighted,
    weights,
)
from policies.kinds.balance.ewma import PeakEwma
from policies.kinds.balance.maglev import Maglev
from policies.kinds.balance.ring import RingHash
from tests.support.endpoints import endpoint, endpoints, tally, weighing

few = settings(max_examples=60)
seeds = st.integers(0, 2**32)
ODD_WEIGHTS = [0.0, 1e308, 1.7e308, 5e-324, 1e-300, 100.0, 1.0, math.inf, math.nan, -5.0]


@few
@given(st.lists(st.sampled_from(ODD_WEIGHTS) | st.floats(), min_size=1, max_size=20))
def test_scaled_weights_are_sane(raw: list[float]) -> None:
    """Whatever weights there are, the scaled ones lie between LEAST_WEIGHT and 1, and their sum is finite."""
    scaled = weights(weighing(raw))
    assert all(LEAST_WEIGHT <= weight <= 1 for weight in scaled)
    assert max(scaled) == 1


@few
@given(st.lists(st.sampled_from(ODD_WEIGHTS), min_size=1, max_size=8), st.integers(0, 2**64 - 1), seeds)
def test_no_weight_breaks_an_algorithm(raw: list[float], key: int, seed: int) -> None:
    """Zero, negative, infinite, denormal and not-a-number weights: each algorithm still picks one of the list."""
    fleet = weighing(raw)
    rng = random.Random(seed)
    for algorithm in (
        RoundRobin(fleet, Turn()),
        Weighted(fleet),
        RandomChoice(fleet),
        LeastRequest(fleet, None),
        LeastRequest(fleet, SlowStart(10, 1, 0.1)),
        PeakEwma(fleet),
        RingHash(fleet, 1.25, 16, 1024),
        Maglev(fleet, 251),
    ):
        for asked in (key, None):
            assert algorithm.pick(asked, 5.0, rng) in fleet


@pytest.mark.parametrize("make", [Weighted, RandomChoice, lambda fleet: LeastRequest(fleet, None)])
def test_a_crushing_weight_takes_everything(make: type[Weighted]) -> None:
    """1e308 beside 1: the ratio holds, nothing overflows to the last of the list."""
    assert tally(make(weighing([1, 1e308, 1])), 500).keys() == {"pets-1"}


# Round robin.


@few
@given(st.integers(1, 30), st.integers(1, 200), seeds)
def test_round_robin_is_even_within_one(count: int, picks: int, seed: int) -> None:
    """After any number of picks nobody has had two more than another."""
    found = tally(RoundRobin(endpoints(count), Turn()), picks, seed=seed)
    each = [found[f"pets-{n}"] for n in range(count)]
    assert max(each) - min(each) <= 1


def test_round_robin_goes_on_after_a_recompile() -> None:
    """The turn is in the state: a policy edit does not send the first request to the first endpoint again."""
    state, fleet, rng = BalanceState(), endpoints(5), random.Random(1)
    picked = [RoundRobin(fleet, state.turn("any")).pick(None, 0, rng) for _ in range(5)]
    assert set(picked) == set(fleet)


def test_round_robin_begins_anywhere() -> None:
    """Many workers that learn of a service together do not all begin with the same endpoint."""
    fleet = endpoints(10)
    firsts = {RoundRobin(fleet, Turn()).pick(None, 0, random.Random(seed)).id for seed in range(50)}
    assert len(firsts) >= 8


def test_tiers_have_turns_of_their_own() -> None:
    """A rotation is of one tier; another tier's picks do not skip anyone in it."""
    state = BalanceState()
    assert state.turn("zone-a") is state.turn("zone-a")
    assert state.turn("zone-a") is not state.turn("any")


# Weighted.

weight_lists = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=12)


@few
@given(weight_lists, st.integers(1, 400), seeds)
def test_weighted_is_proportional(raw: list[float], picks: int, seed: int) -> None:
    """Each count is what its weight says, to within one and its share of the others' ones."""
    found = tally(Weighted(weighing(raw)), picks, seed=seed)
    total = math.fsum(raw)
    for n, weight in enumerate(raw):
        assert abs(found[f"pets-{n}"] - picks * weight / total) <= 1 + len(raw) * weight / total + 1e-6


@few
@given(seeds)
def test_weighted_interleaves(seed: int) -> None:
    """At 3 to 1 the heavy one never comes more than four times in a row: no bursts."""
    algorithm = Weighted(weighing([300, 100]))
    rng = random.Random(seed)
    row = "".join(algorithm.pick(None, 0, rng).id[-1] for _ in range(80))
    assert "00000" not in row
    assert "11" not in row


def test_weighted_begins_anywhere() -> None:
    """Many workers that learn of a service together do not all send their first request to the heaviest."""
    firsts = {Weighted(weighing([110, 100, 100, 100])).pick(None, 0, random.Random(seed)).id for seed in range(40)}
    assert len(firsts) == 4


# Random.


@few
@given(seeds)
def test_random_follows_the_weights(seed: int) -> None:
    """At 3 to 1 of 2,000 picks three quarters, within six standard deviations."""
    assert tally(RandomChoice(weighing([300, 100])), 2000, seed=seed)["pets-0"] == pytest.approx(1500, abs=120)


# Least request.


@few
@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), seeds)
def test_least_request_never_picks_the_single_busiest(active: list[int], seed: int) -> None:
    """Of two different endpoints the less busy one: whoever is busier than all others is never picked."""
    fleet = endpoints(len(active))
    for one, count in zip(fleet, active, strict=True):
        one.load.active = count
    fleet[0].load.active = max(active) + 1
    assert tally(LeastRequest(fleet, None), 60, seed=seed)["pets-0"] == 0


@few
@given(seeds)
def test_least_request_keeps_queues_level(seed: int) -> None:
    """Requests that never end: after 1,000 on ten endpoints no queue is far from the mean (one choice would be ±30)."""
    fleet, rng = endpoints(10), random.Random(seed)
    algorithm = LeastRequest(fleet, None)
    for _ in range(1000):
        algorithm.pick(None, 0, rng).load.active += 1
    assert all(abs(one.load.active - 100) <= 6 for one in fleet)


@few
@given(seeds)
def test_least_request_fills_by_weight(seed: int) -> None:
    """Requests that never end, weights 300 and 100 twice: the heavy one holds three fifths."""
    fleet, rng = weighing([300, 100, 100]), random.Random(seed)
    algorithm = LeastRequest(fleet, None)
    for _ in range(1000):
        algorithm.pick(None, 0, rng).load.active += 1
    assert fleet[0].load.active == pytest.approx(600, abs=40)


def test_idle_least_request_follows_the_weights() -> None:
    """With nothing in flight only the draw counts: 3 to 1."""
    assert tally(LeastRequest(weighing([300, 100]), None), 4000)["pets-0"] == pytest.approx(3000, abs=160)


# Slow start.


@few
@given(st.floats(0.1, 3600), st.floats(0.1, 10), st.floats(0.01, 1), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_slow_start_share_has_bounds(window: float, aggression: float, floor: float, since: float, now: float) -> None:
    """Never below the floor, never above 1, 1 after the window; also when the clock jumps back."""
    share = SlowStart(window, aggression, floor).share(Load(since), now)
    assert floor <= share <= 1
    if now - since >= window:
        assert share == 1


def test_slow_start_curve() -> None:
    """Evenly at aggression 1: a tenth, a half, all. At 2 a quarter of the window gives half."""
    load = Load(100.0)
    assert [SlowStart(10, 1, 0.1).share(load, 100.0 + t) for t in (0, 5, 10)] == [0.1, 0.5, 1]
    assert SlowStart(10, 2, 0.1).share(load, 102.5) == pytest.approx(0.5)


@few
@given(st.integers(2, 20), st.integers(0, 30), seeds)
def test_a_newcomer_is_eased_in_and_not_starved(others: int, busy: int, seed: int) -> None:
    """At its beginning it gets between half and four times its floor (a tenth of a fair share), however busy or
    idle the others are: twice, where being idle wins each of two draws, and a little more among few."""
    fleet = [*endpoints(others, load=None), endpoint("new", load=Load(100.0))]
    for one in fleet[:-1]:
        one.load.active = busy
    picks = 400 * len(fleet)
    found = tally(LeastRequest(fleet, SlowStart(60, 1, 0.1)), picks, now=100.0, seed=seed)
    fair = picks / len(fleet)
    assert 0.05 * fair <= found["new"] <= 0.4 * fair


def test_the_window_ends() -> None:
    """After it the newcomer is one of all."""
    fleet = [*endpoints(3), endpoint("new", load=Load(100.0))]
    found = tally(LeastRequest(fleet, SlowStart(60, 1, 0.1)), 4000, now=161.0)
    assert found["new"] == pytest.approx(1000, abs=170)


def test_a_fleet_of_newcomers_shares_alike() -> None:
    """When all are new nobody has to wait for anybody."""
    fleet = [endpoint(f"pets-{n}", load=Load(100.0)) for n in range(4)]
    found = tally(LeastRequest(fleet, SlowStart(60, 1, 0.1)), 4000, now=100.0)
    assert min(found.values()) == pytest.approx(1000, abs=170)


def test_slow_start_goes_by_weight_too() -> None:
    """A newcomer of three times the weight gets about a tenth of its own share, not of another's."""
    fleet = [endpoint("old", weight=100), endpoint("new", weight=300, load=Load(100.0))]
    found = tally(LeastRequest(fleet, SlowStart(60, 1, 0.1)), 5000, now=100.0)
    assert 0.1 < found["new"] / 5000 < 0.45


def test_two_unlike_draws_are_needed() -> None:
    """With two endpoints the idle one always wins: the two drawn are never the same."""
    fleet = endpoints(2)
    fleet[0].load.active = 1
    algorithm, rng = LeastRequest(fleet, None), random.Random(3)
    assert {e.id for e in islice(iter(lambda: algorithm.pick(None, 0, rng), None), 100)} == {"pets-1"}
