"""Advice of `scale` policies: what stands in etcd for whoever follows it, and what agents that advise say now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.admin.v1.wide import Part
from agent.control.parts import Parts
from agent.control.scaling.scaler import Standing
from policies.kinds.scale.decide import Figures
from policies.language.names import parse_service
from registry.keys import Room, Unknown
from registry.records import Advised, Malformed, decode
from registry.store import StoreError, prefix_end


class ScaleQuery(types.WideQuery, frozen=True, kw_only=True):
    """Of a service."""

    service: types.ServiceName = ""


class ScaleOfHost(types.HostQuery, frozen=True, kw_only=True):
    """Of a service."""

    service: types.ServiceName = ""


class ScaleFigures(types.Base, frozen=True, kw_only=True):
    """What it was decided on, of all instances together; null: not known."""

    rate: float | None = None
    in_flight: float | None = None
    pending: float | None = None
    cpu: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    shed: float | None = None


class Scaled(types.Base, frozen=True, kw_only=True):
    """How many instances a service should have, as the agent that advises says now."""

    host: str
    service: str
    replicas: Annotated[int, Meta(description="That there should be")]
    instances: Annotated[int, Meta(description="That there are, and are not on their way out")]
    ready: Annotated[int, Meta(description="That requests are sent to")]
    least: int
    most: int
    panic: Annotated[bool, Meta(description="Whether load has jumped")]
    whole: Annotated[bool, Meta(description="Whether every agent was heard; else nothing is taken away")]
    reason: str
    policy: str
    revision: int
    mode: types.Mode
    figures: ScaleFigures
    panic_figures: ScaleFigures


class Replicas(types.Base, frozen=True, kw_only=True):
    """What stands in etcd: the number that whoever starts and stops instances is to have."""

    service: str
    replicas: int
    before: int
    reason: str
    panic: bool
    least: int
    most: int
    policy: str
    revision: int
    agent: str
    at: str


class ScaledServices(types.WidePage, frozen=True, kw_only=True):
    """Services that are scaled, by name."""

    items: list[Scaled]
    standing: Annotated[
        list[Replicas], Meta(description="What stands in etcd for services of which no agent that was heard advises")
    ] = msgspec.field(default_factory=list)
    unadvised: Annotated[
        list[str], Meta(description="Services that a document scales, and of which nothing is told, nor stands in etcd")
    ] = msgspec.field(default_factory=list)
    unread: Annotated[str, Meta(description="Why it is not known what stands in etcd; empty: it is")] = ""


class ScaleApi:
    """Of one agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def part(self) -> Part:
        """What agents that advise say now."""
        return Part(
            "/scale",
            "Scale",
            "How many instances services should have, and why",
            ScaleQuery,
            ScaleOfHost,
            ScaledServices,
            self._rows,
            lambda each: (each.service, each.host),
            self._with_standing,
        )

    def operation(self) -> Operation:
        """What stands in etcd of one."""
        summary = "How many instances a service should have, by any agent; as KEDA's metrics-api scaler reads it"
        return Operation("GET", "/scale/{service}", "getReplicas", summary, NoQuery, Replicas, self._one)

    async def _rows(self, query: Any) -> Sequence[Scaled]:
        host = self._parts.settings.host
        return [
            _row(host, service, standing)
            for service, standing in self._parts.scaler.standing.items()
            if query.service in ("", service)
        ]

    async def _with_standing(self, query: Any, rows: Sequence[Scaled], page: ScaledServices) -> ScaledServices:
        """Advice stands while nobody advises, and counts: its agent is late, or gone and not succeeded yet."""
        heard = {each.service for each in rows}
        wanted = {service for service, each in self._parts.scaler.wanted().items() if not each.audit}
        if query.service:
            wanted &= {query.service}
        if wanted <= heard and rows and not page.missing:
            return page
        try:
            found = await self._standing()
        except StoreError as error:
            return msgspec.structs.replace(page, unadvised=sorted(wanted - heard), unread=str(error))
        standing = [
            _replicas(service, told)
            for service, told in sorted(found.items())
            if service not in heard and query.service in ("", service)
        ]
        return msgspec.structs.replace(page, standing=standing, unadvised=sorted(wanted - heard - found.keys()))

    async def _standing(self) -> dict[str, Advised]:
        """By service, as etcd has it; what is no advice is left out. Raises StoreError."""
        keys = self._parts.here.keys
        room = keys.room(Room.SCALE)
        found = {}
        for item in (await self._parts.here.store.range(room, prefix_end(room))).items:
            key = keys.parse(item.key)
            if not isinstance(key, Unknown):
                try:
                    found[key.first] = decode(Advised, item.value)
                except Malformed:
                    continue
        return found

    async def _one(self, asked: Asked) -> Replicas:
        try:
            service = parse_service(asked.path["service"])
        except ValueError as error:
            raise Trouble(404, str(error)) from None
        here = self._parts.here
        try:
            found = await here.store.get(here.keys.advice(service))
            told = decode(Advised, found.value) if found is not None else None
        except (StoreError, Malformed) as error:
            raise Trouble(503, f"no advice can be had: {error}") from None
        if told is None:
            raise Trouble(404, f"nothing is advised for {service}; a policy says when: docs/policies/scale.md")
        return _replicas(service, told)


def _replicas(service: str, told: Advised) -> Replicas:
    names = Replicas.__struct_fields__
    fields = {name: value for name, value in msgspec.structs.asdict(told).items() if name in names}
    return Replicas(service=service, **fields)


def _row(host: str, service: str, standing: Standing) -> Scaled:
    wanted, advice, seen = standing
    return Scaled(
        host=host,
        service=service,
        replicas=advice.replicas,
        instances=seen.instances,
        ready=seen.ready,
        least=wanted.document.min,
        most=wanted.document.max,
        panic=advice.panic,
        whole=seen.whole,
        reason=advice.reason,
        policy=f"scale/{wanted.pattern}",
        revision=wanted.revision,
        mode="audit" if wanted.audit else "enforce",
        figures=_figures(seen.stable),
        panic_figures=_figures(seen.panic),
    )


def _figures(figures: Figures) -> ScaleFigures:
    return ScaleFigures(
        **{name: None if value is None else round(value, 6) for name, value in figures._asdict().items()}
    )
