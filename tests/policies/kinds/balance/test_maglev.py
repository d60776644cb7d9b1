"""maglev: evenness, disruption, weights."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.kinds.balance.maglev import Maglev, table_size
from tests.support.endpoints import endpoints, owners, tally, weighing

few = settings(max_examples=20)
KEYS = [hash64(f"user-{n}") for n in range(2000)]
SLOTS = range(4093)


@few
@given(st.integers(1, 60))
def test_slots_are_even_within_one(count: int) -> None:
    """Over the table's slots nobody has two more than another."""
    found = tally(Maglev(endpoints(count), 4093), 0, keys=SLOTS)
    each = [found[one.id] for one in endpoints(count)]
    assert max(each) - min(each) <= 1


@few
@given(st.lists(st.floats(1, 1000), min_size=1, max_size=20))
def test_slots_go_by_weight(weights: list[float]) -> None:
    """Each has its weight's part of the slots, to within one and its share of the others' ones."""
    found = tally(Maglev(weighing(weights), 4093), 0, keys=SLOTS)
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(found[f"pets-{n}"] - 4093 * share) <= 2 + len(weights) * share


@few
@given(st.integers(3, 30), st.data())
def test_few_keys_move_when_one_leaves(count: int, data: st.DataObject) -> None:
    """Its own, and of the others' no more than a fifth."""
    fleet = endpoints(count)
    gone = data.draw(st.sampled_from(fleet))
    before = owners(Maglev(fleet, 0), KEYS)
    after = owners(Maglev([one for one in fleet if one is not gone], 0), KEYS)
    others = [key for key in KEYS if before[key] != gone.id]
    assert sum(before[key] != after[key] for key in others) <= len(others) / 5


@few
@given(st.lists(st.sampled_from([1.0, 10.0, 50.0, 100.0, 300.0, 1000.0]), min_size=3, max_size=20), st.data())
def test_few_keys_move_whatever_they_weigh(weights: list[float], data: st.DataObject) -> None:
    """No more than with equal weights."""
    fleet = weighing(weights)
    gone = data.draw(st.sampled_from(fleet))
    before = owners(Maglev(fleet, 0), KEYS)
    after = owners(Maglev([one for one in fleet if one is not gone], 0), KEYS)
    others = [key for key in KEYS if before[key] != gone.id]
    assert sum(before[key] != after[key] for key in others) <= len(others) / 5


@few
@given(st.permutations(endpoints(8)))
def test_order_does_not_matter(fleet: list[Endpoint]) -> None:
    """Every agent fills the same table."""
    assert owners(Maglev(fleet, 0), KEYS[:300]) == owners(Maglev(endpoints(8), 0), KEYS[:300])


def test_order_does_not_matter_with_weights() -> None:
    """Nor when the weights differ, and some are the same."""
    fleet = weighing([100, 50, 100, 25, 50])
    assert owners(Maglev(fleet, 0), KEYS) == owners(Maglev(fleet[::-1], 0), KEYS)


@pytest.mark.parametrize(("count", "size"), [(1, 4093), (40, 4093), (41, 32749), (1000, 65521), (9000, 65521)])
def test_the_table_is_large_enough(count: int, size: int) -> None:
    """A hundred slots an endpoint, in few steps, because each step moves every key."""
    assert table_size(count) == size


def test_a_table_that_is_too_small_is_not_used() -> None:
    """More endpoints than slots: someone would get nothing at all."""
    assert len(tally(Maglev(endpoints(300), 251), 0, keys=range(table_size(300)))) == 300


def test_one_heavy_among_thousands() -> None:
    """Its slots are filled without a round through all the others for each; they get what is theirs."""
    found = tally(Maglev(weighing([1_000_000, *[1.0] * 1999]), 4093), 0, keys=SLOTS)
    assert found["pets-0"] == pytest.approx(4093, abs=12)


def test_no_key_is_any() -> None:
    """A request with nothing to hash goes anywhere, as the weights are, and the table is not even built."""
    assert len(tally(Maglev(endpoints(5), 0), 100)) == 5
    found = tally(Maglev(weighing([100, 100, 300]), 0), 5000)
    assert found["pets-2"] == pytest.approx(3000, rel=0.1)


def test_a_key_stays() -> None:
    """The same key, the same endpoint, whatever chance says."""
    algorithm = Maglev(endpoints(7), 0)
    assert len({algorithm.pick(KEYS[0], 0, random.Random(seed)).id for seed in range(20)}) == 1
