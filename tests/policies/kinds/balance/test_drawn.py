"""Rings and tables outlive changes of health: nothing is drawn anew, and only keys of those who change move."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.kinds.balance import ring as ring_hash
from policies.kinds.balance.algorithms import Algorithm
from policies.kinds.balance.drawn import Drawn, Members
from policies.kinds.balance.maglev import Maglev
from policies.kinds.balance.ring import RingHash
from tests.support.endpoints import endpoints, owners, tally, weighing

few = settings(max_examples=30)
KEYS = [hash64(f"user-{n}") for n in range(1000)]


def ring(members: list[Endpoint], taking: list[Endpoint], drawn: Drawn, bound: float = 0) -> RingHash:
    return RingHash(taking, bound, 512, 131_072, members=Members(members, taking, drawn))


def table(members: list[Endpoint], taking: list[Endpoint], drawn: Drawn) -> Maglev:
    return Maglev(taking, 0, members=Members(members, taking, drawn))


SOME = st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=n - 1)))


@few
@given(SOME)
def test_a_ring_goes_on_to_whom_it_would_be_drawn_of(some: tuple[int, set[int]]) -> None:
    """Who passes over the ill finds just those that a ring of the others has."""
    count, ill = some
    fleet = endpoints(count)
    well = [one for n, one in enumerate(fleet) if n not in ill]
    alone = RingHash(well, 0, 512, 131_072)
    assert owners(ring(fleet, well, Drawn()), KEYS) == owners(alone, KEYS)


@few
@given(SOME, st.sampled_from([ring, table]))
def test_only_the_keys_of_the_ill_move(some: tuple[int, set[int]], make: type[Algorithm]) -> None:
    """And all of them to somebody who is well; a key of nobody's ill stays."""
    count, ill = some
    fleet = endpoints(count)
    well = [one for n, one in enumerate(fleet) if n not in ill]
    if 8 * len(well) < count:
        return  # drawn of them alone
    before, during = owners(make(fleet, fleet, Drawn()), KEYS), owners(make(fleet, well, Drawn()), KEYS)  # type: ignore[call-arg]
    able = {one.id for one in well}
    assert all(during[key] == before[key] for key in KEYS if before[key] in able)
    assert set(during.values()) <= able


@pytest.mark.parametrize("make", [ring, table])
def test_the_keys_of_the_ill_are_spread(make: type[Algorithm]) -> None:
    """Half of forty are ill: the others have their shares, within two thirds of the fair one and twice of it."""
    fleet = endpoints(40)
    keys = [hash64(f"k{n}") for n in range(20_000)]
    found = tally(make(fleet, fleet[::2], Drawn()), 0, keys=keys)  # type: ignore[call-arg]
    assert all(0.6 * 1000 <= found[one.id] <= 1.5 * 1000 for one in fleet[::2])


@pytest.mark.parametrize("make", [ring, table])
def test_where_few_can_take_requests_it_is_drawn_of_them(make: type[Algorithm]) -> None:
    """No request walks past thousands; and what was drawn of all is kept for when they are back."""
    fleet, drawn = endpoints(40), Drawn()
    before = owners(make(fleet, fleet, drawn), KEYS)  # type: ignore[call-arg]
    assert set(owners(make(fleet, fleet[:2], drawn), KEYS).values()) == {"pets-0", "pets-1"}  # type: ignore[call-arg]
    assert owners(make(fleet, fleet, drawn), KEYS) == before  # type: ignore[call-arg]


@pytest.mark.skipif(not str(ring_hash.__file__).endswith(".py"), reason="replaces what Python looks up")
@pytest.mark.parametrize(("make", "drawing"), [(ring, "_draw"), (table, "_fill")])
def test_it_is_drawn_again_only_for_others(
    make: type[Algorithm], drawing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody came, left, or has another weight; not for health, nor for new objects of the same endpoints."""
    drawn, count = Drawn(), 0
    kind = type(make(endpoints(2), endpoints(2), drawn))  # type: ignore[call-arg]
    real = getattr(kind, drawing)

    def counted(*given: object) -> list[int]:
        nonlocal count
        count += 1
        found: list[int] = real(*given)
        return found

    monkeypatch.setattr(kind, drawing, counted)

    def asked(members: list[Endpoint], ill: int = 0) -> int:
        owners(make(members, members[ill:], drawn), KEYS[:5])  # type: ignore[call-arg]
        return count

    assert [asked(endpoints(9)), asked(endpoints(9), 3), asked(endpoints(9))] == [1, 1, 1]
    assert asked(endpoints(10)) == 2
    assert asked(endpoints(9)) == 3
    assert asked(weighing([100.0] * 8 + [50.0])) == 4


@few
@given(st.integers(2, 20), st.floats(1, 3), st.integers(0, 1000))
def test_bounds_are_those_of_who_can_take_requests(count: int, bound: float, seed: int) -> None:
    """Nobody has more in flight than its part of what all of them have, and the ill have nothing."""
    fleet = endpoints(2 * count)
    well = fleet[::2]
    algorithm = ring(fleet, well, Drawn(), bound)
    rng = random.Random(seed)
    for n in range(60):
        picked = algorithm.pick(rng.getrandbits(64), 0.0, rng)
        picked.load.active += 1
        assert picked in well
        assert picked.load.active <= -(-bound * (n + 1) // len(well)) + 1
