"""What one hook has still to be told, by condition: which event it is asked about next. Pure.

Laws
- What happened to a condition is asked about in its order, and one at a time.
- An event is looked at when something happened to its condition: it is new, its time has come, the one before it is
  told. What waits beside it costs nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from policies.kinds.webhook.event import Event


class HookQueue:
    """Of one hook."""

    __slots__ = ("_asked", "_at", "_due", "_held", "_of", "_rows", "busy")

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Event]] = {}
        """By key: events, in their order."""
        self._of: dict[str, str] = {}
        """By event: its key."""
        self._asked: OrderedDict[str, None] = OrderedDict()
        """Keys to be looked at."""
        self._held: OrderedDict[str, None] = OrderedDict()
        """Keys with an event that could be told, were there a hand free for it."""
        self._due: list[tuple[float, str]] = []
        self._at: dict[str, float] = {}
        """When each key is looked at next."""
        self.busy: set[str] = set()
        """Keys of which an event is being told."""

    def __len__(self) -> int:
        return len(self._of)

    def add(self, event: Event) -> None:
        """It has to be told."""
        self._rows.setdefault(event.key, {})[event.id] = event
        self._of[event.id] = event.key
        self._asked[event.key] = None

    def remove(self, id: str) -> None:
        """It is told, or need not be."""
        key = self._of.pop(id, None)
        if key is None:
            return
        row = self._rows[key]
        del row[id]
        if not row:
            del self._rows[key]
            self._asked.pop(key, None)
            self._held.pop(key, None)
            self._at.pop(key, None)

    def ids(self) -> list[str]:
        """All of them."""
        return list(self._of)

    def event(self, id: str) -> Event | None:
        """One of them."""
        key = self._of.get(id)
        return self._rows[key][id] if key is not None else None

    def has(self, key: str) -> bool:
        """Whether anything of a key is still to be told."""
        return key in self._rows

    def row(self, key: str) -> list[Event]:
        """What is to be told of a key, in its order."""
        return list(self._rows.get(key, {}).values())

    def ask_all(self) -> None:
        """The hook has changed: look at everything."""
        self._asked.update(dict.fromkeys(self._rows))

    def wait(self, key: str, until: float) -> None:
        """Look at it again then."""
        if until < self._at.get(key, float("inf")):
            self._at[key] = until
            heapq.heappush(self._due, (until, key))

    def hold(self, key: str) -> None:
        """Look at it again when there is a hand free."""
        self._held[key] = None

    def begin(self, key: str) -> None:
        """An event of it is being told."""
        self.busy.add(key)

    def end(self, key: str) -> None:
        """It was."""
        self.busy.discard(key)
        if key in self._rows:
            self._asked[key] = None

    def next_keys(self, now: float, hands: int) -> Iterator[str]:
        """Keys to look at, one after the other; those that are held first, as long as fewer than `hands` are busy."""
        while self._due and self._due[0][0] <= now:
            at, key = heapq.heappop(self._due)
            if self._at.get(key) == at:
                del self._at[key]
                self._asked[key] = None
        while True:
            keys = self._held if self._held and len(self.busy) < hands else self._asked
            found = next((key for key in keys if keys is self._held or key not in self.busy), None)
            if found is None:
                return
            del keys[found]
            if found not in self.busy:  # else it is asked about when that is told
                yield found

    @property
    def due(self) -> float:
        """When the next one is looked at by itself; infinite: when something happens."""
        while self._due and self._at.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else float("inf")
