"""What workers tell of themselves, as rows of figures. Pure.

Laws
- Of edges those count where this agent is the first that meets the request (`first`): over all agents each request is
  counted once. Instances are counted by whoever answers for them (`agent.proxy.report.load`).
- What a worker of another version tells otherwise is left out, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from agent.figures.tally import IN_FLIGHT, PENDING, REFUSED, SHED, Key, Rows, Tally, add

MOST_NAMES: Final = 60
"""Of refusals, and of what became of shed requests, of one service."""
MOST_US: Final = 3600 * 10**6
_THOUSAND: Final = 1000


def edges(figures: Iterable[Mapping[str, Any]]) -> Rows:
    """What all workers together have counted since ever. `figures`: `Fleet.counted`."""
    rows: Rows = {}
    for worker in figures:
        for service, told in worker.get("services", {}).items():
            for edge in told.get("edges", ()):
                first, caller, route, version, _, requests, duration_s, buckets = edge[:8]
                if first:
                    tally = Tally(_sparse(requests), int(duration_s * 1e6), _sparse(buckets), {})
                    add(rows, Key(service, caller, route, version), tally)
            counts = {**_named(REFUSED, told.get("refused", {})), **_named(SHED, told.get("shed", {}))}
            if counts:
                add(rows, Key(service), Tally({}, 0, {}, counts))
    return rows


def _sparse(counts: Iterable[int]) -> dict[int, int]:
    return {number: count for number, count in enumerate(counts) if count}


def _named(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{prefix}{name}"[:64]: count for name, count in sorted(counts.items())[:MOST_NAMES] if count}


class Instance(NamedTuple):
    """As one worker has it."""

    successes: int
    failures: int
    took_s: float


_NOTHING: Final = Instance(0, 0, 0.0)


class Loads:
    """What came to instances between two looks, and what is under way."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str, str], Instance] = {}

    def look(self, loads: Mapping[int, Mapping[str, Any]], alive: Iterable[int]) -> Rows:
        """`loads`: `Fleet.loads`; `alive`: workers that live, whether they have answered or not."""
        rows: Rows = {}
        silent = set(alive) - loads.keys()
        seen = {place: each for place, each in self._before.items() if place[0] in silent}
        for pid, services in loads.items():
            for service, told in services.items():
                waits = told.get("pending", 0)
                if waits:
                    add(rows, Key(service), Tally({}, 0, {}, {PENDING: waits * _THOUSAND}))
                for id, (active, successes, failures, took_s, version, *_) in told.get("instances", {}).items():
                    place = pid, service, id
                    seen[place] = now = Instance(successes, failures, took_s)
                    tally = _since(self._before.get(place, _NOTHING), now)
                    if active:
                        tally.counts[IN_FLIGHT] = active * _THOUSAND
                        add(rows, Key(service), Tally({}, 0, {}, {IN_FLIGHT: active * _THOUSAND}))
                    if tally:
                        add(rows, Key(service, version=version, instance=id), tally)
        self._before = seen
        return rows


def _since(before: Instance, now: Instance) -> Tally:
    """Never below nothing: an endpoint that was made anew counts from nothing."""
    good, bad = max(0, now.successes - before.successes), max(0, now.failures - before.failures)
    requests = {status: count for status, count in ((2, good), (5, bad)) if count}
    took_us = min(MOST_US * (good + bad), max(0, int((now.took_s - before.took_s) * 1e6)))
    return Tally(requests, took_us, {}, {})
