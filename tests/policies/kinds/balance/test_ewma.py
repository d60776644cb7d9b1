"""peak-ewma: what is learnt from answers, and who is picked for it."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Load
from policies.kinds.balance.ewma import FAILURE_PENALTY_S, PeakEwma, observe
from tests.support.endpoints import endpoints, tally

few = settings(max_examples=60)
latencies = st.floats(-10, 1e6)
times = st.floats(-1e6, 1e6)


@few
@given(st.lists(st.tuples(latencies, st.booleans(), times), min_size=1, max_size=30))
def test_the_average_stays_sane(tries: list[tuple[float, bool, float]]) -> None:
    """Whatever the clock does, the average is positive, finite and no higher than the worst that was seen."""
    load = Load()
    for latency_s, ok, now in tries:
        observe(load, latency_s, ok, now)
        assert 0 < load.ewma_s < math.inf
    assert load.ewma_s <= max(FAILURE_PENALTY_S, *(latency_s for latency_s, _, _ in tries))


def test_a_peak_counts_at_once_and_fades_slowly() -> None:
    """One slow answer is believed whole; a fast one ten seconds later only to two thirds."""
    load = Load()
    observe(load, 0.010, True, 100.0)
    observe(load, 1.0, True, 101.0)
    assert load.ewma_s == 1.0
    observe(load, 0.0, True, 111.0)
    assert load.ewma_s == pytest.approx(math.exp(-1), rel=0.01)


def test_a_fast_failure_counts_as_slow() -> None:
    """A connection refused in a millisecond is five seconds."""
    load = Load()
    observe(load, 0.001, False, 100.0)
    assert load.ewma_s == FAILURE_PENALTY_S


def test_the_first_answer_at_time_zero_is_an_answer() -> None:
    """A monotonic clock may begin at 0; that is not the same as never having answered."""
    load = Load()
    observe(load, 0.2, True, 0.0)
    observe(load, 0.1, True, 0.0)
    assert load.ewma_s == pytest.approx(0.2)


def _serve(algorithm: PeakEwma, latency_of: dict[str, tuple[float, bool]], requests: int, seed: int) -> dict[str, int]:
    """One request after the other, a millisecond apart; how many each took."""
    rng, now = random.Random(seed), 100.0
    taken = dict.fromkeys(latency_of, 0)
    for _ in range(requests):
        picked = algorithm.pick(None, now, rng)
        taken[picked.id] += 1
        latency_s, ok = latency_of[picked.id]
        now += 0.001
        observe(picked.load, latency_s, ok, now)
    return taken


@few
@given(st.integers(0, 2**32))
def test_the_slow_one_gets_little(seed: int) -> None:
    """Ten times slower than its nine neighbours: less than a third of a fair share."""
    latency_of = {f"pets-{n}": (0.001, True) for n in range(9)} | {"pets-9": (0.010, True)}
    assert _serve(PeakEwma(endpoints(10)), latency_of, 1000, seed)["pets-9"] < 33


@few
@given(st.integers(0, 2**32))
def test_fast_failures_attract_nothing(seed: int) -> None:
    """Who refuses in no time at all is avoided, not preferred."""
    latency_of = {f"pets-{n}": (0.050, True) for n in range(9)} | {"pets-9": (0.0, False)}
    assert _serve(PeakEwma(endpoints(10)), latency_of, 1000, seed)["pets-9"] < 33


def test_a_newcomer_is_tried_among_fast_ones() -> None:
    """The others answer in a millisecond, well below what an unknown one counts as; it still gets its first request."""
    fleet = endpoints(5)
    for known in fleet[1:]:
        observe(known.load, 0.001, True, 100.0)
    assert tally(PeakEwma(fleet), 50, now=100.0)["pets-0"] > 5


def test_a_newcomer_is_not_flooded() -> None:
    """Nor is it given request after request before it has answered one."""
    fleet = endpoints(5)
    for known in fleet[1:]:
        observe(known.load, 0.001, True, 100.0)
    algorithm, rng = PeakEwma(fleet), random.Random(2)
    for _ in range(100):
        picked = algorithm.pick(None, 100.0, rng)
        if picked is fleet[0]:
            picked.load.active += 1
    assert fleet[0].load.active <= 5


def test_a_failure_is_forgiven() -> None:
    """Its average fades: ten decays later the endpoint is tried again."""
    fleet = endpoints(5)
    for one in fleet:
        observe(one.load, 0.001, True, 100.0)
    observe(fleet[0].load, 0.001, False, 100.0)
    assert tally(PeakEwma(fleet), 200, now=100.0)["pets-0"] <= 10
    for one in fleet[1:]:
        observe(one.load, 0.001, True, 200.0)
    assert tally(PeakEwma(fleet), 200, now=200.0)["pets-0"] > 40


def test_a_forgiven_one_that_hangs_is_not_flooded() -> None:
    """While its trial request is on its way it counts as slow again."""
    fleet = endpoints(5)
    observe(fleet[0].load, 5.0, False, 100.0)
    for one in fleet[1:]:
        observe(one.load, 0.001, True, 200.0)
    algorithm, rng = PeakEwma(fleet), random.Random(2)
    for _ in range(200):
        picked = algorithm.pick(None, 200.0, rng)
        if picked is fleet[0]:
            picked.load.active += 1
    assert 1 <= fleet[0].load.active <= 8


def test_decay_is_what_the_document_says() -> None:
    """A short decay forgives sooner."""
    fleet = endpoints(2)
    observe(fleet[0].load, 1.0, True, 100.0)
    observe(fleet[1].load, 0.1, True, 103.0)
    assert tally(PeakEwma(fleet, decay_s=1.0), 100, now=103.0)["pets-0"] > 60
    assert tally(PeakEwma(fleet, decay_s=60.0), 100, now=103.0)["pets-0"] < 40
