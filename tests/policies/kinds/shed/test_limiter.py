"""The limit that finds itself: its laws as a machine that Hypothesis drives, and what it does under too much load."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policies.kinds.shed.document import NAMES
from policies.kinds.shed.limiter import PARTS, Figures, Limiter
from tests.policies.kinds.shed.simulate_shed import SCENES, Scene, simulate


class Machine(RuleBasedStateMachine):
    """Any order of requests, answers, clocks, edits and words about load."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Figures()
        self.limiter = Limiter(self.rules)
        self.now = 0.0
        self.active = 0

    @rule(priority=st.integers(0, len(PARTS) - 1), times=st.integers(1, 60))
    def requests(self, priority: int, times: int) -> None:
        for _ in range(times):
            before = self.active
            if not self.limiter.enter(priority, self.now):
                self.active += 1
                assert before < max(self.limiter.limit * PARTS[priority], 1)

    @rule(times=st.integers(1, 60), latency_s=st.floats(0, 30), pause_s=st.floats(-1, 0.5))
    def answers(self, times: int, latency_s: float, pause_s: float) -> None:
        for _ in range(min(times, self.active)):
            self.now += pause_s
            self.limiter.leave(latency_s, self.now)
            self.active -= 1

    @rule()
    def one_goes_away(self) -> None:
        self.limiter.abandon()
        self.active = max(0, self.active - 1)

    @rule(fixed=st.sampled_from([0, 0, 1, 7]), least=st.sampled_from([1, 2, 50]), cpu=st.sampled_from([0.0, 80.0]))
    def an_edit(self, fixed: int, least: int, cpu: float) -> None:
        self.rules = Figures(
            fixed=fixed, least=least, initial=max(20, least), most=200, cpu_percent=cpu, most_load=cpu / 80
        )
        self.limiter.configure(self.rules)

    @rule(percent=st.floats(0, 100), load=st.floats(0, 1e9))
    def words(self, percent: float, load: float) -> None:
        self.limiter.note_cpu(percent)
        self.limiter.note_load(load)

    @invariant()
    def within_bounds(self) -> None:
        assert self.limiter.active == self.active
        if self.rules.fixed:
            assert self.limiter.limit == self.rules.fixed
        else:
            assert self.rules.least <= self.limiter.limit <= self.rules.most
        # Whatever is said of load, the first one is always let in.
        if not self.active:
            assert self.limiter.enter(4, self.now) == ""
            self.limiter.abandon()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40)


def test_the_least_important_go_first() -> None:
    """Each fills its own part."""
    assert len(PARTS) == len(NAMES) and sorted(PARTS, reverse=True) == list(PARTS)
    limiter = Limiter(Figures(fixed=100))
    for priority, most in ((4, 50), (3, 75), (2, 90), (1, 95), (0, 100)):
        while not limiter.enter(priority, 0.0):
            pass
        assert limiter.active == most
    assert limiter.enter(0, 0.0) == "100 requests are under way, of 100 for this priority"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_goodput_stays_and_latency_is_bounded(scene: Scene) -> None:
    """At least 90% of what is possible, where without a limit next to nothing is left."""
    found = simulate(scene, limited=True)
    assert found.goodput >= 0.9
    slowest_s = max(scene.work_s(t) for t in range(int(scene.seconds)))
    assert found.percentile_s(0.99) <= 4 * slowest_s
    assert simulate(scene, limited=False).goodput < 0.2


def test_a_service_that_is_well_is_left_alone() -> None:
    """At 80% of what it can bear next to nothing is refused."""
    found = simulate(Scene("well", lambda t: 640.0, lambda t: 0.02), limited=True)
    assert found.refused <= 0.001 * len(found.latencies_s) and found.goodput > 0.98


def test_the_cpu_and_the_instances_have_their_say() -> None:
    """Above what is allowed less and less is let in; below it comes back."""
    limiter = Limiter(Figures(fixed=100, cpu_percent=50, most_load=1.0))
    for _ in range(3):
        limiter.note_cpu(100)
    while not limiter.enter(0, 0.0):
        pass
    assert limiter.active == 52 and "left by load" in limiter.enter(0, 0.0)
    limiter.note_load(1.25)
    limiter.note_load(1e9)
    assert "of 33 for" in limiter.enter(0, 0.0)
    for _ in range(20):
        limiter.note_load(0.1)
    assert limiter.enter(0, 0.0) == ""
