"""Requests of the whole mesh as they end, or the last ones; and live ones, as they were decided."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from msgspec import Meta

from agent.control.admin.v1.operation import Asked, Operation
from agent.control.admin.v1.parts.reading.reading_on import ReadingOn, Requests, Which, filter_of
from agent.control.asking.fanout import Fanout
from agent.control.host.rights import Right
from agent.control.mesh.table import Table
from agent.requests.filter import REQUESTS, Filter, Place, RequestsAsked
from agent.requests.taps import TAPS, TapsAsked, Wanted


class RequestsQuery(Which, frozen=True, kw_only=True):
    """Which."""

    last: Annotated[int, Meta(ge=0, le=1000, description="So many that were recorded lately; 0: that end now")] = 0


class TapsQuery(Which, frozen=True, kw_only=True):
    """Which, and what of them."""

    headers: Annotated[bool, Meta(description="Those of requests and answers, where a log document allows it")] = False
    bodies: Annotated[bool, Meta(description="Their beginnings, where a log document allows it")] = False


class RequestsOperation:
    """Of one agent."""

    def __init__(self, table: Table, fanout: Fanout) -> None:
        self._reading = ReadingOn(table, fanout, REQUESTS, "follow requests")

    def operation(self) -> Operation:
        """As the list of them has it."""
        summary = "Requests as they end, or the last ones, of every agent"
        return Operation(
            "GET",
            "/requests",
            "listRequests",
            summary,
            RequestsQuery,
            Requests,
            self._handle,
            right=Right.READ,
            bulk=True,
        )

    async def _handle(self, asked: Asked) -> Requests:
        query: RequestsQuery = asked.query
        asking = partial(_requests, filter_of(query), query.last)
        return await self._reading.read(query, asking, at_once=query.last > 0)


class TapsOperation:
    """Of one agent."""

    def __init__(self, table: Table, fanout: Fanout) -> None:
        self._reading = ReadingOn(table, fanout, TAPS, "tap requests")

    def operation(self) -> Operation:
        """As the list of them has it."""
        summary = "Live requests of every agent as they end, with how each was decided"
        return Operation(
            "GET", "/taps", "tapRequests", summary, TapsQuery, Requests, self._handle, right=Right.TAP, bulk=True
        )

    async def _handle(self, asked: Asked) -> Requests:
        query: TapsQuery = asked.query
        wanted = Wanted(filter_of(query), query.headers, query.bodies)
        return await self._reading.read(query, partial(TapsAsked, wanted))


def _requests(wanted: Filter, last: int, places: dict[str, Place], most_bytes: int) -> RequestsAsked:
    return RequestsAsked(wanted, places, last, most_bytes)
