from __future__ import annotations

from typing import Any

import pytest

from agent.cli.commands.explain import show
from agent.cli.printing import Printer
from agent.control.admin.v1.own import _is_for


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "there was none before, and there is none: it decides nothing until it is mended"),
        ({"last_good": 640}, "that of revision 640 stays in force"),
        ({"last_good": -1, "closed": True}, "requests are refused until it is mended"),
        ({"watched": True}, "audits/authz/db.production @1192: $.rules[0].allow: expected a list"),
    ],
)
def test_what_is_refused_is_told(more: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks why somebody was let in hears of the document that was to keep him out."""
    refused = {"kind": "authz", "pattern": "db.production", "path": "$.rules[0].allow", "reason": "expected a list"}
    refused |= {"revision": 1192, "last_good": 0, "closed": False, "watched": False, **more}
    show(Printer("table"), {"decisions": [], "endpoint": None, "status": 200, "refused": [refused]})
    assert f"{said}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "pattern", "is_for"),
    [
        ("http://db.production/x", "db.production", True),
        ("DB.production:80/x", "*.production", True),
        ("http://db.production/", "*", True),
        ("http://db.production/", "web.production", False),
        ("http://db.production/", "db.*", False),
        ("http://[::1]/", "*", False),
        ("http://[", "*", False),
    ],
)
def test_for_which_service(url: str, pattern: str, *, is_for: bool) -> None:
    """Whatever was asked for, and whatever key was put."""
    assert _is_for(url, pattern) is is_for
