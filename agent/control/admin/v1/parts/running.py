"""Services as the workers of this agent run them: all of them together, endpoints once and their loads added up."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.state import services_of
from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, Operation
from agent.control.workers.fleet import Fleet


class RunningQuery(types.Query, frozen=True, kw_only=True):
    """Of which."""

    service: types.ServiceName = ""


class WiderPolicy(types.Base, frozen=True, kw_only=True):
    """One of another level that applies too."""

    key: str
    revision: int


class RunningPolicy(WiderPolicy, frozen=True, kw_only=True):
    """One that workers go by."""

    mode: types.Mode
    wider: list[WiderPolicy] = msgspec.field(default_factory=list)


class RunningEndpoint(types.OwnEndpoint, frozen=True, kw_only=True):
    """With how it is reached, and how it answers."""

    ewma_ms: Annotated[float, Meta(description="As balancers expect it to answer; 5000 for what failed")]
    via: Annotated[bool, Meta(description="Whether requests to it go by way of the agent of its host")] = False


class RunningService(types.Base, frozen=True, kw_only=True):
    """One."""

    revision: int
    balance: Annotated[Any, Meta(description="How endpoints are picked")]
    policies: Annotated[dict[str, RunningPolicy], Meta(description="In force, by kind")]
    audits: Annotated[dict[str, RunningPolicy], Meta(description="Only watched, by kind")]
    breaker: Annotated[dict[str, Any] | None, Meta(description="Of the service: the worst of all workers")]
    backpressure: Annotated[dict[str, float] | None, Meta(description="Requests under way, and how many may be")]
    connections: int
    pending: int
    endpoints: list[RunningEndpoint]


class RunningServices(types.Base, frozen=True, kw_only=True):
    """By name."""

    services: dict[str, RunningService]


def operation(fleet: Fleet) -> Operation:
    """For whoever may look."""

    async def told(asked: Asked) -> RunningServices:
        service = asked.query.service
        found = {"services": services_of(await fleet.ask("state", {"service": service} if service else {}))}
        return await trio.to_thread.run_sync(partial(msgspec.convert, found, RunningServices))

    summary = "Services as this agent's workers run them"
    name, gives = "listOwnServices", RunningServices
    return Operation("GET", "/agent/services", name, summary, RunningQuery, gives, told, bulk=True)
