"""What a change of a key says: which instance came, what became of it, whose word that is. Pure.

What stood before is kept as records; of documents only a digest, to tell one that was put again as it was.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from agent.cli.watching.convergence import Put
from agent.cli.watching.line import What
from agent.cli.watching.selection import Selection
from registry.keys import HOSTS, Key, Keys, Room, Unknown, owner_of
from registry.records import Agent, Confirmed, Health, Held, Instance, Layout, Malformed, Record, Rejection, decode
from registry.store import Change

DOCUMENTS: Final = (Room.POLICIES, Room.AUDITS)
REFUSALS: Final = (Room.REJECTED, Room.AUDITS_REJECTED)
RECORDS: Final[dict[Room, type[Record]]] = {
    Room.AGENTS: Agent,
    Room.AUDITS_REJECTED: Rejection,
    Room.HEALTH: Health,
    Room.HELD: Held,
    Room.INSTANCES: Instance,
    Room.REJECTED: Rejection,
}
MESH: Final = (Room.CONFIRMED, Room.IDENTITY)
ACTED_ON: Final = frozenset({Room.AGENTS, Room.AUDITS, Room.HEALTH, Room.INSTANCES, Room.POLICIES})
"""What agents run: their word counts for these."""
MOST_REASON: Final = 160
UNCHECKED: Final = "not checked yet"
"""How the reason of a newcomer's health begins, as agents write it."""

Stood: TypeAlias = Record | bytes | str
"""A record; the digest of a document; why it is neither."""


class Document(NamedTuple):
    """What a document says of itself, and what becomes of it."""

    by: str = ""
    reason: str = ""
    is_watched: bool = False
    refused: str = ""
    not_enforced: str = ""


Judge: TypeAlias = Callable[[str, str, bytes, bool], Document]
"""Kind, pattern, text, and whether it stands where documents are that are only watched."""


class Told(NamedTuple):
    """What is said of a change."""

    what: What
    key: str
    change: str
    """`came`, `changed`, `went`, …"""
    text: str
    more: dict[str, Any]
    put: Put | None = None
    """A document that came."""


