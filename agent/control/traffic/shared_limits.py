"""Rate limits that are shared: among the workers of this agent, and among all agents of the mesh.

`ratelimit.shares` decides; here counters are collected, owners asked, and parts handed out. Several times a second
each agent tells the owner of each limit of the whole mesh what it is asked for, in one small request to the owner's
inbound listener, and gets its part back. With no such limit nothing is sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, aclosing
from typing import Final, cast

import httpx
import msgspec
import structlog
import trio

import agent
from agent import frames, questions
from agent.control.mesh.table import Table
from agent.control.workers.fleet import Fleet
from agent.questions import HOST, SHARES, Demand, Figures
from agent.trust import Agents, is_here, source_for
from policies.kinds.ratelimit.document import RateLimit, shared
from policies.kinds.ratelimit.shares import Ledger, Member, Report, Shared, divide, owner
from policies.language.document import Document
from policies.language.names import candidates

IDLE_S: Final = 0.2
"""How often to look whether there is anything to share."""
TICK_S: Final = 0.05
ASK_S: Final = 0.5
MAX_SHARED: Final = 2000
"""Limits of the whole mesh that are divided by demand: one document for `*` asks for one in each service. Of those
beyond it each agent has an equal part, as of those whose owner is not heard."""
MAX_ANSWER_BYTES: Final = 256 * 1024
"""Of an owner: who answers under an agent's address need not be it any more."""
_SEPARATOR: Final = "\0"
log = structlog.get_logger()


class SharedLimits:
    """This agent as a member, and as an owner."""

    def __init__(self, table: Table, host: str, ranges: Iterable[str] = ()) -> None:
        """`ranges`: where agents may come from besides where they are registered."""
        self._agents = Agents(ranges)
        self._table = table
        self._host = host
        self._member = Member()
        self._ledger = Ledger()
        self._parsed: dict[str, tuple[int, dict[str, Shared]]] = {}
        self._known: tuple[int, dict[str, Shared]] = (-1, {})
        self._counted: dict[int, dict[str, float]] = {}

    async def run(self, fleet: Fleet) -> None:
        """Ask owners, and hand out parts to the workers of a fleet, until cancelled."""
        async with Clients() as clients:
            while True:
                limits = self._limits()
                if limits and self._member.due(trio.current_time()):
                    await self._round(fleet, limits, clients)
                await trio.sleep(TICK_S if limits else IDLE_S)

    def answer(self, body: bytes, address: str) -> tuple[int, bytes]:
        """As an owner, to a member's report that came from an address: status and body."""
        question = questions.read(body, Demand)
        if isinstance(question, str):
            return 400, question.encode("utf-8", "replace")
        record = self._table.agents.get(question.member)
        if record is None or question.member == self._host:
            return 403, b"no such agent lives in this mesh"
        if not self._agents.from_agent(address, record.address):
            return 403, b"that agent is registered elsewhere"
        limits = self._limits()
        # What is no limit here may be one that this agent has not heard of yet.
        known = {name: told for name, told in question.reports.items() if name in limits}
        reports = {name: Report(told.demand, told.held, told.for_s, told.using) for name, told in known.items()}
        self._configure(limits)
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

    async def _round(self, fleet: Fleet, limits: dict[str, Shared], clients: Clients) -> None:
        """Report, accept, and tell the workers."""
        self._configure(limits)
        counted = {index: _flat(told) for index, told in (await fleet.ask_each("demand")).items()}
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
                nursery.start_soon(self._report, host, some, serial, clients)
        self._hand_out(fleet, counted, limits)

    async def _report(self, host: str, reports: dict[str, Report], serial: int, clients: Clients) -> None:
        if host == self._host:
            self._member.accept(self._ledger.report(host, reports, trio.current_time()), serial)
            return
        record, own = self._table.agents.get(host), self._table.agents.get(self._host)
        if record is None:
            return  # it left meanwhile
        client = clients.from_address(source_for(own.address, record.address) if own is not None else "")
        address = f"[{record.address}]" if ":" in record.address else record.address
        told = {name: Figures(each.demand, each.held, each.for_s, each.using) for name, each in reports.items()}
        body = msgspec.msgpack.encode(Demand(self._host, told))
        try:
            with trio.move_on_after(ASK_S):
                url = f"http://{address}:{record.inbound_port}{SHARES}"
                async with client.stream("POST", url, content=body, headers={"host": HOST}) as answer:
                    said = await _whole(answer)
                status = answer.status_code
                grants = questions.read(said, dict[str, float]) if status == 200 else questions.refused(status, said)
                if isinstance(grants, str):
                    log.debug("the owner of a limit gives no grants", host=host, reason=grants)
                else:
                    self._member.accept(grants, serial)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.debug("the owner of a limit does not answer", host=host, error=str(error))

    def _hand_out(self, fleet: Fleet, counted: dict[int, dict[str, float]], limits: dict[str, Shared]) -> None:
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
            fleet.tell(index, frames.Shares(by_service))


async def _whole(answer: httpx.Response) -> bytes:
    """As it came, not unpacked; of what is too large, the beginning, which makes no sense."""
    body = b""
    async with aclosing(cast("AsyncGenerator[bytes]", answer.aiter_raw())) as pieces:
        async for piece in pieces:
            body += piece[: MAX_ANSWER_BYTES - len(body)]
    return body


class Clients:
    """By the address that questions leave from: owners believe an agent where it is registered."""

    def __init__(self) -> None:
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def from_address(self, source: str) -> httpx.AsyncClient:
        """The client for one; for the system's choice where that is none of this host's."""
        client = self._clients.get(source)
        if client is None:
            transport = httpx.AsyncHTTPTransport(local_address=source if source and is_here(source) else None)
            client = self._clients[source] = httpx.AsyncClient(transport=transport, timeout=ASK_S, trust_env=False)
            self._stack.push_async_callback(client.aclose)
        return client


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


def asked(path: str, body: bytes, sharing: SharedLimits, address: str) -> tuple[int, bytes]:
    """What another agent, at an address, asks this one."""
    return sharing.answer(body, address) if path == SHARES else (404, questions.not_known(path, agent.VERSION))
