"""Golden signals: requests and how long they took, for each edge of a service. Pure.

These are most of the lines of a page: what is the same in the lines of an edge is made once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, TypeAlias

from agent.control.admin.metrics.text import COUNTER, HISTOGRAM, Family, Writer, escaped, number_of
from agent.control.workers.edges import BUCKETS, CLASSES, DURATION_S, KEY, REQUESTS

Added: TypeAlias = Sequence[tuple[str, dict[str, Any]]]
"""Services by name, with the sums of what their workers counted."""

_EDGE: Final = ("service", "version", "route", "caller", "peer", "hop")
_REQUESTS: Final = Family("shoal_requests", COUNTER, "Requests by class of status", (*_EDGE, "status"))
_DURATION: Final = Family("shoal_request_duration_seconds", HISTOGRAM, "From the head to the end of the answer", _EDGE)
_FORM: Final = ",".join(f'{name}="%s"' for name in _EDGE)
_STEP: Final = 2
"""Of the bounds every second one is shown: powers of two."""


def write_edges(page: Writer, added: Added, bounds: Sequence[float]) -> None:
    """Of all services."""
    named = [(_labels(name, *edge[:KEY]), name, edge) for name, service in added for edge in service["edges"]]
    counted = page.begin(_REQUESTS)
    for labels, _, edge in named:
        for status, number in zip(CLASSES, edge[REQUESTS], strict=False):
            if number:
                page.add(f'{counted}{{{labels},status="{status}"}} {number}\n')
    lines = _Lines(page.begin(_DURATION), bounds)
    traced = _traced(added, lines) if page.open_metrics else {}
    for labels, name, edge in named:
        page.add(lines.of(labels, edge, traced.get((name, *edge[:KEY])) if traced else None))


def _traced(added: Added, lines: _Lines) -> dict[tuple[Any, ...], dict[int, Sequence[Any]]]:
    """The newest exemplar of each line, by service and edge."""
    found: dict[tuple[Any, ...], dict[int, Sequence[Any]]] = {}
    for name, service in added:
        for exemplar in service.get("exemplars", ()):
            of_edge = found.setdefault((name, *exemplar[:KEY]), {})
            line = lines.shown(exemplar[KEY])
            if line not in of_edge or of_edge[line][-1] < exemplar[-1]:
                of_edge[line] = exemplar
    return found


@lru_cache(maxsize=16_384)
def _labels(service: str, first: bool, caller: str, route: str, version: str, peer: str) -> str:
    values = (service, version, route, caller, peer, "first" if first else "second")
    return _FORM % tuple([escaped(value) for value in values])


def _exemplar(exemplar: Sequence[Any]) -> str:
    """What stands behind its line."""
    trace, duration_s, ended_at = exemplar[KEY + 1 :]
    return f' # {{trace_id="{escaped(trace)}"}} {number_of(duration_s)} {ended_at:.3f}\n'


class _Lines:
    """Of one histogram."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._size = len(bounds)
        self._ends = [f'{number_of(bound)}"}} ' for bound in (*bounds[::_STEP], math.inf)]
        """Of the lines, from the bound on."""
        self._bare = ["\n"] * len(self._ends)

    def shown(self, bucket: int) -> int:
        """Which of the lines a bucket is in first."""
        return min((bucket + _STEP - 1) // _STEP, len(self._ends) - 1)

    def of(self, labels: str, edge: Sequence[Any], exemplars: Mapping[int, Sequence[Any]] | None) -> str:
        """All lines of an edge."""
        counts = list(accumulate(edge[BUCKETS]))
        numbers = counts[: self._size : _STEP]
        total = counts[-1]
        numbers.append(total)
        behind = self._bare
        if exemplars:
            behind = behind.copy()
            for index, exemplar in exemplars.items():
                behind[index] = _exemplar(exemplar)
        name = self._name
        begin = f'{name}_bucket{{{labels},le="'
        lines = [f"{begin}{end}{number}{more}" for end, number, more in zip(self._ends, numbers, behind, strict=True)]
        lines.append(f"{name}_count{{{labels}}} {total}\n{name}_sum{{{labels}}} {number_of(edge[DURATION_S])}\n")
        return "".join(lines)
