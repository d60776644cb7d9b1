"""Events of audit logs: those that are asked for are those that there are, and docs/audit.md has all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.audit.events import EVENTS, wrong_event
from agent.cli.failure import Failure
from agent.cli.main import app
from agent.control.audit.security import _IDENTITY
from agent.control.audit.segments import RECOVERED
from agent.control.audit.witnesses import DOUBTED


def test_all_stand_on_the_page() -> None:
    """And nothing else."""
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z]+\.[a-z]+` )+)\|", page, re.MULTILINE)
    assert set(re.findall(r"`([a-z.]+)`", " ".join(rows))) == set(EVENTS)


def test_what_is_recorded_is_known() -> None:
    """Names that others make."""
    assert {*_IDENTITY.values(), RECOVERED, DOUBTED} <= set(EVENTS)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("authz.denied", ""),
        ("authz.", ""),
        ("authz.deny", "no event 'authz.deny' (did you mean 'authz.denied'?)"),
        ("authz", "no event 'authz'; 'authz.' is all that begin so"),
        ("nosuch.", "no event 'nosuch.'"),
        ("", "no event ''"),
    ],
)
def test_a_word_that_is_no_event(asked: str, said: str) -> None:
    """0 would be read as nobody."""
    wrong = wrong_event(["policy.put", asked])
    assert wrong.startswith(said) and bool(wrong) == bool(said)
    if said:
        done = CliRunner().invoke(app, ["audit", "query", "--count", "--event", asked])
        assert isinstance(done.exception, Failure) and done.exception.code == 2
