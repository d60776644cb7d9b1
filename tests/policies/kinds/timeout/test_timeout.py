"""`timeout`: the limits, and deadlines down a chain."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.timeout.decide import Timeouts, compile, remaining_s
from policies.kinds.timeout.document import Timeout
from policies.language.document import Invalid


def timeouts(**fields: Any) -> Timeouts:
    found = parse("timeout", "pets", json.dumps(fields).encode())
    assert isinstance(found, Timeout), found
    return compile(found)


def test_without_a_document_there_are_limits() -> None:
    """No request waits for ever."""
    assert compile(None) == Timeouts(connect_s=1, try_s=0, request_s=15, idle_s=300)
    assert timeouts() == compile(None)


def test_each_field_sets_its_own_limit() -> None:
    """And leaves the others as they were; 0 is no limit."""
    default = compile(None)
    assert timeouts(connect="250ms") == Timeouts(0.25, default.try_s, default.request_s, default.idle_s)
    assert timeouts(**{"try": 2}) == Timeouts(default.connect_s, 2, default.request_s, default.idle_s)
    assert timeouts(request="1m") == Timeouts(default.connect_s, default.try_s, 60, default.idle_s)
    assert timeouts(idle=0) == Timeouts(default.connect_s, default.try_s, default.request_s, 0, 0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"request": "fast"},
            '$.request: \'fast\' is no duration; write "250ms", "5s", "1m", "1h" or a number of seconds',
        ),
        ({"connect": -1}, "$.connect: -1.0 is no duration; it has to be 0 or more seconds"),
        ({"idle": "25h"}, "$.idle: 90000 s; at most 24h, or 0 for no limit"),
        ({"try": "5s", "request": "2s"}, "$.try: 5 s is longer than the whole request may take (2 s)"),
        ({"try": True}, "$.try: expected a number or text, got true or false"),
        ({"request": float("nan")}, "$.request: not a finite number"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, Any], said: str) -> None:
    """Word by word."""
    found = parse("timeout", "pets", json.dumps(fields).encode())
    assert isinstance(found, Invalid)
    assert f"{found.path}: {found.reason}" == said


def test_a_try_may_be_bounded_where_the_request_is_not() -> None:
    """0 is no limit, so nothing is longer."""
    assert timeouts(**{"try": "5s", "request": 0}).try_s == 5


@given(st.integers(0, 9_999_999_999))
def test_a_deadline_is_milliseconds_left(left_ms: int) -> None:
    """So that no clocks have to agree."""
    assert remaining_s(str(left_ms)) == left_ms / 1000


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "12s", " 1", "٣", "99999999999", "0x10", "+1"])
def test_what_is_no_deadline_counts_as_absent(value: str) -> None:
    """Nobody's garbage bounds a request, or frees it."""
    assert remaining_s(value) is None


@given(st.text(max_size=12))
def test_any_text_is_a_deadline_or_none(value: str) -> None:
    """Never an error, and never negative."""
    found = remaining_s(value)
    assert found is None or found >= 0
