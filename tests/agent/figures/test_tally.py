"""Sums of figures: however they are grouped, as if one had counted everything; bounded, and nothing lost."""

from __future__ import annotations

import math
from bisect import bisect_left
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.figures.histogram import BOUNDS_S, quantile
from agent.figures.questions import FiguresAsked, FiguresTold, merge
from agent.figures.tally import DIMENSIONS, IN_FLIGHT, MOST, OTHERS, Key, Rows, Tally, add, fold, grouped, merged

COUNTS = st.integers(0, 2**54)
NAMES = st.sampled_from(("", "shop", "pets", "lamps.production", "others"))
TALLIES = st.builds(
    lambda requests, us, buckets, counts: Tally(requests, min(MOST, us), buckets, counts),
    st.dictionaries(st.integers(0, 5), st.integers(0, MOST), max_size=3),
    COUNTS,
    st.dictionaries(st.integers(0, 35), st.integers(0, MOST), max_size=5),
    st.dictionaries(st.sampled_from((IN_FLIGHT, "refused/shed", "shed/refused")), st.integers(0, MOST)),
)
KEYS = st.builds(Key, NAMES, NAMES, NAMES, NAMES, NAMES)
PARTS = st.lists(st.lists(st.tuples(KEYS, TALLIES), max_size=6), max_size=5)


def plain(rows: Rows) -> dict[Key, tuple[object, ...]]:
    return {k: (t.requests, t.duration_us, t.buckets, t.counts) for k, t in rows.items()}


def total(rows: Rows) -> object:
    found = Tally({}, 0, {}, {})
    for tally in rows.values():
        found.add(tally)
    return found


@given(PARTS, st.randoms(use_true_random=False))
def test_it_makes_no_difference_who_adds_up_what_first(parts: list[list[tuple[Key, Tally]]], rng: Random) -> None:
    """Associative and commutative, and the same as if one had counted it all."""
    once = plain(merged(parts))
    assert plain(merged([[each for part in parts for each in part]])) == once
    shuffled = list(parts)
    rng.shuffle(shuffled)
    cut = rng.randint(0, len(shuffled))
    left, right = merged(shuffled[:cut]), merged(shuffled[cut:])
    assert plain(merged([right.items(), left.items()])) == once


@given(st.lists(st.tuples(KEYS, st.integers(0, 5), st.floats(0, 100)), max_size=60), st.integers(1, 4))
def test_parts_add_up_to_what_one_would_have_counted(seen: list[tuple[Key, int, float]], agents: int) -> None:
    """Requests, one after the other, at one place or at several."""

    def count(part: list[tuple[Key, int, float]]) -> Rows:
        rows: Rows = {}
        for key, status, took_s in part:
            add(rows, key, Tally({status: 1}, int(took_s * 1e6), {bisect_left(BOUNDS_S, took_s): 1}, {}))
        return rows

    parts = [count(seen[n::agents]) for n in range(agents)]
    assert plain(merged(part.items() for part in parts)) == plain(count(seen))


@given(PARTS, st.integers(4, 20))
def test_what_is_folded_is_still_counted(parts: list[list[tuple[Key, Tally]]], most: int) -> None:
    """No more rows than wanted, the same sums, edges and instances apart; and the rows themselves are left alone."""
    rows = merged(parts)
    before = plain(rows)
    kept, folded = fold(rows, most)
    assert len(kept) <= most and plain(rows) == {k: before[k] for k in rows} == before
    for instances in (True, False):
        of = {k: t for k, t in rows.items() if bool(k.instance) == instances}
        still = {k: t for k, t in kept.items() if bool(k.instance) == instances}
        assert total(still) == total(of)
    assert bool(folded) == (len(rows) > most)


def test_the_rows_with_most_requests_are_kept() -> None:
    """The others are counted in their service."""
    rows = {Key("pets", f"c{n}"): Tally({2: n + 1}, 0, {}, {}) for n in range(100)}
    kept, folded = fold(rows, 10)
    assert Key("pets", "c99") in kept and Key("pets", "c0") not in kept and folded == 94
    assert kept[Key("pets", OTHERS, OTHERS, OTHERS)].total == sum(range(1, 95))


