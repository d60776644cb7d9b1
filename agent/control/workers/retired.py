"""What workers counted that are gone: added up, so that no counter goes back when one of them ends. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_MOMENT: Final[dict[str, dict[str, Any]]] = {
    "connections": {"open": 0},
    "pool": {"open": 0, "idle": 0},
    "buffers": {"held": 0, "most": 0},
}
_MOMENT_OF_SERVICE: Final[dict[str, Any]] = {"active": 0, "breaker": {}, "ejected": {}}
"""What figures of a moment are once their worker has ended."""


class Retired:
    """Their counters as if they were one worker's."""

    def __init__(self) -> None:
        self._sum: dict[str, Any] = {}

    def add(self, metrics: dict[str, Any]) -> None:
        """The last figures of a worker; of another version, perhaps."""
        self._sum = _added(self._sum, _lasting(metrics))

    def as_worker(self) -> list[dict[str, Any]]:
        """To be added to what the workers say; empty while nobody has retired."""
        return [self._sum] if self._sum else []

    def saved(self) -> bytes:
        """For the process that is executed next."""
        return msgspec.msgpack.encode(self._sum)

    def load(self, saved: bytes) -> None:
        """What the process before had; empty: nothing."""
        if saved:
            self._sum = msgspec.msgpack.decode(saved, type=dict[str, Any])


def _lasting(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same figures, with nothing of this moment."""
    services = metrics.get("services", {})
    ended = {part: {**metrics[part], **now} for part, now in _MOMENT.items() if part in metrics}
    of_services = {name: {**service, **_MOMENT_OF_SERVICE} for name, service in services.items()}
    return {**metrics, **ended, "services": of_services, "revision": 0}


def _added(one: Any, other: Any, name: str = "") -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        both = {key: _added(one[key], other[key], key) for key in one.keys() & other.keys()}
        return {**one, **other, **both}
    if name == "duration_bounds_s":
        return other
    if name == "loop_late_worst_s":
        return max(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=False)]
    return one + other
