"""What stands in etcd of events: those still to be told, who tells them, and what has begun and not ended. Pure.

And which webhooks there are for what. Every agent keeps the same outbox, for all of them watch the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from agent.control.events.outbox.opened import Memories
from agent.control.events.outbox.pending import Pending, Standing
from agent.control.events.outbox.sources import Sources
from agent.control.mesh.table import Table
from policies.hashing import hash64
from policies.kinds.webhook.document import Hook, Webhook
from policies.kinds.webhook.event import BY_NAME, Effect
from policies.language.names import candidates, parse_pattern
from registry.keys import MESH_ID, OPENED, Key, Keys, Room
from registry.records import Claimed, Malformed, MeshId, decode
from registry.store import Change

REMEMBERED: Final = 20_000
_POLICIES: Final = ("policies/", "audits/")


class Documents(NamedTuple):
    """The webhooks of a pattern."""

    revision: int
    hooks: dict[str, Hook]
    audit: bool


class News(NamedTuple):
    """What has changed since it was asked last: by pattern, and event."""

    fresh: list[tuple[str, str]]
    noted: list[tuple[str, str]]
    """Of which more is known than before."""
    gone: list[tuple[str, str]]
    indexed: bool
    """Whether other patterns have webhooks: any event may be another's."""


class Outbox:
    """Fed by every change that the agent sees."""

    def __init__(self, keys: Keys, table: Table) -> None:
        self._keys = keys
        self._table = table
        self.events: dict[str, Standing] = {}
        """By id, in the order in which they came."""
        self.claims: dict[str, str] = {}
        """By pattern: the host whose agent tells."""
        self.conditions: dict[str, int] = {}
        """By subject: the revision at which it was put."""
        self.opened = Memories()
        self.mesh_id: str | None = None
        """What tells this mesh from others of its name; None where nobody has made it up yet."""
        self.sources = Sources(table.forms)
        self._seen: dict[str, None] = {}
        self._pending: dict[str, Pending] = {}
        self._of: dict[str, str] = {}
        """By event: whose it is, empty where no webhook is for it."""
        self._webhooks: dict[str, int] = {}
        self._documents: dict[str, Documents] = {}
        self._news = News([], [], [], False)

    def apply(self, changes: Iterable[Change]) -> bool:
        """Take changes; whether any of them is of this outbox."""
        touched = False
        events: dict[str, None] = {}
        for change in changes:
            key = self._keys.parse(change.key)
            if not isinstance(key, Key):
                continue
            if key.room is Room.EVENTS:
                self.sources.take(key, change)
                events[key.first] = None
            elif key.room is Room.CLAIMS:
                self._take_claim(key.first, change)
            elif key.room is Room.CONDITIONS:
                self._take_condition(key.first, change)
            else:
                touched |= key.room in (Room.POLICIES, Room.AUDITS) and key.first == "webhook"
                touched |= key.room is Room.CONFIRMED
                continue
            touched = True
        for id in events:
            self._settle_event(id)
        return touched

    @property
    def malformed(self) -> int:
        """Events that could not be read."""
        return self.sources.malformed

    def refresh(self) -> bool:
        """Look at the webhooks in force; whether there are other ones."""
        enforced = self._table.in_force.enforced.get("webhook", {})
        documents = {**self._table.audits.watched("webhook"), **enforced}
        webhooks = {pattern: policy.revision for pattern, policy in documents.items()}
        if webhooks == self._webhooks:
            return False
        self._webhooks = webhooks
        before = {pattern: known.audit for pattern, known in self._documents.items()}
        self._documents = {
            pattern: Documents(policy.revision, policy.document.hooks, pattern not in enforced)
            for pattern, policy in documents.items()
            if isinstance(policy.document, Webhook)
        }
        patterns = before != {pattern: known.audit for pattern, known in self._documents.items()}
        if patterns:
            self._pending, self._of = {}, {}
            for id, standing in self.events.items():
                self._file(id, standing)
            self._news = News([], [], [], True)
        return True

    def _file(self, id: str, standing: Standing) -> None:
        """Put it where who tells it finds it."""
        event = standing.event
        pattern = self._of.get(id)
        if pattern is None:
            pattern = self._of[id] = self.pattern_of(event.service, event.subject) or ""
        pending = self._pending.get(pattern)
        if pending is None:
            pending = self._pending[pattern] = Pending()
        (self._news.fresh if pending.put(id, standing) else self._news.noted).append((pattern, id))

    def _unfile(self, id: str) -> None:
        pattern = self._of.pop(id, None)
        if pattern is not None:
            self._pending[pattern].remove(id)
            self._news.gone.append((pattern, id))

    def take_news(self) -> News:
        """What has changed; asked after each change."""
        news, self._news = self._news, News([], [], [], False)
        return news

    def pending(self, pattern: str) -> Pending:
        """The events of a pattern that are still to be told; of the empty one, those that nobody wants."""
        return self._pending.get(pattern) or Pending()

    def _settle_event(self, id: str) -> None:
        """What the changes have made of an event, both parts of it taken."""
        if id in self.sources.entries:
            self._seen[id] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        standing = self.sources.standing(id)
        if standing is not None:
            self.events[id] = standing
            self._file(id, standing)
        elif self.events.pop(id, None) is not None:
            self._unfile(id)

    def _take_claim(self, pattern: str, change: Change) -> None:
        if change.value is None:
            self.claims.pop(pattern, None)
            return
        try:
            self.claims[pattern] = decode(Claimed, change.value).agent
        except Malformed:
            self.claims[pattern] = ""  # somebody's: only its deletion makes it free

    def _take_condition(self, subject: str, change: Change) -> None:
        if subject.startswith(OPENED):
            self.opened.take(subject, change)
        elif subject == MESH_ID:
            self._take_mesh_id(change)
        elif change.value is None:
            self.conditions.pop(subject, None)
        else:
            self.conditions[subject] = change.revision

    def _take_mesh_id(self, change: Change) -> None:
        try:
            self.mesh_id = decode(MeshId, change.value).id if change.value is not None else None
        except Malformed:
            self.mesh_id = ""  # whatever it is, it stays so

    def seen(self, id: str) -> bool:
        """Whether an event is there, or was not long ago."""
        return id in self._seen

    # Which webhooks.

    def documents(self) -> dict[str, Documents]:
        """Every webhook document in force, by pattern."""
        return self._documents

    def pattern_of(self, service: str, subject: str) -> str | None:
        """Whose webhooks an event is for: the most specific document wins whole, of those that are enforced; where
        there is none, of those in audit mode. None when there is neither."""
        for known in (self._table.in_force.enforced.get("webhook", {}), self._table.audits.watched("webhook")):
            if known:
                found = next((pattern for pattern in _patterns(service, subject) if pattern in known), None)
                if found is not None:
                    return found
        return None

    def cares(self, name: str, service: str, subject: str) -> bool:
        """Whether some webhook wants an event of a type, or has to know of it for what it closes."""
        pattern = self.pattern_of(service, subject)
        if pattern is None:
            return False
        documents = self._documents.get(pattern)
        if documents is None:
            return False
        names = frozenset[str]().union(*(hook.names() for hook in documents.hooks.values()))
        kind = BY_NAME[name]
        if name in names:
            return True
        closes = kind.effect in (Effect.CLOSES, Effect.ENDS)
        return closes and any(BY_NAME[other].subject == kind.subject for other in names)


def _patterns(service: str, subject: str) -> Sequence[str]:
    if service:
        return candidates(service)
    if subject.startswith(_POLICIES):
        pattern = subject.rpartition("/")[2]
        try:
            parse_pattern(pattern)
        except ValueError:
            return ("*",)
        return (pattern, "*") if "*" in pattern else candidates(pattern)
    return ("*",)


def rank(name: str, host: str, hosts: Iterable[str]) -> int:
    """How many of the live agents come before this one, for what is called `name`: the same order everywhere."""
    mine = hash64(f"{name}\0{host}")
    return sum(hash64(f"{name}\0{other}") > mine for other in hosts if other != host)
