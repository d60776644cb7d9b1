"""What control itself has to record: policies that were put, removed or refused, with what changed; who may hold and do
what; what operators ask of this agent. Pure, but that it hands over.

Laws
- Every agent records what it sees, for itself: no agent's word is needed for what another one knows.
- Secrets are not recorded: not what stands in a field that is called like one, and not what programs are handed.
- What stood already when this agent was started first is not news. What came since its table was last on disk, before
  it was killed, is recorded again: better twice than never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from agent.control.mesh.table import Table
from agent.events import cut
from policies.language.plain import Flaw, load
from registry.keys import Keys, Room, Unknown
from registry.store import Change

Note = Callable[[str, Mapping[str, Any], Mapping[str, str] | None], None]
MOST_CHANGES: Final = 40
"""Fields that are told of one change."""
MAX_SHOWN: Final = 200
_SECRET: Final = ("secret", "token", "password", "authorization", "cookie", "credential", "api_key", "apikey", "digest")
_HIDDEN: Final = "[hidden]"
Texts = dict[str, bytes]


class SecurityRecords:
    """Of one agent."""

    def __init__(self, table: Table, keys: Keys, note: Note) -> None:
        self._table = table
        self._keys = keys
        self._note = note
        self._identity = f"{keys.prefix}identity/"
        self._known: Texts = {}
        """What stands under identity/, as it was heard last."""

    def before(self, changes: Sequence[Change]) -> Texts:
        """What is in force where something is about to change."""
        found: Texts = {}
        for change in changes:
            key = self._keys.parse(change.key)
            if not isinstance(key, Unknown) and key.room in (Room.POLICIES, Room.AUDITS):
                rooms = self._table.policies if key.room is Room.POLICIES else self._table.audits.policies
                known = rooms.get(key.first, {}).get(key.second)
                if known is not None:
                    found[change.key] = known.text
        return found

    def take(self, changes: Sequence[Change], before: Texts, *, whole: bool, known: int) -> None:
        """The table has taken changes. `whole`: they came with a snapshot; `known`: up to which revision all of etcd
        was known before, 0: nothing was."""
        for change in changes:
            if change.key.startswith(self._identity):
                self._of_identity(change, quiet=whole and (not known or change.revision <= known))
                continue
            key = self._keys.parse(change.key)
            if isinstance(key, Unknown) or key.room not in (Room.POLICIES, Room.AUDITS):
                continue
            if not known or (whole and change.revision <= known and change.value is not None):
                continue
            self._of_policy(change, key.room, (key.first, key.second), before.get(change.key, b""))

    def _of_policy(self, change: Change, room: Room, place: tuple[str, str], before: bytes) -> None:
        refusals = self._table.refused if room is Room.POLICIES else self._table.audits.refused
        refused = refusals.get(place)
        value = change.value or b""
        after = _plain(value)
        data: dict[str, Any] = {
            "kind": place[0],
            "service": place[1],
            "watched": room is Room.AUDITS,
            "revision": change.revision,
            "changed": list(_told(changes(_plain(before), after))),
        }
        personal = {}
        if isinstance(after, dict):
            for field in ("by", "reason"):
                if isinstance(after.get(field), str) and after[field]:
                    personal["person" if field == "by" else "stated_reason"] = cut(after[field], MAX_SHOWN)
        event = "policy.removed" if change.value is None else "policy.put"
        if refused is not None and refused.revision == change.revision:
            event = "policy.refused"
            data |= {"path": refused.path, "why": refused.reason}
        self._note(event, data, personal)

    def _of_identity(self, change: Change, *, quiet: bool) -> None:
        name = change.key.removeprefix(self._identity)
        before = self._known.get(name, b"")
        if change.value is None:
            self._known.pop(name, None)
        else:
            self._known[name] = change.value
        if quiet or before == (change.value or b""):
            return
        what, _, whom = name.partition("/")
        if what == "joins":
            whom = f"{whom[:12]}…"
        data = {
            "what": what,
            "whom": whom,
            "removed": change.value is None,
            "revision": change.revision,
            "changed": list(_told(changes(_plain(before), _plain(change.value or b"")))),
        }
        self._note(_IDENTITY.get(what, "identity.changed"), data, None)


_IDENTITY: Final = {
    "grants": "identity.granted",
    "hosts": "identity.host",
    "people": "identity.person",
    "joins": "identity.invited",
    "revocations": "identity.revoked",
    "issuers": "identity.issuer",
    "bundle": "identity.bundle",
    "trust": "identity.federated",
}


def changes(before: Any, after: Any, path: str = "$") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ: path, and what stood there before and after; None: nothing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from changes(before.get(name), after.get(name), f"{path}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for n, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, other, f"{path}[{n}]")
    elif before != after:
        yield path, before, after


def _told(found: Iterator[tuple[str, Any, Any]]) -> Iterator[dict[str, Any]]:
    for number, (path, before, after) in enumerate(found):
        if number >= MOST_CHANGES:
            yield {"path": "…"}
            return
        secret = any(word in path.lower() for word in _SECRET)
        yield {"path": path[:MAX_SHOWN], "before": _shown(before, secret), "after": _shown(after, secret)}


def _shown(value: Any, secret: bool) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if secret:
        return _HIDDEN
    if isinstance(value, dict | list):
        return cut(msgspec.json.encode(_without_secrets(value)).decode(), MAX_SHOWN)
    return cut(str(value), MAX_SHOWN)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(name): _HIDDEN if any(word in str(name).lower() for word in _SECRET) else _without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _plain(text: bytes) -> Any:
    """What a value says; what makes no sense, as text."""
    if not text:
        return None
    try:
        return load(text)
    except Flaw:
        return cut(text.decode("utf-8", "replace"), MAX_SHOWN)
