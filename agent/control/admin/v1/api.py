"""Every operation of the API, in one list, and what each of them does."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import agent
from agent.control.admin.door import Answer, Door
from agent.control.admin.state import table_age_s
from agent.control.admin.v1 import me, types, views
from agent.control.admin.v1.agent_type import AgentState
from agent.control.admin.v1.before import doors_before
from agent.control.admin.v1.openapi import document
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.admin.v1.own import Own
from agent.control.admin.v1.parts import network, running, targets
from agent.control.admin.v1.parts.alerts import AlertsApi
from agent.control.admin.v1.parts.audit_logs import audit_logs
from agent.control.admin.v1.parts.chains import ChainApi
from agent.control.admin.v1.parts.comparing import Comparing
from agent.control.admin.v1.parts.figures import FiguresApi
from agent.control.admin.v1.parts.lately import Lately
from agent.control.admin.v1.parts.reading.output import OutputOperations
from agent.control.admin.v1.parts.reading.requests import RequestsOperation, TapsOperation
from agent.control.admin.v1.parts.registering import Registering
from agent.control.admin.v1.parts.scale import ScaleApi
from agent.control.admin.v1.parts.telling import telling
from agent.control.admin.v1.problem import ROOT, problem
from agent.control.admin.v1.wide import Wide
from agent.control.host.rights import Right
from agent.control.parts import Parts
from policies.language.document import meant
from policies.language.names import matches

OPENAPI: Final = "/openapi.json"
SELF: Final = "/agents/self"
"""What an agent is asked for its own row; no path of the API."""
T = TypeVar("T")


class ServicesQuery(types.ListQuery, frozen=True, kw_only=True):
    """Of services."""

    within: types.Within = "*"


class InstancesQuery(types.ListQuery, frozen=True, kw_only=True):
    """Of instances."""

    service: types.ServiceName = ""
    agent: types.HostName = ""
    state: types.AnyState = ""


class PoliciesQuery(types.ListQuery, frozen=True, kw_only=True):
    """Of policies."""

    kind: types.Kind = ""
    mode: types.AnyMode = ""


class PolicyQuery(types.Query, frozen=True, kw_only=True):
    """Which of two of the same name."""

    mode: types.AnyMode = ""


class AgentQuery(types.Query, frozen=True, kw_only=True):
    """Of another agent."""

    deadline_s: types.Deadline = 5.0


class V1:
    """Of one agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._table = parts.mesh.table
        self._own = own = Own(parts)
        self._wide = wide = Wide(parts.mesh.table, parts.fanout, parts.answering)
        wide.show("/agent", self._show_state)
        wide.show(SELF, self._show_row)
        get, none = "GET", NoQuery
        scale = ScaleApi(parts)
        fanned = {part.path: wide.operations(part) for part in (*own.parts(), *Lately(parts).parts(), scale.part())}
        figures = FiguresApi(parts.figures, parts.settings.host, lambda: parts.mesh.table.revision).operations()
        self.operations: list[Operation] = [
            Operation(get, "/mesh", "getMesh", "The mesh at a glance", none, types.Mesh, self._mesh),
            Operation(
                get,
                "/services",
                "listServices",
                "Services, by name",
                ServicesQuery,
                types.Services,
                self._services,
                made_of=self._made_of,
            ),
            Operation(
                get,
                "/services/{service}",
                "getService",
                "A service with its instances, and its policies at every level",
                none,
                types.ServiceDetail,
                self._service,
            ),
            Operation(
                get,
                "/instances",
                "listInstances",
                "Instances, by service and id",
                InstancesQuery,
                types.Instances,
                self._instances,
                made_of=self._made_of,
            ),
            Operation(
                get,
                "/policies",
                "listPolicies",
                "Documents in force, by kind and pattern",
                PoliciesQuery,
                types.Policies,
                self._policies,
                made_of=self._made_of,
            ),
            *fanned.pop("/policies/refused"),
            Operation(
                get,
                "/policies/{kind}/{pattern}",
                "getPolicy",
                "The document in force for a name or a pattern, or the one that is only watched",
                PolicyQuery,
                types.Policy,
                self._policy,
                made_of=self._made_of,
            ),
            Operation(
                get,
                "/agents",
                "listAgents",
                "Agents; with scope=mesh each by its own word",
                types.WideQuery,
                types.Agents,
                self._agents,
            ),
            Operation(get, "/agent", "getOwnAgent", "This agent, by its own word", none, AgentState, self._own_state),
            running.operation(parts.fleet),
            Operation(
                get, "/agents/{host}", "getAgent", "An agent, by its own word", AgentQuery, AgentState, self._agent
            ),
            targets.operation(parts),
            ChainApi(parts.mesh.table, fanned["/calls"][0]).operation(),
            AlertsApi(parts, fanned["/findings"][0], figures[0]).operation(),
            *(operation for operations in fanned.values() for operation in operations),
            scale.operation(),
            *figures,
            RequestsOperation(parts.mesh.table, parts.fanout).operation(),
            TapsOperation(parts.mesh.table, parts.fanout).operation(),
            *OutputOperations(parts).operations(),
            Operation(
                "POST",
                "/explain",
                "explain",
                "Every decision that a request would meet, without sending it",
                none,
                types.Explained,
                own.explain,
                takes=types.Explain,
                refuses=((409, "A document that is only supposed would be refused"),),
            ),
            network.operation(parts.settings),
            me.operation(parts.settings, parts.here.rights),
            *Registering(parts).operations(),
            *Comparing(parts.traffic.shadow, parts.settings, parts.here.store).operations(),
            *telling(parts).operations(),
            *audit_logs(parts).operations(),
        ]
        self._document = document(self.operations)

    def doors(self) -> list[Door]:
        """Those of all operations, and the old ones of some."""
        return [
            Door("GET", f"{ROOT}{OPENAPI}", self._openapi, Right.LOOK, problem),
            *(operation.door() for operation in self.operations),
            *doors_before(self.operations),
        ]

    async def _openapi(self, _: Request) -> Response:
        return Answer(self._document)

    def _made_of(self) -> Hashable:
        """What the table says of services, instances and documents: by its revision, and by what it doubts."""
        table = self._table
        suspects = frozenset((each.service, each.id) for each in table.suspects)
        return table.revision, suspects, frozenset(table.distrusted.holding.holds)

    # The mesh.

    async def _mesh(self, _: Asked) -> types.Mesh:
        table, mirror, age_s = self._table, self._parts.updates.mirror.state, table_age_s(self._parts)
        return types.Mesh(
            name=self._parts.settings.mesh,
            host=table.host,
            version=agent.VERSION,
            revision=table.revision,
            age_s=None if age_s is None else round(age_s, 1),
            etcd_connected=mirror.connected,
            services=sum(service.present for service in table.services.values()),
            instances=table.instance_count,
            agents=len(table.agents),
            policies=sum(map(len, table.policies.values())),
            refused=len(table.refused) + len(table.audits.refused),
            held=len(table.distrusted.holding.holds),
            suspects=len(table.suspects),
        )

    async def _services(self, asked: Asked) -> types.Services:
        names = [name for name in views.service_names(self._table) if matches(asked.query.within, name)]
        shown, following = _page(names, asked.query, str)
        return types.Services(
            items=[views.service(self._table, name) for name in shown],
            total=len(names),
            next=following,
            revision=self._table.revision,
        )

    async def _service(self, asked: Asked) -> types.ServiceDetail:
        name = asked.path["service"]
        known = self._table.services.get(name)
        if known is None or not known.present:
            names = views.service_names(self._table)
            there = f"{meant(name, names)}; {ROOT}/services lists those that there are"
            raise Trouble(404, f"there is no service {name[:260]}{there}")
        return views.detail(self._table, name, self._own.counted_calls())

    async def _instances(self, asked: Asked) -> types.Instances:
        query, table = asked.query, self._table
        if query.service:
            known = table.services.get(query.service)
            all_of_them = views.instances_of(query.service, known) if known is not None else iter(())
        elif query.agent or query.state:
            all_of_them = views.instances(table)
        else:  # of ten thousand those are made that are shown
            shown, following = _page(views.instances(table, query.after.partition(" ")[0]), query, _instance_key)
            total = views.count_instances(table)
            return types.Instances(items=shown, total=total, next=following, revision=table.revision)
        found = [each for each in all_of_them if query.agent in ("", each.agent) and query.state in ("", each.state)]
        shown, following = _page(found, query, _instance_key)
        return types.Instances(items=shown, total=len(found), next=following, revision=table.revision)

    async def _policies(self, asked: Asked) -> types.Policies:
        query = asked.query
        found = [
            each
            for each in views.policies(self._table)
            if query.kind in ("", each.kind) and query.mode in ("", each.mode)
        ]
        shown, following = _page(found, query, lambda each: f"{each.kind} {each.pattern} {each.mode}")
        return types.Policies(
            items=[views.policy_of(*each) for each in shown],
            total=len(found),
            next=following,
            revision=self._table.revision,
        )

    async def _policy(self, asked: Asked) -> types.Policy:
        kind, pattern, mode = asked.path["kind"], asked.path["pattern"], asked.query.mode
        for documents, watched in ((self._table.policies, "enforce"), (self._table.audits.policies, "audit")):
            policy = documents.get(kind, {}).get(pattern)
            if policy is not None:
                found = views.policy_of(kind, pattern, policy, watched)
                if mode in ("", found.mode):
                    return found
        raise Trouble(404, f"no {kind[:60]} is in force for {pattern[:260]}; {ROOT}/policies lists those that are")

    # Agents.

    async def _agents(self, asked: Asked) -> types.Agents:
        query, table = asked.query, self._table
        rows = {host: views.agent(table, host) for host in sorted(table.agents)}
        told: dict[str, types.Agent | None] = {table.host: self._own.row()}
        missing: dict[str, types.Missing] = {}
        if query.scope == "mesh":
            answers = await self._wide.ask(SELF, {}, query.deadline_s)
            missing = {host: types.Missing(why=no.why, reason=no.reason) for host, no in answers.missing.items()}
            told |= {host: _own_row(answer.body, host) for host, answer in answers.answers.items()}
        rows |= {host: row for host, row in told.items() if row is not None}
        items = [rows[host] for host in sorted(rows)]
        return types.Agents(
            items=items[: query.limit],
            total=len(items),
            revision=table.revision,
            asked=len(told) + len(missing),
            missing=missing,
        )

    async def _show_row(self, _: Mapping[str, str]) -> msgspec.Struct:
        row = self._own.row()
        if row is None:
            raise Trouble(503, "this host's name is not its own yet")
        return row

    async def _show_state(self, _: Mapping[str, str]) -> msgspec.Struct:
        return await self._own.state()

    async def _own_state(self, _: Asked) -> AgentState:
        return await self._own.state()

    async def _agent(self, asked: Asked) -> AgentState:
        host = asked.path["host"]
        body = await self._wide.ask_one(host, "/agent", {}, asked.query.deadline_s)
        try:
            return msgspec.json.decode(body, type=AgentState)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Trouble(503, f"{host}: what it says of itself makes no sense here: {error}") from None


def _own_row(body: bytes, host: str) -> types.Agent | None:
    """What a host says of itself; None where that makes no sense, and what the table knows has to do."""
    try:
        row = msgspec.json.decode(body, type=types.Agent)
    except (msgspec.DecodeError, RecursionError):
        return None
    return row if row.host == host else None


def _instance_key(each: types.Instance) -> str:
    """Its parts in one text that sorts as they do: nothing in names is below a space."""
    return f"{each.service} {each.id}"


def _page(found: Iterable[T], query: types.ListQuery, key: Any) -> tuple[list[T], str]:
    """So many of what is sorted by `key`, those behind `after`; and behind which the next ones are."""
    behind = (each for each in found if not query.after or key(each) > query.after)
    shown = list(islice(behind, query.limit))
    return shown, key(shown[-1]) if shown and next(iter(behind), None) is not None else ""
