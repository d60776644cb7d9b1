"""Rows of figures as lines of a terminal, 80 columns wide or more. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Row = Mapping[str, Any]
LEAST_WIDTH: Final = 72
"""A terminal that is narrower is drawn for as one of this width."""
MOST_NAMED: Final = 5
"""Hosts that are missing."""


class Column(NamedTuple):
    """Of figures, right-aligned."""

    title: str
    width: int
    cell: Callable[[Row], str]
    sort: str


def rate(value: float) -> str:
    """Requests a second: 0.4, 12, 34k, 5M."""
    if value < 9.95:
        return f"{value:.1f}"
    if value < 9999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k" if value < 999_500 else f"{value / 1e6:.0f}M"


def share(value: float, total: int) -> str:
    """0.4%; nothing where nothing was asked."""
    if not total:
        return "-"
    return f"{100 * value:.1f}%" if 0 < value < 0.1 else f"{100 * value:.0f}%"


def took(seconds: float | None) -> str:
    """850us, 4.2ms, 120ms, 2.5s."""
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return f"{1e6 * seconds:.0f}us"
    if seconds < 1:
        return f"{1e3 * seconds:.1f}ms" if seconds < 0.01 else f"{1e3 * seconds:.0f}ms"
    return f"{seconds:.1f}s"


def cores(value: float | None) -> str:
    """Of a processor: 0.12."""
    return "-" if value is None else f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _count(value: float) -> str:
    return rate(value) if value else "0"


_RATE = Column("RATE/S", 7, lambda row: rate(row["rate"]), "rate")
_ERRORS = Column("ERRORS", 7, lambda row: share(row["errors"], row["requests"]), "errors")
_QUANTILES = (
    Column("P50", 6, lambda row: took(row.get("p50_s")), "p50"),
    Column("P90", 6, lambda row: took(row.get("p90_s")), "p90"),
    Column("P99", 6, lambda row: took(row.get("p99_s")), "p99"),
)
_FLIGHT = Column("FLIGHT", 7, lambda row: _count(row["in_flight"]), "in_flight")
_CPU = Column("CPU", 5, lambda row: cores(row.get("cpu")), "cpu")
_OF_EDGES = (_RATE, _ERRORS, *_QUANTILES)
COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "service": (
        *(_RATE, _ERRORS, *_QUANTILES, _FLIGHT),
        Column("PEND", 5, lambda row: _count(row["pending"]), "pending"),
        _CPU,
    ),
    "instance": (_RATE, _ERRORS, Column("MEAN", 6, lambda row: took(row.get("mean_s")), "p50"), _FLIGHT, _CPU),
    "edge": _OF_EDGES,
    "route": _OF_EDGES,
    "version": _OF_EDGES,
}


def name(row: Row, by: str) -> str:
    """What a row is of."""
    service = str(row["service"])
    if by == "edge":
        return f"{row['caller'] or '(unnamed)'} > {service}"
    if by == "service":
        return service
    return f"{service}  {row[by] or '-'}"


def cut(text: str, width: int) -> str:
    """As long as there is room, its beginning and its end: names differ in both."""
    if len(text) <= width:
        return text
    end = max(1, (width - 1) // 2)
    return f"{text[: width - 1 - end]}~{text[-end:]}"


def lines(rows: Sequence[Row], by: str, sort: str, width: int) -> list[str]:
    """The header, and a line a row, each as wide as the terminal at most."""
    columns = COLUMNS[by]
    room = max(LEAST_WIDTH, width) - sum(column.width + 1 for column in columns)
    head = {"edge": "CALLER > SERVICE", "service": "SERVICE"}.get(by, f"SERVICE  {by.upper()}")
    titles = "".join(f" {('*' if column.sort == sort else '') + column.title:>{column.width}}" for column in columns)
    drawn = [f"{head:<{room}}{titles}"]
    for row in rows:
        cells = "".join(f" {column.cell(row):>{column.width}}" for column in columns)
        drawn.append(f"{cut(name(row, by), room):<{room}}{cells}")
    return drawn


def title(told: Mapping[str, Any], service: str, last_s: int) -> str:
    """Of what it is, and of how many agents."""
    heard = told["asked"] - len(told["missing"])
    covered = told["covered_s"]
    span = f"{last_s} s" if covered >= last_s else f"{covered} s of {last_s} s"
    missed = f", {told['missed']} windows missed" if told["missed"] else ""
    shorter = told.get("shorter", {})
    host = min(shorter, key=lambda host: (shorter[host], host), default="")
    more = f" and {len(shorter) - 1} more" if len(shorter) > 1 else ""
    missed += f", {host}{more} has counted for {shorter[host]} s only" if host else ""
    return f"{'all services' if service == '*' else service}, last {span}, {heard} of {told['asked']} agents{missed}"


def missing(told: Mapping[str, Any]) -> list[str]:
    """Hosts that are not in it, each with the reason."""
    found = [f"missing: {host}: {no['reason']} ({no['why']})" for host, no in told["missing"].items()]
    more = len(found) - MOST_NAMED
    return [*found[:MOST_NAMED], *([f"missing: {more} more"] if more > 0 else [])]
