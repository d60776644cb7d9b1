"""Windows of figures: an hour in bounded memory, whatever is counted in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.figures.packed import MOST_BYTES, Windows
from agent.figures.tally import CPU, IN_FLIGHT, Key, Rows, Tally

NOW = 1_700_000_000


def rows(count: int, requests: int = 1, lead: str = "s") -> Rows:
    return {
        Key(f"{lead}{n % 40}", f"caller-{n}", "rules[0]", "v1"): Tally({2: requests}, 9, {12: requests}, {})
        for n in range(count)
    }


def total(found: Rows) -> int:
    return sum(tally.total for tally in found.values())


def test_the_last_windows_are_added_up() -> None:
    """Those that end in the time that is asked for; gauges are the mean of them."""
    windows = Windows(10, 360)
    for n in range(1, 31):
        windows.add(NOW + 10 * n, {Key("pets"): Tally({2: n}, 5, {3: n}, {IN_FLIGHT: 1000 * n, CPU: 10})})
    found = windows.sum(NOW + 300, 60)
    assert found.rows[Key("pets")].requests == {2: sum(range(25, 31))}
    assert found.rows[Key("pets")].counts == {IN_FLIGHT: 27500, CPU: 10}
    assert (found.covered_s, found.missed) == (60, 0)
    early = windows.sum(NOW + 100, 10)
    assert early.rows[Key("pets")].requests == {2: 10}


def test_a_clock_that_was_ahead_takes_no_figures_of_the_time_that_it_comes_back_to() -> None:
    """What it has named then is forgotten; one that is set back by moments adds to the last window."""
    windows = Windows(10, 360)
    one: Rows = {Key("pets"): Tally({2: 1}, 5, {3: 1}, {})}
    windows.add(NOW, one)
    for n in range(3):
        windows.add(NOW + 7200 + 10 * n, {Key("pets"): Tally({2: 100}, 5, {3: 100}, {})})
    for n in range(1, 4):
        windows.add(NOW + 10 * n, one)
    found = windows.sum(NOW + 30, 30)
    assert found.rows[Key("pets")].requests == {2: 3} and (found.covered_s, found.missed) == (30, 0)
    windows.add(NOW + 10, one)
    assert windows.sum(NOW + 30, 10).rows[Key("pets")].requests == {2: 2}


def test_who_has_just_begun_says_for_how_long_it_has_counted() -> None:
    """So that a rate is none of a minute that was not counted."""
    windows = Windows(10, 360)
    windows.add(NOW + 10, rows(1))
    windows.add(NOW + 20, rows(1))
    assert windows.sum(NOW + 20, 3600).covered_s == 20
    assert windows.sum(NOW - 100, 60) == ({}, 0, 0)


def test_what_was_missed_is_told() -> None:
    """Two windows were not looked at: what came in them is in the next one."""
    windows = Windows(10, 360)
    for n in (1, 2, 5, 6):
        windows.add(NOW + 10 * n, rows(1))
    found = windows.sum(NOW + 60, 60)
    assert found.missed == 2 and found.covered_s == 60 and total(found.rows) == 4


def test_an_hour_is_kept_and_no_more() -> None:
    """Windows, and the names that only these had."""
    windows = Windows(10, 6)
    for n in range(100):
        windows.add(NOW + 10 * n, rows(10, lead=f"w{n}-"))
    assert total(windows.sum(NOW + 990, 3600).rows) == 60
    assert windows.names <= 60 + 2
    assert total(windows.sum(NOW + 990, 10).rows) == 10


def test_the_clock_is_set_back() -> None:
    """What is counted then goes to the last window there is."""
    windows = Windows(10, 6)
    windows.add(NOW + 100, rows(3))
    windows.add(NOW + 50, rows(4))
    assert total(windows.sum(NOW + 100, 10).rows) == 7
    windows.add(NOW + 110, rows(1))
    assert total(windows.sum(NOW + 110, 20).rows) == 8


def test_the_bound_holds_and_nothing_is_lost() -> None:
    """A window of 20,000 edges with long names, of other names each time: 24 KiB, 8,192 names, and every request."""
    windows = Windows(10, 12, most_keys=2000)
    for n in range(20):
        many = {
            Key(f"s{m % 900}.production", "c" * 200 + str(m), "r" * 50, f"v{n}"): Tally({2: 1}, 7, {m % 36: 1}, {})
            for m in range(4000)
        }
        windows.add(NOW + 10 * n, many)
        assert windows.size_bytes <= 12 * MOST_BYTES and windows.names <= 2000
        assert total(windows.sum(NOW + 10 * n, 10).rows) == 4000
    assert windows.folded > 0
    assert total(windows.sum(NOW + 190, 120).rows) == 12 * 4000


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=30), min_size=1, max_size=20))
def test_nothing_is_lost_whatever_is_folded(told: list[list[tuple[int, int]]]) -> None:
    """However little room there is for names, and for rows."""
    windows = Windows(10, 20, most_bytes=600, most_keys=12)
    for n, window in enumerate(told):
        windows.add(NOW + 10 * n, {Key(f"s{name}"): Tally({2: count}, 1, {}, {}) for name, count in window})
    wanted = sum(sum(dict(window).values()) for window in told)
    assert total(windows.sum(NOW + 10 * len(told), 3600).rows) == wanted
    assert windows.names <= 12
