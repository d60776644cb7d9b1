"""Doors of the admin API: what is recorded of who reads what requests said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin import door as doors
from agent.control.admin.door import VISITOR, Answer, Door, guarded
from agent.control.host.rights import Right
from agent.identity.verdict import Visitor

ANN, BOB = Visitor("ann", operates=False), Visitor("bob", operates=False)


class Records:
    """What is recorded."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.noted: list[tuple[str, str]] = []
        rights: Any = None  # people have roles
        self._handle = guarded(Door("GET", "/api/v1/requests", self._told, Right.READ), rights, "", "web-1", self._note)

    async def _told(self, request: Request) -> Response:
        return Answer({}, self.status)

    def _note(self, event: str, what: Mapping[str, Any], whose: Mapping[str, str] | None) -> None:
        assert whose is not None
        self.noted.append((event, whose["person"]))

    async def ask(self, query: str, whom: Visitor = ANN) -> int:
        """Returns how many records there are by now."""
        scope = {"type": "http", "method": "GET", "path": "/api/v1/requests", "query_string": query.encode()}
        await self._handle(Request({**scope, "headers": [(b"host", b"127.0.0.1")], VISITOR: whom}))
        return len(self.noted)


async def test_who_follows_requests_is_recorded_once() -> None:
    """While he goes on; who else does, or what else he reads, is told."""
    records = Records()
    assert await records.ask("service=pets") == 1
    for place in range(20):
        assert await records.ask(f"service=pets&next=p{place}&wait_s=3") == 1
    assert await records.ask("service=pets&next=p20", BOB) == 2
    assert records.noted == [("operator.asked", "ann"), ("operator.asked", "bob")]


async def test_whoever_says_that_he_goes_on_is_recorded_all_the_same() -> None:
    """An empty place can be made by anybody: gA== is one."""
    records = Records()
    assert await records.ask("last=1000&next=gA==") == 1
    assert await records.ask("last=1000&next=gA==&service=pets") == 2
    assert await records.ask("last=1000") == 3
    records.status = 503
    assert await records.ask("last=1000&next=gA==") == 4


async def test_who_comes_back_later_is_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    records = Records()
    assert await records.ask("next=p") == 1
    now += 59
    assert await records.ask("next=q") == 1
    now += 61
    assert await records.ask("next=q") == 2


async def test_readers_are_remembered_within_a_bound() -> None:
    """Who has not read for longest is told again."""
    records = Records()
    for number in range(doors.MOST_READERS + 1):
        await records.ask(f"service=s{number}")
    count = len(records.noted)
    assert await records.ask(f"service=s{doors.MOST_READERS}&next=p") == count
    assert await records.ask("service=s0&next=p") == count + 1
