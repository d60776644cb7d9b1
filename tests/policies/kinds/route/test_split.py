"""Splits: shares are kept, and nobody moves who need not."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.hashing import draw
from policies.kinds.route.split import Split

USERS = [f"user-{n}" for n in range(400)]
weights = st.dictionaries(
    st.sampled_from(["v1", "v2", "v3", "v4"]), st.floats(0, 1_000_000, allow_subnormal=False), min_size=1
).filter(lambda found: sum(found.values()) > 0)


def split(found: dict[str, float]) -> Split[str]:
    return Split([(name, weight, name) for name, weight in found.items()])


def sides(found: dict[str, float]) -> list[str]:
    made = split(found)
    return [made.sticky(user) for user in USERS]


@settings(max_examples=60)
@given(weights, st.sampled_from(["v1", "v2", "v3", "v4"]), st.floats(1, 1000))
def test_growing_one_target_moves_users_to_it_and_nowhere_else(
    found: dict[str, float], grown: str, factor: float
) -> None:
    """Raising 5% to 20% moves nobody back, however many targets there are."""
    before = sides(found)
    after = sides({**found, grown: max(found.get(grown, 0.0), 1e-3) * factor})
    assert all(new in (old, grown) for old, new in zip(before, after, strict=True))


@settings(max_examples=60)
@given(weights, st.sampled_from(["v1", "v2", "v3", "v4"]))
def test_removing_a_target_moves_only_its_own_users(found: dict[str, float], gone: str) -> None:
    """The others stay on their sides."""
    rest = {name: weight for name, weight in found.items() if name != gone}
    if sum(rest.values()) <= 0:
        return
    for old, new in zip(sides(found), sides(rest), strict=True):
        assert old in (new, gone)


@settings(max_examples=30)
@given(weights, st.randoms(use_true_random=False))
def test_order_does_not_matter(found: dict[str, float], rng: random.Random) -> None:
    """The same document with its targets in another order puts everyone on the same side."""
    items = list(found.items())
    rng.shuffle(items)
    assert sides(dict(items)) == sides(found)


@settings(max_examples=60)
@given(weights)
def test_what_has_no_weight_gets_nothing(found: dict[str, float]) -> None:
    """Neither at random nor sticky; and the whole range of chance leads to a target."""
    made = split(found)

    class Chance(random.Random):
        value = 0.0

        def random(self) -> float:
            return self.value

    chance = Chance()
    for chance.value in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        assert found[made.at_random(chance)] > 0
    assert all(found[side] > 0 for side in sides(found))


def test_shares_are_kept() -> None:
    """Sticky over users as well as at random over requests: 5%, 15%, 80%, within sampling error."""
    made = split({"v1": 80, "v2": 15, "v3": 5})
    rng = random.Random(7)
    sticky = [made.sticky(f"customer {n}") for n in range(20_000)]
    chance = [made.at_random(rng) for _ in range(20_000)]
    for picked in (sticky, chance):
        assert abs(picked.count("v3") / 20_000 - 0.05) < 0.007
        assert abs(picked.count("v2") / 20_000 - 0.15) < 0.012


def test_only_is_the_one_that_can_be_chosen() -> None:
    """So that a split over one side costs nothing."""
    assert split({"v1": 0, "v2": 3}).only == "v2"
    assert split({"v1": 1, "v2": 3}).only is None


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_draw_is_a_number_that_has_a_logarithm(key: str, target: str) -> None:
    """Strictly between 0 and 1, and always the same."""
    assert 0 < draw(key, target) < 1
    assert draw(key, target) == draw(key, target)
