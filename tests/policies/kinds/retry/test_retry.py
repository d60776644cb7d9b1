"""`retry`: what is tried again, when, and how much of it there may be."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.retry.budget import Budget
from policies.kinds.retry.decide import MAX_RETRY_AFTER_S, Again, Enough, compile, decide, hedge_after_s, may_hedge
from policies.kinds.retry.document import Retry
from policies.kinds.retry.policy import IDEMPOTENT, Failure, RetryPolicy
from policies.kinds.retry.quantile import Recent
from policies.language.document import Invalid

RNG = random.Random(5)


def policy(**fields: Any) -> RetryPolicy:
    found = parse("retry", "pets", json.dumps(fields).encode())
    assert isinstance(found, Retry), found
    return compile(found)


def verdict(
    rules: RetryPolicy, failure: Failure, status: int | None = None, method: str = "GET", **more: Any
) -> Again | Enough:
    given: dict[str, Any] = {"attempts": 1, "sent": failure is not Failure.CONNECT, "replayable": True, "now": 1000.0}
    given |= {"budget": Budget(), "rng": RNG} | more
    return decide(rules, method=method, failure=failure, status=status, **given)


# What is tried again: the table of docs/policies/retry.md.


@pytest.mark.parametrize(
    ("failure", "status", "method", "sent", "again"),
    [
        (Failure.CONNECT, None, "GET", False, True),
        (Failure.CONNECT, None, "POST", False, True),
        (Failure.RESET, None, "GET", True, True),
        (Failure.RESET, None, "POST", True, False),
        (Failure.RESET, None, "POST", False, True),
        (Failure.TIMEOUT, None, "GET", True, False),
        (Failure.STATUS, 503, "GET", True, True),
        (Failure.STATUS, 502, "PUT", True, True),
        (Failure.STATUS, 504, "DELETE", True, True),
        (Failure.STATUS, 503, "POST", True, False),
        (Failure.STATUS, 503, "PATCH", True, False),
        (Failure.STATUS, 500, "GET", True, False),
        (Failure.STATUS, 429, "GET", True, False),
        (Failure.STATUS, 404, "GET", True, False),
    ],
)
def test_by_default(failure: Failure, status: int | None, method: str, sent: bool, again: bool) -> None:
    """Without a document: once more, where no work can be done twice."""
    found = verdict(compile(None), failure, status, method, sent=sent)
    assert isinstance(found, Again) == again, found


@pytest.mark.parametrize(
    ("on", "failure", "status"),
    [
        ("timeout", Failure.TIMEOUT, None),
        ("reset", Failure.RESET, None),
        ("connect-failure", Failure.CONNECT, None),
        ("5xx", Failure.STATUS, 500),
        ("5xx", Failure.STATUS, 599),
        ("gateway-error", Failure.STATUS, 502),
        ("429", Failure.STATUS, 429),
    ],
)
def test_each_condition_stands_for_itself(on: str, failure: Failure, status: int | None) -> None:
    """What it names is tried again, and nothing else is."""
    assert isinstance(verdict(policy(on=[on]), failure, status), Again)
    others = [c for c in ("timeout", "reset", "connect-failure") if c != on]
    assert isinstance(verdict(policy(on=others), failure, status), Enough)


def test_statuses_can_be_named() -> None:
    """Beside the conditions, or alone."""
    rules = policy(on=[], statuses=[409, 425])
    assert isinstance(verdict(rules, Failure.STATUS, 409), Again)
    assert verdict(rules, Failure.STATUS, 503) == Enough("status 503 is not one that is tried again")
    assert isinstance(verdict(rules, Failure.CONNECT), Enough)


def test_work_is_not_duplicated_unless_the_document_says_so() -> None:
    """A method that is not idempotent is sent again when nothing was sent, or when it is named."""
    assert frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"}) == IDEMPOTENT
    said = "POST may have been carried out, and is not safe to send twice"
    assert verdict(policy(), Failure.RESET, method="POST") == Enough(said)
    assert isinstance(verdict(policy(methods=["POST"]), Failure.RESET, method="POST"), Again)
    assert isinstance(verdict(policy(methods=["POST"]), Failure.RESET, method="GET"), Enough)
    assert isinstance(verdict(policy(methods=[]), Failure.RESET), Enough)
    assert isinstance(verdict(policy(methods=[]), Failure.CONNECT), Again)


@given(
    st.sampled_from(Failure),
    st.sampled_from(["GET", "POST", "PATCH", "CONNECT", "BREW"]),
    st.sampled_from([None, 429, 500, 502, 503, 504]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 12),
)
def test_what_may_never_happen(
    failure: Failure, method: str, status: int | None, sent: bool, replayable: bool, attempts: int
) -> None:
    """Whatever the document allows: no more attempts than it says, no half body, no second POST."""
    rules = policy(attempts=10, on=["connect-failure", "reset", "timeout", "5xx", "429"])
    found = verdict(rules, failure, status, method, sent=sent, replayable=replayable, attempts=attempts)
    if isinstance(found, Again):
        assert attempts < 10
        assert replayable
        assert not sent or method == "GET"
        assert 0 <= found.delay_s <= 0.25


def test_attempts_are_counted() -> None:
    """Tries in all, so 1 is no retry."""
    assert verdict(policy(attempts=1), Failure.CONNECT) == Enough("1 of 1 attempts made")
    assert isinstance(verdict(policy(attempts=3), Failure.CONNECT, attempts=2), Again)
    assert isinstance(verdict(policy(attempts=3), Failure.CONNECT, attempts=3), Enough)


# When.


@given(st.integers(1, 9), st.integers(0, 1000), st.integers(0, 1000))
def test_waiting_grows_with_full_jitter(attempts: int, base_ms: int, more_ms: int) -> None:
    """Anything from nothing to base x 2^retries, and never more than max."""
    base_s, max_s = base_ms / 1000, (base_ms + more_ms) / 1000
    rules = policy(attempts=10, backoff={"base": base_s, "max": max_s})
    for chance in (0.0, 0.5, 0.999):

        class Fixed(random.Random):
            value = chance

            def random(self) -> float:
                return self.value

        found = verdict(rules, Failure.RESET, attempts=attempts, rng=Fixed())
        assert isinstance(found, Again)
        assert found.delay_s == pytest.approx(chance * min(max_s, base_s * 2 ** (attempts - 1)))


def test_the_first_try_elsewhere_need_not_wait() -> None:
    """A refused connection has cost nothing; the second one makes patient."""
    rules = policy(attempts=4, backoff={"base": "50ms", "max": "50ms"})
    assert verdict(rules, Failure.CONNECT) == Again(0.0, "attempt 2 of 4")
    delays = [verdict(rules, Failure.CONNECT, attempts=2) for _ in range(20)]
    assert any(isinstance(found, Again) and found.delay_s > 0 for found in delays)


def test_retry_after_is_about_one_instance() -> None:
    """Whoever can go elsewhere does so at once, however long it asks for. Where nothing else is left it is waited for,
    unless that is too long: then it is not tried at all, before the time that it said."""
    for after_s in (0.0, 2.0, 999_999.0):
        found = verdict(policy(), Failure.STATUS, 503, retry_after_s=after_s, elsewhere=True)
        assert found == Again(0.0, "attempt 2 of 2")
    left = {"retry_after_s": 2.0, "elsewhere": False}
    assert verdict(policy(), Failure.STATUS, 503, **left) == Again(2.0, "attempt 2 of 2", elsewhere=False)
    found = verdict(policy(), Failure.STATUS, 503, retry_after_s=60.0, elsewhere=False)
    assert found == Enough("nobody else is left, and it asks for 60 s; 5 s are waited")
    patient = policy(backoff={"base": "50ms", "max": "50ms"})
    delays = [verdict(patient, Failure.STATUS, 503, retry_after_s=0.0) for _ in range(20)]
    assert any(isinstance(found, Again) and found.delay_s > 0 for found in delays), "0 is no reason to hurry"


def test_who_says_when_is_left_alone_meanwhile() -> None:
    """Also where a document lets the same instance be tried again."""
    same = policy(another_endpoint=False)
    assert verdict(same, Failure.RESET) == Again(pytest.approx(0.0125, abs=0.0125), "attempt 2 of 2", elsewhere=False)
    found = verdict(same, Failure.STATUS, 503, retry_after_s=1.0, elsewhere=True)
    assert found == Again(0.0, "attempt 2 of 2", elsewhere=True)


@given(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([429, 500, 503]),
    st.floats(0, 100),
    st.booleans(),
    st.none() | st.floats(0, 20),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_what_is_worth_waiting_for(
    method: str,
    status: int,
    after_s: float,
    elsewhere: bool,
    remaining_s: float | None,
    attempts: int,
    replayable: bool,
    deeper: bool,
) -> None:
    """Never beyond the cap, nor to the deadline; never where anything rules the attempt out; never less than was asked
    for; and not at all where another instance is left."""
    found = verdict(
        policy(attempts=3, on=["gateway-error", "429"]),
        Failure.STATUS,
        status,
        method,
        retry_after_s=after_s,
        elsewhere=elsewhere,
        remaining_s=remaining_s,
        attempts=attempts,
        replayable=replayable,
        tried_deeper=deeper,
    )
    ruled_out = method == "POST" or status == 500 or attempts == 3 or not replayable or deeper
    if isinstance(found, Again):
        assert not ruled_out
        assert found.elsewhere is elsewhere
        assert found.delay_s == 0 if elsewhere else after_s <= found.delay_s <= MAX_RETRY_AFTER_S
        assert remaining_s is None or found.delay_s < remaining_s
    elif not ruled_out and (elsewhere or after_s <= MAX_RETRY_AFTER_S):
        assert remaining_s is not None and remaining_s <= (0 if elsewhere else max(after_s, 0.05))


def test_nothing_is_begun_that_the_deadline_would_cut() -> None:
    """And the budget is not charged for it."""
    budget = Budget()
    budget.configure(policy(budget={"ratio": 0, "min_per_second": 0.1, "ttl": "10s"}))
    for _ in range(5):
        found = verdict(policy(), Failure.STATUS, 503, retry_after_s=2.0, remaining_s=2.0, budget=budget)
        assert found == Enough("the deadline comes before another attempt could")
    assert isinstance(verdict(policy(), Failure.STATUS, 503, remaining_s=2.0, budget=budget), Again)
    assert verdict(policy(), Failure.STATUS, 503, budget=budget) == Enough("the retry budget is used up", final=True)


# How much: the budget.


def test_a_dead_service_does_not_get_more_load_for_being_dead() -> None:
    """1000 requests in a second that all fail: 20% and the 100 of a 10 s window are tried again, not 1000."""
    budget, rules = Budget(), compile(None)
    budget.configure(rules)
    again = 0
    for n in range(1000):
        now = 50.0 + n / 1000
        budget.deposit(now)
        again += isinstance(verdict(rules, Failure.RESET, budget=budget, now=now), Again)
    assert again == 300


def test_a_budget_can_be_turned_off() -> None:
    """Which a document has to say."""
    budget, rules = Budget(), policy(budget=False)
    budget.configure(rules)
    assert not rules.bounded
    assert all(isinstance(verdict(rules, Failure.RESET, budget=budget), Again) for _ in range(5000))


OPS = st.lists(st.tuples(st.floats(-3, 12), st.booleans()), max_size=120)


@given(OPS, st.floats(0, 2), st.floats(0, 3), st.integers(1, 12))
def test_the_budget_is_what_it_says(ops: list[tuple[float, bool]], ratio: float, least: float, ttl: int) -> None:
    """Over the last ttl whole seconds retries are allowed while below ratio x requests + min x ttl.

    The clock may jump; back is standing still.
    """
    budget = Budget()
    budget.configure(policy(budget={"ratio": ratio, "min_per_second": least, "ttl": ttl}))
    now, second = 100.0, 0
    requests: list[int] = []
    retries: list[int] = []
    for step, is_request in ops:
        now += step
        second = max(second, int(now))
        recent = range(second - ttl + 1, second + 1)
        if is_request:
            budget.deposit(now)
            requests.append(second)
            continue
        made = sum(at in recent for at in retries)
        allowance = ratio * sum(at in recent for at in requests) + least * ttl
        granted = budget.try_withdraw(now)
        assert granted == (made < allowance)
        assert budget.allowance() == pytest.approx(allowance)
        if granted:
            retries.append(second)


def test_an_edit_resets_no_budget() -> None:
    """What was spent stays spent, as long as the window is the same."""
    budget = Budget()
    budget.configure(policy(budget={"min_per_second": 1, "ratio": 0}))
    assert [budget.try_withdraw(7.0) for _ in range(11)] == [True] * 10 + [False]
    budget.configure(policy(budget={"min_per_second": 1.1, "ratio": 0}))
    assert [budget.try_withdraw(7.0) for _ in range(2)] == [True, False]


# Documents.


def test_the_defaults() -> None:
    """One retry, three conditions, a budget."""
    rules = compile(None)
    assert rules == policy()
    assert (rules.attempts, rules.ratio, rules.min_per_s, rules.ttl_s, rules.bounded) == (2, 0.2, 10, 10, True)
    assert (rules.base_s, rules.max_s, rules.max_body, rules.another_endpoint) == (0.025, 0.25, 65536, True)
    assert rules.statuses == {502, 503, 504}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attempts": 0}, "$.attempts: expected a whole number >= 1"),
        ({"attempts": 11}, "$.attempts: expected a whole number <= 10"),
        ({"attempts": 2.5}, "$.attempts: expected a whole number, got a number"),
        ({"on": []}, '$.on: nothing is tried again; for that say {"attempts": 1}'),
        ({"on": ["500"]}, "$.on[0]: '500' is none of: 429, 5xx, connect-failure, gateway-error, reset, timeout"),
        ({"statuses": [200]}, "$.statuses[0]: expected a whole number >= 400"),
        ({"methods": ["post"]}, "$.methods[0]: expected a method in upper case, such as GET"),
        ({"budget": True}, '$.budget: true says nothing that is not so; false, or an object such as {"ratio": 0.2}'),
        ({"budget": {"ratio": -1}}, "$.budget.ratio: expected a number >= 0.0"),
        ({"budget": {"ttl": "500ms"}}, "$.budget.ttl: at least 1s: a budget over less than that is none"),
        ({"budget": {"ttl": "2m"}}, "$.budget.ttl: 120 s; at most 60 s"),
        ({"backoff": {"base": "1s"}}, "$.backoff.base: longer than $.backoff.max"),
        ({"backoff": {"max": "2m"}}, "$.backoff.max: 120 s; at most 60 s"),
        ({"backoff": {"base": "x"}},
         "$.backoff.base: 'x' is no duration; write \"250ms\", \"5s\", \"1m\", \"1h\" or a number "
         "of seconds"),
        ({"max_body": 65537}, "$.max_body: expected a whole number <= 65536"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, Any], said: str) -> None:
    """Word by word."""
    found = parse("retry", "pets", json.dumps(fields).encode())
    assert isinstance(found, Invalid)
    assert f"{found.path}: {found.reason}" == said


# Hedges, and tries along a chain.


def test_a_hedge_begins_after_a_time_or_a_quantile() -> None:
    """Known from the start, or learnt; never sooner than `least`."""
    recent = Recent()
    fixed = policy(hedge={"after": "50ms"}).hedge
    learnt = policy(hedge={"after": "p90", "least": "5ms"}).hedge
    assert fixed is not None and learnt is not None
    assert hedge_after_s(fixed, recent) == 0.05
    assert hedge_after_s(learnt, recent) is None
    for n in range(100):
        recent.observe(n / 1000)
    assert hedge_after_s(learnt, recent) == pytest.approx(0.09, abs=0.002)
    for _ in range(300):
        recent.observe(0.001)
    assert hedge_after_s(learnt, recent) == 0.005


@given(st.lists(st.floats(0, 100), min_size=32, max_size=600), st.floats(0.5, 0.999))
def test_a_quantile_is_one_of_the_last_values(values: list[float], share: float) -> None:
    """And about that share of them is no larger."""
    recent = Recent()
    for value in values:
        recent.observe(value)
    found = recent.quantile(share)
    last = values[-256:]
    assert found in last
    assert sum(value <= found for value in last) >= share * len(last) - 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"hedge": {"after": "p0"}}, "$.hedge.after: 'p0' is not a time such as 50ms, or a quantile from p50 to p99.9"),
        ({"hedge": {"after": "0s"}}, "$.hedge.after: 0 s; more than nothing, and at most 60 s"),
        ({"hedge": {"least": "2m"}}, "$.hedge.least: 120 s; more than nothing, and at most 60 s"),
    ],
)
def test_hedges_that_cannot_be(document: dict[str, Any], said: str) -> None:
    """Each with its place."""
    found = parse("retry", "pets", json.dumps(document).encode())
    assert isinstance(found, Invalid)
    assert f"{found.path}: {found.reason}" == said


def test_a_hedge_is_an_attempt() -> None:
    """Of a safe method, within the attempts and the budget, with the body at hand."""
    rules = policy(hedge={}, attempts=2)
    given: dict[str, Any] = {"method": "GET", "attempts": 1, "replayable": True, "budget": Budget(), "now": 1.0}
    assert may_hedge(rules, **given)
    for other in ({"method": "POST"}, {"attempts": 2}, {"replayable": False}):
        assert not may_hedge(rules, **{**given, **other})
    empty = Budget()
    empty.configure(policy(budget={"ratio": 0, "min_per_second": 0}))
    assert not may_hedge(rules, **{**given, "budget": empty})


def test_what_was_tried_nearer_to_the_failure_is_not_tried_again() -> None:
    """Unless nothing was sent, which nobody can have tried."""
    rules = policy()
    assert isinstance(verdict(rules, Failure.STATUS, 503, tried_deeper=True), Enough)
    assert isinstance(verdict(rules, Failure.CONNECT, tried_deeper=True), Again)