def test_instances_are_not_counted_among_edges() -> None:
    """By service a request is one request; by instance as well."""
    rows = {
        Key("pets", "shop", "rules[0]", "v1"): Tally({2: 7}, 0, {}, {}),
        Key("pets", "web", "", "v2"): Tally({2: 2, 5: 1}, 0, {}, {}),
        Key("pets", "", "", "v1", "p-1"): Tally({2: 10}, 0, {}, {}),
    }
    assert grouped(rows, "service")[Key("pets")].requests == {2: 9, 5: 1}
    assert {k.caller: t.total for k, t in grouped(rows, "edge").items()} == {"shop": 7, "web": 3}
    assert {k.version: t.total for k, t in grouped(rows, "version").items()} == {"v1": 7, "v2": 3}
    assert {k.instance: t.total for k, t in grouped(rows, "instance").items()} == {"p-1": 10}
    assert set(DIMENSIONS) == {"service", "edge", "route", "version", "instance"}


@given(TALLIES, TALLIES)
def test_what_came_since_is_never_below_nothing(before: Tally, now: Tally) -> None:
    """Who counts anew has begun from nothing, and has all that it tells."""
    since = now.less(before)
    assert all(count >= 0 for count in (*since.requests.values(), *since.buckets.values(), since.duration_us))
    if any(now.requests.get(status, 0) < count for status, count in before.requests.items()):
        assert since == now
    grown = Tally(dict(before.requests), before.duration_us, dict(before.buckets), dict(before.counts))
    assert not any(grown.less(before).requests.values())


@pytest.mark.parametrize(
    "garbage",
    [
        [{2: -1}, 0, {}, {}],
        [{2: 2**60}, 0, {}, {}],
        [{99: 1}, 0, {}, {}],
        [{2: 1}, -5, {}, {}],
        [{2: 1}, 0, {700: 1}, {}],
        [{2: 1}, 0, {}, {"x" * 65: 1}],
        [{2: 1.5}, 0, {}, {}],
        "no",
    ],
)
def test_what_makes_no_sense_is_refused(garbage: object) -> None:
    """Another agent's word, before it is added to anything."""
    body = msgspec.msgpack.encode({"rows": [[["pets", "", "", "", ""], garbage]]})
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(body, type=FiguresTold)


def test_answers_are_merged_within_what_was_asked_for() -> None:
    """As many rows; who has counted longest, what was missed, and what was folded."""
    asked = FiguresAsked(60, most=8)
    one = FiguresTold([(Key(f"s{n}"), Tally({2: 1}, 5, {}, {})) for n in range(8)], covered_s=60, missed=1)
    two = FiguresTold([(Key(f"t{n}"), Tally({2: 1}, 5, {}, {})) for n in range(8)], covered_s=30, folded=2)
    told = merge(asked, [one, two])
    assert len(told.rows) <= 8 and sum(tally.total for _, tally in told.rows) == 16
    assert (told.covered_s, told.missed) == (60, 1) and told.folded > 2
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=FiguresTold) == told


# Quantiles.


@given(st.lists(st.floats(0.0001, 60), min_size=1, max_size=300), st.sampled_from((0.0, 0.5, 0.9, 0.99, 1.0)))
def test_a_quantile_is_in_its_bucket(took: list[float], part: float) -> None:
    """Off by the root of 2 at most, whoever has counted what."""
    buckets: dict[int, int] = {}
    for each in took:
        at = bisect_left(BOUNDS_S, each)
        buckets[at] = buckets.get(at, 0) + 1
    found = quantile(buckets, part)
    exact = sorted(took)[max(0, math.ceil(part * len(took)) - 1)]
    assert found is not None
    if exact > BOUNDS_S[0]:
        assert exact / math.sqrt(2) <= found * 1.0001 and found <= exact * math.sqrt(2) * 1.0001
    else:
        assert 0 <= found <= BOUNDS_S[0]


def test_quantiles_of_nothing_and_of_what_took_too_long() -> None:
    """Nothing is known, and at least the last bound."""
    assert quantile({}, 0.5) is None and quantile({3: 0}, 0.5) is None
    assert quantile({35: 10}, 0.5) == BOUNDS_S[-1]
    assert quantile({10: 100}, 0.5) == pytest.approx(math.sqrt(BOUNDS_S[9] * BOUNDS_S[10]))


def test_hosts_that_have_counted_for_less_are_named() -> None:
    """By whatever way answers are merged: those with least, where they are many."""
    asked = FiguresAsked(1_700_000_000, last_s=3600)
    parts = [
        FiguresTold([], s, shorter={host: s} if s < 3600 else {}) for host, s in (("a", 60), ("b", 3600), ("c", 0))
    ]
    assert merge(asked, parts).shorter == {"c": 0, "a": 60}
    assert merge(asked, [parts[1], merge(asked, [parts[2], parts[0]])]) == merge(asked, parts)
    many = [FiguresTold([], n, shorter={f"h{n:03}": n}) for n in range(200, 0, -1)]
    assert list(merge(asked, many).shorter) == [f"h{n:03}" for n in range(1, 101)]
