"""What a request for a service may set off, as far as agents have seen, and what is wrong with that: the same that
`shoal chain` draws, by the documents that this agent has in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, Operation, Trouble
from agent.control.mesh.table import Table
from policies import catalogue, hops
from policies.chain import Finding, Node, findings, tree
from policies.language.names import candidates

MOST_CALLS: Final = 1000
"""That are followed."""


class ChainQuery(types.Query, frozen=True, kw_only=True):
    """Whose calls are followed."""

    scope: types.Scope = "mesh"
    deadline_s: types.Deadline = 5.0


class Link(types.Base, frozen=True, kw_only=True):
    """A service in a chain."""

    service: str
    within_s: Annotated[float, Meta(description="The time that is left for it at most; 0: no limit")]
    timeout_s: Annotated[float, Meta(description="Its own limit; 0: none")]
    try_s: Annotated[float, Meta(description="Of one try; 0: none")]
    attempts: int
    requests: Annotated[int, Meta(description="That one request to the first may become at worst")]
    breaker: bool
    fallback: Annotated[str, Meta(description="The service that takes over when the breaker is open; empty: none")]
    backpressure: bool
    policies: Annotated[dict[str, str], Meta(description="By kind: the document that says so")]
    again: Annotated[bool, Meta(description="It stands further up already: a circle")]
    calls: list[Link]


class ChainFinding(types.Base, frozen=True, kw_only=True):
    """Something that is wrong, and what would be right."""

    kind: str
    path: Annotated[list[str], Meta(description="The services from the first to where it is")]
    reason: str


class Chain(types.Base, frozen=True, kw_only=True):
    """Of a service."""

    chain: Link
    findings: list[ChainFinding]
    revision: int
    asked: int
    missing: dict[str, types.Missing]


class ChainApi:
    """Of one agent."""

    def __init__(self, table: Table, calls: Operation) -> None:
        """`calls`: tells who was seen to call whom."""
        self._table = table
        self._calls = calls

    def operation(self) -> Operation:
        """The one there is."""
        summary = "What a request for a service may set off along the chain of calls, and what is wrong with that"
        return Operation("GET", "/services/{service}/chain", "getChain", summary, ChainQuery, Chain, self._chain)

    async def _chain(self, asked: Asked) -> Chain:
        name = asked.path["service"]
        query: Any = self._calls.query
        wanted = query(limit=MOST_CALLS, scope=asked.query.scope, deadline_s=asked.query.deadline_s)
        told: Any = await self._calls.handle(Asked({}, wanted))
        calls = _named(told.items)
        known = self._table.services.get(name)
        if (known is None or not known.present) and name not in hops.services_of(calls):
            raise Trouble(404, f"there is no service {name[:260]}, and none was seen to be called so")
        in_force = hops.hops_of({name, *hops.services_of(calls)}, self._document)
        root = tree(name, calls, in_force, hops.default_hop())
        return Chain(
            chain=_link(root),
            findings=[_finding(each) for each in findings(root, in_force)],
            revision=self._table.revision,
            asked=told.asked,
            missing=told.missing,
        )

    def _document(self, kind: str, service: str) -> tuple[str, Any]:
        there = self._table.policies.get(kind, {})
        for pattern in candidates(service):
            if pattern in there:
                return pattern, catalogue.parse(kind, pattern, there[pattern].text)
        return "", None


def _named(rows: Iterable[types.Call]) -> Mapping[str, frozenset[str]]:
    """Callers that do not say who they are left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.caller:
            found[row.caller].add(row.service)
    return {caller: frozenset(services) for caller, services in found.items()}


def _link(node: Node) -> Link:
    hop = node.hop
    return Link(
        service=node.service,
        within_s=node.wait_s,
        timeout_s=hop.wait_s,
        try_s=hop.timeouts.try_s,
        attempts=hop.retry.attempts,
        requests=node.requests,
        breaker=hop.breaker,
        fallback=hop.fallback,
        backpressure=hop.backpressure,
        policies=dict(hop.sources),
        again=node.again,
        calls=[_link(child) for child in node.children],
    )


def _finding(found: Finding) -> ChainFinding:
    return ChainFinding(kind=found.kind, path=list(found.path), reason=found.reason)
