"""Requests of the whole mesh as they end, asked again and again by who reads on, with `next` of the answer before:
whether he follows them (`requests`) or taps them (`taps`).

Laws
- Nothing is kept here for who asks: how far he has read stands in what he was answered.
- An answer comes as soon as there is anything to say, else after `wait_s`. Each agent is asked anew every LOOK_S to
  MOST_LOOK_S, and never waits: questions that wait would take the places of others there.
- MOST_READERS at a time of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Trouble
from agent.control.admin.v1.parts.reading.places import ask, packed, unpacked
from agent.control.asking.fanout import Fanout, Told
from agent.control.mesh.table import Table
from agent.questions import Question
from agent.requests.filter import Filter, Place, RequestsTold
from policies.kinds.log.document import STATUS

MOST_READERS: Final = 32
LOOK_S: Final = 0.1
MOST_LOOK_S: Final = 1.0
ASK_S: Final = 2.0
"""How long all agents together may take."""
MOST_WAIT_S: Final = 5.0
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of all hosts' records in an answer; each has its part, but LEAST_BYTES, or one batch of a worker."""
LEAST_BYTES: Final = 16 * 1024
_CALLER: Final = r"^[\x21-\x7e]{0,512}$"


class Which(types.Query, frozen=True, kw_only=True):
    """Which requests, and how far somebody has read."""

    service: Annotated[
        str,
        Meta(
            pattern=r"^$|^\*$|^(\*\.)?" + types.SERVICE[1:],
            extra={"right": "a service or a pattern, such as pets.production or *.production"},
            description="That was asked for, or a pattern: *.production",
        ),
    ] = ""
    status: Annotated[str, Meta(max_length=200, description="Statuses, with commas: 404,5xx")] = ""
    slower_s: Annotated[float, Meta(ge=0, le=3600, description="That took so long, or longer")] = 0.0
    path: Annotated[str, Meta(max_length=1024, pattern=r"^$|^/[^?]*$", description="That the path begins with")] = ""
    caller: Annotated[str, Meta(pattern=_CALLER, description="The service that called")] = ""
    method: Annotated[str, Meta(pattern=r"^[A-Z-]{0,32}$")] = ""
    direction: Annotated[Literal["", "inbound", "outbound"], Meta(description="By which side it was recorded")] = ""
    flag: Annotated[str, Meta(pattern=r"^[a-z_.]{0,64}$", description="That the flag begins with: service.")] = ""
    failed: Annotated[bool, Meta(description="Only those with the flag of a fault, or answered with 5xx")] = False
    wait_s: Annotated[float, Meta(ge=0, le=MOST_WAIT_S, description="For how long to wait for the first one")] = 0.0
    next: Annotated[str, Meta(max_length=49_152, description="Of the answer before")] = ""
    scope: types.Scope = "mesh"


class OfHost(types.Base, frozen=True, kw_only=True):
    """Requests that one agent has recorded, the oldest first."""

    items: Annotated[list[Any], Meta(description="Records, as docs/logs.md has them")]
    lost: Annotated[int, Meta(description="How many more there were, for which there was no room")] = 0
    begun: Annotated[bool, Meta(description="It has begun anew, and nobody knows what ended meanwhile")] = False
    recorded: Annotated[bool, Meta(description="Whether it records requests for anybody else")] = False


class Requests(types.Base, frozen=True, kw_only=True):
    """Requests by host."""

    hosts: dict[str, OfHost]
    next: Annotated[str, Meta(description="What to ask with the next time")] = ""
    missing: Annotated[dict[str, types.Missing], Meta(description="By host: who did not answer, and why")] = (
        msgspec.field(default_factory=dict)
    )
    revision: Annotated[int, Meta(description="Of etcd, that this agent's table is of")] = 0


Q = TypeVar("Q")
Asking = Callable[[dict[str, Place], int], Q]
"""The question, by the places of those who are asked, and how many bytes of lines each may answer."""


class ReadingOn(Generic[Q]):
    """By way of one agent."""

    def __init__(self, table: Table, fanout: Fanout, question: Question[Q, RequestsTold], what: str) -> None:
        """`what`: readers do, for people."""
        self._table = table
        self._fanout = fanout
        self._question = question
        self._what = what
        self._readers = 0

    async def read(self, query: Which, asking: Asking[Q], *, at_once: bool = False) -> Requests:
        """What has ended since; `at_once`: without waiting for anything. Raises Trouble."""
        places = unpacked(query.next, Place)
        if self._readers >= MOST_READERS:
            raise Trouble(503, f"{MOST_READERS} readers {self._what} by way of this agent; ask again, or another")
        self._readers += 1
        try:
            return await self._answer(query, asking, places, at_once=at_once)
        finally:
            self._readers -= 1

    async def _answer(self, query: Which, asking: Asking[Q], places: dict[str, Place], *, at_once: bool) -> Requests:
        until, pause_s = trio.current_time() + query.wait_s, LOOK_S
        hosts = [self._table.host] if query.scope == "agent" else None
        while True:
            most = max(LEAST_BYTES, MOST_BYTES // max(1, len(self._table.agents)))
            told = await ask(self._fanout, self._question, partial(_at, asking, most), places, hosts, ASK_S)
            places = places | {host: each.place for host, each in told.answers.items() if each.place is not None}
            over = at_once or trio.current_time() + pause_s > until
            if over or any(each.lines or each.lost or each.begun for each in told.answers.values()):
                known = frozenset(self._table.agents).union(told.answers)
                places = {host: place for host, place in places.items() if host in known}
                return await trio.to_thread.run_sync(_answered, told, places, self._table.revision)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_LOOK_S)


def _at(asking: Asking[Q], most_bytes: int, places: dict[str, Place]) -> Q:
    return asking(places, most_bytes)


def _answered(told: Told[RequestsTold], places: dict[str, Place], revision: int) -> Requests:
    """In a thread: there may be thousands."""
    return Requests(
        hosts={host: _of_host(each) for host, each in told.answers.items()},
        next=packed(places),
        missing={host: types.Missing(why=no.why, reason=no.reason) for host, no in told.missing.items()},
        revision=revision,
    )


def _of_host(told: RequestsTold) -> OfHost:
    items: list[Any] = []
    lost = told.lost
    for line in told.lines.split(b"\n"):
        if line:
            try:
                msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, RecursionError):
                lost += 1  # of an agent that makes no sense
            else:
                items.append(msgspec.Raw(line))
    return OfHost(items=items, lost=lost, begun=told.begun, recorded=told.recorded)


def filter_of(query: Which) -> Filter:
    """Raises Trouble."""
    statuses = tuple(each.strip() for each in query.status.split(",") if each.strip())
    for each in statuses:
        if not STATUS.match(each):
            raise Trouble(400, f"{each[:60]!r} is no status; such as 5xx, 404 or 404,5xx", "$.status")
    return Filter(
        service=query.service,
        statuses=tuple(sorted(statuses)),
        slower_s=query.slower_s,
        path=query.path,
        caller=query.caller,
        method=query.method,
        direction=query.direction,
        flag=query.flag,
        failed=query.failed,
    )
