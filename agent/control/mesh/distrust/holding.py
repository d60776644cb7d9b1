"""Policies that stay in force though etcd says otherwise, until a person says that it is meant. Pure.

Law: a restart never opens a door, neither ours nor etcd's.
- Another etcd (see `registry.mirror`), and one revision that takes away at least MASS documents and over half of them,
  are not believed about policies: what was in force stays, also where that was no document.
- What another etcd has is believed where it is not older than what is in force: the same text; a document of a later
  revision, in a history that is the same up to some point; and whatever stands in an etcd that has nothing of ours, for
  somebody has put it there since. "Later" is later than any etcd was known up to that came before: one that was wiped
  and then restored is a history that is known already, though the empty one between stood at revision 1.
- A put or delete of a single key that comes later always takes effect: an emergency is never blocked.
- `confirmed/policies` ends all of it. It counts when it is put, and, for who comes later, when it is younger than the
  last word that he had of the etcd before.
- Every agent holds the same: what is held stands in `held/`, with what it is held against, and counts for whoever sees
  etcd say just that. It is on disk like any other record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from registry.records import Confirmed, Held
from registry.store import Change

Place: TypeAlias = tuple[str, str]
"""A kind, and a pattern."""
MASS: Final = 5
SHARE: Final = 0.5


class Document(NamedTuple):
    """What is in force."""

    revision: int
    text: bytes
    """As JSON."""
    created: int = 0
    """When the life of its key began; 0: not known."""


class Word(NamedTuple):
    """What etcd says of policies in one update."""

    changes: Sequence[tuple[Place, Change]]
    """One after the other; of another etcd, and of a whole snapshot, everything that stands."""
    revision: int
    another: str = ""
    """Why it is not the etcd that was known."""
    whole: bool = False
    """What is not named does not stand."""
    known_revision: int = 0
    """Up to which the etcd before was known; those before it: `Holding.known_revision`."""
    confirmed: frozenset[int] = frozenset()
    """Revisions at which an operator has confirmed, that are news."""
    settled: bool = False
    """An operator has confirmed all of it."""


class Recorded(NamedTuple):
    """What `held/` says, and as of which revision."""

    record: Held
    revision: int


def is_mass_deletion(documents: int, deleted: int) -> bool:
    """Whether one revision that takes so many of so many documents away is not to be believed."""
    return deleted >= MASS and deleted > SHARE * documents


def counts_now(confirmed: Confirmed, heard_at: str) -> bool:
    """Whether a confirmation is of the etcd that is there, for who heard of the one before at `heard_at` (RFC 3339)."""
    return confirmed.at > heard_at


class Holding:
    """What is held, and against what."""

    def __init__(self, text_of: Callable[[Place, bytes], bytes | None]) -> None:
        """`text_of` is a document as JSON; None for one that is refused."""
        self._text_of = text_of
        self.holds: dict[Place, Held] = {}
        self.recorded: dict[Place, Recorded] = {}
        self._stands: dict[Place, int] = {}
        """What stands in etcd of each policy: its mod_revision."""
        self._withheld: dict[Place, Change] = {}
        """What etcd says of those that are held."""
        self._learnt: set[Place] = set()
        """Those that only `held/` has told of."""
        self.confirmed = 0
        """mod_revision of `confirmed/policies`."""
        self.known_revision = 0
        """Up to which any etcd was known that is another now; what was in force there may stand in the next one."""
        self._moved: set[Place] = set()
        """Where `held/` may have to say something else."""

    # What etcd says of policies.

    def sift(self, word: Word, documents: Mapping[Place, Document]) -> list[tuple[Place, Change]]:
        """The changes that take effect. `documents`: what is in force."""
        believed = self.release_all() if word.settled else []
        if word.another or word.whole:
            self._stands = {}
        mass = self._mass_deletions(word, documents)
        shared = bool(word.another) and any(self._is_ours(at, c, documents.get(at)) for at, c in word.changes)
        if word.another:
            self.known_revision = max(self.known_revision, word.known_revision)
        if word.another and not word.settled:
            self._hold_against_nothing(word)
        for place, change in word.changes:
            self._note(place, change)
            if word.settled:
                believed.append((place, change))
            elif self._is_believed(place, change, word, documents.get(place), mass, shared=shared):
                self._end(place)
                believed.append((place, change))
        if word.whole:
            believed += self._vanished(word)
        return believed

    def _note(self, place: Place, change: Change) -> None:
        if change.value is None:
            self._stands.pop(place, None)
        else:
            self._stands[place] = change.revision

    def _mass_deletions(self, word: Word, documents: Mapping[Place, Document]) -> set[int]:
        deleted = Counter(c.revision for at, c in word.changes if c.value is None and self._is_free(at, documents))
        return {
            revision
            for revision, count in deleted.items()
            if is_mass_deletion(len(documents), count) and revision not in word.confirmed
        }

    def _is_free(self, place: Place, documents: Mapping[Place, Document]) -> bool:
        return place in documents and place not in self.holds

    def _hold_against_nothing(self, word: Word) -> None:
        """What was held against the etcd before, and is not named by this one."""
        named = {place for place, _ in word.changes}
        for place, hold in list(self.holds.items()):
            if place not in named:
                gone = Change("", None, word.revision)
                self._hold(place, gone, Document(hold.revision, hold.document.encode()), word.another)

    def _is_believed(
        self, place: Place, change: Change, word: Word, known: Document | None, mass: set[int], *, shared: bool
    ) -> bool:
        """Whether a change takes effect; what is in force is held against one that does not."""
        hold = self.holds.get(place)
        stands = change.revision if change.value is not None else 0
        reason = ""
        if word.another:
            if self._is_older(place, change, word, known, shared=shared):
                reason = f"another etcd: {word.another}"
        elif hold is not None:
            if hold.stands == stands:
                self._withheld[place] = change
                return False
            if self._is_refused(place, change):  # a bad document never replaces a good one
                reason = hold.reason
        elif change.value is None and change.revision in mass and known is not None:
            count = sum(c.revision == change.revision and c.value is None for _, c in word.changes)
            reason = f"one revision ({change.revision}) took {count} policies away"
        if not reason:
            return True
        self._hold(place, change, known, reason)
        return False

    def _is_older(self, place: Place, change: Change, word: Word, known: Document | None, *, shared: bool) -> bool:
        """Whether what another etcd says may be older than what is in force, or is no document."""
        if change.value is None or self._is_refused(place, change):
            return known is not None
        if known is not None and 0 < change.created == known.created and change.revision < known.revision:
            return True
        if known is not None and self._text_of(place, change.value) == known.text:
            return False
        return shared and change.revision <= self.known_revision

    def _is_refused(self, place: Place, change: Change) -> bool:
        return change.value is not None and self._text_of(place, change.value) is None

    def _is_ours(self, place: Place, change: Change, known: Document | None) -> bool:
        """Whether it is what is in force, and was put there in the history that is known."""
        if change.value is None or known is None or change.revision != known.revision:
            return False
        return known.text in (change.value, self._text_of(place, change.value))

    def _hold(self, place: Place, change: Change, known: Document | None, reason: str) -> None:
        stands = change.revision if change.value is not None else 0
        before = known or Document(0, b"")
        self.holds[place] = Held(
            revision=before.revision, document=before.text.decode("utf-8", "replace"), stands=stands, reason=reason
        )
        self._withheld[place] = change
        self._learnt.discard(place)
        self._moved.add(place)

    def _vanished(self, word: Word) -> list[tuple[Place, Change]]:
        """What was held against a document that does not stand any more: somebody deleted it."""
        named = {place for place, _ in word.changes}
        gone = [] if word.another else [p for p, hold in self.holds.items() if hold.stands and p not in named]
        for place in gone:
            self._end(place)
        return [(place, Change("", None, word.revision)) for place in gone]

    def _end(self, place: Place) -> None:
        if self.holds.pop(place, None) is not None or place in self.recorded:
            self._moved.add(place)
        self._withheld.pop(place, None)
        self._learnt.discard(place)

    # What people and other agents say.

    def release_all(self) -> list[tuple[Place, Change]]:
        """An operator means it: what etcd says of everything that is held takes effect."""
        released = [(place, self._withheld.get(place, Change("", None, 0))) for place in self.holds]
        for place, _ in released:
            self._end(place)
        return released

    def take(self, place: Place, recorded: Recorded | None, *, from_disk: bool = False) -> Document | None:
        """What `held/` says is another; returns what is in force now, where that is news (no text: no document)."""
        self._moved.add(place)
        if recorded is None:
            self.recorded.pop(place, None)
            return None
        if recorded.revision:
            self.recorded[place] = recorded
        record, mine = recorded.record, self.holds.get(place)
        if not from_disk and (record.stands != self._stands.get(place, 0) or recorded.revision < self.confirmed):
            return None
        if mine is not None and mine.revision >= record.revision:
            return None
        self.holds[place] = record
        self.known_revision = max(self.known_revision, record.revision)
        self._learnt.add(place)
        return Document(record.revision, record.document.encode())

    def forgotten(self, gone: Iterable[Place], word: Word) -> list[tuple[Place, Change]]:
        """`held/` says nothing any more of these, found after an absence: somebody has ended it. Unless it is so many
        that they went by the same mistake."""
        ended = [place for place in gone if place in self.holds and place in self.recorded]
        if word.another or is_mass_deletion(len(self.holds), len(ended)):
            return []
        released = [(place, self._withheld.get(place, Change("", None, word.revision))) for place in ended]
        for place in ended:
            self._end(place)
        return released

    def untold(self, place: Place, deleted: int) -> Change | None:
        """`held/` says nothing any more of a policy, as one of so many: who only learnt it there has what etcd says
        take effect. Whoever saw it happen says it again, if it still holds."""
        if place not in self._learnt or is_mass_deletion(len(self.holds), deleted):
            return None
        change = self._withheld.get(place, Change("", None, 0))
        self._end(place)
        return change

    # What `held/` should say.

    def unsettled(self) -> Iterator[tuple[Place, Held | None]]:
        """Where it says something else than it should: what it should say, or None for nothing."""
        for place in list(self._moved):
            hold, recorded = self.holds.get(place), self.recorded.get(place)
            if hold is None and recorded is not None:
                yield place, None
            elif hold is not None and (recorded is None or not _says(recorded.record, hold)):
                yield place, hold
            else:
                self._moved.discard(place)


def _says(recorded: Held, hold: Held) -> bool:
    return recorded.revision >= hold.revision and recorded.stands == hold.stands
