"""What of policies is an event: put, removed, refused, held against etcd. Pure.

Laws
- What stands under `audits/` is news as what stands under `policies/` is, with a subject of its own. A refused
  document that is only watched is another condition than a refused one of the same name that is enforced.
- A fresh snapshot has what stands in it anew: that is no news, unless it was put since (`Known`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from agent.control.mesh.distrust.holding import Place
from agent.control.mesh.table import Table
from policies.kinds.webhook.event import Value
from registry.keys import Keys, Room, Unknown
from registry.store import Change


class News(NamedTuple):
    """One event to be: its type, the parts of its subject, what it says, and the revision that caused it."""

    name: str
    parts: dict[str, str]
    data: dict[str, Value]
    revision: int


class Known:
    """Documents that were seen, by key: at which revision each was put."""

    def __init__(self) -> None:
        self._cluster = 0
        self._revisions: dict[str, int] = {}

    def fresh(self, changes: Iterable[Change], keys: Keys, cluster: int) -> list[Change]:
        """Those that were not seen before; a revision says that only within one cluster of etcd."""
        if cluster != self._cluster:
            self._cluster, self._revisions = cluster, {}
        rooms = (keys.room(Room.POLICIES), keys.room(Room.AUDITS))
        found = []
        for change in changes:
            if not change.key.startswith(rooms):
                continue
            if change.value is None:
                self._revisions.pop(change.key, None)
            elif self._revisions.get(change.key) == change.revision:
                continue
            else:
                self._revisions[change.key] = change.revision
            found.append(change)
        return found


def of_changes(changes: Sequence[Change], table: Table, keys: Keys) -> Iterator[News]:
    """Of changes that a table has just taken."""
    for change in changes:
        key = keys.parse(change.key)
        if isinstance(key, Unknown):
            if key.policy is None or change.value is None:
                continue
            room, place = Room.POLICIES, key.policy
        elif key.room in (Room.POLICIES, Room.AUDITS):
            room, place = key.room, (key.first, key.second)
        else:
            continue
        if room is Room.POLICIES and place in table.distrusted.holding.holds:
            continue
        refused = (table.refused if room is Room.POLICIES else table.audits.refused).get(place)
        if refused is not None and refused.revision == change.revision:
            said: dict[str, Value] = {"reason": refused.reason, "path": refused.path, "revision": change.revision}
            yield News("policy.refused", _parts(room, place), said, change.revision)
        else:
            good = "in force" if room is Room.POLICIES else "watched"
            yield _changed(room, place, "deleted" if change.value is None else good, change.revision)


def of_holds(before: Set[Place], changes: Iterable[Change], table: Table, keys: Keys) -> Iterator[News]:
    """Of what is held now, and of what was before. Named by the document that is held: what it is held against, every
    agent sees at another revision."""
    holds = table.distrusted.holding.holds
    for place, hold in holds.items():
        if place not in before:
            data: dict[str, Value] = {"reason": hold.reason, "revision": hold.revision}
            yield News("policy.held", _parts(Room.POLICIES, place), data, hold.revision)
    told = {change.key for change in changes}
    for place in before - holds.keys():
        if keys.policy(*place) not in told:
            after = "in force" if place[1] in table.policies.get(place[0], {}) else "deleted"
            yield _changed(Room.POLICIES, place, after, table.revision)


def _changed(room: Room, place: Place, after: str, revision: int) -> News:
    return News("policy.changed", _parts(room, place), {"after": after, "revision": revision}, revision)


def _parts(room: Room, place: Place) -> dict[str, str]:
    return {"room": room.value, "kind": place[0], "pattern": place[1]}
