"""`shoal logs`: what people are shown of requests, and what they are told of those that are not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.commands import logs
from agent.cli.failure import Failure
from agent.cli.following import told_by_hosts
from agent.cli.printing import Printer

ROW = {
    "agent": "web-1",
    "time": 0.0,
    "direction": "outbound",
    "caller": "shop.production",
    "service": "pets.production",
    "endpoint": "pets-2",
    "method": "GET",
    "target": "/cats?n=3",
    "status": 503,
    "duration_s": 0.0021,
    "attempts": 2,
    "flag": "service.connect",
    "why": "cannot connect",
}


def told(*hosts: tuple[str, dict[str, Any]], next: str = "x", **missing: str) -> dict[str, Any]:
    return {
        "hosts": {host: {"items": [], "lost": 0, "begun": False, "recorded": True, **more} for host, more in hosts},
        "missing": {host: {"why": "late", "reason": reason} for host, reason in missing.items()},
        "next": next,
    }


def test_a_line_for_people() -> None:
    """From whom to whom, by which side; what came of it, and whose fault it was."""
    assert logs.line(ROW) == (
        "-  web-1  shop.production → pets.production/pets-2  GET /cats?n=3  503  2.1ms"
        "  2 tries  service.connect  cannot connect"
    )
    plain = {"agent": "web-2", "time": 1795543200.25, "direction": "inbound", "host": "pets", "why": "x" * 900}
    found = logs.line(plain)
    assert found.partition("  ")[0].endswith(".250") and "  - ← pets  - -  -  -  xxx" in found and len(found) < 250


def test_garbage_is_a_line_all_the_same() -> None:
    """Of an agent that makes no sense; nothing speaks to a terminal, and nobody says that he is another host."""
    rows = logs._rows(told(("a", {"items": [{"agent": "b", "time": "x", "attempts": [], "duration_s": {}}, 7, None]})))
    assert [row["agent"] for row in rows] == ["a"]
    assert logs.line(rows[0]).startswith("-  a  ")


@pytest.mark.parametrize("at", [1e300, -1e300, 10**30, -1, 253_402_300_800, True, "now", None])
def test_a_time_that_there_is_not_is_none(at: object) -> None:
    """Of an agent that makes no sense: who follows a thousand goes on with the others."""
    assert logs.line({"agent": "a", "time": at, "duration_s": 1e300}).endswith("ms")


def test_what_a_terminal_would_obey_is_an_escape(capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms; JSON stays JSON."""
    nasty = {"target": "/\x1b[2J\u202e\x7f\U000e0001", "why": "a\nb"}
    for output in ("table", "json"):
        state = logs.Following(Printer(output), {})  # type: ignore[arg-type]
        state.hear(told(("web-1", {"items": [{**ROW, **nasty}]})))
        (line,) = capsys.readouterr().out.splitlines()
        assert line.isascii() or all(c.isprintable() for c in line)
        assert "\x1b" not in line and "\u202e" not in line and "\x7f" not in line and "\U000e0001" not in line
        if output == "json":
            assert json.loads(line)["target"] == nasty["target"]


def test_who_follows_is_told_what_he_waits_for_and_what_he_misses(capsys: pytest.CaptureFixture[str]) -> None:
    """At the beginning, and at each change; once."""
    state = logs.Following(Printer("table"), {"service": "pets.production", "slower_s": "0.2", "failed": "true"})

    def notes(answer: dict[str, Any]) -> list[str]:
        state.hear(answer)
        return capsys.readouterr().err.splitlines()

    assert notes(told(("a", {}), ("b", {}))) == [
        "following failed requests to pets.production, slower than 0.2 on a, b; Ctrl-C ends it"
    ]
    assert notes(told(("a", {}), ("b", {}))) == []
    assert notes(told(("a", {"lost": 7}), b="no answer within 2 s")) == [
        "b is missing: no answer within 2 s",
        "a: 7 more that there was no room for",
    ]
    assert notes(told(("a", {}), b="no answer within 2 s")) == []
    assert notes(told(("a", {}), ("b", {"begun": True}))) == [
        "b: it answers, from now on",
        "b: it has begun anew; what ended meanwhile is not known",
    ]
    assert notes(told(("b", {}), ("c", {}))) == ["c: it answers, from now on", "a: gone from the mesh"]
    state.interrupted("no agent answers")
    state.interrupted("no agent answers")
    assert notes(told(("b", {}), ("c", {}))) == ["no agent answers; asking again", "the agent answers again"]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: logs._service("PETS PRODUCTION"), "is not a DNS label"),
        (lambda: logs._seconds("soon"), "--slower: 'soon' is no duration"),
        (lambda: logs._direction("up"), "--side 'up': in or out"),
        (lambda: logs._caller("-"), "--as: '-'"),
        (lambda: told_by_hosts([]), "no agent of Shoal"),
        (lambda: told_by_hosts({"hosts": []}), "no agent of Shoal"),
    ],
)
def test_what_makes_no_sense_is_refused(ask: Any, words: str) -> None:
    """Before anybody is asked; or as no agent's."""
    with pytest.raises(Failure, match=words):
        ask()
