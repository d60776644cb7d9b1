"""Ejection: its laws as a machine that Hypothesis drives, and its detectors."""

import json
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policies.catalogue import parse
from policies.kinds.outlier.decide import compile
from policies.kinds.outlier.document import Outlier
from policies.kinds.outlier.ejector import (
    CONNECT,
    GATEWAY,
    OK,
    SERVER_ERROR,
    TIMEOUT,
    Ejected,
    Ejector,
    Figures,
    Record,
    Returned,
)
from policies.language.document import Invalid

RNG = random.Random(4)
IDS = [f"i-{n}" for n in range(6)]


class Machine(RuleBasedStateMachine):
    """Any order of answers, judgements, health and clocks."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(0)  # its own: what other examples drew must not matter
        self.rules = Figures(consecutive_5xx=3, min_requests=3, max_percent=50, base_s=10, max_s=30)
        self.ejector = Ejector(self.rules)
        self.records = {id: Record() for id in IDS}
        self.healthy = set(IDS)
        self.now = 0.0
        self.out: dict[str, float] = {}

    def _note(self, verdicts: list[Ejected | Returned]) -> None:
        for verdict in verdicts:
            if isinstance(verdict, Ejected):
                assert verdict.id not in self.out or self.out[verdict.id] <= self.now
                assert 9 <= verdict.seconds <= 33
                self.out[verdict.id] = verdict.until
            else:
                self.out.pop(verdict.id, None)

    @rule(id=st.sampled_from(IDS), outcomes=st.lists(st.sampled_from([OK, SERVER_ERROR, GATEWAY, CONNECT]), max_size=8))
    def answers(self, id: str, outcomes: list[int]) -> None:
        for outcome in outcomes:
            found = self.ejector.observe(id, self.records[id], outcome, 0.01, self.now, self.rng, len(IDS))
            self._note([found] if found is not None else [])

    @rule()
    def judge(self) -> None:
        self._note(self.ejector.judge(self.records, self.healthy, self.now, self.rng))

    @rule(pause=st.floats(-3, 40))
    def time_passes(self, pause: float) -> None:
        self.now += pause

    @rule(id=st.sampled_from(IDS), healthy=st.booleans())
    def a_check(self, id: str, healthy: bool) -> None:
        (self.healthy.add if healthy else self.healthy.discard)(id)

    @invariant()
    def never_more_than_half(self) -> None:
        assert len(self.ejector.ejected()) <= 3


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=40)


def seen(requests: int, failures: int = 0, latency_s: float = 0.01) -> Record:
    record = Record()
    for n in range(requests):
        record.observe(SERVER_ERROR if n < failures else OK, latency_s)
    return record


def judged(records: dict[str, Record], **figures: Any) -> dict[str, str]:
    ejector = Ejector(Figures(**figures))
    verdicts = ejector.judge(records, set(records), 100.0, RNG)
    return {verdict.id: verdict.reason for verdict in verdicts}


def test_one_that_fails_more_than_its_peers() -> None:
    """Below the mean by 1.9 standard deviations."""
    records = {f"i-{n}": seen(100, 1) for n in range(9)} | {"bad": seen(100, 40)}
    assert judged(records) == {"bad": "60.0% succeed, where 95.1% do on average"}


def test_one_that_is_slow() -> None:
    """Three times the median, and not below the floor."""
    records = {f"i-{n}": seen(50) for n in range(4)} | {"slow": seen(50, latency_s=0.2)}
    assert judged(records, latency_factor=3) == {"slow": "200 ms on average, where half need 10 ms"}
    assert judged(records, latency_factor=3, latency_floor_s=1) == {}


def test_a_median_is_not_made_by_failures() -> None:
    """Answers that failed at once say nothing of how long the others take, and one that only failed is not slow."""
    records = {f"i-{n}": seen(60, 30, 0.1) for n in range(4)}
    records["quick"] = seen(60, 0, 0.1)
    for _ in range(30):
        records["i-0"].observe(TIMEOUT, 15.0)
    assert judged(records, success_factor=0, latency_factor=1.5) == {}


def test_one_that_is_out_or_sick_is_no_peer() -> None:
    """It would move the mean and the deviation of those that take the requests."""
    records = {f"i-{n}": seen(100, 1) for n in range(9)} | {"bad": seen(100, 40), "sick": seen(100, 100)}
    ejector = Ejector(Figures())
    verdicts = ejector.judge(records, records.keys() - {"sick"}, 100.0, RNG)
    assert [verdict.id for verdict in verdicts] == ["bad"]


def test_one_unlucky_error_is_none_of_its_peers_business() -> None:
    """One of twenty, where ten others had none, is far outside of 1.9 deviations."""
    for failures, found in ((2, []), (3, ["i-0"])):
        assert list(judged({f"i-{n}": seen(25, 0 if n else failures) for n in range(11)})) == found


def test_when_most_look_bad_it_is_our_link() -> None:
    """Nobody is ejected."""
    ejector = Ejector(Figures(success_factor=0, latency_factor=2))
    records = {"a": seen(50, latency_s=0.01), "b": seen(50, latency_s=0.01), "c": seen(50, latency_s=0.01)}
    records |= {f"x{n}": seen(50, latency_s=5) for n in range(2)}
    assert len(ejector.judge(records, set(records), 1.0, RNG)) == 2
    ejector = Ejector(Figures(success_factor=0, latency_factor=0.1, latency_floor_s=0))
    assert ejector.judge({f"i{n}": seen(50) for n in range(4)}, {"i0", "i1", "i2", "i3"}, 1.0, RNG) == []


@pytest.mark.parametrize("endpoints", [2, 3, 4, 5, 12])
@pytest.mark.parametrize("factor", [1.0, 1.9, 3.0])
def test_what_a_document_asks_for_can_come_about(endpoints: int, factor: float) -> None:
    """However few they are, one that fails where no other does is out: of n nobody is more than sqrt(n - 1) standard
    deviations from the mean of all."""
    records = {f"i-{n}": seen(100, n % 2) for n in range(endpoints - 1)} | {"bad": seen(100, 60)}
    found = judged(records, success_factor=factor, min_endpoints=2)
    assert list(found) == ["bad"]


@pytest.mark.parametrize("failures", [(3, 0, 1), (2, 0, 0), (5, 3, 4), (1, 3, 2, 2)])
def test_among_few_chance_ejects_nobody(failures: tuple[int, ...]) -> None:
    """Of twenty requests each: what lies between them happens by itself."""
    records = {f"i-{n}": seen(20, count) for n, count in enumerate(failures)}
    assert judged(records, min_endpoints=2) == {}


def test_a_share_of_failures_needs_no_peers() -> None:
    """Half of them, with enough requests; and where all fail so, as many go as may."""
    assert judged({"a": seen(20, 10), "b": seen(20), "c": seen(20, 9)}, failure_rate=0.5, success_factor=0) == {
        "a": "10 of 20 requests failed"
    }
    assert judged({"a": seen(19, 19), "b": seen(20)}, failure_rate=0.5, success_factor=0) == {}
    assert len(judged({id: seen(20, 20) for id in IDS}, failure_rate=1.0, success_factor=0)) == 3


@pytest.mark.parametrize(
    ("figures", "outcome", "said"),
    [
        ({"consecutive_5xx": 3}, SERVER_ERROR, "3 failures in a row"),
        ({"consecutive_5xx": 3}, CONNECT, "3 failures in a row"),
        ({"consecutive_5xx": 0, "consecutive_gateway": 3}, GATEWAY, "3 gateway failures in a row"),
        ({"consecutive_local": 3}, TIMEOUT, "3 tries in a row without an answer"),
    ],
)
def test_failures_in_a_row_need_no_other_requests(figures: dict[str, int], outcome: int, said: str) -> None:
    """The third ejects, though it be the third request; and again after its time is over."""
    ejector, record = Ejector(Figures(**figures)), Record()
    records = {"a": record, "b": Record(), "c": Record()}
    for now in (0.0, 100.0):
        assert [ejector.observe("a", record, outcome, 0.01, now, RNG, 3) for _ in range(2)] == [None, None]
        found = ejector.observe("a", record, outcome, 0.01, now, RNG, 3)
        assert found is not None and found.reason == said
        ejector.judge(records, set(records), now + 50, RNG)


def test_what_was_not_answered_is_told_apart() -> None:
    """With `consecutive_local_origin` refused connections and time-outs are no part of the other rows, nor end them; an
    answer of whatever kind ends their own."""
    ejector, record = Ejector(Figures(consecutive_5xx=2, consecutive_gateway=2, consecutive_local=3)), Record()

    def observe(*outcomes: int) -> list[str]:
        found = [ejector.observe("a", record, outcome, 0.01, 1.0, RNG, 3) for outcome in outcomes]
        return [each.reason for each in found if each is not None]

    assert observe(CONNECT, TIMEOUT, SERVER_ERROR, CONNECT, TIMEOUT, OK, CONNECT, CONNECT) == []
    assert observe(SERVER_ERROR, CONNECT, SERVER_ERROR) == ["2 failures in a row"]


def test_without_enough_requests_nobody_is_compared() -> None:
    """Nineteen failures of nineteen with good answers in between, where twenty requests are needed."""
    records = {"a": seen(19, 19)} | {f"i-{n}": seen(100) for n in range(5)}
    assert judged(records, failure_rate=0.5) == {}


def test_gateway_failures_are_told_apart() -> None:
    """A 500 breaks their row."""
    ejector, record = Ejector(Figures(consecutive_5xx=0, consecutive_gateway=3, min_requests=1)), Record()
    for outcome in (GATEWAY, CONNECT, SERVER_ERROR, GATEWAY, CONNECT):
        assert ejector.observe("a", record, outcome, 0.01, 1.0, RNG, 3) is None
    found = ejector.observe("a", record, GATEWAY, 0.01, 1.0, RNG, 3)
    assert found is not None and found.reason == "3 gateway failures in a row"


def test_longer_each_time_and_forgiven() -> None:
    """30 s, 60 s, 90 s; and back to 30 s after as many quiet intervals."""

    def eject(now: float) -> float:
        record = Record()
        found = None
        while found is None:
            found = ejector.observe("a", record, SERVER_ERROR, 0.01, now, RNG, 5)
        return found.seconds

    ejector = Ejector(Figures(consecutive_5xx=3, min_requests=3))
    records = {"a": Record(), "b": Record()}
    lengths = []
    now = 0.0
    for _ in range(3):
        lengths.append(eject(now))
        now += 200
        ejector.judge(records, {"a", "b"}, now, RNG)
    assert [round(length / 30) for length in lengths] == [1, 2, 3]
    for _ in range(5):
        now += 10
        ejector.judge(records, {"a", "b"}, now, RNG)
    assert round(eject(now) / 30) == 1


def test_a_health_check_that_passes_again_brings_it_back() -> None:
    """At once; one that never failed changes nothing."""
    ejector = Ejector(Figures(consecutive_5xx=1, min_requests=1))
    records = {"a": Record(), "b": Record()}
    ejector.observe("a", records["a"], SERVER_ERROR, 0.01, 1.0, RNG, 5)
    assert ejector.judge(records, {"a", "b"}, 2.0, RNG) == []
    assert ejector.judge(records, {"b"}, 3.0, RNG) == []
    assert ejector.judge(records, {"a", "b"}, 4.0, RNG) == [Returned("a", "its health check passes again")]


@pytest.mark.parametrize(
    ("text", "said"), [('{"interval": "soon"}', "$.interval"), ('{"max_percent": 0}', "$.max_percent")]
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    """The others stand on the page."""
    found = parse("outlier", "pets", text.encode())
    assert isinstance(found, Invalid) and found.path == said


def test_a_document_becomes_figures() -> None:
    """Every field."""
    asked: dict[str, object] = {"ejection": "5s", "interval": "1s", "min_endpoints": 2}
    asked |= {"failure_percent": 60, "consecutive_local_origin": 4}
    document = parse("outlier", "pets", json.dumps(asked).encode())
    assert isinstance(document, Outlier)
    rules = compile(document)
    assert (rules.failure_rate, rules.consecutive_local) == (0.6, 4)
    assert (rules.base_s, rules.interval_s, rules.min_endpoints, rules.consecutive_5xx) == (5, 1, 2, 5)
