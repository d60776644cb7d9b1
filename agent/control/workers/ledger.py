"""What the workers of this agent have counted, whichever of them live: the sums never go back. Pure.

Laws
- What was heard of a worker is counted until more is heard of it, also when it does not answer, is killed, or is one of
  the process before. Lost is only what it counted after its last word.
- What a worker no longer tells of, a service that left the mesh, stays counted: another worker may tell of it still,
  and half of a sum that is gone would look as if all of it had begun anew.
- Figures of the moment (what is open, in flight, ejected) end with their worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agent.control.workers import edges

MAX_GONE: Final = 1000
"""Services that no worker which lives tells of; the first of them are forgotten."""
MAX_EDGES: Final = 4_000
"""Of one service, of all workers that are gone; the first are told apart."""
_MOMENT: Final[dict[str, dict[str, Any]]] = {
    "connections": {"open": 0},
    "pool": {"open": 0, "idle": 0},
    "buffers": {"held": 0, "most": 0},
    "tls": {"half_open": 0},
}
_MOMENT_OF_SERVICE: Final[dict[str, Any]] = {
    "active": 0,
    "breaker": {},
    "ejected": {},
    "exemplars": [],
    "connections": 0,
    "pending": 0,
    "limit": 0.0,
    "window": 0.0,
}
"""What figures of a moment are once their worker has ended."""


class Ledger:
    """The figures of those that live, by their process, and of those that are gone as if they were one worker's.

    Figures that were handed out are never changed, so that another thread may read them."""

    def __init__(self) -> None:
        self._live: dict[int, dict[str, Any]] = {}
        self._gone: dict[str, Any] = {}
        self._ended: set[int] = set()
        """Told all that they counted, and have not gone yet."""

    def hear(self, pid: int, metrics: dict[str, Any]) -> None:
        """All that a worker has counted, now; of another version, perhaps."""
        if pid in self._ended:
            return
        services = metrics.get("services", {})
        before = self._live.get(pid, {}).get("services", {})
        self._live[pid] = metrics
        lost = {name: before[name] for name in before if name not in services}
        if lost:
            bounds = {name: metrics[name] for name in ("duration_bounds_s",) if name in metrics}
            self._add({"services": lost, **bounds})

    def hear_last(self, pid: int, metrics: dict[str, Any]) -> None:
        """It ends, and counts no more."""
        if metrics:
            self.hear(pid, metrics)
        self.end(pid)
        self._ended.add(pid)

    def end(self, pid: int) -> None:
        """A worker is gone."""
        self._ended.discard(pid)
        figures = self._live.pop(pid, None)
        if figures is not None:
            self._add(figures)

    def figures(self) -> list[dict[str, Any]]:
        """To be added up: of each worker that lives, and of those that are gone; histograms by the same bounds."""
        return edges.aligned([*self._live.values(), *([self._gone] if self._gone else [])])[1]

    def saved(self) -> bytes:
        """For the process that is executed next. The sum stands at the top, where a version before looks for it."""
        return msgspec.msgpack.encode({**self._gone, "live": {str(pid): told for pid, told in self._live.items()}})

    def load(self, saved: bytes) -> None:
        """What the process before had; empty: nothing."""
        if saved:
            self._gone = msgspec.msgpack.decode(saved, type=dict[str, Any])
            self._live = {int(pid): told for pid, told in self._gone.pop("live", {}).items()}

    def _add(self, metrics: dict[str, Any]) -> None:
        _, (before, more) = edges.aligned([self._gone, _lasting(metrics)])
        self._gone = _added(before, more)
        services = self._gone["services"]
        told = {name for figures in self._live.values() for name in figures.get("services", ())}
        gone = [name for name in services if name not in told]
        if len(gone) > MAX_GONE:
            self._gone["services"] = {n: s for n, s in services.items() if n not in set(gone[: len(gone) - MAX_GONE])}


def _lasting(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures, with nothing of this moment."""
    ended = {part: {**metrics[part], **now} for part, now in _MOMENT.items() if part in metrics}
    of_services = {name: {**service, **_MOMENT_OF_SERVICE} for name, service in metrics.get("services", {}).items()}
    return {**metrics, **ended, "services": of_services, "revision": 0}


def _added(one: Any, other: Any, name: str = "") -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        both = {key: _added(one[key], other[key], key) for key in one.keys() & other.keys()}
        return {**one, **other, **both}
    if name == "duration_bounds_s":
        return other
    if name == "edges":
        return edges.folded(edges.plus(one, other), MAX_EDGES)
    if name == "loop_late_worst_s":
        return max(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=False)]
    return one + other
