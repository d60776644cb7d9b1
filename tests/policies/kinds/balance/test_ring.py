"""ring-hash: whose a key is, who loses keys to whom, and who is full."""

import math
import random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.kinds.balance.ring import RingHash
from tests.support.endpoints import endpoint, endpoints, owners, tally, weighing

few = settings(max_examples=30)
KEYS = [hash64(f"user-{n}") for n in range(2000)]


def ring(fleet: list[Endpoint], bound: float = 0) -> RingHash:
    """As a document without options makes it."""
    return RingHash(fleet, bound, 512, 131_072)


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_spread_is_even(count: int) -> None:
    """Over 20,000 keys each share is within a third of the fair one."""
    found = tally(ring(endpoints(count)), 0, keys=[hash64(f"k{n}") for n in range(20_000)])
    fair = 20_000 / count
    assert all(2 / 3 * fair <= found[one.id] <= 4 / 3 * fair for one in endpoints(count))


def test_spread_goes_by_weight() -> None:
    """300 to 100: three quarters of the keys, within a tenth."""
    found = tally(ring(weighing([300, 100])), 0, keys=[hash64(f"k{n}") for n in range(20_000)])
    assert found["pets-0"] == pytest.approx(15_000, rel=0.1)


@few
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_a_newcomer_takes_keys_and_moves_none_between_others(count: int, number: int) -> None:
    """Every key that moves, moves to the newcomer; and they are about 1/(n+1) of all."""
    before = owners(ring(endpoints(count)), KEYS)
    after = owners(ring([*endpoints(count), endpoint(f"new-{number}")]), KEYS)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} <= {f"new-{number}"}
    assert 0 < len(moved) <= 1.5 * len(KEYS) / (count + 1)


@few
@given(st.integers(3, 30), st.data())
def test_only_the_leavers_keys_move(count: int, data: st.DataObject) -> None:
    """Who was not on it stays where he was."""
    fleet = endpoints(count)
    gone = data.draw(st.sampled_from(fleet))
    before = owners(ring(fleet), KEYS)
    after = owners(ring([one for one in fleet if one is not gone]), KEYS)
    assert all(before[key] == gone.id for key in KEYS if before[key] != after[key])


WEIGHTS = st.sampled_from([1.0, 2.5, 10.0, 50.0, 100.0, 100.0, 100.0, 150.0, 300.0, 1000.0])


@few
@given(st.lists(WEIGHTS, min_size=3, max_size=12), st.data())
def test_whatever_they_weigh_only_the_leavers_keys_move(weights: list[float], data: st.DataObject) -> None:
    """The heaviest's like the lightest's, as long as the mean weight stays within a factor of two of the usual one,
    times a power of four: beyond, the points of all are four times as many, or a fourth."""
    fleet = weighing(weights)
    gone = data.draw(st.sampled_from(fleet))
    rest = [one for one in fleet if one is not gone]
    before = owners(RingHash(fleet, 0, 1, 131_072), KEYS)
    after = owners(RingHash(rest, 0, 1, 131_072), KEYS)
    moved = [key for key in KEYS if before[key] != after[key]]
    if _step(fleet) == _step(rest):
        assert all(before[key] == gone.id for key in moved)


def _step(fleet: list[Endpoint]) -> int:
    mean = math.log(sum(one.weight for one in fleet) / len(fleet) / 100, 4) + 0.5
    assume(abs(mean - round(mean)) > 1e-9)
    return math.floor(mean)


@pytest.mark.parametrize(
    ("weights", "gone"),
    [([100] * 5 + [300], 5), ([100] * 5 + [10], 5), ([100] * 5 + [150] * 5, 0), ([2, 1, 1, 1, 1], 0)],
)
@pytest.mark.parametrize("least", [512, 9000])
def test_a_heavy_or_a_light_one_takes_only_its_own_keys(weights: list[float], gone: int, least: int) -> None:
    """Also of a ring that is larger by its document, where the number of doublings is the same."""
    fleet = weighing(weights)
    before = owners(RingHash(fleet, 0, least, 65_536), KEYS)
    rest = [one for n, one in enumerate(fleet) if n != gone]
    after = owners(RingHash(rest, 0, least, 65_536), KEYS)
    others = [key for key in KEYS if before[key] != fleet[gone].id]
    assert [key for key in others if before[key] != after[key]] == []


