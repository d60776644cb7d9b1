"""Lengths of time as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language.duration import seconds


@pytest.mark.parametrize(
    ("value", "length_s"),
    [("250ms", 0.25), ("5s", 5), ("1.5m", 90), ("2h", 7200), (" 5s ", 5), ("0s", 0), (3, 3), (0.25, 0.25), (0, 0)],
)
def test_what_is_a_duration(value: float | str, length_s: float) -> None:
    """A unit, or a number of seconds."""
    assert seconds(value) == pytest.approx(length_s)


@pytest.mark.parametrize(
    "value", ["", "5", "5 s", "-5s", "1m30s", "5S", "s", "1e3s", "٣s", "1d", ".5s", "9" * 400 + "h"]
)
def test_what_is_none_is_refused(value: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match="is no duration"):
        seconds(value)


@given(st.floats(max_value=0, exclude_max=True) | st.sampled_from([math.inf, -math.inf, math.nan]))
def test_no_time_is_negative_or_endless(value: float) -> None:
    """Nor not a number."""
    with pytest.raises(ValueError, match="0 or more seconds"):
        seconds(value)


@given(st.floats(0, 1e6), st.sampled_from(["ms", "s", "m", "h"]))
def test_units_are_proportional(number: float, unit: str) -> None:
    """A length reads the same in any unit."""
    text = f"{number:.3f}"
    per_s = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert seconds(text + unit) == pytest.approx(float(text) * per_s)
