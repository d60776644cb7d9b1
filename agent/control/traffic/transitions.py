"""What breakers, ejectors and limiters of the workers have turned to, for people, for the log, and for events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

REMEMBERED: Final = 200
log = structlog.get_logger()


class Transitions:
    """The latest, and what lasts."""

    def __init__(self, tell: Callable[[list[dict[str, Any]]], None]) -> None:
        """`tell` is handed each as well."""
        self._tell = tell
        self.latest: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        """As the workers told it."""
        self.standing: dict[tuple[str, str, str], dict[str, Any]] = {}
        """Breakers that are not closed, and endpoints that are out: what was told of each last."""

    def observe(self, events: list[dict[str, Any]]) -> None:
        """From a worker."""
        for event in events:
            told = {name: value for name, value in event.items() if name not in ("kind", "at") and value}
            log.warning(f"{event['kind']} {event['after']}", **told)
            place = (event["kind"], event["service"], event["endpoint"])
            if event["after"] in ("closed", "in"):
                self.standing.pop(place, None)
            else:
                self.standing[place] = event
        self.latest.extend(events)
        self._tell(events)