def test_a_weight_that_changes_moves_its_own_keys() -> None:
    """What a canary gains it takes from each of the others; among them nothing moves."""
    fleet = weighing([100, 100, 100, 10])
    before = owners(ring(fleet), KEYS)
    after = owners(ring(weighing([100, 100, 100, 60])), KEYS)
    assert {after[key] for key in KEYS if before[key] != after[key]} == {"pets-3"}


@few
@given(st.permutations(endpoints(8)))
def test_order_does_not_matter(fleet: list[Endpoint]) -> None:
    """Every agent draws the same ring."""
    assert owners(ring(fleet), KEYS[:300]) == owners(ring(endpoints(8)), KEYS[:300])


@few
@example([12.0, 1.05], 1.0625, 0)
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=10), st.floats(1.05, 3), st.integers(0, 2**32))
def test_bounded_loads(weights: list[float], bound: float, seed: int) -> None:
    """However lopsided the keys, nobody ever has more in flight than his bound."""
    fleet, rng = weighing(weights), random.Random(seed)
    algorithm, total = ring(fleet, bound), math.fsum(weights)
    for n in range(1, 201):
        picked = algorithm.pick(rng.choice(KEYS[:2]), 0, rng)
        picked.load.active += 1
        assert picked.load.active <= math.ceil(bound * n * picked.weight / total + 1e-9)  # where it is a whole number


def test_a_hot_key_spreads_and_comes_home() -> None:
    """One key only: it spills over along the ring, each time to the same ones; when the load is gone it is back."""
    fleet, rng = endpoints(10), random.Random(1)
    algorithm = ring(fleet, 1.25)
    home = algorithm.pick(KEYS[0], 0, rng)
    for _ in range(100):
        algorithm.pick(KEYS[0], 0, rng).load.active += 1
    assert home.load.active == 13
    assert max(one.load.active for one in fleet) == 13
    for one in fleet:
        one.load.active = 0
    assert algorithm.pick(KEYS[0], 0, rng) is home


def test_many_endpoints_are_bounded_too() -> None:
    """With 200 endpoints the load is counted only now and then; the bound holds within one request."""
    fleet, rng = endpoints(200), random.Random(1)
    algorithm = ring(fleet, 1.25)
    for _ in range(1000):
        algorithm.pick(rng.choice(KEYS[:3]), 0, rng).load.active += 1
    assert max(one.load.active for one in fleet) <= math.ceil(1.25 * 1001 / 200)
    assert sum(one.load.active for one in fleet) == 1000


def test_without_a_bound_a_hot_key_stays() -> None:
    """0 is no bound."""
    fleet, rng = endpoints(10), random.Random(1)
    algorithm = ring(fleet)
    for _ in range(100):
        algorithm.pick(KEYS[0], 0, rng).load.active += 1
    assert max(one.load.active for one in fleet) == 100


@pytest.mark.parametrize(
    ("count", "low", "high", "expected"), [(1, 512, 4096, 512), (4, 1, 100, 100), (2, 1, 9999, 512)]
)
def test_the_size_of_the_ring_has_bounds(count: int, low: int, high: int, expected: int) -> None:
    """256 points an endpoint, but no fewer and no more than asked for; and none before the first pick."""
    algorithm = RingHash(endpoints(count), 0, low, high)
    assert algorithm.size == 0
    algorithm.pick(1, 0, random.Random(1))
    assert algorithm.size == expected


def test_five_thousand_endpoints() -> None:
    """Everyone is on the ring, also where its size is bounded."""
    algorithm = ring(endpoints(5000))
    found = tally(algorithm, 0, keys=[hash64(f"k{n}") for n in range(30_000)])
    assert len(found) > 4500
    assert 125_000 <= algorithm.size <= 136_072


def test_no_key_is_any() -> None:
    """A request with nothing to hash goes anywhere, as the weights are."""
    assert len(tally(ring(endpoints(5), 1.25), 100)) == 5
    found = tally(ring(weighing([100, 100, 300])), 5000)
    assert found["pets-2"] == pytest.approx(3000, rel=0.1)


def test_the_ring_wraps() -> None:
    """The largest and the smallest hash have an owner: the first point's."""
    algorithm, rng = ring(endpoints(5)), random.Random(1)
    assert algorithm.pick(2**64 - 1, 0, rng) is algorithm.pick(0, 0, rng)
