"""What an agent did last: checks of its instances, changes that its workers came to run, and what is only watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from agent.control.admin.state import judged
from agent.control.admin.v1 import types
from agent.control.admin.v1.own import ServiceOfHost, ServiceQuery
from agent.control.admin.v1.wide import Part
from agent.control.instances.checks import Check
from agent.control.parts import Parts
from policies.language.duration import seconds

How: TypeAlias = Literal["http", "tcp", "command", "ttl"]


class Checked(types.Base, frozen=True, kw_only=True):
    """An instance, and how its agent's last check of it went."""

    host: str
    service: str
    id: str
    how: Annotated[How, Meta(description="ttl: it tells by itself")]
    at: Annotated[float | None, Meta(description="When it ended, in Unix seconds; null: there was none so far")] = None
    ok: bool = False
    reason: str = ""
    took_s: float = 0.0
    every_s: Annotated[float, Meta(description="From one to the next, or within which it has to tell")] = 0.0
    unable: Annotated[str, Meta(description="Why it cannot be checked now; empty: it can")] = ""


class Checks(types.WidePage, frozen=True, kw_only=True):
    """Checks, by service, id and host."""

    items: list[Checked]


class Change(types.Base, frozen=True, kw_only=True):
    """Documents that were put or removed, as an agent heard of it."""

    host: str
    revision: int
    what: Annotated[list[str], Meta(description="Documents, by kind and pattern")]
    at: Annotated[float, Meta(description="When it heard of it, in Unix seconds")]
    took_s: Annotated[float | None, Meta(description="Until every worker ran it; null: some do not so far")] = None


class Changes(types.WidePage, frozen=True, kw_only=True):
    """Changes, the latest first."""

    items: list[Change]


class JudgedRow(types.Base, frozen=True, kw_only=True):
    """Requests that a document met which is only watched."""

    host: str
    service: str
    kind: str
    document: Annotated[str, Meta(description="Its pattern")]
    done: Annotated[str, Meta(description="What became of them")]
    would: Annotated[str, Meta(description="What it would have made of them")]
    requests: int


class JudgedRows(types.WidePage, frozen=True, kw_only=True):
    """What watched documents would have done, by service, kind and document."""

    items: list[JudgedRow]


class Lately:
    """Of one agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def parts(self) -> list[Part]:
        """Lists that every agent has a part of."""
        return [
            Part(
                "/checks",
                "Checks",
                "Instances, and how the last health check of each went",
                ServiceQuery,
                ServiceOfHost,
                Checks,
                self.checks,
                lambda each: (each.service, each.id, each.host),
            ),
            Part(
                "/changes",
                "Changes",
                "Documents that were put and removed lately, and how long each agent took to run that",
                types.WideQuery,
                types.HostQuery,
                Changes,
                self.changes,
                lambda each: (-each.revision, each.host),
            ),
            Part(
                "/judged",
                "Judged",
                "What documents that are only watched would have done, as workers counted since they began",
                ServiceQuery,
                ServiceOfHost,
                JudgedRows,
                self.judged,
                lambda each: (each.service, each.kind, each.document, each.host, each.done, each.would),
            ),
        ]

    async def checks(self, query: Any) -> Sequence[Checked]:
        """Of the instances beside it."""
        host = self._parts.settings.host
        return [
            _checked(host, check)
            for (service, _), check in self._parts.registrar.checks().items()
            if query.service in ("", service)
        ]

    async def changes(self, _: Any) -> Sequence[Change]:
        """As this agent heard of them, since it began."""
        host = self._parts.settings.host
        return [
            Change(
                host=host,
                revision=each.revision,
                what=list(each.what),
                at=round(each.at, 3),
                took_s=None if each.took_s is None else round(each.took_s, 4),
            )
            for each in self._parts.fleet.convergence.latest
        ]

    async def judged(self, query: Any) -> Sequence[JudgedRow]:
        """By the workers of this agent."""
        host = self._parts.settings.host
        return [
            JudgedRow(host=host, **each)
            for each in judged(await self._parts.fleet.metrics(), self._parts.mesh.table)
            if query.service in ("", each["service"])
        ]


def _checked(host: str, check: Check) -> Checked:
    policy, last = check.policy, check.last
    how: How = "http" if policy.http else "tcp" if policy.tcp else "command" if policy.command else "ttl"
    return Checked(
        host=host,
        service=check.subject.service,
        id=check.subject.id,
        how=how,
        at=None if last is None else round(last.at, 3),
        ok=last is not None and last.ok,
        reason="" if last is None else last.reason,
        took_s=0.0 if last is None else round(last.took_s, 4),
        every_s=seconds(policy.interval if policy.ttl is None else policy.ttl),
        unable=check.unable,
    )
