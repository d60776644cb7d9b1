"""One limit for each key, for all agents: a key's part follows its own requests. All of it in fake time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.ratelimit.buckets import Buckets, Compiled
from policies.kinds.ratelimit.hot import MOST_KEYS, Granted, HotKeys, KeyLedger, limit_of, name_of
from policies.kinds.ratelimit.limit import Key, Limit
from policies.kinds.ratelimit.shares import REPORT_S, Report, Shared
from policies.request import Request

LIMIT = "pets.production\0each"
STEP_S = 0.01

Load = Callable[[int, float], dict[str, float]]
"""Requests a second of each user, at one agent, now."""


class Agent:
    """Its workers, and its control."""

    def __init__(self, agents: int) -> None:
        self.buckets = Buckets()
        self.buckets.begin("each", 1 / agents)
        self.hot = HotKeys()
        self.ledger = KeyLedger()
        self.due = 0.0
        self.owed: dict[str, float] = {}

    def asks(self, compiled: Compiled, rates: dict[str, float], now: float) -> dict[str, int]:
        """How many of each user's requests pass in one step."""
        passed: dict[str, int] = {}
        for user, rate in rates.items():
            self.owed[user] = self.owed.get(user, 0.0) + rate * STEP_S
            while self.owed[user] >= 1 - 1e-9:
                self.owed[user] -= 1
                request = Request(headers={"x-user": user})
                passed[user] = passed.get(user, 0) + (compiled.decide(self.buckets, request, now) is None)
        return passed


class Mesh:
    """Agents, and what they tell each other, at once."""

    def __init__(self, agents: int, rate: float, burst: float) -> None:
        self.limits = {LIMIT: Shared(rate, True, burst)}
        self.compiled = Compiled([Limit("each", rate, burst, key=Key(header="x-user"), shared=True)])
        self.agents = [Agent(agents) for _ in range(agents)]
        self.hosts = frozenset(str(n) for n in range(agents))
        self.now = 100.0

    def run(self, load: Load, seconds: float) -> dict[str, int]:
        """What passes, of each user."""
        total: dict[str, int] = {}
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for n, agent in enumerate(self.agents):
                for user, passed in agent.asks(self.compiled, load(n, self.now), self.now).items():
                    total[user] = total.get(user, 0) + passed
                if agent.hot.due(self.now) or self.now >= agent.due:
                    agent.due = self.now + REPORT_S
                    self.round(str(n), agent)
        return total

    def round(self, host: str, agent: Agent) -> None:
        meter, hot = agent.buckets.meter("each"), agent.hot
        asked = {name_of(LIMIT, key): float(n) for key, n in meter.take_asked(MOST_KEYS).items()}
        hot.count(asked, self.limits, len(self.agents), self.now)
        for name, report in hot.report(self.now).items():
            owner = self.agents[int(hot.owner(name, self.hosts))].ledger
            hot.accept(owner.report(host, {name: report}, self.limits, len(self.agents), self.now), hot.serial)
        meter.keys = {name.rpartition("\0")[2]: part for name, part in hot.parts(self.now).items()}
        tokens, hot.tokens = hot.tokens, {}
        meter.give(self.compiled.limits[0], {name.rpartition("\0")[2]: n for name, n in tokens.items()}, self.now)


def at(agent: int, **users: float) -> Load:
    """All of it at one agent."""
    return lambda n, now: users if n == agent else {}


@pytest.mark.parametrize("agents", [2, 5, 30])
def test_a_quiet_user_is_not_refused_for_a_noisy_ones_sake(agents: int) -> None:
    """10/s of 50/s pass, wherever somebody else's 500/s come in; who is one too many gets his 50/s."""

    def load(n: int, now: float) -> dict[str, float]:
        return {"quiet": 10.0} if n == 0 else {"noisy": 500.0 / (agents - 1)}

    mesh = Mesh(agents, 50, 50)
    first = mesh.run(load, 1.0)
    assert first["quiet"] >= 10 * (1.0 if agents <= 5 else 0.5)
    found = mesh.run(load, 9.0)
    assert found["quiet"] >= 89
    assert 0.9 * 450 <= found["noisy"] <= 1.05 * 450


@pytest.mark.parametrize("agents", [2, 10, 60])
def test_who_comes_in_at_one_agent_has_all_of_his_rate_there(agents: int) -> None:
    """However many agents there are."""
    mesh = Mesh(agents, 50, 50)
    mesh.run(at(0, ann=100.0), 1.0)
    assert 0.95 * 500 <= mesh.run(at(0, ann=100.0), 10.0)["ann"] <= 500 + 50


@pytest.mark.parametrize(("agents", "skew"), [(3, 0.34), (5, 0.2), (5, 0.8)])
def test_who_comes_in_at_several_has_his_rate_once(agents: int, skew: float) -> None:
    """Over all of them; and the burst at most twice."""

    def load(n: int, now: float) -> dict[str, float]:
        return {"ann": 150.0 * (skew if n == 0 else (1 - skew) / (agents - 1))}

    mesh = Mesh(agents, 50, 50)
    first = mesh.run(load, 2.0)["ann"]
    assert first <= 100 + 2 * 50
    assert 0.9 * 500 <= mesh.run(load, 10.0)["ann"] <= 1.02 * 500


def test_who_moves_takes_his_rate_along() -> None:
    """Another agent every 3 s."""
    mesh = Mesh(5, 50, 50)

    def load(n: int, now: float) -> dict[str, float]:
        return {"ann": 150.0} if n == int(now / 3) % 5 else {}

    mesh.run(load, 3.0)
    assert 0.7 * 50 * 30 <= mesh.run(load, 30.0)["ann"] <= 50 * 30 + 2 * 50


