"""Where events stand: whole in the room that hosts share, or under the key of the host that tells, with an entry in
that room that says how far it is told. Pure.

Laws
- An event under a host's own key is one as long as its entry stands; both are put in one transaction. What is left of
  one without an entry is told, or nobody wanted it.
- What is about one host (its health, its breakers, its certificates) is believed from its own key, and from nobody
  else's. What nobody can tell of himself, such as `agent.lost`, any host may tell.
- Once a mesh keeps events under hosts' keys, none that was put whole after that is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from agent.control.events.outbox.pending import Standing
from agent.control.mesh.layout import Forms
from policies.kinds.webhook.event import BY_NAME, Event
from registry.keys import Key, owner_of
from registry.records import Malformed, OutboxEntry, decode
from registry.store import Change


class Entry(NamedTuple):
    """What stands under `events/`."""

    record: OutboxEntry
    revision: int
    created: int


class Sources:
    """Of one mesh, as this agent has heard."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self.entries: dict[str, Entry] = {}
        self._words: dict[str, dict[str, Event]] = {}
        """Events under hosts' own keys: by host, and id."""
        self._over: set[tuple[str, str]] = set()
        """Those without an entry."""
        self.disbelieved: dict[str, str] = {}
        """Events that are told to nobody, and why."""
        self.malformed = 0

    def take(self, key: Key, change: Change) -> None:
        """One of either form."""
        self.disbelieved.pop(key.first, None)
        if key.second:
            self._take_word(key.second, key.first, change)
            self._see_end(key.second, key.first)
            return
        if change.value is None:
            self.entries.pop(key.first, None)
        else:
            self._take_entry(key.first, change.value, change)
        for host in self._words:
            self._see_end(host, key.first)

    def _see_end(self, host: str, id: str) -> None:
        if id in self._words.get(host, ()) and id not in self.entries:
            self._over.add((host, id))
        else:
            self._over.discard((host, id))

    def _take_entry(self, id: str, value: bytes, change: Change) -> None:
        try:
            record = decode(OutboxEntry, value)
        except Malformed:
            self.malformed += 1
        else:
            self.entries[id] = Entry(record, change.revision, change.created)

    def _take_word(self, host: str, id: str, change: Change) -> None:
        events = self._words.setdefault(host, {})
        if change.value is None:
            events.pop(id, None)
            if not events:
                del self._words[host]
            return
        try:
            events[id] = _event(decode(OutboxEntry, change.value))
        except (Malformed, msgspec.ValidationError):
            self.malformed += 1

    def standing(self, id: str) -> Standing | None:
        """An event that is still to be told; None: there is none, or it is not believed."""
        entry = self.entries.get(id)
        if entry is None:
            return None
        record = entry.record
        if record.host:
            event = self._words.get(record.host, {}).get(id)
        else:
            try:
                event = _event(record)
            except msgspec.ValidationError:
                self.malformed += 1
                return None
        if event is None:
            return None
        reason = self._doubted(event, entry)
        if reason:
            self.disbelieved[id] = reason
            return None
        return Standing(event, record.done, entry.revision, record.trying, record.host)

    def _doubted(self, event: Event, entry: Entry) -> str:
        host = entry.record.host
        if not host:
            return "it stands under no host's own key" if self._forms.is_late(entry.created) else ""
        about = speaker_of(event)
        return f"{host} tells what {about} alone can tell" if about and about != host else ""

    # Of one host.

    def over(self, host: str) -> list[str]:
        """Events under a host's own key that are told."""
        return [id for of, id in self._over if of == host]

    def left(self, host: str) -> Iterator[tuple[str, Event]]:
        """Events under a host's own key that are still to be told."""
        for id, event in self._words.get(host, {}).items():
            if id in self.entries:
                yield id, event

    def hosts(self) -> list[str]:
        """Those that have events under their own keys."""
        return list(self._words)


def speaker_of(event: Event) -> str:
    """The host which alone can tell of it; empty: whoever sees it may."""
    if event.name in ("instance.unhealthy", "instance.healthy"):
        return owner_of(event.subject.rpartition("/")[2])
    kind = BY_NAME.get(event.name)
    if kind is None or not kind.subject.endswith("/{host}") or event.name.startswith("agent."):
        return ""
    return event.subject.rpartition("/")[2]


def _event(record: OutboxEntry) -> Event:
    """Raises msgspec.ValidationError."""
    return msgspec.convert(record.event, Event)
