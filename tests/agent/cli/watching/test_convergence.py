"""How revisions come into force, and what is waited for."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.watching.convergence import MOST_WAITED_FOR, SELDOM_S, Convergence, Put


def of(*hosts: str, runs: int = 1) -> Convergence:
    convergence = Convergence()
    for host in hosts:
        convergence.runs(host, runs)
        convergence.lives(host)
    return convergence


def test_a_revision_is_in_force_when_the_last_agent_runs_it() -> None:
    """Not before; a later word counts for all revisions before it."""
    convergence = of("a", "b", "c")
    convergence.changed(5, "route/pets", Put("route/pets", 5), 10.0)
    convergence.changed(7, "pets/1", None, 10.1)
    convergence.runs("a", 5)
    convergence.runs("b", 9)
    assert convergence.reached(10.2) == [] and convergence.waits
    convergence.runs("c", 6)
    (reached,) = convergence.reached(10.5)
    assert (reached.waited.last, reached.agents, round(reached.after_s, 3)) == (5, 3, 0.5)
    assert convergence.behind(20.0).lagging == {"a": 5, "c": 6}  # type: ignore[union-attr]
    convergence.runs("a", 7)
    convergence.runs("c", 7)
    assert [each.waited.keys for each in convergence.reached(10.6)] == [["pets/1"]] and not convergence.waits


def test_only_agents_that_live_count() -> None:
    """One that goes is waited for no more; one that comes is; the word of one that is gone is nobody's."""
    convergence = of("a", "b")
    convergence.changed(5, "x", None, 0.0)
    convergence.runs("gone", 2)
    convergence.runs("a", 5)
    convergence.lives("c")
    convergence.gone("b")
    assert convergence.reached(1.0) == []
    assert convergence.behind(1.0).lagging == {"c": 0}  # type: ignore[union-attr]
    convergence.gone("c")
    assert [each.agents for each in convergence.reached(1.0)] == [1]
    convergence.gone("a")
    convergence.changed(6, "x", None, 2.0)
    assert [each.agents for each in convergence.reached(2.0)] == [0], "nobody is there to run it"


def test_a_word_that_is_taken_back_lags() -> None:
    """An agent that was started anew, or whose word cannot be read."""
    convergence = of("a")
    convergence.changed(5, "x", None, 0.0)
    convergence.runs("a", 5)
    convergence.forgets("a")
    assert convergence.reached(0.1) == []
    convergence.runs("a", 6)
    assert len(convergence.reached(0.2)) == 1


def test_words_of_a_laggard_become_rare() -> None:
    """The first after a second; each at twice the distance, up to a minute; at once when something has changed."""
    convergence = of("a", "b")
    convergence.changed(5, "x", None, 0.0)
    said = [tenth / 10 for tenth in range(6000) if convergence.behind(tenth / 10) is not None]
    assert said[:4] == [1.0, 2.0, 4.0, 8.0] and len(said) < 20
    assert max(b - a for a, b in pairwise(said)) <= SELDOM_S + 0.1
    convergence.runs("a", 5)
    again = convergence.behind(660.0)
    assert again is not None and again.runs == ["a"]


def test_what_is_waited_for_is_bounded() -> None:
    """A host that hangs while a thousand changes a second come costs no memory, and none is lost."""
    convergence = of("a")
    for revision in range(2, 50_000):
        convergence.changed(revision, f"pets/{revision}", Put(f"route/{revision}", revision), 0.0)
    assert len(convergence._waited) == MOST_WAITED_FOR
    assert max(len(waited.keys) + len(waited.puts) for waited in convergence._waited) <= 40
    behind = convergence.behind(5.0)
    assert behind is not None and behind.later == 49_997
    convergence.runs("a", 49_998)
    assert sum(len(convergence.reached(6.0)) for _ in range(2)) == MOST_WAITED_FOR - 1
    convergence.runs("a", 49_999)
    assert sum(each.waited.changes for each in convergence.reached(6.0)) == 49_998 - (MOST_WAITED_FOR - 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.just("")),
        st.tuples(st.sampled_from(["live", "gone", "forget"]), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["run", "behind"]), st.sampled_from("abc")),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_is_called_in_force_that_is_not(steps: list[tuple[str, str]]) -> None:
    """Whatever comes in whatever order, against the definition: the lowest word of all who live."""
    convergence, revision, waited = Convergence(), 1, set()
    for step, host in steps:
        if step == "change":
            revision += 1
            waited.add(revision)
            convergence.changed(revision, "x", None, 0.0)
        elif step == "live":
            convergence.lives(host)
        elif step == "gone":
            convergence.gone(host)
        elif step == "forget":
            convergence.forgets(host)
        else:
            convergence.runs(host, revision if step == "run" else revision - 1)
        told = {each.waited.last for each in convergence.reached(1.0)}
        lowest = min((convergence.acks.get(one, 0) for one in convergence.agents), default=revision)
        assert told == {each for each in waited if each <= lowest}
        waited -= told
