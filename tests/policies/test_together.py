"""What workers count together: what a document allows is the agent's, however many they are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.breaker.circuit import Circuit
from policies.kinds.breaker.figures import Figures
from policies.kinds.shed import figures as shed_figures
from policies.kinds.shed.limiter import Limiter
from policies.together import CHANGES, OWNERS, PENDING, REGION, REQUESTS, WORDS, Gauge, Together, region_at

RNG = random.Random(7)


def memory(workers: int) -> memoryview:
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    for region in range(workers):
        words[OWNERS + region] = 100 + region
        words[CHANGES] += 1
    return words


def gauges(words: memoryview, workers: int) -> list[Gauge]:
    return [Gauge(Together(words, region), "pets") for region in range(workers)]


def circuits(of: list[Gauge], figures: Figures) -> list[Circuit]:
    made = []
    for gauge in of:
        circuit = Circuit(figures)
        circuit.count_together(gauge)
        made.append(circuit)
    return made


def limiters(of: list[Gauge], most: int) -> list[Limiter]:
    made = []
    for gauge in of:
        one = Limiter(shed_figures.Figures(fixed=most))
        one.count_together(gauge)
        made.append(one)
    return made


STEPS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60)


@given(st.integers(1, 6), STEPS)
def test_requests_of_all_workers_are_one_sum(most: int, steps: list[tuple[int, bool]]) -> None:
    """One more passes where there is room in the sum, and nowhere else, whichever worker it comes to; of a breaker and
    of a fixed limit on what is let in alike."""
    of = gauges(memory(4), 4)
    breakers, limits = circuits(of, Figures(max_active=most)), limiters(of, most)
    for at, enters in steps:
        total = sum(c.active for c in breakers)
        assert total == sum(each.active for each in limits) <= most
        if enters:
            assert bool(breakers[at].peek(1.0, RNG, 0)) is (total >= most)
            assert bool(breakers[at].enter(1.0, RNG, 0)) is (total >= most)
            assert bool(limits[at].enter(0, 1.0)) is (total >= most)
        elif at % 2:
            breakers[at].leave(True, 0.1, 1.0, RNG)
            limits[at].leave(0.1, 1.0)
        else:
            breakers[at].abandon(1.0)
            limits[at].abandon()


def test_who_comes_at_once_is_never_one_too_many() -> None:
    """Both say so before they look: both may be refused, and never do both pass."""
    words = memory(2)
    one, other = (Gauge(Together(words, region), "pets") for region in range(2))
    one.set(REQUESTS, 1)
    other.set(REQUESTS, 1)
    assert one.elsewhere(REQUESTS) == other.elsewhere(REQUESTS) == 1


def test_pending_connections_and_retries() -> None:
    """Each kind of limit of a breaker."""
    words = memory(3)
    of = gauges(words, 3)
    a, b, c = circuits(of, Figures(max_pending=2, max_retries=2))
    gauge = of[2]
    gauge.set(PENDING, 1)
    assert not a.enter(1.0, RNG, 0) and "2 requests wait" in b.enter(1.0, RNG, 1)
    gauge.set(PENDING, 0)
    assert a.may_retry() and b.may_retry() and not c.may_retry() and not c.retry_is_free
    a.retry_ended()
    assert c.may_retry() and not a.may_retry()


def test_busy_connections_where_none_may_wait() -> None:
    """As many requests as there may be connections, whosever they are."""
    a, b = circuits(gauges(memory(2), 2), Figures(max_connections=3))
    assert not a.enter(1.0, RNG, 0) and not b.enter(1.0, RNG, 0) and not b.enter(1.0, RNG, 0)
    assert "all of 3 connections" in a.peek(1.0, RNG, 0) and "all of 3 connections" in b.enter(1.0, RNG, 0)


def test_what_is_refused_is_not_held() -> None:
    """A worker that is told no leaves nothing behind that others would be told no for."""
    words = memory(2)
    a, b = circuits(gauges(words, 2), Figures(max_active=1))
    assert not a.enter(1.0, RNG, 0)
    for _ in range(5):
        assert b.enter(1.0, RNG, 0)
    a.abandon(1.0)
    assert not a.enter(1.0, RNG, 0)


def test_a_policy_that_goes_leaves_nothing_behind() -> None:
    """Nor one that no longer limits; and one that begins to counts what is under way already."""
    words = memory(2)
    a, b = circuits(gauges(words, 2), Figures(max_active=2))
    a.enter(1.0, RNG, 0)
    a.count_together(None)
    assert not b.enter(1.0, RNG, 0) and not b.enter(1.0, RNG, 0)
    a.count_together(Gauge(Together(words, 0), "pets"))
    assert "3 requests" in b.enter(1.0, RNG, 0)


def test_a_worker_that_died_holds_nothing() -> None:
    """Once its region is cleared; and one that came is counted as soon as it is there."""
    words = memory(2)
    a, b = circuits(gauges(words, 2), Figures(max_active=1))
    assert not a.enter(1.0, RNG, 0) and b.enter(1.0, RNG, 0)
    words[region_at(0) : region_at(0) + REGION] = memoryview(bytes(8 * REGION)).cast("q")
    words[OWNERS] = 0
    words[CHANGES] += 1
    assert not b.enter(1.0, RNG, 0)
    words[OWNERS + 2] = 102
    words[CHANGES] += 1
    third = Circuit(Figures(max_active=1))
    third.count_together(Gauge(Together(words, 2), "pets"))
    assert third.enter(1.0, RNG, 0)
    b.abandon(1.0)
    assert not third.enter(1.0, RNG, 0) and b.enter(1.0, RNG, 0)


def test_services_do_not_mix() -> None:
    """Thousands of them, each with its own; a place is had for as long as it is needed."""
    words = memory(2)
    here, there = Together(words, 0), Together(words, 1)
    for n in range(20_000):
        gauge, seen = Gauge(here, f"s{n}"), Gauge(there, f"s{n}")
        gauge.set(REQUESTS, 1)
        assert seen.elsewhere(REQUESTS) == 1 and Gauge(there, f"t{n}").elsewhere(REQUESTS) == 0
        gauge.set(REQUESTS, 0)
    assert here.lost == 0


def test_what_has_no_place_is_told() -> None:
    """More under way at once than there are places: who is too late counts by itself."""
    words = memory(2)
    here, there = Together(words, 0), Together(words, 1)
    gauges = [Gauge(here, f"s{n}") for n in range(8000)]
    for gauge in gauges:
        gauge.set(REQUESTS, 2)
    seen = [Gauge(there, f"s{n}").elsewhere(REQUESTS) for n in range(8000)]
    assert set(seen) == {0, 2} and seen.count(0) == here.lost > 0
    for gauge in gauges:
        gauge.set(REQUESTS, 0)
    late = gauges[seen.index(0)]
    late.set(REQUESTS, 3)
    assert Gauge(there, f"s{seen.index(0)}").elsewhere(REQUESTS) == 3


@pytest.mark.parametrize("held", [0, 2])
def test_a_service_that_goes_and_comes(held: int) -> None:
    """The one that is there now counts, whatever the one before it still has under way."""
    words = memory(2)
    here = Together(words, 0)
    before, after, seen = Gauge(here, "pets"), Gauge(here, "pets"), Gauge(Together(words, 1), "pets")
    before.set(REQUESTS, held + 1)
    after.set(REQUESTS, 1)
    assert seen.elsewhere(REQUESTS) == 1
    before.set(REQUESTS, held)
    after.set(REQUESTS, 2)
    assert seen.elsewhere(REQUESTS) == 2
    before.set(REQUESTS, 0)
    after.set(REQUESTS, 0)
    assert seen.elsewhere(REQUESTS) == 0
