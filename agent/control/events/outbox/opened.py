"""What webhooks have opened elsewhere, as it stands in etcd. Pure.

Laws
- What was opened is remembered by what the answer called it, in the transaction that notes that it was told.
- What this agent has just written is known at once: the next event of the condition may come before the watch does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from registry.keys import OPENED
from registry.records import Malformed, Opened, decode
from registry.store import Change


class Memory(NamedTuple):
    """What is remembered of a condition."""

    record: Opened
    revision: int


class Memories:
    """Of every hook, by its label (`<pattern>/<name>`) and the condition's subject."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Memory]] = {}
        self._deleted: dict[tuple[str, str], int] = {}
        """What this agent deleted, until the watch tells: the revision."""

    def take(self, rest: str, change: Change) -> None:
        """A change of a key, of which `rest` follows `conditions/`."""
        parts = rest.removeprefix(OPENED).split("/", 2)
        if len(parts) < 3:
            return
        label, subject = f"{parts[0]}/{parts[1]}", parts[2]
        if change.value is None:
            self._set(label, subject, None, change.revision)
            self._deleted.pop((label, subject), None)
            return
        try:
            self._set(label, subject, decode(Opened, change.value), change.revision)
        except Malformed:
            self._set(label, subject, None, change.revision)

    def note(self, label: str, subject: str, record: Opened | None, revision: int) -> None:
        """This agent has put it, or deleted it."""
        if record is None and subject in self._of.get(label, {}):
            self._deleted[label, subject] = revision
        self._set(label, subject, record, revision)

    def _set(self, label: str, subject: str, record: Opened | None, revision: int) -> None:
        of = self._of.setdefault(label, {})
        standing = of.get(subject)
        newest = max(standing.revision if standing is not None else 0, self._deleted.get((label, subject), 0))
        if revision < newest:
            return
        if record is not None:
            of[subject] = Memory(record, revision)
        else:
            of.pop(subject, None)
        if not of:
            del self._of[label]

    def of(self, label: str) -> Mapping[str, Memory]:
        """Of one hook, by subject."""
        return self._of.get(label, {})

    def find(self, label: str, subject: str) -> Memory | None:
        """Of one condition."""
        return self._of.get(label, {}).get(subject)

    def labels(self) -> Iterable[str]:
        """Hooks of which anything is remembered."""
        return list(self._of)
