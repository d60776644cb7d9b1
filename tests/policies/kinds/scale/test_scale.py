"""The kind `scale`: how many instances there should be, of the figures of a service, without flapping."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.scale.decide import Advice, Advisor, Figures, Seen, compile
from policies.kinds.scale.document import Scale
from policies.language.document import Invalid
from tests.policies.kinds.scale.simulate_scale import SHAPES, TARGET, THRESHOLD, Shape, by_document, simulate

STEP_S = 2.0


def document(**fields: object) -> Scale:
    found = parse("scale", "pets", json.dumps(fields).encode())
    assert isinstance(found, Scale), found
    return found


def refusal(**fields: object) -> str:
    found = parse("scale", "pets", json.dumps(fields).encode())
    assert isinstance(found, Invalid)
    return f"{found.path}: {found.reason}"


class Play:
    """A service that follows advice at once, unless a test says otherwise."""

    def __init__(self, rules: Scale, instances: int = 3) -> None:
        self.now = 0.0
        self.instances = instances
        self.advisor = Advisor(compile(rules), instances, 0.0)
        self.follows = True

    def go(self, length_s: float, stable: Figures, panic: Figures | None = None, whole: bool = True) -> list[Advice]:
        """Advice that was new."""
        told = []
        for _ in range(int(length_s / STEP_S)):
            self.now += STEP_S
            seen = Seen(
                self.instances, self.instances, stable, panic or stable, whole, "" if whole else "web-2 is missing"
            )
            self.last = self.advisor.advise(seen, self.now)
            if self.last.replicas != self.last.before:
                told.append(self.last)
            if self.follows:
                self.instances = self.last.replicas
        return told


def flow(total: float, **more: float | None) -> Figures:
    """So many requests under way and waiting, of all instances together."""
    return Figures(rate=10 * total, in_flight=total, pending=total, cpu=total / 10, shed=0.0)._replace(**more)


# Conditions.


def test_pending_requests_that_stay_above_five_for_a_minute() -> None:
    """One line: one instance more after a minute, and another after another one; a break begins anew."""
    play = Play(document(up=[{"pending": 5, "for": "1m"}]))
    assert play.go(58, flow(30)) == []
    play.go(2, flow(14))
    assert play.go(60, flow(30)) == []
    first = play.go(4, flow(30))
    assert [each.replicas for each in first] == [4]
    assert "pending 10 an instance, above 5 for 60 s" in first[0].reason
    assert [each.replicas for each in play.go(64, flow(30))] == [5]
    assert play.go(130, flow(24)) == [] and play.instances == 5


def test_who_is_slow_to_follow_is_not_told_to_go_on() -> None:
    """The next step waits until the last one is there."""
    play = Play(document(up=[{"pending": 5, "for": "10s"}], max=50))
    play.follows = False
    play.go(300, flow(60))
    assert play.last.replicas == 4
    play.instances = 4
    assert [each.replicas for each in play.go(14, flow(60))] == [5]


def test_what_is_started_by_hand_is_told_beside_advice_that_stands() -> None:
    """Nothing asks for fewer, and there are more than was advised: the reason does not read as if something did."""
    play = Play(document(up=[{"p99": "500ms"}], down=[{"cpu": 0.2, "for": "10m"}]), instances=1)
    play.go(60, flow(1))
    assert play.last.reason == "nothing asks for more or fewer"
    play.follows, play.instances = False, 2
    assert play.go(60, flow(1, cpu=1.0)) == []
    said = "nothing asks for more or fewer; what was advised before stands, 1, and there are 2"
    assert (play.last.replicas, play.last.reason) == (1, said)


def test_several_figures_of_a_condition_have_to_hold_together() -> None:
    """Latency alone does not count, nor what nobody knows."""
    play = Play(document(up=[{"p99": "200ms", "in_flight": 2, "for": "10s", "step": 3}]))
    assert play.go(60, flow(3, p99=0.5)) == []
    assert play.go(60, flow(30)) == []
    told = play.go(20, flow(30, p99=0.5))
    assert [each.replicas for each in told] == [6]
    assert "in flight 10 an instance, p99 500 ms, above 2 and 200 ms for 10 s" in told[0].reason


@pytest.mark.parametrize(
    ("condition", "figures"),
    [
        ({"rate": 50}, flow(0, rate=200.0)),
        ({"in_flight": 5}, flow(0, in_flight=20.0)),
        ({"cpu": 0.8}, flow(0, cpu=2.7)),
        ({"p50": "10ms"}, flow(0, p50=0.02)),
        ({"p90": 0.1}, flow(0, p90=0.2)),
        ({"shed": 0.01}, flow(0, shed=0.02)),
    ],
)
def test_each_figure_can_ask_for_more(condition: dict[str, object], figures: Figures) -> None:
    """And does not without it."""
    play = Play(document(up=[{**condition, "for": "10s"}]))
    assert play.go(60, flow(0)) == []
    assert [each.replicas for each in play.go(12, figures)] == [4]


def test_without_a_word_about_fewer_half_of_it_takes_one_away() -> None:
    """For three minutes, one after the other, down to the least."""
    play = Play(document(min=2, up=[{"pending": 5, "for": "10s"}]), instances=5)
    assert play.go(170, flow(2)) == []
    assert [each.replicas for each in play.go(1200, flow(2))] == [4, 3, 2]
    assert play.last.reason


def test_what_is_below_takes_away_what_it_says() -> None:
    """But never so many that the rest would ask for more again."""
    rules = document(up=[{"in_flight": 10, "for": "10s"}], down=[{"in_flight": 6, "for": "30s", "step": 5}], max=20)
    play = Play(rules, instances=10)
    told = play.go(400, flow(40))
    assert told[0].replicas == 5 and "in flight 4 an instance, below 6 for" in told[0].reason
    assert play.go(2000, flow(40)) == [] and play.instances == 5


# Targets.


def test_a_target_is_what_each_instance_should_have() -> None:
    """Rounded up, the most of several; a tenth more or less changes nothing."""
    play = Play(document(target={"in_flight": 10, "rate": 1000}, max=40))
    assert [each.replicas for each in play.go(30, flow(60))] == [6]
    assert "in flight 60 needs 6 of 10 each" in play.last.reason
    assert play.go(60, flow(65)) == []
    assert [each.replicas for each in play.go(30, flow(65, rate=8000.0))] == [8]


def test_the_most_that_was_needed_lately_is_not_taken_away() -> None:
    """Within the cool-down; then what was needed since."""
    play = Play(document(target={"in_flight": 10}, cooldown={"down": "2m"}))
    play.go(30, flow(80))
    assert play.instances == 8
    assert play.go(60, flow(18)) == []
    play.go(2, flow(47))
    assert [each.replicas for each in play.go(118, flow(18))] == [5]
    assert [each.replicas for each in play.go(200, flow(18))] == [2]


def test_load_that_jumps_is_followed_at_once_and_nothing_is_taken_away() -> None:
    """By the short window; until it was calm for the length of the long one."""
    play = Play(document(target={"in_flight": 10}, max=60, cooldown={"down": "0s"}))
    told = play.go(2, flow(30), flow(200))
    assert [each.replicas for each in told] == [20] and told[0].panic
    assert "of the last moments" in told[0].reason
    assert play.go(58, flow(18)) == [] and play.last.panic
    assert [each.replicas for each in play.go(10, flow(18))] == [2] and not play.last.panic


# What always holds.


def test_nothing_is_taken_away_by_figures_that_are_not_whole() -> None:
    """A host that is missing looks as if it had no load; more is asked for all the same."""
    play = Play(document(target={"in_flight": 10}, cooldown={"down": "10s"}), instances=8)
    assert play.go(600, flow(18), whole=False) == []
    assert "not whole: web-2 is missing" in play.last.reason
    assert [each.replicas for each in play.go(20, flow(100), whole=False)] == [10]
    assert [each.replicas for each in play.go(60, flow(18))] == [2]


def test_nothing_is_known_yet() -> None:
    """Neither more nor fewer."""
    play = Play(document(target={"in_flight": 10}, up=[{"p99": 1, "for": "2s"}]), instances=4)
    assert play.go(600, Figures()) == [] and play.instances == 4


def test_what_there_is_counts_as_advised_within_least_and_most() -> None:
    """And who takes over goes on with what was advised before."""
    rules = compile(document(target={"rate": 1}, min=2, max=5))
    assert Advisor(rules, 1, 0.0).advised == 2 and Advisor(rules, 9, 0.0).advised == 5
    assert Advisor(rules, 2, 0.0, advised=4).advised == 4
    advisor = Advisor(rules, 5, 0.0)
    advisor.configure(compile(document(target={"rate": 1000}, min=2, max=3)))
    told = advisor.advise(Seen(5, 5, flow(0), flow(0)), 2.0)
    assert told.replicas == 3 and "max (3)" in told.reason


def test_what_would_be_needed_beyond_max_is_said() -> None:
    """Whoever reads the reason sees that max is too low."""
    play = Play(document(target={"in_flight": 1}, max=5))
    play.go(30, flow(50))
    assert play.instances == 5 and "50 would be needed, and max is 5" in play.last.reason


@given(
    st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500), st.integers(0, 30), st.booleans()), max_size=120),
    st.sampled_from((TARGET, THRESHOLD)),
)
def test_whatever_is_seen_advice_is_within_bounds_and_has_a_reason(
    seen: list[tuple[float, float, int, bool]], rules: Scale
) -> None:
    """And is never fewer while load has jumped, or figures are not whole."""
    advisor = Advisor(compile(rules), 3, 0.0)
    for n, (stable, panic, there, whole) in enumerate(seen):
        told = advisor.advise(Seen(there, there, flow(stable), flow(panic), whole), 2.0 * n)
        assert rules.min <= told.replicas <= rules.max and told.reason
        if told.replicas < told.before:
            assert whole and not told.panic


# Load shapes.


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("rules", [TARGET, THRESHOLD], ids=["target", "threshold"])
def test_no_shape_makes_it_flap(shape: Shape, rules: Scale) -> None:
    """Advice turns round at most once within three minutes, for a spike; noise and a sawtooth change it hardly ever."""
    told = simulate(shape, partial(by_document, rules))
    assert told.turns(120) == 0
    if shape.name in ("flat with noise", "sawtooth"):
        late = told.advised[900 // 2 :]
        assert max(late) - min(late) <= 2 and sum(a != b for a, b in pairwise(late)) <= 2


def test_a_spike_is_followed_and_let_go() -> None:
    """Within seconds, and afterwards what there was is enough again."""
    told = simulate(SHAPES[0], partial(by_document, TARGET))
    assert max(told.advised[600 // 2 : 620 // 2]) >= 20
    assert told.advised[-1] <= 4


# Documents.


def test_what_is_wrong_is_said() -> None:
    """Where, and what would be right."""
    assert refusal() == "$: nothing says when there should be more; give it a target, or what is above in `up`"
    assert refusal(min=5, max=2, target={"rate": 1}) == "$.min: 5 is more than max (2)"
    assert refusal(up=[{"for": "1m"}]).startswith("$.up[0]: no figure; one or more of pending,")
    assert refusal(up=[{"pending": 5, "for": "1s"}]) == "$.up[0].for: 1 s; from 2 s to 3600 s"
    assert "$.down[0].in_flight: 12 is not below 10" in refusal(up=[{"in_flight": 10}], down=[{"in_flight": 12}])
    assert refusal(target={"rate": 1}, panic="60s", stable="60s").startswith("$.panic: 60 s is no shorter")
    assert "did you mean 'pending'" in refusal(up=[{"pendign": 5}])
    assert refusal(min=0, target={"rate": 1}).startswith("$.min")
    assert refusal(target={"rate": 0}).startswith("$.target.rate")
    assert refusal(up=[{"p99": "2 weeks"}]).startswith("$.up[0].p99")


@pytest.mark.parametrize("tiny", [5e-324, 1e-320, 1e-300])
def test_values_next_to_nothing_are_values(tiny: float) -> None:
    """What is divided by them is more than any number: that ends nobody's advice."""
    some = Figures(rate=1e10, in_flight=0.0, pending=0.0, shed=0.0)
    play = Play(document(target={"rate": tiny}, max=8))
    play.go(60, some)
    assert play.last.replicas == 8 and "max is 8" in play.last.reason
    held = {"target": {"pending": 100}, "up": [{"rate": tiny, "pending": 1e9}], "cooldown": {"down": "0s"}}
    play = Play(document(**held))
    play.go(400, some)
    assert play.last.replicas == 3
