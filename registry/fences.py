"""Which keys are whose, decided in etcd's own transactions and never by having looked before.

A key that only one owner may have has lives: it is created, and some time later it is gone. Whoever created it knows
the revision of that, and each of his transactions compares it (as `registry.claim` does): another's life is neither
changed nor ended, and it is told whose it is.

Laws
- A key is created only where none stands; written and deleted only in the life that we began, whoever wrote over it.
- What says that it is ours (a transaction whose answer was lost, a process before us) is ours: `whose` reads it.
- The others of a group (an instance's health) are written with the key that they are about, or not at all.
- Where the name that we have in the mesh is another's, nothing is written.
- What stands in the place of other keys (`supersede`) is put in the transaction that deletes them. While another has
  it, they stay: nobody sees neither.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain, groupby
from typing import Final

import structlog

from registry.store import Compare, Delete, KeyValue, Put, StoreError

log = structlog.get_logger()
Whose = Callable[[KeyValue], str]
"""Who has a key, in words; empty: we do, or nobody who could be found."""


class NameTaken(StoreError):
    """Another has the name under which all our keys stand."""


def nobodys(_: KeyValue) -> str:
    """Whatever stands may be taken over."""
    return ""


class Fences:
    """The lives that we began, and the keys that others have."""

    def __init__(self, whose: Whose = nobodys) -> None:
        self._whose: Final = whose
        self._lives: dict[str, int] = {}
        """Create revision of each key that is ours alone; 0: none stands, as far as we know."""
        self._lives_before: dict[str, int] = {}
        """Those of the lease before."""
        self._groups: dict[str, str] = {}
        """The key that another one is written with, itself among them."""
        self._by: dict[str, str] = {}
        """The group that stands in another one's place, once that is gone."""
        self._replaced: dict[str, set[str]] = {}
        """The same the other way round: the keys that are to be gone with a group's put."""
        self._written: dict[str, int] = {}
        """The revision at which we wrote a key that is ours alone."""
        self.name = ""
        """The key that all others are written under; empty: there is none."""
        self.taken: dict[str, str] = {}
        """Keys that others have, and who, in words."""

    def group(self, key: str) -> str:
        """The key that it is written with; of one that is fenced by nothing, itself."""
        return self._groups.get(key, key)

    def join(self, key: str, group: str) -> None:
        """A key is written with another from now on."""
        self._groups[key] = group
        self._lives.setdefault(group, 0)
        by = self._by.pop(group, None)
        if by is not None:
            self._replaced.pop(by, None)

    def supersede(self, keys: Iterable[str], group: str, by: str) -> None:
        """The keys of a group are gone once another group is put, and not before."""
        keys = set(keys)
        for key in keys:
            self.join(key, group)
        self._by[group] = by
        self._replaced[by] = keys

    def is_superseded(self, key: str) -> bool:
        """Whether it is to be gone only with what stands in its place."""
        return self.group(key) in self._by

    def waits(self, key: str) -> bool:
        """Whether it stays for now, because another has what is to stand in its place."""
        return self._by.get(self.group(key), "") in self.taken

    def begun(self, group: str) -> bool:
        """Whether a life of it began here, on this lease or the one before."""
        return bool(self._lives.get(group) or self._lives_before.get(group))

    def members(self, group: str, keys: Iterable[str]) -> list[str]:
        """Those of some keys that are written with it, and those that are gone then."""
        return [*(key for key in keys if self._groups.get(key) == group), *self._replaced.get(group, ())]

    def unit(self, key: str) -> str:
        """What is written in one transaction, by the name of a group: it, and what it supersedes."""
        group = self.group(key)
        return self._by.get(group, group)

    def order(self, key: str) -> tuple[bool, str, str]:
        """What units are sorted by: the name first."""
        unit = self.unit(key)
        return unit != self.name, unit, key

    def halves(self, keys: Sequence[str]) -> tuple[list[str], list[str]]:
        """Of sorted keys that do not fit into one transaction, those of the first and of the second: units whole, and
        what is put before what is gone then."""
        units = [list(members) for _, members in groupby(keys, key=self.unit)]
        if len(units) > 1:
            middle = len(units) // 2
            return list(chain(*units[:middle])), list(chain(*units[middle:]))
        ordered = sorted(keys, key=self.is_superseded)
        middle = sum(not self.is_superseded(key) for key in keys) % len(keys) or len(keys) // 2
        return ordered[:middle], ordered[middle:]

    def bars(self, key: str) -> bool:
        """Whether it is of a group that another has, as far as we know."""
        return self.group(key) in self.taken

    def forget_lives(self) -> None:
        """The lease is gone, and every key of it; not one that somebody wrote over without it."""
        self._lives_before.update({key: life for key, life in self._lives.items() if life})
        self._lives = dict.fromkeys(self._lives, 0)

    # A transaction.

    def compares(self, keys: Iterable[str]) -> list[Compare]:
        """What has to hold for a transaction about some keys."""
        fencing = {self.group(key): None for key in keys}
        if self.name:
            fencing[self.name] = None
        return [Compare(group, create_revision=self._lives[group]) for group in fencing if group in self._lives]

    def done(self, operations: Iterable[Put | Delete], revision: int, wanted: Container[str]) -> None:
        """A transaction was made: what it created is ours, what it deleted is nobody's, and is remembered where it is
        wanted again meanwhile."""
        for operation in operations:
            key = operation.key
            if isinstance(operation, Delete):
                self._written.pop(key, None)
                if self.group(key) == key and key in self._lives:
                    self._lives[key] = 0
                if key not in wanted:
                    self.leave(key)
                continue
            if self.group(key) == key and key in self._lives:
                self._lives[key] = self._lives[key] or revision
                self._written[key] = revision
                if self.taken.pop(key, ""):
                    log.info("a key is ours now that another had", key=key)

    def judge(self, group: str, found: KeyValue | None, lease: int) -> None:
        """A transaction was not made, and this is what stands there. `lease`: ours; 0: there is none."""
        lives = (self._lives[group], self._lives_before.get(group))
        who = "" if found is None or found.create_revision in lives else self._whose(found)
        if found is None or not who or (lease and found.lease == lease):
            self._lives[group] = found.create_revision if found is not None else 0
            if found is not None:  # a put of ours whose answer was lost
                self.taken.pop(group, None)
            return
        if self.taken.get(group) != who:
            log.error("not put, for another has it", key=group, reason=who)
        self.taken[group] = who

    def leave(self, key: str) -> None:
        """A key is of no group any more; a group without keys is forgotten."""
        group = self._groups.pop(key, "")
        self._replaced.get(self._by.get(group, ""), set()).discard(key)
        if group and group not in self._groups.values():
            self.taken.pop(group, None)
            self._lives.pop(group, None)
            self._lives_before.pop(group, None)
            self._replaced.pop(self._by.pop(group, ""), None)

    def is_written_over(self, key: str, revision: int) -> bool:
        """Whether what was put at a revision is not our word, in a life of a key that is ours alone."""
        return bool(self._lives.get(key)) and revision > self._written.get(key, revision)
