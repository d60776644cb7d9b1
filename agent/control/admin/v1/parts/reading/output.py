"""What programs of the whole mesh say, as they say it: asked again and again by who follows, with `next` of the answer
before; and what is handed in of one program, by who copies its output (`agent.process.copying`).

Laws
- Nothing is kept here for who asks: how far he has read stands in what he was answered. Of hosts that do not answer,
  or are gone, it stays: their programs go on, and so does he, where he was.
- Who operates or may tap reads everything. Any other user of this host reads what his own programs on it write, and
  nothing else.
- What is handed in is of who may be the service, and of an instance that is his; it is known to be his for as long as
  its run is, since a program has its last words behind its end in the mesh.
- MOST_READERS at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.door import may_tap, peer_of
from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.admin.v1.parts.reading.places import ask, packed, unpacked
from agent.control.admin.v1.parts.reading.reading_on import ASK_S, LOOK_S, MOST_LOOK_S, MOST_READERS, MOST_WAIT_S
from agent.control.asking.fanout import Told
from agent.control.host.rights import Right
from agent.control.output.said import MOST_NUMBER, NAMES, OUTPUT, Line, OutputAsked, OutputTold, Place
from agent.control.parts import Parts
from policies.language.names import parse_service

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of all hosts' lines in an answer; each has its part, but LEAST_BYTES to MOST_EACH_BYTES."""
LEAST_BYTES: Final = 16 * 1024
MOST_EACH_BYTES: Final = 1024 * 1024
MOST_GONE: Final = 64
"""Hosts that are not there, whose places somebody keeps."""


class OutputQuery(types.Query, frozen=True, kw_only=True):
    """Whose."""

    service: Annotated[
        str,
        Meta(
            pattern=r"^$|^\*$|^(\*\.)?" + types.SERVICE[1:],
            extra={"right": "a service or a pattern, such as pets.production or *.production"},
            description="Whose programs, or of which pattern: *.production",
        ),
    ] = ""
    instance: Annotated[str, Meta(max_length=255, description="Of this instance alone, by its id")] = ""
    stream: Annotated[
        str,
        Meta(
            pattern="^(stdout|stderr|run)?$",
            extra={"right": "stdout, stderr or run"},
            description="Only lines of this: stdout, stderr, or run, which has words of shoal run",
        ),
    ] = ""
    contains: Annotated[str, Meta(max_length=500, description="Only lines with this in them")] = ""
    last: Annotated[int, Meta(ge=0, le=1000, description="So many of the last lines of each, where one begins")] = 0
    wait_s: Annotated[float, Meta(ge=0, le=MOST_WAIT_S, description="For how long to wait for the first one")] = 0.0
    next: Annotated[str, Meta(max_length=49_152, description="Of the answer before")] = ""
    scope: types.Scope = "mesh"


class OutputLine(types.Base, frozen=True, kw_only=True):
    """A line that a program has written."""

    time: Annotated[float, Meta(description="In seconds since 1970")]
    service: str
    instance: str
    stream: Annotated[str, Meta(description="stdout, stderr, or run: that it was started, and that its output ended")]
    text: Annotated[str, Meta(description="What is no UTF-8 is there as \\xff")]
    cut: Annotated[int, Meta(description="How many bytes more it had")] = 0


class OutputOfHost(types.Base, frozen=True, kw_only=True):
    """Of one host, the oldest of each instance first."""

    items: list[OutputLine]
    lost: Annotated[
        dict[str, int], Meta(description="By instance: how many more there were, for which there was no room")
    ] = msgspec.field(default_factory=dict)
    unkept: Annotated[list[str], Meta(description="Instances whose output is not kept: `shoal run --logs`")] = (
        msgspec.field(default_factory=list)
    )


class OutputOfHosts(types.Base, frozen=True, kw_only=True):
    """Lines by host."""

    hosts: dict[str, OutputOfHost]
    next: Annotated[str, Meta(description="What to ask with the next time")] = ""
    own: Annotated[bool, Meta(description="Whether only programs of the asking user on this host are there")] = False
    missing: Annotated[dict[str, types.Missing], Meta(description="By host: who did not answer, and why")] = (
        msgspec.field(default_factory=dict)
    )
    revision: Annotated[int, Meta(description="Of etcd, that this agent's table is of")] = 0


