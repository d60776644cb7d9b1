from __future__ import annotations

from typing import Any

import pytest

from agent.cli.commands.diagnosis.redacted import HIDDEN, redacted


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "hunter2"}, {"password": HIDDEN}),
        ({"headers": {"Authorization": "Bearer abc", "x": "y"}}, {"headers": {"Authorization": HIDDEN, "x": "y"}}),
        ({"x-api-key": ["a", {"b": "c"}]}, {"x-api-key": [HIDDEN, {"b": HIDDEN}]}),
        ({"secret": "", "tokens": 3, "set_cookie": None}, {"secret": "", "tokens": 3, "set_cookie": None}),
        ({"topic": "redis://ann:pw@r:6379/x"}, {"topic": f"redis://{HIDDEN}@r:6379/x"}),
        ({"url": "https://hooks.slack.com/services/T0/B0/xyz"}, {"url": f"https://hooks.slack.com/{HIDDEN}"}),
        ({"url": "https://example.com"}, {"url": "https://example.com"}),
        (["said Bearer abc.def-g"], [f"said Bearer {HIDDEN}"]),
        (
            {"reason": "GET /x?user=1&access_token=abc said 503"},
            {"reason": f"GET /x?user=1&access_token={HIDDEN} said 503"},
        ),
        ({"address": "10.0.0.1", "port": 80, "on": True}, {"address": "10.0.0.1", "port": 80, "on": True}),
    ],
)
def test_secrets_are_taken_out_and_nothing_else(value: Any, shown: Any) -> None:
    """By the names of fields, and by what values look like; in lists and below."""
    assert redacted(value) == shown
    assert redacted({"a": [value]}) == {"a": [shown]}
