"""Golden signals as workers tell of them, added up: `[first, caller, route, version, peer, requests, duration_s,
buckets]` for each edge of a service. Pure.

Laws
- Histograms are added only where they have the same bounds. Those of a worker of another version are brought to the
  finer ones first: an observation moves by less than its old bucket was wide.
- What a worker that knew no edges has counted is one edge, whose caller is not known.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from operator import add
from typing import Any, Final, TypeAlias

Edge: TypeAlias = list[Any]
Figures: TypeAlias = dict[str, Any]

KEY: Final = 5
"""The first of an edge's fields name it."""
REQUESTS, DURATION_S, BUCKETS = 5, 6, 7
OTHERS: Final = "others"
_UNKNOWN: Final = [True, "", "", "", ""]
CLASSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx", "cancelled")
"""Of requests; a worker of before tells fewer."""


def plus(one: Sequence[Edge], other: Sequence[Edge]) -> list[Edge]:
    """Of both; what was handed in is not changed."""
    found = {tuple(edge[:KEY]): edge for edge in one}
    for edge in other:
        key = tuple(edge[:KEY])
        known = found.get(key)
        found[key] = edge if known is None else _sum(key, known, edge)
    return list(found.values())


def folded(edges: list[Edge], most: int) -> list[Edge]:
    """The first of them, and what all others have in common in one more, or two."""
    if len(edges) <= most:
        return edges
    rest: list[Edge] = []
    for edge in edges[most:]:  # into one or two first: there may be thousands of both
        rest = plus(rest, [[edge[0], *[OTHERS] * (KEY - 1), *edge[KEY:]]])
    return plus(edges[:most], rest)


def _sum(key: tuple[Any, ...], one: Edge, other: Edge) -> Edge:
    return [
        *key,
        [a + b for a, b in zip_longest(one[REQUESTS], other[REQUESTS], fillvalue=0)],
        one[DURATION_S] + other[DURATION_S],
        list(map(add, one[BUCKETS], other[BUCKETS])),
    ]


def aligned(workers: Sequence[Figures]) -> tuple[list[float], list[Figures]]:
    """The bounds of the finest, and the figures of all of them by those."""
    bounds: list[float] = max((worker.get("duration_bounds_s", []) for worker in workers), key=len, default=[])
    return bounds, [brought_to(bounds, worker) for worker in workers]


def brought_to(bounds: list[float], worker: Figures) -> Figures:
    """Figures by these bounds, with edges; the same ones where they are so already."""
    services: Mapping[str, Figures] = worker.get("services", {})
    coarse: list[float] = worker.get("duration_bounds_s", bounds)
    if coarse == bounds and all("edges" in service for service in services.values()):
        return worker
    places = [bisect_left(bounds, bound) for bound in coarse] + [len(bounds)]
    return {
        **worker,
        "duration_bounds_s": bounds,
        "services": {name: _brought(places, len(bounds) + 1, service) for name, service in services.items()},
    }


def _brought(places: list[int], size: int, service: Figures) -> Figures:
    def spread(counts: list[int]) -> list[int]:
        found = [0] * size
        for place, number in zip(places, counts, strict=False):
            found[place] += number
        return found

    buckets = spread(service.get("duration_buckets", []))
    requests = service.get("requests", {})
    whole = [*_UNKNOWN, [requests.get(each, 0) for each in CLASSES], service.get("duration_sum_s", 0.0), buckets]
    edges = [[*edge[:BUCKETS], spread(edge[BUCKETS])] for edge in service["edges"]] if "edges" in service else [whole]
    return {**service, "duration_buckets": buckets, "edges": edges}
