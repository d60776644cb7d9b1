# mypyc: compiled
"""What changed of itself, on its way to control: breakers that opened, endpoints that were ejected."""

from __future__ import annotations

import time
from typing import Final

from agent.frames import Transition

MAX_EVENTS: Final = 1000


class News:
    """Bounded; what does not fit is not told."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: list[Transition] = []

    def add(
        self, kind: str, service: str, endpoint: str, before: str, after: str, reason: str, *, audit: bool = False
    ) -> None:
        """Something changed. `endpoint` is empty for the service as a whole."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(Transition(kind, service, endpoint, before, after, reason, audit, time.time()))

    def take(self) -> list[Transition]:
        """All of it; none is left."""
        events, self.events = self.events, []
        return events
