"""Breakers: the laws as a machine that Hypothesis drives, and the stories that operators will see."""

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.kinds.breaker.circuit import CLOSED, HALF_OPEN, OPEN, Circuit, Figures

RNG = random.Random(3)


def circuit(**figures: Any) -> Circuit:
    return Circuit(Figures(**figures))


def ask(breaker: Circuit, now: float, ok: bool = True, latency_s: float = 0.01) -> str:
    """One request, if it is let through; how it was answered."""
    refused = breaker.enter(now, RNG, 0)
    if refused:
        return "refused"
    breaker.leave(ok, latency_s, now + latency_s, RNG)
    return "ok" if ok else "failed"


class Machine(RuleBasedStateMachine):
    """Any order of requests, answers, pauses, edits and clocks that jump back."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(0)  # its own: what other examples drew must not matter
        self.rules = Figures(consecutive=3, error_rate=0.5, min_requests=6, probes=2, successes=3, max_active=5)
        self.breaker = Circuit(self.rules)
        self.now = 100.0
        self.inside = 0
        self.opened_until = 0.0
        self.retries = 0

    @rule(pause=st.floats(-5, 30))
    def time_passes(self, pause: float) -> None:
        self.now += pause

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        reason = self.breaker.enter(self.now, self.rng, 0)
        change = self.breaker.take_transition()
        if not reason:
            self.inside += 1
            assert self.breaker.state != OPEN, "nothing passes an open breaker"
        if change is not None:
            assert (before, change.after) in ((OPEN, HALF_OPEN), (OPEN, OPEN))

    @precondition(lambda self: self.inside > 0)
    @rule(ok=st.booleans(), latency_s=st.floats(0, 10))
    def answer(self, ok: bool, latency_s: float) -> None:
        before = self.breaker.state
        change = self.breaker.leave(ok, latency_s, self.now, self.rng)
        self.inside -= 1
        assert (change is None) == (self.breaker.state == before)
        if change is not None:
            assert change.before == before
            if change.after == OPEN:
                assert not ok and change.reason
            if change.after == CLOSED:
                assert ok and before == HALF_OPEN

    @precondition(lambda self: self.inside > 0)
    @rule()
    def the_client_goes_away(self) -> None:
        before = self.breaker.state
        self.breaker.abandon(self.now)
        self.inside -= 1
        assert self.breaker.state == before

    @rule(window_s=st.sampled_from([1.0, 10.0, 60.0]))
    def an_edit(self, window_s: float) -> None:
        before = self.breaker.state
        self.breaker.configure(
            Figures(
                consecutive=3, error_rate=0.5, min_requests=6, probes=2, successes=3, max_active=5, window_s=window_s
            )
        )
        assert self.breaker.state == before

    @invariant()
    def what_is_inside_is_counted(self) -> None:
        assert self.breaker.active == self.inside <= 5
        if self.breaker.state == OPEN:
            assert self.breaker.retry_after_s(self.now) <= 60 * 1.2


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=50)


def test_failures_in_a_row() -> None:
    """A success in between begins anew."""
    breaker = circuit(consecutive=3)
    for ok in (False, False, True, False, False):
        ask(breaker, 1.0, ok)
    assert breaker.state == CLOSED
    ask(breaker, 1.1, False)
    assert (breaker.state, breaker.reason) == (OPEN, "3 failures in a row")


def test_an_error_rate_needs_enough_requests() -> None:
    """Nine failures of nine are nothing when twenty are needed."""
    breaker = circuit(error_rate=0.5, min_requests=20)
    for n in range(9):
        ask(breaker, n / 10, False)
    assert breaker.state == CLOSED
    for n in range(10):
        ask(breaker, 1 + n / 10, True)
    ask(breaker, 2.1, False)
    assert breaker.state == OPEN
    assert "of 20 requests failed within 10 s" in breaker.reason


def test_what_is_long_ago_is_forgotten() -> None:
    """The window slides."""
    breaker = circuit(error_rate=0.5, min_requests=4)
    for n in range(3):
        ask(breaker, n / 10, False)
    assert ask(breaker, 30.0, False) == "failed"
    assert breaker.state == CLOSED


def test_slow_answers_open_it_though_they_are_good() -> None:
    """A service that hangs is worse than one that fails."""
    breaker = circuit(slow_rate=0.5, slow_s=1.0, min_requests=10)
    for n in range(20):
        if ask(breaker, n / 10, True, 2.0) == "refused":
            break
    assert breaker.state == OPEN
    assert "took longer than 1 s" in breaker.reason


def test_probes_are_few_and_real() -> None:
    """Half-open lets two pass at a time; one bad answer opens it again, for longer."""
    breaker = circuit(consecutive=1, probes=2, successes=2, open_s=5.0)
    ask(breaker, 0.0, False)
    assert breaker.enter(1.0, RNG, 0).startswith("open for another")
    assert breaker.enter(7.0, RNG, 0) == ""
    assert breaker.enter(7.0, RNG, 0) == ""
    assert breaker.enter(7.0, RNG, 0).startswith("half-open")
    change = breaker.leave(False, 0.1, 7.1, RNG)
    assert change is not None and (change.after, 8 <= change.open_s <= 12) == (OPEN, True)


def test_old_answers_say_nothing_of_what_came_after() -> None:
    """What was let through while it was closed neither opens it again nor counts as one that found out."""
    breaker = circuit(consecutive=1, probes=1, successes=1, open_s=5.0)
    assert breaker.enter(0.0, RNG, 0) == "", "takes ten seconds and fails"
    ask(breaker, 1.0, False)
    assert breaker.state == OPEN
    assert breaker.enter(8.0, RNG, 0) == "", "the one that finds out"
    breaker.take_transition()
    assert breaker.leave(False, 10.0, 10.0, RNG) is None and breaker.state == HALF_OPEN
    assert breaker.leave(True, 3.0, 11.0, RNG) is not None and breaker.state == CLOSED


def test_a_stream_does_not_hold_the_door() -> None:
    """A request that takes longer than the open time keeps the next one no longer from finding out."""
    breaker = circuit(consecutive=1, probes=1, successes=1, open_s=5.0)
    ask(breaker, 0.0, False)
    assert breaker.enter(7.0, RNG, 0) == "", "a stream of hours"
    assert breaker.enter(8.0, RNG, 0).startswith("half-open")
    assert breaker.enter(12.5, RNG, 0) == ""
    breaker.leave(True, 0.1, 12.6, RNG)
    assert breaker.state == CLOSED


def test_an_edit_may_close_it() -> None:
    """Open no longer than the new figures allow, and not at all where nothing opens it any more."""
    breaker = circuit(consecutive=1, open_s=60.0)
    ask(breaker, 0.0, False)
    breaker.configure(Figures(consecutive=1, open_s=1.0, max_open_s=2.0))
    assert breaker.enter(1.0, RNG, 0).startswith("open")
    assert breaker.enter(2.1, RNG, 0) == ""
    ask(breaker, 2.2, False)
    breaker.configure(Figures(max_active=9))
    assert breaker.state == CLOSED


def test_never_open_for_longer_than_the_maximum() -> None:
    """With jitter and all."""
    for _ in range(200):
        breaker = circuit(consecutive=1, open_s=10.0, max_open_s=10.0)
        breaker.enter(0.0, RNG, 0)
        change = breaker.leave(False, 0.0, 0.0, RNG)
        assert change is not None and 8.0 <= change.open_s <= 10.0


@pytest.mark.parametrize(
    ("figures", "pending", "said"),
    [
        ({"max_pending": 3}, 3, "3 requests wait for a connection"),
        ({"max_active": 1}, 0, "1 requests are in flight"),
        ({"max_connections": 1}, 0, "all of 1 connections are busy"),
        ({"max_connections": 1, "max_pending": 3}, 3, "3 requests wait for a connection"),
    ],
)
def test_limits_refuse_and_do_not_open(figures: dict[str, int], pending: int, said: str) -> None:
    """Full is not broken."""
    breaker = circuit(**figures)
    assert not breaker.enter(0.0, RNG, 0)
    assert said in breaker.peek(0.0, RNG, pending) and said in breaker.enter(0.0, RNG, pending)
    assert breaker.state == CLOSED


def test_where_some_may_wait_connections_refuse_nobody() -> None:
    """They do so where connections are made."""
    breaker = circuit(max_connections=1, max_pending=3)
    assert [breaker.enter(0.0, RNG, 2) for _ in range(5)] == [""] * 5


def test_retries_under_way_are_limited() -> None:
    """Two, and no third until one ends."""
    breaker = circuit(max_retries=2)
    assert [breaker.may_retry() for _ in range(3)] == [True, True, False]
    breaker.retry_ended()
    assert breaker.may_retry()


def simulate(fails: Any, seconds: int = 90, rate: int = 50) -> list[tuple[int, str, int, int]]:
    """What operators see: for each second the state, and how many requests reached the service and how many did not."""
    breaker = circuit(consecutive=5, error_rate=0.5, open_s=5.0, max_open_s=20.0, probes=1, successes=3)
    seen = []
    for second in range(seconds):
        reached = refused = 0
        for n in range(rate):
            now = second + n / rate
            if ask(breaker, now, not fails(now)) == "refused":
                refused += 1
            else:
                reached += 1
        seen.append((second, breaker.state, reached, refused))
    return seen


def test_the_story_of_an_outage() -> None:
    """30 s of failures: a handful of probes reach the service, and it is closed within one open time afterwards."""
    seen = simulate(lambda now: 10 <= now < 40)
    assert sum(reached for second, _, reached, _ in seen if 11 <= second < 40) <= 10
    healthy_again = next(second for second, state, _, _ in seen if second >= 40 and state == CLOSED)
    assert healthy_again <= 40 + 20 * 1.2 + 1
    assert all(refused == 0 for second, _, _, refused in seen if second < 10 or second > healthy_again)


if __name__ == "__main__":
    print("second  state      reached  refused")
    for second, state, reached, refused in simulate(lambda now: 10 <= now < 40):
        print(f"{second:6}  {state:9}  {reached:7}  {refused:7}")
