"""Nothing that others wrote is obeyed by a terminal, or begins a line of its own."""

from __future__ import annotations

import doctest
import io
import json
import logging
import unicodedata

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent import visible as module
from agent.control.admin.door import Answer
from agent.control.records.records import _shown
from agent.visible import VisibleFormatter, visible, visible_json, visible_lines, visible_values

NASTY = "\x1b[2J\x9b31m\x7f\u202e\u2066\u2028\u2029\u200b\ud800\ufdd0\U000e0001\x85\r\nlevel=error\0"
anything = st.text(st.characters(codec=None) | st.sampled_from(NASTY), max_size=80)


def obeyed(text: str, but: str = "") -> list[str]:
    """Characters that are more than text."""
    return [c for c in text if c not in but and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


def test_the_example_is_true() -> None:
    """The page's first lines."""
    assert doctest.testmod(module).failed == 0


@given(anything)
def test_a_line_is_a_line(text: str) -> None:
    """Whatever stands in it; and what is only text stays as it is."""
    assert obeyed(visible(text)) == []
    assert obeyed(visible_lines(text), "\n\t") == []
    assert visible_lines(text).count("\n") == text.count("\n")
    if not obeyed(text):
        assert visible(text) == text


@given(st.dictionaries(anything, anything | st.lists(anything, max_size=3), max_size=4))
def test_json_says_the_same(value: object) -> None:
    """In another spelling: both of json's and of msgspec's."""
    shown = visible_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert obeyed(shown, "\n") == []
    assert json.loads(shown) == value


def test_the_admin_api_and_the_access_log_are_json_and_text() -> None:
    """A reason, a target: valid JSON that says the same, and that `curl` and `tail` may show."""
    body = Answer({NASTY: NASTY.replace("\ud800", "")}).body
    assert obeyed(bytes(body).decode(), "\n") == []
    assert list(json.loads(body).values()) == [NASTY.replace("\ud800", "")]
    line = json.dumps({"target": "/\x9b2J\x7f\u202e"}, ensure_ascii=False).encode() + b"\n"
    assert obeyed(_shown(line).decode(), "\n") == []
    assert json.loads(_shown(line)) == json.loads(line)


@given(anything, anything)
def test_the_log_has_a_line_a_record(event: str, value: str) -> None:
    """Control's and the workers': no value ends its line, its quotes, or speaks to a terminal."""
    render = structlog.processors.LogfmtRenderer(key_order=["event"])
    told = render(None, "", visible_values(None, "", {"event": event, "key": value, "list": [value], "n": 3}))
    assert obeyed(str(told)) == []
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (value,), None)
    line = VisibleFormatter().format(record)
    assert obeyed(line) == []
    assert line.endswith('"')


def test_a_traceback_is_one_line() -> None:
    """It may tell what somebody wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(VisibleFormatter())
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), (type(error), error, error.__traceback__))
    handler.handle(record)
    assert obeyed(stream.getvalue().removesuffix("\n")) == []


@pytest.mark.parametrize("plain", ["", "v1", "größe ×1 → └─", "日本語", "a\\b"])
def test_text_stays(plain: str) -> None:
    """Letters of any script, and the drawings of ours."""
    assert visible(plain) == plain
