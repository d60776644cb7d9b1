"""Who may take requests, from which zones, and how many."""

import math
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Endpoint
from policies.kinds.balance.locality import Candidates, candidates, choose, spilled
from tests.support.endpoints import endpoint, endpoints

few = settings(max_examples=150)


def found(
    fleet: list[Endpoint], zone: str = "", failover: tuple[str, ...] = (), panic: float = 50, prefer: bool = True
) -> Candidates:
    """With a document's defaults."""
    return candidates(fleet, zone, failover, panic, prefer)


def shares(result: Candidates) -> dict[str, float]:
    """Tier by tier."""
    return {tier.name: round(tier.share, 4) for tier in result.tiers}


def ids(fleet: list[Endpoint]) -> list[str]:
    """What they are called."""
    return [one.id for one in fleet]


def zone(name: str, healthy: int, unhealthy: int = 0) -> list[Endpoint]:
    """So many endpoints of a zone."""
    return [
        *endpoints(healthy, f"{name}-up", zone=name),
        *endpoints(unhealthy, f"{name}-down", zone=name, healthy=False),
    ]


@st.composite
def fleets(draw: st.DrawFn) -> list[Endpoint]:
    """Up to twelve endpoints in any state."""
    states = st.tuples(
        st.sampled_from([0.0, 1.0, 100.0]), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "a", "b"])
    )
    return [
        endpoint(f"pets-{n}", weight=weight, healthy=healthy, draining=draining, suspect=suspect, zone=place)
        for n, (weight, healthy, draining, suspect, place) in enumerate(draw(st.lists(states, max_size=12)))
    ]


@few
@given(fleets(), st.sampled_from(["", "a", "c"]), st.sampled_from([(), ("b",), ("b", "a")]), st.floats(0, 100))
def test_laws(fleet: list[Endpoint], where: str, failover: tuple[str, ...], panic: float) -> None:
    """Somebody takes requests where there is anybody; shares add up to 1; no one is in two tiers; every tier's
    endpoints are usable; and who should take nothing does so unless nobody better is there."""
    result = found(fleet, where, failover, panic)
    assert bool(result.tiers) == bool(fleet)
    if not fleet:
        return
    assert math.isclose(sum(tier.share for tier in result.tiers), 1)
    assert all(tier.share > 0 and tier.endpoints for tier in result.tiers)
    chosen = [one for tier in result.tiers for one in tier.endpoints]
    assert len(set(map(id, chosen))) == len(chosen)
    assert set(map(id, chosen)) <= set(map(id, result.usable))
    good = [one for one in fleet if one.healthy and one.weight > 0 and not one.draining and not one.suspect]
    if good:
        assert not any(one.draining or one.suspect or one.weight == 0 for one in chosen)
    if any(not one.suspect for one in fleet):
        assert not any(one.suspect for one in chosen)
    if not result.panic:
        assert all(one.healthy for one in chosen)


def test_healthy_ones_only() -> None:
    """The plain case: two of three are healthy."""
    assert ids(found(zone("a", 2, 1)).usable) == ["a-up-0", "a-up-1"]


# Panic.


@pytest.mark.parametrize(("healthy", "panic"), [(0, True), (4, True), (5, False), (10, False)])
def test_panic_below_half(healthy: int, panic: bool) -> None:
    """With fewer than half of ten healthy, all ten are used."""
    result = found(zone("a", healthy, 10 - healthy))
    assert result.panic is panic
    assert len(result.usable) == (10 if panic else healthy)


def test_panic_at_zero_percent_means_only_when_none_is_healthy() -> None:
    """The threshold cannot make the service disappear."""
    assert not found(zone("a", 1, 9), panic=0).panic
    assert len(found(zone("a", 0, 9), panic=0).usable) == 9


def test_panic_leaves_out_who_is_leaving() -> None:
    """Panic ignores health, and nothing else."""
    fleet = [*zone("a", 1, 3), endpoint("leaving", draining=True), endpoint("gone", suspect=True)]
    assert ids(found(fleet).usable) == ["a-up-0", "a-down-0", "a-down-1", "a-down-2"]


# Panic is a level's own.


