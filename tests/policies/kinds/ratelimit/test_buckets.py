"""Token buckets: what passes, what each request takes from, and what outlives a document."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from policies.kinds.ratelimit.buckets import Buckets, Compiled
from policies.kinds.ratelimit.limit import LONG, Key, Limit, Limited, fields
from policies.request import Request

USER = Key(header="X-User")
ANY = Request()


def of(user: str, target: str = "/") -> Request:
    return Request("GET", target, {"x-user": user})


def passed(compiled: Compiled, state: Buckets, now: float, count: int, request: Request = ANY) -> int:
    """How many of `count` requests at one moment go on."""
    return sum(compiled.decide(state, request, now) is None for _ in range(count))


# One limit.


def test_a_burst_then_the_rate() -> None:
    """Ten at once, and another one every tenth of a second."""
    compiled, state = Compiled([Limit("all", 10, 10)]), Buckets()
    assert passed(compiled, state, 5.0, 15) == 10
    assert passed(compiled, state, 5.05, 5) == 0
    assert passed(compiled, state, 5.1, 5) == 1
    assert passed(compiled, state, 5.6, 9) == 5
    assert passed(compiled, state, 99.0, 15) == 10


def test_who_is_refused_is_told_when_to_come_back() -> None:
    """And then passes."""
    compiled, state = Compiled([Limit("slow", 0.25, 1, quota=1, window_s=4, reason="why", body="no")]), Buckets()
    assert compiled.decide(state, ANY, 7.0) is None
    found = compiled.decide(state, ANY, 7.5)
    assert found == Limited("slow", 429, "no", 4, 1, 4, 0, 4, "why")
    assert compiled.decide(state, ANY, 7.5 + 4) is None
    assert found is not None
    assert fields(found) == [
        ("retry-after", "4"),
        ("ratelimit-policy", '"slow";q=1;w=4'),
        ("ratelimit", '"slow";r=0;t=4'),
    ]


def test_nobody_waits_longer_than_a_window() -> None:
    """By then shares have moved, also from nothing."""
    compiled, state = Compiled([Limit("all", 10, 10, quota=600, window_s=60)]), Buckets()
    state.set_share("all", 0)
    assert compiled.decide(state, ANY, 1.0) is None
    found = compiled.decide(state, ANY, 1e6)
    assert found is not None and found.retry_after_s == 60


@given(
    st.floats(0.01, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 1), st.floats(0.5, 2)), max_size=80),
)
def test_never_more_than_burst_and_rate(rate: float, burst: float, steps: list[tuple[float, float, float]]) -> None:
    """Over any stretch, whatever the clock, the share and the figures do."""
    state, now, latest = Buckets(0.5), 100.0, -math.inf
    limits, times = [0.5 * rate], []
    for step, share, factor in steps:
        now += step
        latest = max(latest, now)
        if share < 0.3:
            state.set_share("all", share)
            limits.append(rate * share)
        if factor > 1.5:
            limits.append(rate * factor)
        edited = Compiled([Limit("all", rate * (factor if factor > 1.5 else 1.0), burst)])
        limits.append(rate * factor * state.share("all"))
        if edited.decide(state, ANY, now) is None:
            times.append(latest)
    most = max(limits)
    for first, begin in enumerate(times):
        for n, end in enumerate(times[first:], 1):
            assert n <= max(burst, 1) + most * (end - begin) + 1e-6


def test_what_came_in_before_a_change_came_in_at_the_smaller_rate() -> None:
    """A share that has risen, or a document that allows more, does not pay for the past."""
    state = Buckets(0.1)
    slow, fast = Compiled([Limit("all", 10, 100)]), Compiled([Limit("all", 1000, 100)])
    assert passed(slow, state, 0.0, 20) == 10
    state.set_share("all", 1.0)
    assert passed(slow, state, 2.0, 20) == 2
    assert passed(fast, state, 3.0, 20) == 10
    assert passed(fast, state, 3.01, 20) == 10
    assert passed(slow, state, 4.01, 20) == 10
    assert passed(slow, state, 3.0, 20) == 0, "a clock that jumps back stands still"


def test_a_share_has_room_for_one_request() -> None:
    """However many workers there are."""
    compiled, state = Compiled([Limit("all", 1, 1)]), Buckets(0.01)
    assert passed(compiled, state, 0.0, 5) == 1
    assert passed(compiled, state, 50.0, 5) == 0
    assert passed(compiled, state, 100.0, 5) == 1
    assert state.share("all") == state.share("unknown") == 0.01
    for share, sane in ((2.0, 1.0), (-1.0, 0.0)):
        state.set_share("all", share)
        assert state.share("all") == sane


# Several.


def test_a_request_takes_from_all_limits_or_from_none() -> None:
    """And only from those that it matches."""
    posts = Limit("posts", 1, 2, matches=lambda request: request.method == "POST")
    compiled, state = Compiled([Limit("all", 1, 4), posts]), Buckets()
    assert passed(compiled, state, 0.0, 5, Request("POST")) == 2
    assert passed(compiled, state, 0.0, 5) == 2
    refused = compiled.decide(state, Request("POST"), 0.0)
    assert refused is not None and refused.name == "all"


def test_of_several_that_refuse_the_longest_empty_is_named() -> None:
    """So that who waits as long as it is told is not refused by the other."""
    compiled, state = Compiled([Limit("a", 1, 1), Limit("b", 0.1, 1, window_s=60), Limit("c", 2, 1)]), Buckets()
    assert compiled.decide(state, ANY, 0.0) is None
    found = compiled.decide(state, ANY, 0.0)
    assert found is not None and (found.name, found.retry_after_s) == ("b", 10)


def test_demand_is_what_was_asked_for() -> None:
    """Also what was refused; but not what another limit alone refused."""
    compiled, state = Compiled([Limit("a", 1, 3), Limit("b", 1, 5)]), Buckets()
    assert state.demand("a") == 0
    assert passed(compiled, state, 0.0, 10) == 3
    assert (state.demand("a"), state.demand("b")) == (10, 3)
    both = Compiled([Limit("a", 1, 3), Limit("b", 1, 1)])
    assert passed(both, state, 0.0, 10) == 0
    assert (state.demand("a"), state.demand("b")) == (20, 3)


def test_an_edit_forgets_only_what_is_gone() -> None:
    """What a limit has counted stays under its name."""
    compiled, state = Compiled([Limit("a", 1, 3), Limit("b", 1, 3)]), Buckets()
    assert passed(compiled, state, 0.0, 3) == 3
    state.configure(["a"])
    assert (state.demand("a"), state.demand("b")) == (3, 0)
    assert passed(Compiled([Limit("a", 1, 100)]), state, 0.0, 3) == 0
    assert passed(Compiled([Limit("b", 1, 2)]), state, 0.0, 3) == 2


# Keys.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (Key(True, "", "", "", "", False), "shop"),
        (Key(False, "sub", "", "", "", False), "ann"),
        (Key(False, "", "X-User", "", "", False), "u1"),
        (Key(False, "", "", "sid", "", False), "c1"),
        (Key(False, "", "", "", "tenant", False), "t 1"),
        (Key(False, "", "", "", "", True), "/a%20b"),
        (Key(True, "sub", "X-User", "sid", "tenant", True), "shop\0ann\0u1\0c1\0t 1\0/a%20b"),
        (Key(True, "", "x-none", "", "", False), "shop\0"),
    ],
)
def test_keys(key: Key, value: str) -> None:
    """What a request has of what is named."""
    headers = {"x-user": "u1", "cookie": "a=b; sid=c1"}
    assert key.value(Request("GET", "/a%20b?tenant=t%201", headers, "shop", {"sub": "ann"})) == value


def test_a_long_key_is_hashed() -> None:
    """So that nobody fills the memory with keys; no two are taken for one."""
    as_it_is, longer = USER.value(of("x" * LONG)), USER.value(of("x" * 60_000))
    assert as_it_is == "x" * LONG
    assert len(longer) == 17
    assert longer != USER.value(of("x" * 60_001))


def test_each_key_has_its_own_bucket() -> None:
    """And all that have none share one."""
    compiled, state = Compiled([Limit("user", 1, 2, key=USER)]), Buckets()
    for name in ("ann", "bob", ""):
        assert passed(compiled, state, 0.0, 5, of(name)) == 2
    assert passed(compiled, state, 0.0, 5) == 0
    assert state.size("user") == 3
    assert state.size("unknown") == 0


def test_the_least_recently_used_key_is_forgotten() -> None:
    """One at a time; two where a document has lowered the bound."""
    compiled, state = Compiled([Limit("user", 0.001, 1, key=USER, max_keys=3)]), Buckets()
    for name in ("a", "b", "c", "a", "d"):
        compiled.decide(state, of(name), 0.0)
    assert state.size("user") == 3
    assert compiled.decide(state, of("a"), 0.0) is not None
    assert compiled.decide(state, of("b"), 0.0) is None
    lowered = Compiled([Limit("user", 0.001, 1, key=USER, max_keys=1)])
    sizes = []
    for n in range(4):
        lowered.decide(state, of(f"new{n}"), 0.0)
        sizes.append(state.size("user"))
    assert sizes == [2, 1, 1, 1]


class Model(RuleBasedStateMachine):
    """Against the definition: a request passes if and only if for no stretch that ends now it were one too many."""

    @initialize(
        figures=st.lists(
            st.tuples(st.sampled_from([0.25, 1.0, 4.0]), st.integers(1, 4), st.booleans(), st.booleans()),
            min_size=1,
            max_size=3,
        )
    )
    def begin(self, figures: list[tuple[float, int, bool, bool]]) -> None:
        self.figures = figures
        self.state = Buckets()
        self.now, self.latest = 64.0, -math.inf
        self.times: dict[tuple[int, str], list[float]] = {}
        self.asked = [0] * len(figures)
        self.compile()

    @rule()
    def compile(self) -> None:
        """An edit that changes nothing resets nothing."""
        self.compiled = Compiled(
            [
                Limit(
                    f"l{n}",
                    rate,
                    burst,
                    key=USER if keyed else None,
                    matches=(lambda request: request.path == "/x") if some else None,
                )
                for n, (rate, burst, keyed, some) in enumerate(self.figures)
            ]
        )
        self.state.configure(self.compiled.names)

    @rule(step=st.integers(-64, 256))
    def pass_time(self, step: int) -> None:
        """Back, too; in steps that floating point can add without an error."""
        self.now += step / 64

    @rule(user=st.sampled_from("ab"), path=st.sampled_from(["/x", "/y"]), count=st.integers(1, 4))
    def ask(self, user: str, path: str, count: int) -> None:
        """Some requests at once."""
        self.latest = max(self.latest, self.now)
        for _ in range(count):
            matched = [
                (n, user if keyed else "")
                for n, (_, _, keyed, some) in enumerate(self.figures)
                if not some or path == "/x"
            ]
            empty = [place for place in matched if not self.has_room(place)]
            found = self.compiled.decide(self.state, of(user, path), self.now)
            assert (found is not None) == bool(empty)
            if found is None:
                for place in matched:
                    self.times.setdefault(place, []).append(self.latest)
            else:
                assert found.name in [f"l{n}" for n, _ in empty]
            for n, _ in empty or matched:
                self.asked[n] += 1
        assert [self.state.demand(f"l{n}") for n in range(len(self.figures))] == self.asked

    def has_room(self, place: tuple[int, str]) -> bool:
        rate, burst, _, _ = self.figures[place[0]]
        times = self.times.get(place, [])
        return all(len(times) - first + 1 <= burst + rate * (self.latest - begin) for first, begin in enumerate(times))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40)


@given(st.floats(0, 1e9) | st.just(math.inf), st.integers(1, 3600))
def test_waits_are_whole_seconds_within_the_window(wait_s: float, window_s: int) -> None:
    """At least one, rounded up, and both fields say the same."""
    found = Limit("all", 1, 1, window_s=window_s).refusal(wait_s)
    assert 1 <= found.retry_after_s == found.reset_s <= window_s
    assert found.retry_after_s >= min(wait_s, window_s) - 1e-6
