"""What one hook has opened and nobody has told the end of: found, and closed. Pure.

Law: events have the first word. What is over is closed here only when no event of it has come for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.control.events.outbox.endings import Ending
from agent.control.events.outbox.opened import Memory
from agent.control.host.clock import now_text
from policies.kinds.webhook.event import PREFIX, Event

EVERY_S: Final = 10.0
GRACE_S: Final = 60.0
"""For so long it has been over, and no event said so. Agents wait for one another before they put one."""
AGAIN_S: Final = 3600.0
"""After it could not be closed."""


class Settling:
    """Of one hook."""

    def __init__(self, mesh: str, host: str) -> None:
        self._mesh = mesh
        self._host = host
        self._due: dict[str, float] = {}
        """By subject: when it is closed, if it is over then."""

    def key_of(self, subject: str) -> str:
        """Of the events about a subject."""
        return f"{self._mesh}/{subject}"

    def find(
        self,
        now: float,
        opened: Mapping[str, Memory],
        waits: Callable[[str], bool],
        ending: Callable[[str, Memory], Ending | None],
    ) -> Iterable[Event]:
        """The events that are due now. `waits`: whether some event of a key is still to be told."""
        for subject in self._due.keys() - opened.keys():
            del self._due[subject]
        found: list[Event] = []
        for subject, memory in opened.items():
            lasts = memory.record.state == "closed" or waits(self.key_of(subject))
            over = None if lasts else ending(subject, memory)
            if over is None:
                self._due.pop(subject, None)
            elif now >= self._due.setdefault(subject, now + GRACE_S):
                self._due[subject] = now + AGAIN_S
                found.append(self._event(subject, memory, over))
        return found

    def _event(self, subject: str, memory: Memory, over: Ending) -> Event:
        return Event(
            id=f"{memory.record.event}-over",
            type=f"{PREFIX}{over.name}",
            subject=subject,
            time=now_text(),
            mesh=self._mesh,
            key=self.key_of(subject),
            service=memory.record.service,
            data={"agent": self._host, "reason": over.reason},
        )
