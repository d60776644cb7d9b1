# mypyc: compiled
"""What changed of itself, on its way to control: breakers that opened, endpoints that were ejected."""

from __future__ import annotations

import time
from typing import Any, Final

MAX_EVENTS: Final = 1000


class News:
    """Bounded; what does not fit is not told."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(
        self, kind: str, service: str, endpoint: str, before: str, after: str, reason: str, *, audit: bool = False
    ) -> None:
        """Something changed. `endpoint` is empty for the service as a whole."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(
                {
                    "kind": kind,
                    "service": service,
                    "endpoint": endpoint,
                    "before": before,
                    "after": after,
                    "reason": reason,
                    "audit": audit,
                    "at": time.time(),
                }
            )

    def take(self) -> list[dict[str, Any]]:
        """All of it; none is left."""
        events, self.events = self.events, []
        return events
