"""The last lines of programs: numbered, bounded, and who may have a place."""

from __future__ import annotations

from agent.control.output import kept
from agent.control.output.kept import Kept, Run
from agent.control.output.said import Line

PETS = ("pets.production", "pets-1")


def lines(first: int, count: int, text: str = "x") -> list[Line]:
    return [Line(number, 1.0, 1, text) for number in range(first, first + count)]


def test_numbers_that_nobody_has_are_lost() -> None:
    """Each is counted once, here and by who reads; what comes twice is known."""
    run = Run("aa", PETS, 0)
    assert run.add(lines(0, 3), 3) == (3, 0)
    assert run.add(lines(1, 4), 5) == (2, 0)
    assert run.add(lines(8, 2), 12) == (2, 5)
    found, lost, after = run.read(2, 10_000)
    assert ([line.number for line in found], lost, after) == ([2, 3, 4, 8, 9], 5, 12)
    assert run.read(12, 10_000) == ([], 0, 12) and run.read(11, 10_000) == ([], 1, 12)
    assert [line.number for line in run.last(2, 10_000)] == [8, 9]


def test_who_reads_goes_on_where_he_was() -> None:
    """However little an answer has, it has one line."""
    run, after, seen = Run("aa", PETS, 0), 0, []
    run.add(lines(0, 5), 5)
    while after < 5:
        found, lost, after = run.read(after, 1)
        assert len(found) == 1 and lost == 0
        seen.append(found[0].number)
    assert seen == [0, 1, 2, 3, 4]


def test_the_oldest_lines_make_way_and_are_counted_by_who_missed_them() -> None:
    run = Run("aa", PETS, 0)
    for first in range(0, 100, 10):
        run.add(lines(first, 10, "y" * 4000), first + 10)
    found, lost, after = run.read(0, 1 << 30)
    assert after == 100 and len(found) + lost == 100 and lost > 0
    assert sum(len(line.text) for line in found) <= kept.RING_BYTES
    assert 0 < len(run.last(100, 9000)) < 4 < len(run.last(100, 1 << 30))


def test_lines_of_nothing_have_a_bound_too() -> None:
    run = Run("aa", PETS, 0)
    run.add(lines(0, 100_000, ""), 100_000)
    assert len(run.last(100_000, 1 << 30)) <= kept.RING_BYTES // kept.LINE_BYTES


def test_who_wants_some_of_them_is_told_of_all_that_are_lost() -> None:
    """His place is behind those that he does not want; a bound is of those that he is told."""
    run = Run("aa", PETS, 0)
    run.add([*lines(0, 50, "no"), *lines(52, 3, "yes")], 55)

    def wanted(line: Line) -> bool:
        return line.text == "yes"

    assert [line.number for line in run.last(2, 10_000, wanted)] == [53, 54]
    found, lost, after = run.read(0, 1, wanted)
    assert ([line.number for line in found], lost, after) == ([52], 2, 53)
    assert run.read(after, 10_000, wanted)[1:] == (0, 55)
    assert run.read(0, 10_000, lambda line: False) == ([], 2, 55)


def test_who_comes_when_all_have_a_place_takes_that_of_one_which_has_ended() -> None:
    """Or whose instance is gone; else there is none."""
    gone = set()
    store = Kept(lambda identity: identity not in gone)
    for number in range(kept.MOST_RUNS):
        assert store.begin(f"{number:08x}", ("pets", str(number)), 0)
    assert store.begin("new", ("pets", "new"), 0) is None
    gone.add(("pets", "7"))
    assert store.begin("new", ("pets", "new"), 0) and store.find(f"{7:08x}") is None
    assert store.begin("more", ("pets", "more"), 0) is None
    ended = store.find(f"{9:08x}")
    assert ended is not None
    ended.ended = True
    assert store.begin("more", ("pets", "more"), 0) and store.find(f"{9:08x}") is None


def test_a_program_that_is_started_again_and_again_takes_no_more_than_its_places() -> None:
    store = Kept(lambda identity: True)
    for number in range(10):
        run = store.begin(f"{number:08x}", PETS, 0)
        assert run is not None and store.live(PETS)
        run.ended = True
    assert [run.name for run in store] == [f"{number:08x}" for number in (7, 8, 9)] and not store.live(PETS)
