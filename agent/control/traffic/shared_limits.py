"""Rate limits that are shared: among the workers of this agent, and among all agents of the mesh.

`ratelimit.shares` decides; here counters are collected, owners asked, and parts handed out. Several times a second
each agent tells the owner of each limit of the whole mesh what it is asked for, in one small request to the owner's
inbound listener, and gets its part back. With no such limit nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import structlog
import trio

import agent
from agent import frames, questions
from agent.control.identity.way import NoAnswer
from agent.control.mesh.table import Table
from agent.control.traffic.peers import Peers
from agent.control.traffic.shared_keys import SEPARATOR, Handed, SharedKeys
from agent.control.workers.fleet import Fleet
from agent.identity.spiffe import parse_id
from agent.questions import KEYS, SHARES, Demand, Figures, KeyDemand, KeyGrants, KeyPart
from agent.trust import Agents
from policies.kinds.ratelimit.document import RateLimit, shared
from policies.kinds.ratelimit.hot import Granted
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
MAX_TOLD: Final = 400
"""Limits or keys in one question: it fits into what a listener takes."""
log = structlog.get_logger()


class SharedLimits:
    """This agent as a member, and as an owner."""

    def __init__(self, table: Table, host: str, ranges: Iterable[str] = (), peers: Peers | None = None) -> None:
        """`peers`: those that are asked. `ranges`: where agents may come from besides where they are registered."""
        self._agents = Agents(ranges)
        self._table = table
        self._peers = peers or Peers(table)
        self._host = host
        self._member = Member()
        self._ledger = Ledger()
        self._keys = SharedKeys(host)
        self._parsed: dict[str, tuple[int, dict[str, Shared]]] = {}
        self._known: tuple[int, dict[str, Shared]] = (-1, {})
        self._counted: dict[int, dict[str, float]] = {}

    async def run(self, fleet: Fleet) -> None:
        """Ask owners, and hand out parts to the workers of a fleet, until cancelled."""
        try:
            while True:
                limits = self._limits()
                now = trio.current_time()
                if limits and (self._member.due(now) or self._keys.due(now)):
                    await self._round(fleet, limits)
                await trio.sleep(TICK_S if limits else IDLE_S)
        finally:
            with trio.CancelScope(shield=True):
                await self._peers.aclose()

    def answer(self, path: str, body: bytes, address: str, identity: str = "") -> tuple[int, bytes]:
        """As an owner, to a member's report that came from an address, or from who has proven an identity: status and
        body."""
        question: Demand | KeyDemand | str = questions.read(body, Demand if path == SHARES else KeyDemand)
        if isinstance(question, str):
            return 400, question.encode("utf-8", "replace")
        record = self._table.agents.get(question.member)
        if record is None or question.member == self._host:
            return 403, b"no such agent lives in this mesh"
        if identity and parse_id(identity).host != question.member:
            return 403, b"that is another agent than the certificate's"
        if not identity and not self._agents.from_agent(address, record.address):
            return 403, b"that agent is registered elsewhere"
        limits = self._limits()
        if isinstance(question, KeyDemand):
            return 200, msgspec.msgpack.encode(self._divide_keys(question.member, question.reports, limits))
        # What is no limit here may be one that this agent has not heard of yet.
        known = {name: told for name, told in question.reports.items() if name in limits}
        reports = {name: _report(told) for name, told in known.items()}
        self._configure(limits)
        return 200, msgspec.msgpack.encode(self._ledger.report(question.member, reports, trio.current_time()))

    def _divide_keys(self, member: str, told: dict[str, Figures], limits: dict[str, Shared]) -> KeyGrants:
        reports = {name: _report(figures) for name, figures in told.items()}
        granted = self._keys.divide(member, reports, _keyed(limits), len(self._members()), trio.current_time())
        return {name: KeyPart(*each) for name, each in granted.items()}

    def _members(self) -> frozenset[str]:
        return frozenset({*self._table.agents, self._host})

    def _limits(self) -> dict[str, Shared]:
        """Every limit of the whole mesh, by service and name."""
        if self._known[0] != self._table.revision:
            self._known = (self._table.revision, self._shared_ones())
        return self._known[1]

    def _shared_ones(self) -> dict[str, Shared]:
        documents = self._table.in_force.enforced.get("ratelimit", {})
        if not documents:
            return {}
        by_pattern = {pattern: self._shared(pattern, p.revision, p.document) for pattern, p in documents.items()}
        found: dict[str, Shared] = {}
        for service in self._table.services:
            pattern = next((name for name in candidates(service) if name in by_pattern), "")
            for name, limit in by_pattern.get(pattern, {}).items():
                found[f"{service}{SEPARATOR}{name}"] = limit
        if len(found) <= MAX_SHARED:
            return found
        log.warning("more limits of the whole mesh than are shared", limits=len(found), most=MAX_SHARED)
        return {name: found[name] for name in sorted(found)[:MAX_SHARED]}

    def _shared(self, pattern: str, revision: int, document: Document | None) -> dict[str, Shared]:
        known = self._parsed.get(pattern)
        if known is None or known[0] != revision:
            limits = shared(document) if isinstance(document, RateLimit) else {}
            known = self._parsed[pattern] = (revision, limits)
        return known[1]

    def _configure(self, limits: dict[str, Shared]) -> None:
        members = self._members()
        self._member.configure([name for name, limit in limits.items() if not limit.keyed], len(members))
        mine = {name: limit for name, limit in limits.items() if owner(name, members) == self._host}
        self._ledger.configure(mine, members, trio.current_time())

    async def _round(self, fleet: Fleet, limits: dict[str, Shared]) -> None:
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
        members = self._members()
        by_owner: dict[str, dict[str, Report]] = {}
        for name, report in reports.items():
            by_owner.setdefault(owner(name, members), {})[name] = report
        keys = await self._count_keys(fleet, limits, members)
        key_serial = self._keys.serial
        async with trio.open_nursery() as nursery:
            for host, some in by_owner.items():
                for part in _in_parts(some):
                    nursery.start_soon(self._report, host, part, serial)
            for host, some in keys.items():
                for part in _in_parts(some):
                    nursery.start_soon(self._report_keys, host, part, key_serial)
        self._hand_out(fleet, counted, limits)

    async def _count_keys(
        self, fleet: Fleet, limits: dict[str, Shared], members: frozenset[str]
    ) -> dict[str, dict[str, Report]]:
        """What owners of keys are to be told."""
        keyed = _keyed(limits)
        told = await fleet.ask_each("keys") if keyed else {}
        now = trio.current_time()
        self._keys.count(told, keyed, len(members), now)
        return self._keys.reports(members, now)

    async def _report(self, host: str, reports: dict[str, Report], serial: int) -> None:
        if host == self._host:
            self._member.accept(self._ledger.report(host, reports, trio.current_time()), serial)
            return
        said = await self._ask(host, SHARES, Demand(self._host, _told(reports)))
        grants = questions.read(said, dict[str, float]) if said is not None else "nothing"
        if not isinstance(grants, str):
            self._member.accept(grants, serial)
        elif said is not None:
            log.debug("the owner of a limit gives no grants", host=host, reason=grants)

    async def _report_keys(self, host: str, reports: dict[str, Report], serial: int) -> None:
        if host == self._host:
            grants: KeyGrants | str = self._divide_keys(host, _told(reports), self._limits())
        else:
            said = await self._ask(host, KEYS, KeyDemand(self._host, _told(reports)))
            grants = questions.read(said, dict[str, KeyPart]) if said is not None else "nothing"
        if not isinstance(grants, str):
            self._keys.accept({name: Granted(each.fraction, each.tokens) for name, each in grants.items()}, serial)

    async def _ask(self, host: str, path: str, question: Demand | KeyDemand) -> bytes | None:
        """Another agent's answer; None where it gives none."""
        try:
            status, said = await self._peers.ask(host, path, msgspec.msgpack.encode(question), ASK_S)
        except NoAnswer as error:
            log.debug("the owner of a limit does not answer", host=host, error=str(error))
            return None
        if status == 200:
            return said
        log.debug("the owner of a limit gives no grants", host=host, reason=questions.refused(status, said))
        return None

    def _hand_out(self, fleet: Fleet, counted: dict[int, dict[str, float]], limits: dict[str, Shared]) -> None:
        """The agent's parts, and for what workers do not count together, each one's: by what it was asked for since the
        last round."""
        now = trio.current_time()
        parts: dict[str, dict[str, frames.Part]] = {}
        shares: dict[int, dict[str, dict[str, float]]] = {index: {} for index in counted}
        for name in limits:
            asked = {
                str(index): max(0.0, told.get(name, 0.0) - self._counted.get(index, {}).get(name, 0.0))
                for index, told in counted.items()
            }
            part = self._member.share(name, now)
            among = _among(asked, part)
            service, _, limit = name.partition(SEPARATOR)
            parts.setdefault(service, {})[limit] = frames.Part(
                part, self._member.fallback, self._member.rest(name, now)
            )
            for index in counted:
                shares[index].setdefault(service, {})[limit] = among[str(index)]
        self._counted = counted
        keys, tokens = self._keys.parts(now), self._keys.tokens(shares)
        none: Handed = {}
        for index, by_service in shares.items():
            fleet.tell(index, frames.Shares(by_service, parts, keys, tokens.get(index, none)))


