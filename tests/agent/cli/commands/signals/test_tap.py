"""`shoal tap`: what people are shown of live requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.commands.logs import asked_of
from agent.cli.commands.signals.tap import NOT_NOTED, Tapping, block
from agent.cli.printing import Printer
from tests.agent.cli.commands.test_logs import ROW, told

HALF = {"headers": None, "no_headers": "", "body": None, "no_body": "", "body_bytes": 0, "body_cut": False}
DECISION = {
    "phase": "route",
    "policy": "route/pets.production",
    "revision": 12,
    "mode": "enforce",
    "decision": "forward to pets.production version v2",
    "reason": "canary",
}
LIVE: dict[str, Any] = {
    **ROW,
    "request_id": "5f0c-3a",
    "client": "127.0.0.1",
    "called_as": "proven",
    "failed": ["pets-1: no connection"],
    "decisions": [DECISION, {**DECISION, "phase": "authz", "mode": "audit", "policy": "", "reason": ""}],
    "request": {**HALF, "headers": [["accept", "*/*"]], "headers_left_out": 3, "no_body": "it is encoded: gzip"},
    "answer": {**HALF, "no_headers": "no log document", "body": "a\nb", "body_bytes": 900, "body_cut": True},
}


def test_a_request_for_people() -> None:
    """Who called and how that is known; each decision with its document; what was said, and why what is not shown."""
    assert list(block(LIVE)) == [
        "-  web-1 → pets.production  GET /cats?n=3  5f0c-3a",
        "    from      shop.production (proven), at 127.0.0.1",
        "    route     forward to pets.production version v2; canary  (route/pets.production, revision 12)",
        "    authz     only watched: forward to pets.production version v2",
        "    > accept: */*",
        "    > and 3 more",
        "    >| the body of 0 bytes is not shown: it is encoded: gzip",
        "    failed    pets-1: no connection",
        "    answer    503  2.1ms  2 tries  service.connect  cannot connect",
        "    < headers are not shown: no log document",
        "    <| a",
        "    <| b",
        "    <| … of 900 bytes",
    ]
    plain = list(block({**ROW, "decisions": None, "caller": ""}))
    assert plain[1:3] == ["    from      nobody who is known, at -", f"              {NOT_NOTED}"]


def test_it_ends_after_so_many(capsys: pytest.CaptureFixture[str]) -> None:
    """And asks for what was asked for; what a terminal would obey is an escape."""
    asked = asked_of("pets.production", ["5xx"], "", "/cats", "", "", "", "", failed=False) | {"headers": "true"}
    state = Tapping(Printer("json"), asked, 2)  # type: ignore[arg-type]
    state.hear(told(("web-1", {"items": [LIVE]})))
    assert not state.over
    state.hear(told(("web-1", {"items": [{**LIVE, "why": "\x1b[2J"}, LIVE, LIVE]})))
    assert state.over
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["called_as"], second["why"]) == ("proven", "\x1b[2J") and "\x1b" not in out
    assert err.startswith("tapping requests to pets.production, status 5xx, path /cats, with headers on web-1; Ctrl-C")


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(LIVE)), inner, max_size=4),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from([*LIVE, *HALF]), _ANY, max_size=9))
def test_whatever_an_agent_says_is_shown_as_lines(row: dict[str, Any]) -> None:
    """Of one that makes no sense, too."""
    state = Tapping(Printer("table"), {})  # type: ignore[arg-type]
    state.show(row)