@pytest.mark.parametrize("agents", [2, 5, 20])
def test_a_small_burst_goes_along(agents: int) -> None:
    """Of 5 a minute, 5 pass at one agent within seconds; and no more, until the time has come."""
    mesh = Mesh(agents, 5 / 60, 5)
    assert 5 <= mesh.run(at(0, ann=4.0), 4.0)["ann"] <= 6
    assert mesh.run(at(0, ann=4.0), 20.0)["ann"] <= 2


def test_a_burst_is_given_once() -> None:
    """Who pauses until he is forgotten, and comes back, has what came in meanwhile."""
    mesh = Mesh(5, 5 / 60, 5)
    passed = 0
    for _ in range(6):
        passed += mesh.run(at(0, ann=4.0), 2.0)["ann"]
        mesh.run(at(0), 5.0)
    assert passed <= 5 + 2 * 42 * 5 / 60 + 1
    mesh.run(at(0), 120.0)
    assert mesh.run(at(0, ann=4.0), 4.0)["ann"] >= 5, "by then it is whole again"


def test_of_too_many_keys_those_that_are_asked_for_most_are_told() -> None:
    """And their number is bounded; of others every agent has an equal part."""
    hot = HotKeys()
    limits = {LIMIT: Shared(1.0, True, 1.0)}
    many = {name_of(LIMIT, f"{n:04}"): 1.0 for n in range(3 * MOST_KEYS)}
    hot.count({}, limits, 4, 1.0)
    hot.count({**many, name_of(LIMIT, "ann"): 9.0}, limits, 4, 1.25)
    assert name_of(LIMIT, "ann") in hot.parts(1.25) and len(hot.report(1.25)) == MOST_KEYS
    later = {name_of(LIMIT, f"x{n:04}"): 1.0 for n in range(9)}
    hot.count({**later, name_of(LIMIT, "ann"): 9.0}, limits, 4, 1.5)
    assert later.keys() | {name_of(LIMIT, "ann")} <= hot.parts(1.5).keys(), "who is not asked for makes way"
    assert len(hot.parts(1.5)) <= MOST_KEYS
    hot.count({}, limits, 4, 9.0)
    assert hot.parts(9.0) == {}


def test_who_asks_for_little_is_not_told_of() -> None:
    """A quarter of an equal part is left to everybody as it is."""
    hot, limits = HotKeys(), {LIMIT: Shared(400.0, True, 400.0)}
    hot.count({}, limits, 4, 1.0)
    hot.count({name_of(LIMIT, "little"): 24.0, name_of(LIMIT, "more"): 26.0}, limits, 4, 2.0)
    assert list(hot.parts(2.0)) == [name_of(LIMIT, "more")]


NUMBERS = st.floats() | st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1e300])
REPORTS = st.builds(Report, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["k", "l"]), REPORTS, st.floats(0, 3)), max_size=30))
def test_nobody_takes_more_than_there_is(told: list[tuple[str, str, Report, float]]) -> None:
    """Whatever the others say: parts and tokens within the limit's, and none of what is no limit."""
    ledger, limits, now = KeyLedger(), {LIMIT: Shared(10.0, True, 20.0)}, 5.0
    for member, key, report, passed_s in told:
        now += passed_s
        grants = ledger.report(
            member, {name_of(LIMIT, key): report, name_of("other\0each", key): report}, limits, 3, now
        )
        assert grants.keys() == {name_of(LIMIT, key)}
        for found in grants.values():
            assert 0 <= found.fraction <= 1 and 0 <= found.tokens <= 20


def test_parts_in_use_add_up_to_one() -> None:
    """Of those that told of the key, at every moment, however it moves."""
    mesh = Mesh(4, 50, 50)
    for turn in range(40):
        mesh.run(lambda n, now, turn=turn: {"ann": 90.0 * ((turn // 5 + n) % 4)}, 0.25)  # type: ignore[misc]
        parts = [sum(agent.hot.parts(mesh.now).values()) for agent in mesh.agents if agent.hot.parts(mesh.now)]
        told = [part for part in parts if not math.isclose(part, 1 / 4)]
        assert sum(told) <= 1 + 1e-9


def test_an_answer_that_comes_late_is_passed_over() -> None:
    """The owner no longer counts on it."""
    hot, limits = HotKeys(), {LIMIT: Shared(1.0, True, 4.0)}
    name = name_of(LIMIT, "ann")
    hot.count({}, limits, 4, 1.0)
    hot.count({name: 3.0}, limits, 4, 1.25)
    hot.report(1.25)
    before = hot.serial
    hot.report(1.5)
    hot.accept({name: Granted(0.9, 3.0)}, before)
    assert hot.parts(1.5) == {name: 0.25} and hot.tokens == {}
    hot.accept({name: Granted(0.9, 3.0)}, hot.serial)
    assert hot.parts(1.5) == {name: 0.9} and hot.tokens == {name: 3.0}


def test_what_stands_in_a_request_leaves_no_host() -> None:
    """Keys are told by their hashes, each behind its limit."""
    buckets = Buckets()
    compiled = Compiled([Limit("each", 1, 1, key=Key(header="authorization"), shared=True)])
    compiled.decide(buckets, Request(headers={"authorization": "Bearer s3cret"}), 1.0)
    (key,) = buckets.meter("each").take_asked(MOST_KEYS)
    assert "s3cret" not in key and len(key) == 16
    assert limit_of(name_of(LIMIT, key)) == LIMIT
    assert buckets.meter("each").take_asked(MOST_KEYS) == {}
