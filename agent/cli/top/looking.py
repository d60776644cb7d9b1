"""What is looked at, and what keys do with it. Pure.

j k, arrows   another row          Enter   into the row: a service's edges, an edge's service's instances
e i v r       the edges, instances, versions, routes of what is looked at
Esc           back                 s       sorted by the next column
+ -           longer, shorter      q       the end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

SORTS: Final = {
    "service": ("rate", "errors", "p99", "p50", "in_flight", "pending", "cpu", "name"),
    "edge": ("rate", "errors", "p99", "p50", "name"),
    "route": ("rate", "errors", "p99", "p50", "name"),
    "version": ("rate", "errors", "p99", "p50", "name"),
    "instance": ("rate", "errors", "in_flight", "cpu", "name"),
}
"""By what rows are told apart: what they can be sorted by."""
SPANS_S: Final = (10, 30, 60, 300, 900, 3600)
BY_KEY: Final = {"e": "edge", "i": "instance", "v": "version", "r": "route"}
HELP: Final = "q quit  s sort  +/- span  Enter into  Esc back  e edges  i instances  v versions  r routes"


class Looking(NamedTuple):
    """What is asked for, and which row is chosen."""

    service: str = "*"
    by: str = "service"
    sort: str = "rate"
    last_s: int = 60
    caller: str = ""
    chosen: int = 0
    before: Looking | None = None
    """Where Esc leads."""

    def query(self, limit: int) -> list[tuple[str, str]]:
        """For GET /api/v1/figures."""
        asked = {
            "by": self.by,
            "service": self.service,
            "caller": self.caller,
            "sort": self.sort,
            "last_s": str(self.last_s),
            "limit": str(limit),
            "scope": "mesh",
        }
        return [(name, value) for name, value in asked.items() if value]


def pressed(looking: Looking, key: str, rows: Sequence[Mapping[str, Any]]) -> Looking | None:
    """What is looked at after a key; None: nothing any more."""
    if key == "q":
        return None
    if key in ("j", "down", "k", "up"):
        step = 1 if key in ("j", "down") else -1
        return looking._replace(chosen=max(0, min(len(rows) - 1, looking.chosen + step)))
    if key == "s":
        sorts = SORTS[looking.by]
        at = sorts.index(looking.sort) if looking.sort in sorts else -1
        return looking._replace(sort=sorts[(at + 1) % len(sorts)], chosen=0)
    if key in ("+", "-"):
        return looking._replace(last_s=_span(looking.last_s, longer=key == "+"))
    if key == "escape":
        return looking.before or looking
    if key in BY_KEY:
        return _told_apart(looking, BY_KEY[key], looking.service, looking.caller)
    if key == "enter" and looking.chosen < len(rows):
        by = "edge" if looking.by == "service" else "instance"
        return _told_apart(looking, by, str(rows[looking.chosen].get("service", looking.service)), "")
    return looking


def _told_apart(looking: Looking, by: str, service: str, caller: str) -> Looking:
    if (by, service) == (looking.by, looking.service):
        return looking
    sort = looking.sort if looking.sort in SORTS[by] else "rate"
    return Looking(service, by, sort, looking.last_s, caller if by != "instance" else "", 0, looking)


def _span(last_s: int, *, longer: bool) -> int:
    if longer:
        return next((span for span in SPANS_S if span > last_s), last_s)
    return next((span for span in reversed(SPANS_S) if span < last_s), last_s)
