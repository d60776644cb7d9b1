# mypyc: interpreted, because no request waits for it
"""How much of an hour a hook has told of one service, and what waits for its end to be told as one. Pure.

Law: what begins is counted apart from everything else, so that nothing else uses its share up.
"""

from __future__ import annotations

from typing import Final

from policies.kinds.webhook.event import Effect, Event

HOUR_S: Final = 3600.0


class Share:
    """Of one hook and service."""

    __slots__ = ("_began", "_opened", "_others", "covered", "digest", "due", "last")

    def __init__(self) -> None:
        self._began = float("-inf")
        self._opened = 0
        self._others = 0
        self.digest: dict[str, Event] = {}
        """By id: what is to be told as one."""
        self.due = 0.0
        """When."""
        self.last: Event | None = None
        """The digest that was made last."""
        self.covered: tuple[str, ...] = ()
        """The events that it stands for."""

    @property
    def ends(self) -> float:
        """When the hour is over."""
        return self._began + HOUR_S

    def roll(self, now: float) -> None:
        """Begin another hour, when this one is over."""
        if now >= self.ends:
            self._began = now
            self._opened = self._others = 0

    def spent(self, opens: bool, most: int) -> bool:
        """Whether nothing more of its sort may be told; `most` 0: there is no limit."""
        return bool(most) and (self._opened if opens else self._others) >= most

    def count(self, opens: bool) -> None:
        """One more was told."""
        if opens:
            self._opened += 1
        else:
            self._others += 1

    def uncount(self, opens: bool) -> None:
        """One that was counted was not told after all."""
        if opens:
            self._opened = max(0, self._opened - 1)
        else:
            self._others = max(0, self._others - 1)

    def defer(self, event: Event) -> None:
        """It is told at the end of the hour."""
        if not self.digest:
            self.due = self.ends
        self.digest[event.id] = event

    def take(self, now: float) -> list[Event]:
        """What was to be told as one; it counts as one, of each sort that is in it."""
        events = list(self.digest.values())
        self.digest = {}
        self.covered = tuple(event.id for event in events)
        self.roll(now)
        for opens in {event.effect is Effect.OPENS for event in events}:
            self.count(opens)
        return events