@pytest.mark.parametrize(
    ("levels", "failover", "expected"),
    [
        ({"a": (0, 10), "b": (9, 0)}, (), {"any": 1}),
        ({"a": (0, 10), "b": (0, 10), "c": (9, 0)}, ("b",), {"any": 1}),
        ({"a": (2, 8), "b": (0, 10), "c": (9, 0)}, ("b",), {"a": 0.28, "any": 0.72}),
        ({"a": (0, 3), "b": (1, 0)}, ("b",), {"b": 1}),
        ({"a": (1, 9), "b": (1, 0), "c": (0, 20)}, ("b",), {"a": 0.14, "b": 0.86}),
    ],
    ids=["a dead near zone", "a dead named zone", "one between", "one for three", "two thirds dead"],
)
def test_no_panic_while_others_carry_it(
    levels: dict[str, tuple[int, int]], failover: tuple[str, ...], expected: dict[str, float]
) -> None:
    """Although fewer than half of all are healthy: those that are can take it, and the others get nothing."""
    result = found([one for name, counts in levels.items() for one in zone(name, *counts)], "a", failover)
    assert shares(result) == expected
    assert not result.panic
    assert all(one.healthy for one in result.usable)


def test_a_level_is_in_panic_by_itself() -> None:
    """Together they cannot carry it. One zone is ill beyond the threshold and uses everyone; the other is not; one
    without a healthy instance gets nothing at all."""
    result = found([*zone("a", 1, 9), *zone("b", 5, 5), *zone("c", 0, 10)], "a", ("b", "c"))
    assert shares(result) == {"a": round(0.14 / 0.84, 4), "b": round(0.7 / 0.84, 4)}
    assert [(tier.panic, len(tier.endpoints)) for tier in result.tiers] == [(True, 10), (False, 5)]
    assert result.panic


def test_when_nobody_is_healthy_all_get_alike() -> None:
    """It says nothing about any zone: the checks may be what is ill."""
    result = found([*zone("a", 0, 1), *zone("b", 0, 3)], "a", panic=0)
    assert shares(result) == {"a": 0.25, "any": 0.75}
    assert result.panic


def test_a_threshold_that_wants_nearly_all_of_a_zone() -> None:
    """The zone could carry everything with those that are healthy, and has to use everyone, unless others could too."""
    near = zone("a", 8, 2)
    assert len(found(near, "a", panic=90).tiers[0].endpoints) == 10
    assert len(found([*near, *zone("b", 1, 2)], "a", panic=90).tiers[0].endpoints) == 10
    assert len(found([*near, *zone("b", 9)], "a", panic=90).tiers[0].endpoints) == 8


counts = st.tuples(st.integers(0, 6), st.integers(0, 6))


@settings(max_examples=400)
@given(
    st.fixed_dictionaries({"a": counts, "b": counts, "c": counts, "d": counts}),
    st.sampled_from([(), ("b",), ("b", "c"), ("c", "a", "b"), ("z", "d")]),
    st.sampled_from([0, 20, 50, 70]),
    st.sampled_from(["a", "b", "z"]),
)
def test_zones_by_health_by_levels(
    fleet: dict[str, tuple[int, int]], failover: tuple[str, ...], panic: float, where: str
) -> None:
    """As exact reckoning has it: no unhealthy instance takes anything while enough healthy ones can; load spills in
    proportion, nearest first; and what no level can carry is shared out, with panic where it belongs."""
    named = list(dict.fromkeys([where, *failover]))
    members: dict[str, tuple[int, int]] = {}
    for name, (up, down) in fleet.items():
        level = name if name in named else "any"
        more = members.get(level, (0, 0))
        members[level] = (more[0] + up, more[1] + down)
    levels = [(name, *members[name]) for name in [*named, "any"] if sum(members.get(name, (0, 0)))]
    result = found([one for name, each in fleet.items() for one in zone(name, *each)], where, failover, panic)
    got = {tier.name: tier for tier in result.tiers}
    if not levels:
        assert not got
        return
    carried = {name: min(Fraction(1), Fraction(14, 10) * Fraction(up, up + down)) for name, up, down in levels}
    total = sum(carried.values())
    if total >= 1:
        left = Fraction(1)
        for name, _, _ in levels:
            assert (got[name].share if name in got else 0) == pytest.approx(float(min(left, carried[name])), abs=1e-9)
            left -= min(left, carried[name])
        assert not result.panic and all(one.healthy for one in result.usable)
        return
    everyone = sum(up + down for _, up, down in levels)
    for name, up, down in levels:
        share = carried[name] / total if total else Fraction(up + down, everyone)
        assert (got[name].share if name in got else 0) == pytest.approx(float(share))
        if name in got:
            ill = 100 * up < panic * (up + down) or not total
            assert got[name].panic is ill
            assert len(got[name].endpoints) == (up + down if ill else up)


