"""The limit that finds itself: its laws as a machine that Hypothesis drives, and what it does under too much load."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policies.kinds.shed.common import BASE_S, GOOD, LOST, Common
from policies.kinds.shed.document import NAMES
from policies.kinds.shed.figures import Figures
from policies.kinds.shed.limiter import PARTS, Limiter
from policies.together import ADAPTIVE, ADAPTIVE_CELLS, ADAPTIVE_FIRST, WORDS, Together
from tests.policies.kinds.shed.simulate_shed import IMPATIENT, SCENES, Scene, limiters, simulate, small


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

    @rule(times=st.integers(1, 60), age_s=st.floats(0, 30), pause_s=st.floats(-1, 0.5), waits=st.booleans())
    def nothing_comes_of_some(self, times: int, age_s: float, pause_s: float, waits: bool) -> None:
        for _ in range(min(times, self.active)):
            self.now += pause_s
            (self.limiter.fail if waits else self.limiter.give_up)(age_s, self.now)
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
            assert self.limiter.given_up <= self.rules.most
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


@pytest.mark.parametrize("scene", IMPATIENT, ids=lambda scene: scene.name)
def test_callers_that_leave_and_small_services(scene: Scene) -> None:
    """At least 90% of the capacity is of use, though most of those that wait too long leave; over three runs."""
    runs = [simulate(scene, limited=True, seed=seed) for seed in (1, 2, 3)]
    assert sum(found.goodput for found in runs) / len(runs) >= 0.9
    assert max(found.queue for found in runs) <= 100


@pytest.mark.parametrize(
    ("scene", "most"),
    [
        (small(10, 1, patience=100.0)._replace(seconds=1200.0), 40),
        (Scene("for two minutes", lambda t: 2400.0, lambda t: 0.02, seconds=120.0, patience_s=5.0), 60),
    ],
    ids=lambda value: value.name if isinstance(value, Scene) else "",
)
def test_a_lasting_overload_moves_no_limit_up(scene: Scene, most: int) -> None:
    """Where nobody leaves, and the service is never seen without a queue, the queue is not taken for the service."""
    limits: list[float] = []
    found = simulate(scene, limited=True, trace=lambda now, limiter: limits.append(limiter.limit))
    assert found.goodput >= 0.95 and max(limits[len(limits) // 2 :]) <= most


def test_who_was_given_up_is_under_way_until_a_later_one_is_answered() -> None:
    """The service may be working on it; and as many as `least` find out whether it answers again."""
    limiter = Limiter(Figures(initial=4, least=2))
    for _ in range(4):
        assert limiter.enter(0, 1.0) == ""
    for _ in range(4):
        limiter.give_up(1.0, 2.0)
    assert (limiter.active, limiter.given_up, limiter.limit) == (0, 2, 2)
    assert limiter.enter(0, 2.0) == limiter.enter(0, 2.5) == ""
    assert "2 requests are under way, and 2 that nobody waits for any more" in limiter.enter(0, 2.5)
    limiter.leave(0.5, 2.5)
    assert limiter.enter(0, 2.6) == "" and limiter.given_up == 0


def test_what_a_fixed_limit_gives_up_leaves_room() -> None:
    """It is of what is waited for: that is what its document says."""
    limiter = Limiter(Figures(fixed=1))
    assert limiter.enter(0, 1.0) == ""
    limiter.give_up(1.0, 2.0)
    assert limiter.enter(0, 2.0) == "" and limiter.given_up == 0


def test_who_leaves_before_an_answer_could_come_says_nothing() -> None:
    """Nor does what failed at once; what took longer than an answer does is no answer, and took its time."""
    common = Common()
    limiter = Limiter(Figures(), common)
    now = 1.0
    for _ in range(3):
        limiter.enter(0, now)
        now += 0.2
        limiter.leave(0.2, now)
    assert common.read(BASE_S) == pytest.approx(0.2)
    before = common.read(LOST)
    for end, age_s, counted in (
        (limiter.give_up, 0.1, 0),
        (limiter.fail, 0.01, 0),
        (limiter.give_up, 0.3, 1),
        (limiter.fail, 0.3, 2),
    ):
        limiter.enter(0, now)
        end(age_s, now + age_s)
        assert common.read(LOST) - before == counted


def test_waiting_that_is_too_long_shrinks_the_limit_however_few_wait() -> None:
    """As the document says: `queue_time`."""
    limiter = Limiter(Figures(initial=20, queue_s=0.05))
    now = 1.0
    for latency_s in [0.1] * 20 + [0.2] * 80:
        limiter.enter(0, now)
        now += latency_s
        limiter.leave(latency_s, now)
    assert limiter.limit < 4


def test_workers_have_one_limit() -> None:
    """What one has learnt the others know, at once; and what each has under way, and gave up, counts for all."""
    one, other = limiters(2)
    for n in range(200):
        one.enter(0, n / 10)
        one.give_up(1.0, n / 10)
    assert other.limit == one.limit == 2 and other.given_up == one.given_up
    assert one.enter(0, 30.0) == other.enter(0, 30.0) == ""
    assert other.under_way == one.under_way == 2
    assert one.enter(0, 30.0) and other.enter(0, 30.0)
    other.leave(0.1, 30.1)
    assert one.enter(0, 30.2) == ""


def test_a_place_that_goes_to_another_service_begins_anew() -> None:
    """Whoever finds its own gone takes another, and nothing of a stranger's."""
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    together = Together(words, 0)
    mine = Common(together, "pets")
    assert not mine.find()
    mine.write(GOOD, 7.0)
    assert mine.find() and Common(together, "pets").find()
    for n in range(ADAPTIVE_CELLS):
        words[ADAPTIVE_FIRST + n * ADAPTIVE] = 5
    assert not mine.find() and mine.read(GOOD) == 0.0
