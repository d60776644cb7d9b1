"""What etcd says of policies, and what of it takes effect: `holding` decides, here its word is taken apart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from agent.control.mesh.distrust.holding import Holding, Place, Recorded, Word, counts_now
from agent.control.mesh.distrust.source import Source
from agent.control.mesh.documents.in_force import InForce
from agent.control.mesh.documents.reading import Read
from policies.language.document import Invalid
from registry.keys import Key, Keys, Room
from registry.records import Confirmed, Held, Malformed, decode, encode
from registry.store import Change

FIRST: Final = (Room.INSTANCES, Room.LAST_GOOD, Room.CONFIRMED)
"""What is deleted together is judged by what stood before; last good states are asked for when a policy is refused, and
what an operator has confirmed when somebody holds something."""


class PolicyDistrust:
    """Between etcd and what is in force."""

    def __init__(self, keys: Keys, in_force: InForce, read: Callable[[str, str, bytes], Read]) -> None:
        """`read` gives the document in a value."""
        self._keys = keys
        self._in_force = in_force
        self._read = read
        self.holding = Holding(self._text_of)
        in_force.held = self.holding.holds
        self._confirmed = b""
        self._from_disk = False
        self._untold = 0
        """How many of `held/` the changes at hand delete; 0 also where that says nothing."""

    def believed(
        self, parsed: list[tuple[Key, Change]], revisions: tuple[int, int], source: Source, *, whole: bool
    ) -> list[tuple[Key, Change]]:
        """The changes without what is not believed. `revisions`: before them, and with them."""
        self._from_disk = source.disk
        resync = whole or source.resync
        rooms = {key.room for key, _ in parsed}
        gone = [(key.first, key.second) for key, change in parsed if key.room is Room.HELD and change.value is None]
        self._untold = 0 if resync else len(gone)
        if source.disk or not (resync or Room.POLICIES in rooms or Room.CONFIRMED in rooms):
            return parsed
        confirmed = self._confirmations(parsed, source)
        word = Word(
            [((key.first, key.second), change) for key, change in parsed if key.room is Room.POLICIES],
            revisions[1],
            another=source.another,
            whole=whole,
            known_revision=revisions[0],
            confirmed=confirmed,
            settled=bool(confirmed) and resync,
        )
        changes = self.holding.sift(word, self._in_force.documents())
        if resync:
            changes += self.holding.forgotten(gone, word)
        elif confirmed:
            changes += self.holding.release_all()
        policies = [(Key(Room.POLICIES, *place), self._named(place, change)) for place, change in changes]
        first = [pair for pair in parsed if pair[0].room in FIRST]
        rest = [pair for pair in parsed if pair[0].room not in FIRST and pair[0].room is not Room.POLICIES]
        return [*first, *policies, *rest]

    def _named(self, place: Place, change: Change) -> Change:
        return change if change.key else change._replace(key=self._keys.policy(*place))

    def _confirmations(self, parsed: Sequence[tuple[Key, Change]], source: Source) -> frozenset[int]:
        """Revisions at which an operator has confirmed what stands, as far as that is news."""
        found: set[int] = set()
        for key, change in parsed:
            if key.room is not Room.CONFIRMED or change.value is None:
                continue
            try:
                record = decode(Confirmed, change.value)
            except Malformed:
                continue  # whoever takes it says so
            news = change.revision != self.holding.confirmed
            if counts_now(record, source.heard_at) if source.another else news:
                found.add(change.revision)
        return frozenset(found)

    def take_confirmed(self, change: Change) -> None:
        """`confirmed/policies` is another."""
        self.holding.confirmed = change.revision if change.value is not None else 0
        self._confirmed = change.value or b""

    def take_held(self, place: Place, change: Change, record: Held | None) -> None:
        """What `held/` says of a policy is another."""
        recorded = Recorded(record, change.revision) if record is not None else None
        if record is None and change.value is None and self._untold:
            released = self.holding.untold(place, self._untold)
            if released is not None:
                self._in_force.take(*place, self._named(place, released))
        document = self.holding.take(place, recorded, from_disk=self._from_disk)
        if document is not None:
            value = document.text or None
            self._in_force.take(*place, Change(self._keys.policy(*place), value, document.revision))

    def _text_of(self, place: Place, value: bytes) -> bytes | None:
        found = self._read(*place, value)
        return None if isinstance(found.document, Invalid) else found.text

    def saved(self) -> Iterator[tuple[str, bytes, int]]:
        """As `Table.saved`."""
        for place, hold in self.holding.holds.items():
            recorded = self.holding.recorded.get(place)
            yield self._keys.held(*place), encode(hold), recorded.revision if recorded is not None else 0
        if self._confirmed:
            yield self._keys.confirmed, self._confirmed, self.holding.confirmed
