"""Services whose requests fail."""

from __future__ import annotations

import pytest

from agent.findings.of_figures import Signals, of_figures


@pytest.mark.parametrize(
    ("requests", "errors", "found"),
    [
        (0, 0.0, []),
        (1000, 0.0, []),
        (2, 1.0, []),  # who asks twice in a minute may have been unlucky
        (3, 1.0, ["error"]),
        (60, 0.05, ["error"]),
        (1000, 0.02, ["warning"]),
        (1000, 0.019, []),  # nineteen
        (100_000, 0.009, []),
    ],
)
def test_a_share_of_enough_requests_is_worth_a_word(requests: int, errors: float, found: list[str]) -> None:
    """Many are an error, some a warning; of few requests nothing is said."""
    assert [each.severity for each in of_figures([Signals("pets.p", requests, errors)])] == found


def test_the_largest_share_comes_first() -> None:
    """With the figures."""
    first, second = of_figures([Signals("a.p", 100, 0.1), Signals("b.p", 200, 0.5)])
    assert (first.where, second.where) == ("b.p", "a.p")
    assert first.what == "50.0% of 200 requests were answered with 5xx in the last minute"