class OutputHandedIn(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance's program has said lately."""

    run: Annotated[str, Meta(pattern="^[0-9a-f]{8}$", description="Drawn when the program was started")]
    lines: Annotated[list[Line], Meta(description="Number, time, stream (1, 2; 0: words of ours), text, bytes cut")]
    next: Annotated[int, Meta(ge=0, le=MOST_NUMBER, description="The number behind them; those between are lost")]
    begins: Annotated[bool, Meta(description="Whether whoever tells has nothing older")] = False
    ended: Annotated[bool, Meta(description="Whether nothing more comes")] = False


class OutputTaken(types.Base, frozen=True, kw_only=True):
    """What is known here by now."""

    next: Annotated[int, Meta(description="The first number that is not known; 0: tell all that you have")]
    again_s: Annotated[float, Meta(description="After how long there may be more")]


class OutputOperations:
    """Of one agent."""

    def __init__(self, parts: Parts) -> None:
        self._output = parts.output
        self._table = parts.mesh.table
        self._fanout = parts.fanout
        self._rights = parts.here.rights
        self._registrar = parts.registrar
        self._readers = 0

    def operations(self) -> list[Operation]:
        """As the list of them has them."""
        reads = "Lines that programs of `shoal run --logs` write, of every agent"
        takes = "Hand in what an instance's program has written"
        one = "/instances/{service}/{id}/output"
        return [
            Operation(
                *("GET", "/output", "listOutput", reads, OutputQuery, OutputOfHosts, self._read),
                right=Right.OUTPUT,
                bulk=True,
            ),
            Operation(
                *("POST", one, "handInOutput", takes, NoQuery, OutputTaken, self._take),
                takes=OutputHandedIn,
                right=Right.SERVE,
            ),
        ]

    async def _take(self, asked: Asked) -> OutputTaken:
        said: OutputHandedIn = asked.body
        assert asked.request is not None
        peer = peer_of(asked.request)
        assert peer is not None, "SERVE is asked for on the socket only, or by who operates"
        try:
            identity = (parse_service(asked.path["service"]), asked.path["id"])
        except ValueError as error:
            raise Trouble(400, str(error), "$.service") from None
        named = "/".join(identity)[:300]
        local = self._registrar.local.get(identity)
        owner = self._output.owner(said.run, identity)
        if owner is None and local is not None:
            owner = local.uid
        if owner is None:
            raise Trouble(404, f"no instance {named} was registered with this agent")
        if owner != peer.uid and (owner < 0 or not self._rights.may_operate(peer)):
            raise Trouble(403, f"{named} is not {peer}'s")
        taken = self._output.take(
            said.run, identity, owner, said.lines, said.next, begins=said.begins, ended=said.ended
        )
        if taken is None:
            raise Trouble(503, "this agent keeps the output of as many programs as it may")
        return OutputTaken(next=taken.next, again_s=taken.again_s)

    async def _read(self, asked: Asked) -> OutputOfHosts:
        query: OutputQuery = asked.query
        places = unpacked(query.next, Place)
        request = asked.request
        assert request is not None
        peer = peer_of(request)
        uid = None if may_tap(self._rights, request) or peer is None else peer.uid
        if self._readers >= MOST_READERS:
            raise Trouble(503, f"{MOST_READERS} readers follow programs by way of this agent; ask again, or another")
        self._readers += 1
        try:
            return await self._answer(query, places, uid)
        finally:
            self._readers -= 1

    async def _answer(self, query: OutputQuery, places: dict[str, Place], uid: int | None) -> OutputOfHosts:
        until, pause_s = trio.current_time() + query.wait_s, LOOK_S
        hosts = [self._table.host] if query.scope == "agent" or uid is not None else None
        most = min(MOST_EACH_BYTES, max(LEAST_BYTES, MOST_BYTES // max(1, len(self._table.agents))))
        while True:
            told = await ask(self._fanout, OUTPUT, partial(_asking, query, most, uid), places, hosts, ASK_S)
            places = places | {host: each.place for host, each in told.answers.items() if each.place is not None}
            over = trio.current_time() + pause_s > until
            if over or any(each.programs for each in told.answers.values()):
                gone = [host for host in places if host not in self._table.agents and host not in told.answers]
                places = {host: place for host, place in places.items() if host not in gone[MOST_GONE:]}
                return await trio.to_thread.run_sync(_answered, told, places, uid is not None, self._table.revision)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_LOOK_S)


def _asking(query: OutputQuery, most_bytes: int, uid: int | None, places: dict[str, Place]) -> OutputAsked:
    return OutputAsked(
        query.service or "*", query.instance, query.stream, query.contains, places, query.last, most_bytes, uid
    )


def _answered(told: Told[OutputTold], places: Mapping[str, Place], own: bool, revision: int) -> OutputOfHosts:
    """In a thread: there may be thousands."""
    return OutputOfHosts(
        hosts={host: _of_host(each) for host, each in told.answers.items()},
        next=packed(places),
        own=own,
        missing={host: types.Missing(why=no.why, reason=no.reason) for host, no in told.missing.items()},
        revision=revision,
    )


def _of_host(told: OutputTold) -> OutputOfHost:
    items = [
        OutputLine(
            time=line.at,
            service=each.service,
            instance=each.instance,
            stream=NAMES.get(line.stream, "run"),
            text=line.text,
            cut=line.cut,
        )
        for each in told.programs
        for line in each.lines
    ]
    lost: Counter[str] = Counter()
    for each in told.programs:
        lost[f"{each.service}/{each.instance}"] += each.lost
    return OutputOfHost(items=sorted(items, key=lambda item: item.time), lost=dict(+lost), unkept=told.unkept)
