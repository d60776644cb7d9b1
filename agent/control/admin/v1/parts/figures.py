"""Golden signals of services, edges and instances: what this agent has counted, or all agents together, merged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, Operation, Trouble
from agent.control.asking.tree import Merged
from agent.control.figures.figures import Figures
from agent.figures.histogram import quantile
from agent.figures.questions import KEPT_S, WINDOW_S, By, FiguresTold
from agent.figures.series import SeriesTold
from agent.figures.tally import CPU, IN_FLIGHT, PENDING, REFUSED, SHED, Key, Tally

M = TypeVar("M")
QUICK_POINTS: Final = 1000
"""That are made without a thread: some twenty milliseconds."""
MAX_ASKING: Final = 8
"""Questions of people to other agents, at a time."""
Sort: TypeAlias = Literal["rate", "errors", "error_rate", "p50", "p90", "p99", "in_flight", "pending", "cpu", "name"]


class FiguresQuery(types.Query, frozen=True, kw_only=True):
    """Of what, told apart how."""

    by: Annotated[By, Meta(description="What a row is of")] = "service"
    service: types.Within = "*"
    caller: types.ServiceName = ""
    instance: Annotated[str, Meta(max_length=256, description="An instance, by its id")] = ""
    last_s: Annotated[int, Meta(ge=1, le=KEPT_S, description="Of the last so many seconds, whole windows of 10 s")] = 60
    ago_s: Annotated[int, Meta(ge=0, le=KEPT_S, description="The windows that had ended so long ago")] = 0
    sort: Annotated[Sort, Meta(description="The largest first; name: by name")] = "rate"
    limit: types.Limit = 100
    scope: types.Scope = "agent"
    deadline_s: types.Deadline = 5.0


class Figure(types.Base, frozen=True, kw_only=True):
    """Golden signals of one of them."""

    service: str
    caller: Annotated[str, Meta(description="Empty: without a name, or all")] = ""
    route: str = ""
    version: str = ""
    instance: str = ""
    requests: Annotated[int, Meta(description="That ended; each counted once, where the mesh met it first")]
    rate: Annotated[float, Meta(description="A second")]
    errors: Annotated[float, Meta(description="Share of 5xx, of the mesh's own too; from 0 to 1")]
    error_rate: Annotated[float, Meta(description="5xx a second")]
    statuses: Annotated[dict[str, int], Meta(description="Requests by class: 2xx; gone: the client went away before")]
    mean_s: float | None = None
    p50_s: Annotated[float | None, Meta(description="Null: not known; of instances only the mean is")] = None
    p90_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    in_flight: Annotated[float, Meta(description="Requests with an instance, on average")] = 0.0
    pending: Annotated[float, Meta(description="Requests that wait for a connection, on average")] = 0.0
    cpu: Annotated[float | None, Meta(description="Cores that programs take, where agents may see that")] = None
    refused: Annotated[dict[str, int], Meta(description="The mesh's own answers, by kind of policy")] = msgspec.field(
        default_factory=dict
    )
    shed: Annotated[dict[str, int], Meta(description="Shed requests, by what became of them")] = msgspec.field(
        default_factory=dict
    )


class FigureRows(types.WidePage, frozen=True, kw_only=True):
    """Golden signals, the largest first."""

    items: list[Figure]
    until: Annotated[int, Meta(description="When the last window ended, in Unix seconds")] = 0
    covered_s: Annotated[int, Meta(description="For how long that was asked for somebody has counted")] = 0
    shorter: Annotated[
        dict[str, int],
        Meta(description="Hosts that have counted for less than covered_s: so long; 100 at most"),
    ] = msgspec.field(default_factory=dict)
    missed: Annotated[int, Meta(description="Windows that agents missed; what came in them stands in the next")] = 0
    folded: Annotated[int, Meta(description="Rows that had no room, and are in others")] = 0


class SeriesQuery(types.Query, frozen=True, kw_only=True):
    """Of what, told apart how, over which time."""

    by: Annotated[By, Meta(description="What a row is of")] = "service"
    service: types.Within = "*"
    caller: types.ServiceName = ""
    instance: Annotated[str, Meta(max_length=256, description="An instance, by its id")] = ""
    last_s: Annotated[
        int, Meta(ge=WINDOW_S, le=KEPT_S, description="Of the last so many seconds, whole steps, one at least")
    ] = 900
    step_s: Annotated[
        int, Meta(ge=WINDOW_S, le=KEPT_S, multiple_of=WINDOW_S, description="From one point to the next")
    ] = WINDOW_S
    limit: types.Limit = 100
    scope: types.Scope = "agent"
    deadline_s: types.Deadline = 5.0


Points: TypeAlias = Annotated[list[float | None], Meta(description="The oldest first; null: not known")]


class SeriesRow(types.Base, frozen=True, kw_only=True):
    """Golden signals of one of them over time."""

    service: str
    caller: str = ""
    route: str = ""
    version: str = ""
    instance: str = ""
    rate: Points
    errors: Points
    p50_s: Points
    p95_s: Points
    p99_s: Points
    in_flight: Points
    pending: Points
    refused: Points
    shed: Points


class SeriesRows(types.WidePage, frozen=True, kw_only=True):
    """The largest first. `total` has those, too, for which there was no room, as 800 points are told: each once,
    however many agents left it out; at least so many where they are more than 512."""

    items: list[SeriesRow]
    until: Annotated[int, Meta(description="When the last span ended, in Unix seconds")] = 0
    step_s: int = WINDOW_S
    missed: Annotated[int, Meta(description="Windows that agents missed; what came in them stands in the next")] = 0
    lacking: Annotated[
        int,
        Meta(description="Requests, at most, that a row lacks in all this time, for agents that had no room for it"),
    ] = 0


class FiguresApi:
    """Of one agent."""

    def __init__(self, figures: Figures, host: str, revision: Callable[[], int]) -> None:
        self._figures = figures
        self._host = host
        self._revision = revision
        self._asking = 0

    def operations(self) -> list[Operation]:
        """As the list of them has them."""
        summary = "Golden signals of services, edges and instances, the largest first"
        over_time = "The same over time, as points of equal distance"
        return [
            Operation("GET", "/figures", "listFigures", summary, FiguresQuery, FigureRows, self._list),
            Operation(
                "GET", "/figures/series", "listSeries", over_time, SeriesQuery, SeriesRows, self._series, bulk=True
            ),
        ]

    async def _list(self, asked: Asked) -> FigureRows:
        query = asked.query
        question = msgspec.structs.replace(
            self._figures.asked(query.last_s, query.by, ago_s=query.ago_s),
            service=query.service,
            caller=query.caller,
            instance=query.instance,
        )
        told = await self._bounded(partial(self._figures.ask, question, query.deadline_s, self._hosts(query)))
        answer = told.answer or FiguresTold([])
        rows = [figure(key, tally, answer.covered_s) for key, tally in answer.rows]
        rows.sort(key=ORDERS[query.sort])
        return FigureRows(
            items=rows[: query.limit],
            total=len(rows),
            revision=self._revision(),
            asked=told.asked,
            missing=_missing(told),
            until=question.until,
            covered_s=answer.covered_s,
            shorter={host: s for host, s in answer.shorter.items() if s < answer.covered_s},
            missed=answer.missed,
            folded=answer.folded,
        )

    async def _series(self, asked: Asked) -> SeriesRows:
        query: SeriesQuery = asked.query
        question = msgspec.structs.replace(
            self._figures.asked_series(query.last_s, query.step_s, query.by),
            service=query.service,
            caller=query.caller,
            instance=query.instance,
        )
        told = await self._bounded(partial(self._figures.ask_series, question, query.deadline_s, self._hosts(query)))
        answer = told.answer or SeriesTold([], [0] * question.spans)
        shown = answer.rows[: query.limit]
        if len(shown) * question.spans < QUICK_POINTS:
            items = lines(shown, answer.covered_s)
        else:
            items = await trio.to_thread.run_sync(lines, shown, answer.covered_s)
        return SeriesRows(
            items=items,
            total=len(answer.rows) + answer.left_out,
            revision=self._revision(),
            asked=told.asked,
            missing=_missing(told),
            until=question.until,
            step_s=question.step_s,
            missed=answer.missed,
            lacking=answer.lacking,
        )

    def _hosts(self, query: FiguresQuery | SeriesQuery) -> list[str] | None:
        return None if query.scope == "mesh" else [self._host]

    async def _bounded(self, ask: Callable[[], Awaitable[M]]) -> M:
        if self._asking >= MAX_ASKING:
            raise Trouble(503, f"{MAX_ASKING} questions to other agents are under way here; ask again")
        self._asking += 1
        try:
            return await ask()
        finally:
            self._asking -= 1


def _missing(told: Merged[Any]) -> dict[str, types.Missing]:
    return {host: types.Missing(why=no.why, reason=no.reason) for host, no in told.missing.items()}


def figure(key: Key, tally: Tally, covered_s: int) -> Figure:
    """As it is shown."""
    total, failed = tally.total, tally.requests.get(5, 0)
    known = tally.counts
    span = max(1, covered_s)
    return Figure(
        **key._asdict(),
        requests=total,
        rate=round(total / span, 3),
        errors=round(failed / total, 6) if total else 0.0,
        error_rate=round(failed / span, 3),
        statuses={f"{status}xx" if status else "gone": count for status, count in sorted(tally.requests.items())},
        mean_s=round(tally.duration_us / total / 1e6, 6) if total else None,
        p50_s=_rounded(quantile(tally.buckets, 0.5)),
        p90_s=_rounded(quantile(tally.buckets, 0.9)),
        p95_s=_rounded(quantile(tally.buckets, 0.95)),
        p99_s=_rounded(quantile(tally.buckets, 0.99)),
        in_flight=known.get(IN_FLIGHT, 0) / 1000,
        pending=known.get(PENDING, 0) / 1000,
        cpu=known[CPU] / 1000 if CPU in known else None,
        refused=_of(REFUSED, known),
        shed=_of(SHED, known),
    )


def line(key: Key, spans: Sequence[Tally], covered_s: Sequence[int]) -> SeriesRow:
    """As it is shown: nothing is known of a span in which nobody counted."""
    found = [figure(key, tally, s) if s else None for tally, s in zip(spans, covered_s, strict=True)]

    def points(of: Callable[[Figure], float | None]) -> list[float | None]:
        return [None if each is None else of(each) for each in found]

    return SeriesRow(
        **key._asdict(),
        rate=points(lambda each: each.rate),
        errors=points(lambda each: each.errors if each.requests else None),
        p50_s=points(lambda each: each.p50_s),
        p95_s=points(lambda each: each.p95_s),
        p99_s=points(lambda each: each.p99_s),
        in_flight=points(lambda each: each.in_flight),
        pending=points(lambda each: each.pending),
        refused=points(lambda each: float(sum(each.refused.values()))),
        shed=points(lambda each: float(sum(each.shed.values()))),
    )


def lines(rows: Sequence[tuple[Key, list[Tally]]], covered_s: Sequence[int]) -> list[SeriesRow]:
    """All of them."""
    return [line(key, spans, covered_s) for key, spans in rows]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _of(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in sorted(counts.items()) if name.startswith(prefix)}


def _name(row: Figure) -> tuple[str, ...]:
    return row.service, row.caller, row.route, row.version, row.instance


def _by(field: str) -> Callable[[Figure], Any]:
    return lambda row: (-(getattr(row, field) or 0.0), _name(row))


ORDERS: Final[dict[str, Callable[[Figure], Any]]] = {
    "rate": _by("rate"),
    "errors": _by("errors"),
    "error_rate": _by("error_rate"),
    "p50": _by("p50_s"),
    "p90": _by("p90_s"),
    "p99": _by("p99_s"),
    "in_flight": _by("in_flight"),
    "pending": _by("pending"),
    "cpu": _by("cpu"),
    "name": _name,
}