def _flat(told: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{service}{SEPARATOR}{limit}": counter for service, limits in told.items() for limit, counter in limits.items()
    }


def _keyed(limits: dict[str, Shared]) -> dict[str, Shared]:
    return {name: limit for name, limit in limits.items() if limit.keyed}


def _report(told: Figures) -> Report:
    return Report(told.demand, told.held, told.for_s, told.using, told.rests)


def _told(reports: dict[str, Report]) -> dict[str, Figures]:
    return {name: Figures(*report) for name, report in reports.items()}


def _in_parts(reports: dict[str, Report]) -> Iterator[dict[str, Report]]:
    """Of MAX_TOLD at most."""
    names = list(reports)
    for first in range(0, len(names), MAX_TOLD):
        yield {name: reports[name] for name in names[first : first + MAX_TOLD]}


def _among(asked: dict[str, float], part: float) -> dict[str, float]:
    """An agent's part of a limit divided among its workers, in proportion to what each was asked for."""
    total = sum(asked.values())
    if not total:
        return dict.fromkeys(asked, part / max(len(asked), 1))
    scaled = {worker: part * count / total for worker, count in asked.items()}
    return divide(part, scaled)


def asked(path: str, body: bytes, sharing: SharedLimits, address: str, identity: str = "") -> tuple[int, bytes]:
    """What another agent, at an address or of an identity, asks this one."""
    return (
        sharing.answer(path, body, address, identity)
        if path in (KEYS, SHARES)
        else (404, questions.not_known(path, agent.VERSION))
    )
