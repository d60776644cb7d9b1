"""`shoal logs --program`: what people are shown of programs, and what they are told of those that are not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.printing import Printer
from agent.cli.running.output import OutputFollower, line, show_output

PETS = "pets.production"
ITEM = {"time": 1.5, "service": PETS, "instance": "pets-1", "stream": "stdout", "text": "hello", "cut": 0}


def told(*hosts: tuple[str, dict[str, Any]], own: bool = False, **missing: str) -> dict[str, Any]:
    return {
        "hosts": {host: {"items": [], "lost": {}, "unkept": [], **more} for host, more in hosts},
        "missing": {host: {"why": "late", "reason": reason} for host, reason in missing.items()},
        "next": "x",
        "own": own,
    }


def test_a_line_for_people() -> None:
    """Host, instance, stream, text; of a pattern with the service; and how much of it is cut."""
    row = {"host": "web-1", **ITEM}
    assert line(row, PETS) == "web-1 pets-1 stdout  hello"
    assert line({**row, "cut": 12}, "*.production") == "web-1 pets.production/pets-1 stdout  hello … (12 bytes more)"
    assert line({"host": "web-1"}, PETS) == "web-1 -/- -  "


def test_in_order_by_host_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms; JSON has all that is known of a line, and says what it said."""
    nasty = {**ITEM, "text": "\x1b[2J\tred\nweb-9 pets-9 stdout  forged", "cut": 3}
    for output in ("table", "json"):
        follower = OutputFollower(Printer(output), {"service": PETS})  # type: ignore[arg-type]
        follower.hear(told(("web-2", {"items": [ITEM]}), ("web-1", {"items": [nasty, 7]})))
        first, second = capsys.readouterr().out.splitlines()
        assert "\x1b" not in first and "web-1" in first and "web-2" in second
        if output == "json":
            assert json.loads(first) == {**nasty, "host": "web-1"}
            assert json.loads(second) == {k: v for k, v in ITEM.items() if k != "cut"} | {"host": "web-2"}


def test_what_is_not_there_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Lost lines, each time; an instance whose output is not kept when it was so at two answers, and again only when
    it had been; a host that does not answer; that one sees only his own."""
    follower = OutputFollower(
        Printer("table"), {"service": PETS, "instance": "pets-1", "stream": "stderr", "contains": "oh"}
    )

    def notes(answer: dict[str, Any]) -> list[str]:
        follower.hear(answer)
        return capsys.readouterr().err.splitlines()

    unkept = ("a", {"unkept": ["pets.production/pets-1"]})
    assert notes(told(unkept, own=True)) == [
        "following what programs of instance pets-1 of pets.production write to stderr with 'oh' on a; Ctrl-C ends it",
        "of this host, and of your own programs: others take the right to operate or to tap (local.tap)",
    ]
    how = "a: pets.production/pets-1: its output is not kept; start it with `shoal run --logs`"
    assert notes(told(unkept, own=True)) == [how]
    assert notes(told(unkept)) == []
    assert notes(told(("a", {"lost": {"pets.production/pets-1": 7}}), b="no answer")) == [
        "b is missing: no answer",
        "a: 7 more lines of pets.production/pets-1 that there was no room for",
    ]
    assert notes(told(unkept)) == [] and notes(told(unkept)) == [how]


def test_the_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """With what there is none of, and why."""

    class FakeAdmin:
        def __init__(self, answer: dict[str, Any]) -> None:
            self.answer = answer
            self.asked: list[Any] = []

        def get(self, path: str, query: Any) -> Any:
            self.asked = [path, dict(query)]
            return self.answer

    admin: Any = FakeAdmin(told(("a", {"items": [ITEM], "unkept": ["pets.production/x"]})))
    show_output(admin, Printer("table"), {"service": PETS, "last": "20"})
    assert admin.asked == ["/api/v1/output", {"service": PETS, "last": "20"}]
    shown = capsys.readouterr()
    assert shown.out == "a pets-1 stdout  hello\n" and "a: pets.production/x: its output is not kept" in shown.err
    nothing: Any = FakeAdmin(told(("a", {})))
    show_output(nothing, Printer("table"), {"service": PETS, "last": "20"})
    assert capsys.readouterr().err == "no such line is kept; `shoal run --logs` keeps what programs write\n"