class Standing:
    """What stands under the keys that are told of."""

    def __init__(self, keys: Keys, judge: Judge) -> None:
        self._keys = keys
        self._judge = judge
        self._stands: dict[str, tuple[int, Stood]] = {}
        self._documents: dict[str, int] = {}
        self._refusals: dict[str, int] = {}
        self._ill: dict[tuple[str, str], str] = {}
        """Instances that are found ill, and why; until they went, for their health may be deleted a moment before."""

    def counted(self) -> tuple[Counter[Room], int]:
        """How many keys of each room stand, and the highest revision of what agents act on."""
        counts, newest = Counter[Room](), 0
        for key, (revision, _) in self._stands.items():
            room = _room(self._keys.parse(key))
            if room is not None:
                counts[room] += 1
                newest = max(newest, revision if room in ACTED_ON else 0)
        return counts, newest

    def revision_of(self, document: str) -> int:
        """At which a document (`route/pets`, `audits/route/pets`) was put; 0: it does not stand."""
        return self._documents.get(document, 0)

    def refused_at(self, document: str) -> int:
        """Of which revision it is refused, by some agent's word; 0: of none."""
        return self._refusals.get(document, 0)

    def wants(self, change: Change, selection: Selection) -> What | None:
        """Which sort of line it would be; None: it is none that is told of, or wanted."""
        key = self._keys.parse(change.key)
        if isinstance(key, Unknown):
            return (
                "policy" if key.policy is not None and selection.has_policy(key.policy[0], selection.pattern) else None
            )
        if key.room in DOCUMENTS or key.room is Room.HELD:
            return "policy" if selection.has_policy(key.first, key.second) else None
        if key.room in REFUSALS:
            return "refused" if selection.has_policy(key.first, key.second) else None
        if key.room is Room.INSTANCES:
            return "instance" if selection.has_instance(key.first) else None
        if key.room is Room.HEALTH:
            return "health" if selection.has_instance(key.first) else None
        if key.room is Room.AGENTS:
            return "agent" if selection.has_other("agents") else None
        return "mesh" if key.room in MESH and selection.has_other("mesh") else None

    def enter(self, change: Change) -> bool:
        """Take it for what stands, and say nothing; whether it is new."""
        key = self._keys.parse(change.key)
        if _room(key) not in (*RECORDS, *DOCUMENTS, *MESH):
            return False
        before = self._stands.get(change.key)
        if change.value is None:
            self._note(key, None, 0)
            return self._stands.pop(change.key, None) is not None
        if before is not None and before[0] == change.revision:
            return False
        stood = _stood(key, change.value)
        self._stands[change.key] = (change.revision, stood)
        self._note(key, stood, change.revision)
        return True

    def _note(self, key: Key | Unknown, stood: Stood | None, revision: int) -> None:
        """Which documents stand, and which are refused."""
        room = _room(key)
        if room is Room.HEALTH:
            self._note_health(key, stood)
            return
        if room in DOCUMENTS:
            found, at = self._documents, revision
        elif room in REFUSALS:
            found, at = self._refusals, stood.revision if isinstance(stood, Rejection) else 0
        else:
            return
        if at:
            found[_document_name(key)] = at
        else:
            found.pop(_document_name(key), None)

    def _note_health(self, key: Key | Unknown, stood: Stood | None) -> None:
        assert isinstance(key, Key)
        place = (key.first, key.second)
        if isinstance(stood, Health) and not stood.healthy and not is_newcomers(stood):
            self._ill[place] = stood.reason
        elif stood is not None or self._keys.instance(*place) not in self._stands:
            self._ill.pop(place, None)

    def tell(self, change: Change) -> Told | None:
        """Take it for what stands, and say what it is; None: it says nothing new."""
        key = self._keys.parse(change.key)
        before = self._stands.get(change.key, (0, None))[1]
        if not self.enter(change):
            return None
        after = self._stands.get(change.key, (0, None))[1]
        if isinstance(key, Unknown):
            return _misnamed(key, change)
        if key.room in DOCUMENTS:
            return self._document(key, change, before, after)
        if isinstance(after, str):
            return _malformed(key, after)
        if key.room in MESH:
            return _mesh(key, change, before)
        if key.room is Room.INSTANCES:
            ill = self._ill.pop((key.first, key.second), "") if after is None else ""
            return _instance(key, before, after, ill)
        if key.room is Room.HEALTH:
            return self._health(key, before, after)
        if key.room is Room.AGENTS:
            return _agent(key, before, after)
        return _held(key, after) if key.room is Room.HELD else _refusal(key, before, after)

    def _document(self, key: Key, change: Change, before: Stood | None, after: Stood | None) -> Told:
        name = _document_name(key)
        if change.value is None:
            return Told("policy", name, "removed", f"{name} was removed", {"document": name})
        how = "put" if before is None else "changed" if before != after else "put again as it was"
        found = self._judge(key.first, key.second, change.value, key.room is Room.AUDITS)
        text = f"{name} was {how}"
        if found.is_watched:
            text += ", to be watched only"
        if found.by:
            text += f", by {found.by[:MOST_REASON]}"
        if found.reason:
            text += f": {found.reason[:MOST_REASON]}"
        if found.refused:
            text += f"; it is refused: {found.refused}"
        if found.not_enforced:
            text += f"; {found.not_enforced}"
        more = {
            "document": name,
            "by": found.by,
            "reason": found.reason,
            "watched": found.is_watched,
            "refused": found.refused,
            "not_enforced": found.not_enforced,
        }
        put = Put(name, change.revision, found.refused, found.not_enforced)
        return Told("policy", name, how, text, more, put)

    def _health(self, key: Key, before: Stood | None, after: Stood | None) -> Told | None:
        name, more = _instance_name(key)
        if not isinstance(after, Health):
            stands = self._keys.instance(key.first, key.second) in self._stands
            if not stands:
                return None  # it went with its instance
            return Told("health", name, "unknown", f"{name}: nobody says whether it is healthy", more)
        if is_newcomers(after):
            return Told("health", name, "unchecked", f"{name} is not checked yet", {**more, "why": after.reason})
        turned = "healthy" if after.healthy else "unhealthy"
        said = f": {after.reason[:MOST_REASON]}" if after.reason else ""
        still = isinstance(before, Health) and before.healthy == after.healthy and not is_newcomers(before)
        text = f"{name} is {'still ' * still}{turned}{said}"
        return Told("health", name, turned, text, {**more, "why": after.reason})


def _room(key: Key | Unknown) -> Room | None:
    if isinstance(key, Unknown):
        return None if key.policy is None else Room.POLICIES
    return key.room


def _stood(key: Key | Unknown, value: bytes) -> Stood:
    if isinstance(key, Unknown):
        return key.reason
    if key.room not in RECORDS:
        return hashlib.blake2b(value, digest_size=16).digest()
    try:
        return decode(
            RECORDS[key.room], value, owner_of(key.second) if key.room in (Room.INSTANCES, Room.HEALTH) else ""
        )
    except Malformed as error:
        return str(error)


def _document_name(key: Key | Unknown) -> str:
    if isinstance(key, Unknown):
        kind, pattern = key.policy or ("", "")
        return f"{kind}/{pattern}" if pattern else kind
    aside = key.room in (Room.AUDITS, Room.AUDITS_REJECTED)
    return f"{'audits/' * aside}{key.first}/{key.second}" if key.second else key.first


def _instance_name(key: Key) -> tuple[str, dict[str, Any]]:
    id = key.second.partition("@")[0]
    return f"{key.first}/{id}", {"service": key.first, "instance": id}


def _misnamed(key: Unknown, change: Change) -> Told:
    name = _document_name(key)
    if change.value is None:
        return Told("policy", name, "removed", f"{name}, which names nothing, was removed", {"document": name})
    text = f"{name} was put, and names nothing: {key.reason}"
    more = {"document": name, "refused": key.reason}
    return Told("policy", name, "put", text, more, Put(name, change.revision, key.reason))


