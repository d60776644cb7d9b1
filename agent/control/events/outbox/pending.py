"""The events of one pattern that are still to be told, in the order in which they came. Pure.

Law: what an event costs is that of the event, however many others wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import NamedTuple

from policies.kinds.webhook.decide import condition_of
from policies.kinds.webhook.event import Event


class Standing(NamedTuple):
    """An event that is still to be told."""

    event: Event
    done: dict[str, str]
    """By hook: what came of it there."""
    revision: int
    trying: dict[str, str]
    """By hook: why it was not told yet."""
    host: str = ""
    """Under whose own key it stands; empty: whole, where all hosts' do."""


class Pending:
    """Those of one pattern."""

    __slots__ = ("_newest", "_superseded", "events")

    def __init__(self) -> None:
        self.events: dict[str, Standing] = {}
        """By id, which is that of the key."""
        self._newest: dict[str, str] = {}
        """By condition: the id of the event that came last."""
        self._superseded: OrderedDict[str, None] = OrderedDict()
        """Those of whose condition there is a newer one; who was overtaken first is first."""

    def put(self, id: str, standing: Standing) -> bool:
        """A new one, or one of which more is known; whether it is new."""
        new = id not in self.events
        self.events[id] = standing
        if new:
            condition = condition_of(standing.event)
            before = self._newest.get(condition)
            self._newest[condition] = id
            if before is not None:
                self._superseded[before] = None
        return new

    def remove(self, id: str) -> None:
        """It is told, or nobody wants it."""
        standing = self.events.pop(id, None)
        if standing is None:
            return
        self._superseded.pop(id, None)
        condition = condition_of(standing.event)
        if self._newest.get(condition) == id:
            del self._newest[condition]

    def superseded(self, spared: Container[str]) -> tuple[Standing, Event] | None:
        """One that a newer one of its condition makes needless, and that one; of those that are not `spared`."""
        for id in self._superseded:
            if id not in spared:
                standing = self.events[id]
                newest = self._newest.get(condition_of(standing.event))
                if newest is not None:
                    return standing, self.events[newest].event
        return None
