"""Golden signals: requests and how long they took, for each edge of a service. Pure.

These are most of the lines of a page, so a histogram is one format string, made once, into which its numbers go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from agent.control.admin.metrics.text import COUNTER, HISTOGRAM, Family, Writer, escaped, labelled, number_of
from agent.control.workers.edges import BUCKETS, DURATION_S, KEY, REQUESTS

Added: TypeAlias = Sequence[tuple[str, dict[str, Any]]]
"""Services by name, with the sums of what their workers counted."""

_EDGE: Final = ("service", "version", "route", "caller", "peer", "hop")
_REQUESTS: Final = Family("shoal_requests", COUNTER, "Requests by class of status", (*_EDGE, "status"))
_DURATION: Final = Family("shoal_request_duration_seconds", HISTOGRAM, "From the head to the end of the answer", _EDGE)
_CLASSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
_STEP: Final = 2
"""Of the bounds every second one is shown: powers of two."""


def write_edges(page: Writer, added: Added, bounds: Sequence[float]) -> None:
    """Of all services."""
    named = [(_labels(name, edge), name, service, edge) for name, service in added for edge in service["edges"]]
    counted = page.begin(_REQUESTS)
    for labels, _, _, edge in named:
        for status, number in zip(_CLASSES, edge[REQUESTS], strict=True):
            if number:
                page.add(f'{counted}{{{labels},status="{status}"}} {number}\n')
    name = page.begin(_DURATION)
    lines = _Lines(name, bounds)
    found: dict[tuple[Any, ...], dict[int, str]] = {}
    if page.open_metrics:
        for service_name, service in added:
            for exemplar in sorted(service.get("exemplars", ()), key=lambda each: each[-1]):
                place = (service_name, *exemplar[:KEY])
                found.setdefault(place, {})[lines.shown(exemplar[KEY])] = _exemplar(exemplar)
    for labels, service_name, _, edge in named:
        page.add(lines.of(labels, edge, found.get((service_name, *edge[:KEY])) if found else None))


def _labels(service: str, edge: Sequence[Any]) -> str:
    first, caller, route, version, peer = edge[:KEY]
    hop = "first" if first else "second"
    return labelled(_EDGE, (service, version, route, caller, peer, hop))[1:-1]


def _exemplar(exemplar: Sequence[Any]) -> str:
    trace, duration_s, ended_at = exemplar[KEY + 1 :]
    return f' # {{trace_id="{escaped(trace)}"}} {number_of(duration_s)} {ended_at:.3f}'


class _Lines:
    """Of one histogram."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self._shown = range(0, len(bounds), _STEP)
        """Indices of the bounds that are."""
        self._les = [*(number_of(bounds[index]) for index in self._shown), "+Inf"]
        self._name = name
        lines = [f'{name}_bucket{{\0,le="{le}"}} %d' for le in self._les]
        self._all = "\n".join([*lines, f"{name}_count{{\0}} %d", f"{name}_sum{{\0}} %s", ""])

    def shown(self, bucket: int) -> int:
        """Which of the lines a bucket is in first."""
        return min((bucket + _STEP - 1) // _STEP, len(self._shown))

    def of(self, labels: str, edge: Sequence[Any], exemplars: Mapping[int, str] | None) -> str:
        """All lines of an edge."""
        counts = edge[BUCKETS]
        total = before = 0
        numbers: list[Any] = []
        for index in self._shown:
            for number in counts[before : index + 1]:
                total += number
            before = index + 1
            numbers.append(total)
        total += sum(counts[before:])
        numbers += (total, total, number_of(edge[DURATION_S]))
        text = self._all.replace("\0", labels.replace("%", "%%")) % tuple(numbers)
        if exemplars is None:
            return text
        lines = text.split("\n")
        for index, exemplar in exemplars.items():
            lines[index] += exemplar
        return "\n".join(lines)
