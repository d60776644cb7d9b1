"""What breakers, ejectors and limiters of the workers have turned to, for people, for the log, and for events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from agent.control.mesh.table import Table
from agent.frames import Transition

REMEMBERED: Final = 200
log = structlog.get_logger()


class Transitions:
    """The latest, and what lasts."""

    def __init__(self, tell: Callable[[list[Transition]], None]) -> None:
        """`tell` is handed each as well."""
        self._tell = tell
        self.latest: deque[Transition] = deque(maxlen=REMEMBERED)
        """As the workers told it."""
        self.standing: dict[tuple[str, str, str, bool], Transition] = {}
        """Breakers that are not closed, and endpoints that are out: what was told of each last."""

    def in_force(self, table: Table) -> list[Transition]:
        """What lasts, of policies that are in force and endpoints that there are. The others are kept: a policy that is
        put again finds its breakers as they were."""
        return [event for event in self.standing.values() if _is_in_force(event, table)]

    def observe(self, events: list[Transition]) -> None:
        """From a worker."""
        for event in events:
            fields = msgspec.structs.asdict(event)
            told = {name: value for name, value in fields.items() if name not in ("kind", "at") and value}
            log.warning(f"{event.kind} {event.after}", **told)
            place = (event.kind, event.service, event.endpoint, event.audit)
            if event.after in ("closed", "in"):
                self.standing.pop(place, None)
            else:
                self.standing[place] = event
        self.latest.extend(events)
        self._tell(events)


def _is_in_force(event: Transition, table: Table) -> bool:
    known = table.audits if event.audit else table.in_force
    if event.kind not in known.of(event.service):
        return False
    service = table.services.get(event.service)
    there = service is not None and (event.endpoint in service.instances or event.endpoint in service.suspects)
    return there or not event.endpoint
