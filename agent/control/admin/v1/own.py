"""What this agent says for itself: its state, and what its workers have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trio

from agent import build
from agent.control.admin.door import may_operate
from agent.control.admin.state import services_of, state
from agent.control.admin.v1 import types, views
from agent.control.admin.v1.agent_type import AgentState
from agent.control.admin.v1.operation import Asked, Trouble
from agent.control.admin.v1.proposing import supposed
from agent.control.admin.v1.wide import Part
from agent.control.host.clock import text_of
from agent.control.parts import Parts
from agent.control.traffic.explain import explain
from agent.events import PREFIX
from agent.findings.finding import ORDER
from agent.findings.of_agent import of_agent, of_documents
from agent.questions import Explain
from policies.language.names import matches, parse_service


class RefusedQuery(types.WideQuery, frozen=True, kw_only=True):
    """Of a kind."""

    kind: types.Kind = ""


class RefusedOfHost(types.HostQuery, frozen=True, kw_only=True):
    """Of a kind."""

    kind: types.Kind = ""


class ServiceQuery(types.WideQuery, frozen=True, kw_only=True):
    """Of a service."""

    service: types.ServiceName = ""


class ServiceOfHost(types.HostQuery, frozen=True, kw_only=True):
    """Of a service."""

    service: types.ServiceName = ""


class Own:
    """The handlers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reading = trio.CapacityLimiter(1)

    def parts(self) -> list[Part]:
        """Lists that every agent has a part of."""
        return [
            Part(
                "/policies/refused",
                "RefusedPolicies",
                "Documents that are not in force, and why",
                RefusedQuery,
                RefusedOfHost,
                types.RefusedPolicies,
                self.refused,
                lambda each: (each.kind, each.pattern, each.watched, each.host),
            ),
            Part(
                "/endpoints",
                "Endpoints",
                "Instances as workers see them: what they let through, and what they take out",
                ServiceQuery,
                ServiceOfHost,
                types.Endpoints,
                self.endpoints,
                lambda each: (each.service, each.id, each.host),
            ),
            Part(
                "/calls",
                "Calls",
                "Who was seen to call whom",
                ServiceQuery,
                ServiceOfHost,
                types.Calls,
                self.calls,
                lambda each: (each.caller, each.service, each.host),
            ),
            Part(
                "/events",
                "Events",
                "What happened lately, the latest first",
                ServiceQuery,
                ServiceOfHost,
                types.Events,
                self.events,
                _latest_first,
            ),
            Part(
                "/findings",
                "Findings",
                "What is wrong, the worst first, each with the next step",
                types.WideQuery,
                types.HostQuery,
                types.Findings,
                self.findings,
                lambda each: (ORDER[each.severity], each.host, each.where, each.id, each.what),
            ),
        ]

    # One thing.

    async def state(self) -> AgentState:
        """Everything that it says of itself."""
        fleet = self._parts.fleet
        failed = [each for told in await fleet.ask("handshakes") for each in told]
        told = state(self._parts, [], await fleet.metrics(), failed, await fleet.ask("opas"))
        return msgspec.convert(msgspec.to_builtins(told), AgentState)

    def row(self) -> types.Agent | None:
        """It among the agents, with what only it can say; None while its name is not its own."""
        table, fleet = self._parts.mesh.table, self._parts.fleet
        if table.host not in table.agents:
            return None
        return msgspec.structs.replace(
            views.agent(table, table.host),
            runs=fleet.revision,
            ready=not self._parts.not_ready(),
            build=build.kind(),
            refused=len(table.refused) + len(table.audits.refused),
            etcd_connected=self._parts.updates.mirror.state.connected,
        )

    async def explain(self, asked: Asked) -> types.Explained:
        """By a worker here, and then by the agent beside the instance."""
        body = asked.body
        headers = [[each.name, each.value] for each in body.headers]
        operates = asked.request is not None and may_operate(self._parts.here.rights, asked.request)
        documents = await supposed(self._parts.mesh.table, body, operates=operates, reading=self._reading)
        question = Explain(
            body.url,
            body.method,
            body.caller,
            headers,
            address=body.address,
            claims=body.claims,
            supposed=documents,
            shows_claims=operates,
            seed=body.seed,
        )
        told = await explain(self._parts.fleet, self._parts.peers, question)
        if told is None:
            raise Trouble(503, "no worker is ready to be asked; see /readyz")
        found = [each for each in views.refused(self._parts.mesh.table) if _is_for(body.url, each.pattern)]
        return msgspec.structs.replace(msgspec.convert(told, types.Explained), refused=found)

    # Lists.

    async def refused(self, query: Any) -> Sequence[types.Refused]:
        """Of this agent's table."""
        return [each for each in views.refused(self._parts.mesh.table) if query.kind in ("", each.kind)]

    async def endpoints(self, query: Any) -> Sequence[types.Endpoint]:
        """As all of its workers together see them."""
        args = {"service": query.service} if query.service else {}
        found = services_of(await self._parts.fleet.ask("state", args))
        host = self._parts.settings.host
        names = types.Endpoint.__struct_fields__
        return [
            types.Endpoint(host=host, service=name, **{field: each[field] for field in names if field in each})
            for name, service in found.items()
            for each in service["endpoints"]
        ]

    def counted_calls(self) -> dict[str, dict[str, int]]:
        """By caller, by service, how often, over all workers."""
        found: dict[str, Counter[str]] = {}
        for worker in self._parts.fleet.counted():
            for name, figures in worker["services"].items():
                for caller, count in figures["callers"].items():
                    found.setdefault(caller, Counter())[name] += count
        return {caller: dict(services) for caller, services in found.items()}

    async def calls(self, query: Any) -> Sequence[types.Call]:
        """As its workers counted."""
        host = self._parts.settings.host
        return [
            types.Call(host=host, caller=caller, service=service, requests=count)
            for caller, services in self.counted_calls().items()
            for service, count in services.items()
            if query.service in ("", caller, service)
        ]

    async def events(self, query: Any) -> Sequence[types.Event]:
        """What its workers told, and what of its own still waits for a webhook."""
        found = chain(self._turned(), self._waiting())
        return [each for each in found if query.service in ("", each.service)]

    def _turned(self) -> list[types.Event]:
        host = self._parts.settings.host
        return [
            types.Event(
                host=host,
                time=text_of(each.at),
                type=f"{each.kind}.{each.after}{' (audit)' if each.audit else ''}",
                subject=f"{each.service}/{each.endpoint}" if each.endpoint else each.service,
                service=each.service,
                reason=each.reason,
                state="turned",
            )
            for each in self._parts.traffic.transitions.latest
        ]

    def _waiting(self) -> list[types.Event]:
        """Every agent knows all of them: each shows those that it has made."""
        host = self._parts.settings.host
        return [
            types.Event(
                host=host,
                time=standing.event.time,
                type=standing.event.type.removeprefix(PREFIX),
                subject=standing.event.subject,
                service=standing.event.service,
                reason=str(standing.event.data.get("reason", "")),
                state="waits",
                id=id,
            )
            for id, standing in self._parts.events.outbox.events.items()
            if standing.event.data.get("agent") == host
        ]

    async def findings(self, query: Any) -> Sequence[types.Finding]:
        """What `shoal check` finds of the agent on its host, and documents that are not in force there."""
        told = msgspec.to_builtins(await self.state())
        host = self._parts.settings.host
        return [
            types.Finding(host=host, **msgspec.structs.asdict(each))
            for each in dict.fromkeys(chain(of_agent(told), of_documents(told)))
        ]


def _latest_first(event: types.Event) -> tuple[Any, ...]:
    return ([-ord(char) for char in event.time], event.host, event.subject, event.type, event.id)


def _is_for(url: str, pattern: str) -> bool:
    """Whether a document's pattern covers the service that a URL names; never for a key that names nothing."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        return matches(pattern, parse_service(host))
    except ValueError:
        return False