# Who is passed over.


@few
@given(
    st.fixed_dictionaries({"a": counts, "b": counts, "c": counts}),
    st.sampled_from([(), ("b",), ("c", "b")]),
    st.sets(st.integers(0, 17)),
)
def test_who_is_passed_over_counts_as_unhealthy(
    zones: dict[str, tuple[int, int]], failover: tuple[str, ...], out: set[int]
) -> None:
    """Ejected, its breaker open, or it refused a connection: until that is over it is as good as unhealthy for what its
    level carries."""
    fleet = [one for name, each in zones.items() for one in zone(name, *each)]
    before = found(fleet, "a", failover, panic=0)
    able = [one for n, one in enumerate(fleet) if n not in out and one.healthy]
    for n in out & set(range(len(fleet))):
        fleet[n].load.refused_until = 100.0
    levels = [*before.tiers, *before.spares]
    now = {tier.name: round(tier.share, 9) for tier in spilled(levels, 50.0) if tier.share}
    if able:
        without = [one if one in able else endpoint(one.id, zone=one.zone, healthy=False) for one in fleet]
        assert now == {tier.name: round(tier.share, 9) for tier in found(without, "a", failover, panic=0).tiers}
    elif any(one.healthy for one in fleet):
        assert spilled(levels, 50.0) == levels, "where all are, it says nothing"
    assert [tier.share for tier in spilled(levels, 100.0)] == pytest.approx([tier.share for tier in levels])


# Last resorts.


def test_draining_ones_serve_when_nobody_else_can() -> None:
    """The last of a service drains: it still gets what there is."""
    assert ids(found([endpoint("last", draining=True), endpoint("gone", suspect=True)]).usable) == ["last"]


def test_a_rolling_update_of_one_goes_to_the_old_one_until_the_new_one_is_up() -> None:
    """The new one is not healthy yet, the old one drains and is."""
    old, new = endpoint("old", draining=True), endpoint("new", healthy=False)
    assert ids(found([old, new]).usable) == ["old"]
    assert ids(found([old, endpoint("new")]).usable) == ["new"]


def test_one_healthy_leaver_is_not_crushed() -> None:
    """Nine that stay are all unhealthy and one that leaves is not: that is panic, as with any ten."""
    result = found([*zone("a", 0, 9), endpoint("leaver", draining=True)])
    assert result.panic
    assert len(result.usable) == 10


def test_weight_zero_takes_nothing_unless_all_have_it() -> None:
    """Then all are alike, by health and zone as ever."""
    assert ids(found([endpoint("off", weight=0), endpoint("on")]).usable) == ["on"]
    result = found([endpoint("up", weight=0), endpoint("down", weight=0, healthy=False)])
    assert ids(result.usable) == ["up"]
    assert result.pool == "weightless"


def test_suspects_are_the_very_last() -> None:
    """Even an unhealthy one with weight 0 comes before one whose record vanished."""
    nobody_else = [endpoint("s1", suspect=True), endpoint("s2", suspect=True, healthy=False)]
    assert ids(found([*nobody_else, endpoint("off", weight=0, healthy=False)]).usable) == ["off"]
    result = found(nobody_else)
    assert (ids(result.usable), result.pool) == (["s1"], "suspect")


# Zones.