def _malformed(key: Key, why: str) -> Told:
    what: What = {Room.INSTANCES: "instance", Room.HEALTH: "health", Room.AGENTS: "agent"}.get(key.room, "policy")  # type: ignore[assignment]
    name = f"{key.room.value}/{key.first}{f'/{key.second}' if key.second else ''}"
    return Told(what, name, "malformed", f"{name} cannot be read: {why}", {"key": name, "why": why})


def is_newcomers(health: Health) -> bool:
    """Whether it was not checked so far, of which nothing follows."""
    return not health.healthy and health.reason.startswith(UNCHECKED)


def _instance(key: Key, before: Stood | None, after: Stood | None, ill: str) -> Told | None:
    """`ill`: why it was not healthy at last, of one that went."""
    name, more = _instance_name(key)
    if not isinstance(after, Instance):
        drained = isinstance(before, Instance) and before.state == "draining" and not ill
        agent = before.agent if isinstance(before, Instance) else ""
        text = f"{name} went{', drained' * drained}{f', from {agent}' if agent else ''}"
        text += f"; it was unhealthy: {ill[:MOST_REASON]}" if ill else ""
        return Told("instance", name, "went", text, {**more, "agent": agent, "why": ill})
    more = {**more, "agent": after.agent}
    if not isinstance(before, Instance):
        place = f"[{after.address}]" if ":" in after.address else after.address
        facts = [f"{place}:{after.port}", after.version, after.zone and f"zone {after.zone}"]
        facts += [after.agent and f"on {after.agent}", "draining" * (after.state == "draining")]
        return Told("instance", name, "came", f"{name} came: {', '.join(filter(None, facts))}", more)
    changed = {
        field: (getattr(before, field), getattr(after, field))
        for field in after.__struct_fields__
        if getattr(before, field) != getattr(after, field)
    }
    if not changed:
        return None
    said = ", ".join(
        f"{field} {was if was != '' else '-'} → {now if now != '' else '-'}" for field, (was, now) in changed.items()
    )
    more["fields"] = {field: {"from": was, "to": now} for field, (was, now) in changed.items()}
    return Told("instance", name, "changed", f"{name} changed: {said}", more)


def _agent(key: Key, before: Stood | None, after: Stood | None) -> Told | None:
    more = {"host": key.first}
    if not isinstance(after, Agent):
        orderly = isinstance(before, Agent) and before.stopping
        how = "went, in order" if orderly else "is gone, without a word"
        return Told("agent", key.first, "went" if orderly else "lost", f"the agent of {key.first} {how}", more)
    if not isinstance(before, Agent) or before.boot != after.boot:
        text = f"the agent of {key.first} came: {after.address}, {after.version or 'of a version that it does not say'}"
        return Told("agent", key.first, "came", text, {**more, "version": after.version})
    if after.stopping and not before.stopping:
        return Told("agent", key.first, "stopping", f"the agent of {key.first} is stopping", more)
    return None if before == after else Told("agent", key.first, "changed", f"the agent of {key.first} says more", more)


def _refusal(key: Key, before: Stood | None, after: Stood | None) -> Told:
    name = _document_name(key)
    more: dict[str, Any] = {"document": name}
    if not isinstance(after, Rejection):
        return Told("refused", name, "mended", f"{name} is refused no more", more)
    stays = {0: "nothing stays in force", -1: "nobody knows what was in force"}.get(
        after.last_good, f"that of revision {after.last_good} stays in force"
    )
    text = f"{name} of revision {after.revision} is refused: {after.path}: {after.reason}; {stays} (says {after.agent})"
    more |= {"path": after.path, "reason": after.reason, "refused": after.revision, "last_good": after.last_good}
    return Told("refused", name, "refused", text, {**more, "agent": after.agent})


def _held(key: Key, after: Stood | None) -> Told:
    name = _document_name(key)
    if not isinstance(after, Held):
        return Told("policy", name, "held_no_more", f"{name} is held no more", {"document": name})
    text = f"{name} of revision {after.revision} is held in force, against what etcd says: {after.reason}"
    return Told("policy", name, "held", text, {"document": name, "held": after.revision, "reason": after.reason})


def _mesh(key: Key, change: Change, before: Stood | None) -> Told:
    name = f"{key.room.value}/{key.first}{f'/{key.second}' if key.second else ''}"
    if change.value is None:
        return Told("mesh", name, "removed", f"{name} was removed", {"key": name})
    how = "put" if before is None else "changed"
    return Told("mesh", name, how, f"{name} was {how}{_by(key, change.value)}", {"key": name})


def _by(key: Key, value: bytes) -> str:
    """Who says so, where that is told."""
    if key.room is not Room.CONFIRMED:
        return ""
    try:
        record = decode(Layout if key.first == HOSTS else Confirmed, value)
    except Malformed as error:
        return f", and cannot be read: {error}"
    by = getattr(record, "by", "")
    return f", by {by[:MOST_REASON]}" if by else ""
