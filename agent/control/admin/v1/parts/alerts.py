"""All that is wrong with the mesh in one list, as `shoal check` has it: of etcd, and of each agent by its own word.

Laws
- etcd is looked at by who is asked, with its agent's rights, and not more often than every LOOK_S, however many ask.
- Where etcd does not answer, that is one of the things that are wrong, and what agents say of themselves stands.
"""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, Operation, Trouble
from agent.control.host.etcd import store_settings
from agent.control.parts import Parts
from agent.findings.alerts import alerts
from agent.findings.finding import ORDER, Finding
from agent.findings.of_figures import LAST_S, Signals, of_figures
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.facts import Facts
from agent.settings.file import SettingsError
from registry.census import around, take, trust_domain
from registry.etcd.members import members
from registry.store import StoreError

LOOK_S: Final = 15.0
SAID: Final = 1000
"""Findings of agents that are asked for."""


class AlertsQuery(types.Query, frozen=True, kw_only=True):
    """Of alerts."""

    limit: types.Limit = 100
    deadline_s: types.Deadline = 5.0


class Alert(types.Base, frozen=True, kw_only=True):
    """What is wrong, where, how bad it is, what to do next, and who says so."""

    id: str
    severity: types.Severity
    where: str
    what: str
    next: str
    hosts: Annotated[list[str], Meta(description="Whose agents say so of themselves; empty: it stands in etcd")]


class Alerts(types.WidePage, frozen=True, kw_only=True):
    """Alerts, the worst first."""

    items: list[Alert]
    counts: Annotated[dict[types.Severity, int], Meta(description="How many there are of each severity, shown or not")]


class AlertsApi:
    """Of one agent."""

    def __init__(self, parts: Parts, said: Operation, figures: Operation) -> None:
        """`said` tells what agents find wrong with themselves, `figures` how services do."""
        self._parts = parts
        self._said = said
        self._figures = figures
        self._looking = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._found: list[Finding] = []
        self._at = -math.inf

    def operation(self) -> Operation:
        """The one there is."""
        summary = "What is wrong with the mesh, the worst first, each with the next step: what `shoal check` lists"
        return Operation("GET", "/alerts", "listAlerts", summary, AlertsQuery, Alerts, self._alerts, wide=True)

    async def _alerts(self, asked: Asked) -> Alerts:
        limit, deadline_s = asked.query.limit, asked.query.deadline_s
        of_mesh: list[Finding] = []

        async def look() -> None:
            of_mesh.extend(await self._look(deadline_s))

        trouble: list[Trouble] = []

        async def count() -> None:
            try:
                of_mesh.extend(await self._failing(deadline_s))
            except Trouble as error:
                trouble.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(count)
            try:
                wanted = types.WideQuery(limit=SAID, scope="mesh", deadline_s=deadline_s)
                said: Any = await self._said.handle(Asked({}, wanted))
            except Trouble as error:
                trouble.append(error)
        if trouble:
            raise trouble[0]
        told: dict[str, list[Finding]] = {}
        for each in said.items:
            told.setdefault(each.host, []).append(Finding(each.id, each.severity, each.where, each.what, each.next))
        found = alerts(of_mesh, told, {host: each.reason for host, each in said.missing.items()})
        counts = {severity: sum(each.severity == severity for each in found) for severity in ORDER}
        return Alerts(
            items=[Alert(**msgspec.structs.asdict(each) | {"hosts": list(each.hosts)}) for each in found[:limit]],
            total=len(found),
            counts=counts,
            revision=said.revision,
            asked=said.asked,
            missing=said.missing,
        )

    async def _failing(self, deadline_s: float) -> list[Finding]:
        """As all agents count. Raises Trouble."""
        query: Any = self._figures.query
        wanted = query(last_s=LAST_S, sort="errors", limit=types.MOST, scope="mesh", deadline_s=deadline_s)
        told: Any = await self._figures.handle(Asked({}, wanted))
        return list(of_figures(Signals(each.service, each.requests, each.errors) for each in told.items))

    async def _look(self, deadline_s: float) -> list[Finding]:
        """What etcd says, at most LOOK_S old."""
        reason = f"it did not answer within {deadline_s:g} s"
        with trio.move_on_after(deadline_s):
            async with self._looking:
                if trio.current_time() < self._at + LOOK_S:
                    return self._found
                try:
                    facts = await self._facts()
                except (StoreError, SettingsError) as error:
                    reason = str(error)
                else:
                    self._found = await trio.to_thread.run_sync(findings, facts, limiter=self._thread)
                    self._at = trio.current_time()
                    return self._found
        what = f"what etcd holds could not be looked at by {self._parts.settings.host}: {reason}"
        return [Finding("not-looked", "warning", self._parts.settings.mesh, what, "`shoal status` says how etcd is")]

    async def _facts(self) -> Facts:
        store, mesh = self._parts.here.store, self._parts.settings.mesh
        census = await take(store, mesh)
        census.trust_domain = await trust_domain(store, mesh)
        strangers, meshes, not_seen = await around(store, mesh)
        return Facts(
            census=census,
            suspects=frozenset((each.service, each.id) for each in self._parts.mesh.table.suspects),
            mesh=mesh,
            now=time.time(),
            members=await members(store_settings(self._parts.settings), more=True),
            authenticated=store.authenticated,
            strangers=strangers,
            meshes=meshes,
            not_seen=not_seen,
        )
