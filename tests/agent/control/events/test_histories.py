"""Whatever happens, over hours: in the end what is open at the services is what is so, each once.

On a fake clock, at doubles with the lag, the limits and the lies of the services (tests/support/trackers).
"""

from __future__ import annotations

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.history import HOOKS, History, Step, live

WHAT = (
    *("fail", "fail", "fail", "recover", "recover", "register", "deregister", "kill", "vanish", "start", "start"),
    *("takeover", "takeover", "etcd", "away", "deaf", "limit", "labels", "renamed", "workflow"),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(WHAT), st.integers(0, 11), st.sampled_from((0, 1, 5, 20, 60, 200, 900, 1500))),
    max_size=25,
)


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_in_the_end_what_is_open_is_what_is_so(steps: list[Step], seed: int) -> None:
    """No page, issue, ticket or incident is open whose condition has ended, none is missing, none is doubled."""
    history = live(steps, seed)
    assert history.wrong() == {}
    assert not history.github.rude and not history.busy()


# Each by name.


def shown(*steps: Step, seed: int = 1) -> History:
    """That history ends well."""
    history = live(steps, seed)
    assert history.wrong() == {} and not history.github.rude
    return history


def test_a_limit_holds_for_who_stands_in_line_already() -> None:
    """Of two that were to be told one after the other the first hears of it."""
    before: tuple[Step, ...] = (("workflow", 11, 5), ("vanish", 10, 5), ("fail", 6, 1), ("etcd", 1, 0))
    limits: tuple[Step, ...] = (("limit", 5, 20), ("limit", 4, 20), ("renamed", 1, 1), ("deregister", 5, 5))
    shown(*before, *limits, ("takeover", 5, 20), ("labels", 4, 5), seed=208)


def test_an_instance_that_never_comes_back() -> None:
    """Its host dies, and everything on it; the page and its like were open."""
    history = shown(("fail", 0, 10), ("vanish", 0, 120))
    assert [issue["state"] for issue in history.github.all()] == ["closed"]


def test_an_instance_that_is_deregistered_or_comes_on_another_port() -> None:
    """In order, while it is unhealthy; another takes its place."""
    history = shown(("fail", 0, 10), ("deregister", 0, 120), ("register", 0, 1))
    assert [issue["state"] for issue in history.github.all()] == ["closed"]


def test_all_hosts_die_and_nobody_sees_it() -> None:
    """Whoever comes afterwards finds what is open."""
    kills: tuple[Step, ...] = (("vanish", 0, 120), ("vanish", 0, 0), ("vanish", 0, 0), ("start", 0, 600))
    history = shown(("fail", 0, 10), *kills)
    assert [issue["state"] for issue in history.github.all()] == ["closed"]


def test_a_successor_closes() -> None:
    """Whoever told has died in between."""
    shown(("fail", 0, 10), ("takeover", 0, 60), ("kill", 1, 1), ("recover", 0, 1))


def test_answers_that_are_lost_make_nothing_double() -> None:
    """While searches lag: each is asked for, carried out, and not answered."""
    deaf: tuple[Step, ...] = tuple(("deaf", n, 0) for n in range(4))
    history = shown(*deaf, ("fail", 0, 1), ("recover", 0, 900))
    assert len(history.github.all()) == len(history.jira.issues) == 1


def test_labels_that_nobody_set() -> None:
    """GitHub drops them, or somebody takes them off."""
    shown(("labels", 0, 0), ("fail", 0, 10), ("recover", 0, 300))
    shown(("fail", 0, 10), ("labels", 0, 300), ("recover", 0, 10))


def test_a_flap_is_one_ticket() -> None:
    """It is opened again instead."""
    flaps: list[Step] = [("fail", 0, 100), ("recover", 0, 300)] * 4
    history = shown(*flaps)
    assert len(history.github.all()) == len(history.jira.issues) == 1


def test_a_stuck_delivery_holds_up_only_its_own_condition() -> None:
    """Five tickets that cannot be closed, for the workflow has no way to; one more is opened within a minute."""

    async def story(history: History) -> None:
        history.jira.transitions = [("11", "Start", "In Progress")]
        for n in range(6):
            history.register(n)
        await trio.sleep(60)
        for _ in range(5):
            await history.step("fail", 0)
        await trio.sleep(600)
        assert history.jira.open() == 5
        for _ in range(5):
            await history.step("recover", 0)
        await trio.sleep(120)
        await history.step("fail", -1)  # one that never failed
        await trio.sleep(60)
        assert history.jira.open() == 6, "the new one waits for those that are stuck"
        history.jira.transitions.append(("31", "Resolve", "Done"))

    assert live(story, 5).wrong() == {}


@pytest.mark.parametrize("name", ["issues", "tickets", "page", "status"])
def test_a_limit_slows_its_hook_alone_and_says_so(name: str) -> None:
    """Nothing is sent for at least a minute; the other hooks are told meanwhile; tries are not used up."""
    which = list(HOOKS).index(name)
    hooks = {hook: {**more, "attempts": 2} for hook, more in HOOKS.items()}
    said: list[str] = []

    async def story(history: History) -> None:
        for n in range(3):
            history.register(n)
        await trio.sleep(60)
        for weather in history.weathers.values():
            weather.reliable = True
        await history.step("limit", which)
        double = list(history.weathers.values())[which].double
        for _ in range(6):
            await history.step("fail", 0)
        await trio.sleep(55)
        tellers = [agent.delivery for agent in history.agents.values() if agent.delivery.slowed]
        said.extend(label for teller in tellers for label in teller.slowed)
        assert len(double.rude) <= 4, "what was under way"
        others = [weather.double for weather in history.weathers.values() if weather.double is not double]
        assert all(other.open_titles() for other in others)
        double.rude.clear()

    history = live(story, 7, hooks)
    assert said == [f"pets.production/{name}"] and history.wrong() == {}
