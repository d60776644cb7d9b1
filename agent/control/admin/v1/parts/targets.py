"""Whom a Prometheus is to scrape: every agent that lives or should, as its HTTP service discovery wants to hear it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import trio

from agent.control.admin.v1 import types, views
from agent.control.admin.v1.operation import Asked, Operation
from agent.control.parts import Parts
from agent.settings.address import parse_listen

METRICS_PORT: Final = 15090
"""What pages propose; said by an agent that has no such listener itself."""


class TargetsQuery(types.Query, frozen=True, kw_only=True):
    """Of what is to be scraped."""

    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="Where agents tell of their metrics; 0: where this agent does")
    ] = 0


def operation(parts: Parts) -> Operation:
    """On the admin port, and on that of the metrics: a Prometheus of another host has no other."""

    async def told(asked: Asked) -> list[types.Targets]:
        settings = parts.settings
        own = parse_listen(settings.metrics.listen).port if settings.metrics.listen else METRICS_PORT
        return views.targets(parts.mesh.table, settings.mesh, asked.query.port or own, trio.current_time())

    summary = "Every agent, as Prometheus' HTTP service discovery wants to hear it"
    name, gives = "listPrometheusTargets", list[types.Targets]
    return Operation("GET", "/prometheus/targets", name, summary, TargetsQuery, gives, told)
