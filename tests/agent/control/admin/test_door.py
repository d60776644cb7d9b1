"""Doors of the admin API: what is recorded of who reads what requests said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin import door as doors
from agent.control.admin.door import PEER, VISITOR, Answer, Door, guarded
from agent.control.host.rights import Right, Rights
from agent.identity.users import User
from agent.identity.verdict import Visitor
from agent.settings.document import LocalPart

ANN, BOB = Visitor("ann", operates=False), Visitor("bob", operates=False)


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b""}


class Records:
    """What is recorded."""

    def __init__(self, status: int = 200, right: Right = Right.READ, rights: Any = None) -> None:
        """`rights`: of this host's users; people have roles."""
        self.status = status
        self.noted: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.answered = 0
        self._handle = guarded(Door("GET", "/api/v1/requests", self._told, right), rights, "", self._note)

    async def _told(self, request: Request) -> Response:
        return Answer({}, self.status)

    def _note(self, event: str, what: Mapping[str, Any], whose: Mapping[str, str] | None) -> None:
        assert whose is not None
        self.noted.append((event, whose["person"]))
        self.asked.append(what["asked"])

    async def ask(self, query: str, whom: Visitor | None = ANN, peer: User | None = None) -> int:
        """Returns how many records there are by now."""
        scope = {"type": "http", "method": "GET", "path": "/api/v1/requests", "query_string": query.encode()}
        scope |= {"headers": [(b"host", b"127.0.0.1")], VISITOR: whom, PEER: peer}
        self.answered = (await self._handle(Request(scope, _nothing))).status_code
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


@pytest.mark.parametrize(
    ("whom", "status"),
    [
        (Visitor("ann", operates=False), 403),
        (Visitor("ann", operates=False, taps=True), 200),
        (Visitor("ann", operates=True, taps=True), 200),
    ],
)
@pytest.mark.parametrize("right", [Right.TAP, Right.OUTPUT])
async def test_a_tap_takes_its_role_and_is_recorded_with_what_it_asks_for(
    right: Right, whom: Visitor, status: int
) -> None:
    """Of which service, by which filter; also where it is refused. Where somebody reads on, once."""
    records = Records(right=right)
    query = "service=pets.production&path=%2Fcats&headers=true"
    await records.ask(f"{query}&wait_s=3", whom)
    await records.ask(f"{query}&wait_s=3&next=p", whom)
    assert records.answered == status
    assert records.asked == ["GET /api/v1/requests?service=pets.production&path=%2Fcats&headers=true"]
    await records.ask(f"service={'x' * 5000}", whom)
    assert len(records.asked[1]) < 1100


@pytest.mark.parametrize("right", [Right.TAP, Right.READ])
async def test_users_of_this_host_who_may_tap_and_those_who_may_not(right: Right) -> None:
    """On the admin port nobody may: it says nothing of who asks."""
    records = Records(right=right, rights=Rights(LocalPart(operate=("1000",), tap=("1001",)), 990))
    for uid, status in ((0, 200), (990, 200), (1000, 200), (1001, 200), (1002, 403)):
        await records.ask("", None, User(uid))
        assert records.answered == status, uid
    await records.ask("", None)
    assert records.answered == 403


async def test_any_user_of_this_host_may_ask_what_programs_write() -> None:
    """What he is answered is of his own. On the admin port nobody may."""
    records = Records(right=Right.OUTPUT, rights=Rights(LocalPart(operate=("1000",), tap=("1001",)), 990))
    for uid in (0, 1000, 1001, 1002):
        await records.ask("", None, User(uid))
        assert records.answered == 200, uid
    await records.ask("", None)
    assert records.answered == 403


async def test_who_taps_operates_nothing() -> None:
    """And what he lacks is said."""
    records = Records(right=Right.OPERATE)
    await records.ask("", Visitor("ann", operates=False, taps=True))
    assert records.answered == 403
