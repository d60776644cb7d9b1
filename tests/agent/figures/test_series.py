"""Figures over time: spans add up to what one question for all of it tells, of one agent and of many."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.figures.packed import Windows
from agent.figures.series import MOST_LEFT, POINTS, QUESTION, SeriesAsked, SeriesTold, merge, told
from agent.figures.tally import IN_FLIGHT, Key, Tally, grouped, merged

NOW = 1_700_000_000
counts = st.dictionaries(
    st.tuples(st.integers(1, 36), st.sampled_from(["pets.p", "shop.p"]), st.sampled_from(["", "a.p", "b.p"])),
    st.integers(0, 50),
    max_size=40,
)


def filled(counted: dict[tuple[int, str, str], int]) -> Windows:
    windows = Windows(10, 360)
    for window in sorted({n for n, _, _ in counted}):
        rows = {
            Key(service, caller): Tally({2: count}, count, {12: count}, {IN_FLIGHT: 1000})
            for (n, service, caller), count in counted.items()
            if n == window
        }
        windows.add(NOW + 10 * window, rows)
    return windows


def asked(spans: int, step_s: int, **more: str) -> SeriesAsked:
    return msgspec.structs.replace(SeriesAsked(NOW + 360, spans, step_s), **more)


def answer(windows: Windows, question: SeriesAsked) -> SeriesTold:
    return told(question, windows.spans(question.until, question.step_s, question.spans))


@given(counts, st.sampled_from([10, 30, 60]), st.integers(0, 40))
def test_each_span_is_what_is_picked_of_its_time(
    counted: dict[tuple[int, str, str], int], step_s: int, off: int
) -> None:
    """Whatever windows there are, and wherever spans end."""
    windows, until = filled(counted), NOW + 360 - off
    for number, picked in enumerate(windows.spans(until, step_s, 360 // step_s)):
        end = until - step_s * (360 // step_s - 1 - number)
        ends = {NOW + 10 * n for n, _, _ in counted if end - step_s < NOW + 10 * n <= end}
        assert len(picked.packed) == len(ends)
        assert picked._replace(missed=0) == windows.pick(end, step_s)._replace(missed=0)


@given(counts, st.sampled_from([10, 30, 60, 180]))
def test_what_is_missed_is_told_of_all_spans_together(counted: dict[tuple[int, str, str], int], step_s: int) -> None:
    """Also where nothing is there of whole spans between others: an agent that was away is seen to have been."""
    windows = filled(counted)
    missed = sum(each.missed for each in windows.spans(NOW + 360, step_s, 360 // step_s))
    assert missed == windows.pick(NOW + 360, 360).missed


def test_an_agent_that_was_away_amid_the_hour_has_missed_it() -> None:
    """As many windows as there are none of: amid, and not before it began nor after the last."""
    windows = Windows(10, 360)
    for n in (3, 4, 20, 21):
        windows.add(NOW + 10 * n, {Key("pets.p"): Tally({2: 1}, 1, {12: 1}, {})})
    assert answer(windows, asked(36, 10)).missed == 15
    assert answer(windows, asked(6, 60)).missed == 15


@given(counts, counts, st.sampled_from([10, 60]))
def test_agents_together_tell_what_one_would_that_has_counted_all(
    one: dict[tuple[int, str, str], int], other: dict[tuple[int, str, str], int], step_s: int
) -> None:
    """And all spans together have every request once."""
    question = asked(360 // step_s, step_s)
    parts = [answer(filled(each), question) for each in (one, other)]
    rows = dict(merge(question, parts).rows)
    for each in (one, other):
        whole = grouped(filled(each).sum(NOW + 360, 360).rows, "service")
        assert sum(tally.total for tally in whole.values()) == sum(each.values())
    wanted = merged(grouped(filled(each).sum(NOW + 360, 360).rows, "service").items() for each in (one, other))
    assert {key: sum(tally.total for tally in spans) for key, spans in rows.items()} == {
        key: tally.total for key, tally in wanted.items()
    }
    assert merge(question, [*parts, SeriesTold([(Key("x"), [Tally()])], [10])]) == merge(question, parts)


def test_the_largest_are_told_and_the_rest_counted() -> None:
    """However many there are: an answer has its size, and a span in which nobody counted says so."""
    windows = Windows(10, 360)
    rows = {Key(f"s{n}.p"): Tally({2: n + 1}, 1, {12: n + 1}, {}) for n in range(300)}
    for n in range(20, 37):
        windows.add(NOW + 10 * n, dict(rows))
    question = asked(36, 10)
    found = answer(windows, question)
    assert len(found.rows) == POINTS // 36 and found.rows[0][0] == Key("s299.p")
    assert found.left_out == 300 - len(found.rows)
    assert found.covered_s == [0] * 19 + [10] * 17
    assert len(msgspec.msgpack.encode(found)) < QUESTION.most_bytes
    (only,) = answer(windows, asked(36, 10, service="s7.p")).rows
    assert [tally.total for tally in only[1]] == [0] * 19 + [8] * 17


def of_services(counted: dict[int, int]) -> Windows:
    """By number of a service: how many requests, in the last window."""
    windows = Windows(10, 360)
    windows.add(NOW + 360, {Key(f"s{n}.p"): Tally({2: count}, 1, {12: count}, {}) for n, count in counted.items()})
    return windows


@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.integers(1, 50), max_size=8), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_what_is_left_out_is_what_the_merged_answer_has_not(agents: list[dict[int, int]], middle: int) -> None:
    """Each once, however many agents had no room for it, and none that is told; and a told row lacks no more than is
    said: also where some are merged on the way."""
    question = asked(POINTS // 3, 10)
    parts = [answer(of_services(each), question) for each in agents]
    counted: dict[Key, int] = {}
    for each in agents:
        for n, count in each.items():
            counted[Key(f"s{n}.p")] = counted.get(Key(f"s{n}.p"), 0) + count
    for merged_once in (merge(question, parts), merge(question, [merge(question, parts[:middle]), *parts[middle:]])):
        assert len(merged_once.rows) == min(3, len(merged_once.rows) + merged_once.left_out)
        assert len(merged_once.rows) + merged_once.left_out == len(counted)
        sums = {key: sum(tally.total for tally in spans) for key, spans in merged_once.rows}
        for key, requests in counted.items():
            if key in sums:
                assert 0 <= requests - sums[key] <= merged_once.lacking
            else:
                assert requests <= merged_once.cut


def test_more_than_can_be_named_are_at_least_so_many() -> None:
    """An agent of the version before names none: they count, too."""
    question = asked(POINTS, 10)
    kept = [(Key("a"), [Tally({2: 1})] * POINTS)]
    before = SeriesTold(kept, [10] * POINTS, left_out=7)
    many = SeriesTold(kept, [10] * POINTS, left_out=5000, left=list(range(MOST_LEFT)))
    assert merge(question, [before, before]).left_out == 7
    assert merge(question, [before, many, many]).left_out == 5000
    assert len(msgspec.msgpack.encode(merge(question, [before, many]))) < QUESTION.most_bytes // 16
