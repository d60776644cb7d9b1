"""Rate limits that are shared: among the workers of this agent, and among all agents of the mesh.

`policies.shares` decides; here counters are collected, owners asked, and parts handed out. Several times a second
each agent tells the owner of each limit of the whole mesh what it is asked for, in one small request to the owner's
inbound listener, and gets its part back. With no such limit nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx
import msgspec
import structlog
import trio

from agent.control.table import Table
from agent.control.workers import Fleet
from policies.document import Document
from policies.names import candidates
from policies.ratelimit import RateLimit, shared
from policies.shares import Ledger, Member, Report, Shared, divide, owner

HOST: Final = "agent.shoal"
PATH: Final = "/shares"
IDLE_S: Final = 0.2
"""How often to look whether there is anything to share."""
TICK_S: Final = 0.05
ASK_S: Final = 0.5
MAX_SHARED: Final = 2000
"""Limits of the whole mesh that are divided by demand: one document for `*` asks for one in each service. Of those
beyond it each agent has an equal part, as of those whose owner is not heard."""
_SEPARATOR: Final = "\0"
log = structlog.get_logger()


class Question(msgspec.Struct, array_like=True):
    """What a member asks an owner: who it is, and its report of each limit."""

    member: str
    reports: dict[str, tuple[float, float, float, float]]


class Sharing:
    """This agent as a member, and as an owner."""

    def __init__(self, table: Table, fleet: Callable[[], Fleet], host: str) -> None:
        self._table = table
        self._fleet = fleet
        self._host = host
        self._member = Member()
        self._ledger = Ledger()
        self._parsed: dict[str, tuple[int, dict[str, Shared]]] = {}
        self._known: tuple[int, dict[str, Shared]] = (-1, {})
        self._counted: dict[int, dict[str, float]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(timeout=ASK_S, trust_env=False) as client:
            while True:
                limits = self._limits()
                if limits and self._member.due(trio.current_time()):
                    await self._round(limits, client)
                await trio.sleep(TICK_S if limits else IDLE_S)

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """As an owner, to a member's report: status and body."""
        try:
            question = msgspec.msgpack.decode(body, type=Question)
        except msgspec.DecodeError as error:
            return 400, str(error).encode()
        if question.member not in self._table.agents:
            return 403, b"no such agent lives in this mesh"
        reports = {name: Report(*report) for name, report in question.reports.items()}
        self._configure(self._limits())
        return 200, msgspec.msgpack.encode(self._ledger.report(question.member, reports, trio.current_time()))

    def _limits(self) -> dict[str, Shared]:
        """Every limit of the whole mesh, by service and name."""
        if self._known[0] != self._table.revision:
            self._known = (self._table.revision, self._shared_ones())
        return self._known[1]

    def _shared_ones(self) -> dict[str, Shared]:
        documents = self._table.policies.get("ratelimit", {})
        if not documents:
            return {}
        by_pattern = {pattern: self._shared(pattern, p.revision, p.document) for pattern, p in documents.items()}
        found: dict[str, Shared] = {}
        for service in self._table.services:
            pattern = next((name for name in candidates(service) if name in by_pattern), "")
            for name, limit in by_pattern.get(pattern, {}).items():
                found[f"{service}{_SEPARATOR}{name}"] = limit
        if len(found) <= MAX_SHARED:
            return found
        log.warning("more limits of the whole mesh than are shared", limits=len(found), most=MAX_SHARED)
        return {name: found[name] for name in sorted(found)[:MAX_SHARED]}

    def _shared(self, pattern: str, revision: int, document: Document | None) -> dict[str, Shared]:
        known = self._parsed.get(pattern)
        if known is None or known[0] != revision:
            limits = shared(document) if isinstance(document, RateLimit) and document.mode == "enforce" else {}
            known = self._parsed[pattern] = (revision, limits)
        return known[1]

    def _configure(self, limits: dict[str, Shared]) -> None:
        members = set(self._table.agents) | {self._host}
        self._member.configure(limits.keys(), len(members))
        mine = {name: limit for name, limit in limits.items() if owner(name, members) == self._host}
        self._ledger.configure(mine, members, trio.current_time())

    async def _round(self, limits: dict[str, Shared], client: httpx.AsyncClient) -> None:
        """Report, accept, and tell the workers."""
        self._configure(limits)
        counted = {index: _flat(told) for index, told in (await self._fleet().ask_each("demand")).items()}
        total: dict[str, float] = {}
        for by_limit in counted.values():
            for name, counter in by_limit.items():
                if name in limits:
                    total[name] = total.get(name, 0.0) + counter
        reports = self._member.report(total, trio.current_time())
        serial = self._member.serial
        members = set(self._table.agents) | {self._host}
        by_owner: dict[str, dict[str, Report]] = {}
        for name, report in reports.items():
            by_owner.setdefault(owner(name, members), {})[name] = report
        async with trio.open_nursery() as nursery:
            for host, some in by_owner.items():
                nursery.start_soon(self._report, host, some, serial, client)
        self._hand_out(counted, limits)

    async def _report(self, host: str, reports: dict[str, Report], serial: int, client: httpx.AsyncClient) -> None:
        if host == self._host:
            self._member.accept(self._ledger.report(host, reports, trio.current_time()), serial)
            return
        record = self._table.agents[host]
        address = f"[{record.address}]" if ":" in record.address else record.address
        told = {name: (report.demand, report.held, report.for_s, report.using) for name, report in reports.items()}
        body = msgspec.msgpack.encode(Question(self._host, told))
        try:
            with trio.move_on_after(ASK_S):
                answer = await client.post(
                    f"http://{address}:{record.inbound_port}{PATH}", content=body, headers={"host": HOST}
                )
                if answer.status_code == 200:
                    self._member.accept(msgspec.msgpack.decode(answer.content, type=dict[str, float]), serial)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.debug("the owner of a limit does not answer", host=host, error=str(error))

    def _hand_out(self, counted: dict[int, dict[str, float]], limits: dict[str, Shared]) -> None:
        """Each worker's part: of the agent's, by what it was asked for since the last round."""
        now = trio.current_time()
        shares: dict[int, dict[str, dict[str, float]]] = {index: {} for index in counted}
        for name in limits:
            asked = {
                str(index): max(0.0, told.get(name, 0.0) - self._counted.get(index, {}).get(name, 0.0))
                for index, told in counted.items()
            }
            part = self._member.share(name, now)
            among = _among(asked, part)
            service, _, limit = name.partition(_SEPARATOR)
            for index in counted:
                shares[index].setdefault(service, {})[limit] = among[str(index)]
        self._counted = counted
        for index, by_service in shares.items():
            self._fleet().tell(index, {"t": "shares", "shares": by_service})


def _flat(told: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{service}{_SEPARATOR}{limit}": counter
        for service, limits in told.items()
        for limit, counter in limits.items()
    }


def _among(asked: dict[str, float], part: float) -> dict[str, float]:
    """An agent's part of a limit divided among its workers, in proportion to what each was asked for."""
    total = sum(asked.values())
    if not total:
        return dict.fromkeys(asked, part / max(len(asked), 1))
    scaled = {worker: part * count / total for worker, count in asked.items()}
    return divide(part, scaled)


def asked(path: str, body: bytes, sharing: Sharing) -> tuple[int, bytes]:
    """What another agent asks this one."""
    return sharing.answer(body) if path == PATH else (404, b"nothing is known here of that question")