@pytest.mark.parametrize(
    ("local", "share"), [((10, 0), 1.0), ((8, 2), 1.0), ((7, 3), 0.98), ((5, 5), 0.7), ((1, 9), 0.14), ((0, 10), 0.0)]
)
def test_the_local_zone_takes_what_it_can_carry(local: tuple[int, int], share: float) -> None:
    """Its healthy share times 1.4; the rest goes to the other zones."""
    result = found([*zone("a", *local), *zone("b", 20)], "a")
    assert shares(result).get("a", 0) == share
    assert shares(result).get("any", 0) == round(1 - share, 4)


def test_named_zones_come_before_any() -> None:
    """In their order, each as far as it is healthy."""
    fleet = [*zone("a", 1, 1), *zone("b", 1, 4), *zone("c", 9), *zone("d", 9)]
    assert shares(found(fleet, "a", ("b", "c"))) == {"a": 0.7, "b": 0.28, "c": 0.02}
    assert [tier.name for tier in found(fleet, "a", ("c",)).tiers] == ["a", "c"]


def test_what_nobody_can_carry_is_shared_out() -> None:
    """All zones are half down: the rest is laid on everyone in proportion, not on the last."""
    fleet = [*zone("a", 2, 3), *zone("b", 2, 23)]
    assert shares(found(fleet, "a", panic=0)) == {"a": round(0.56 / 0.672, 4), "any": round(0.112 / 0.672, 4)}


def test_a_caller_without_a_zone_uses_all() -> None:
    """Nor does an endpoint need one; and preference can be switched off."""
    fleet = [*zone("a", 1), *zone("b", 1), endpoint("nowhere")]
    for result in (found(fleet), found(fleet, "a", prefer=False)):
        assert len(result.tiers[0].endpoints) == 3
    assert shares(found(fleet, "a")) == {"a": 1}
    assert shares(found(fleet, "z")) == {"any": 1}


def test_a_zone_named_twice_counts_once() -> None:
    """Also when it is the caller's own."""
    fleet = [*zone("a", 1, 1), *zone("b", 1, 1), *zone("c", 4)]
    assert shares(found(fleet, "a", ("a", "b", "b"))) == {"a": 0.7, "b": 0.3}


def test_sessions_may_stay_in_a_zone_that_gets_nothing() -> None:
    """Usable are all that could take a request."""
    assert len(found([*zone("a", 2), *zone("b", 3, 1)], "a").usable) == 5


@few
@given(st.floats(0, 1, exclude_max=True))
def test_choosing_by_share(point: float) -> None:
    """The tiers lie side by side."""
    tiers = found([*zone("a", 5, 5), *zone("b", 20)], "a").tiers
    assert choose(tiers, point) == (0 if point < 0.7 else 1)


def test_rounding_never_leaves_the_list() -> None:
    """Shares may add up to a hair less than 1."""
    for down, more in product(range(1, 6), repeat=2):
        tiers = found([*zone("a", 1, down), *zone("b", 1, more), *zone("c", 9)], "a", ("b",), panic=0).tiers
        assert choose(tiers, 1 - 2**-53) in range(len(tiers))


def newcomers(count: int) -> list[Endpoint]:
    """That have not been healthy yet."""
    fleet = endpoints(count, "new", healthy=False)
    for one in fleet:
        one.load.new = True
    return fleet


def test_newcomers_bring_on_no_panic() -> None:
    """One of ten is healthy, and nine have just been started: it goes on, and none of them is asked before it is up.
    Those that were lost still count."""
    grown = found([*zone("a", 1), *newcomers(9)])
    assert not grown.panic and ids(grown.usable) == ids(zone("a", 1))
    lost = found([*zone("a", 1, 2), *newcomers(9)])
    assert lost.panic and ids(lost.usable) == ids(zone("a", 1, 2))


def test_newcomers_take_nothing_from_who_is_leaving() -> None:
    """A rolling update of one instance to three."""
    old = endpoint("old", draining=True)
    updated = found([old, *newcomers(3)])
    assert updated.pool == "draining" and not updated.panic and ids(updated.usable) == ["old"]


def test_newcomers_are_asked_where_nobody_is_healthy() -> None:
    """As anybody is."""
    assert len(found([*zone("a", 0, 1), *newcomers(2)]).usable) == 3
