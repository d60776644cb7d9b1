"""Delays between attempts: random, doubling, bounded, and small again once it worked."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from registry.backoff import Backoff


class Fixed(random.Random):
    """Always the same chance."""

    def __init__(self, chance: float) -> None:
        super().__init__(0)
        self._chance = chance

    def random(self) -> float:
        return self._chance


def test_delays_double_up_to_the_longest() -> None:
    """The unluckiest draw is the whole of it."""
    backoff = Backoff(0.5, 4.0, Fixed(1.0))
    assert [round(backoff.next_s(), 6) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]


def test_a_success_makes_them_small_again() -> None:
    """The next failure is the first one."""
    backoff = Backoff(0.5, 4.0, Fixed(1.0))
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_even_the_luckiest_waits() -> None:
    """So that nobody tries again in the same moment."""
    assert Backoff(0.5, 4.0, Fixed(0.0)).next_s() == 0.1


@given(st.floats(0.001, 10), st.floats(0.001, 100), st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_they_never_leave_their_bounds(base_s: float, max_s: float, failures: int, chance: float) -> None:
    """However often it fails."""
    backoff = Backoff(base_s, max_s, Fixed(chance))
    for _ in range(failures):
        backoff.next_s()
    assert 0 < backoff.next_s() <= max_s


def test_two_do_not_march_in_step() -> None:
    """Agents that lost etcd together do not come back together."""
    one, other = Backoff(), Backoff()
    assert [one.next_s() for _ in range(5)] != [other.next_s() for _ in range(5)]
