"""Which policies are in force, whatever stands in etcd. Pure.

Law 3 of the mesh, and the only mechanism for it
- A refused document changes nothing: what was good last stays in force, also where that was no document.
- Every agent enforces the same, whether it saw the good state or came later. So the last good state of a key is kept
  in etcd (`last_good/`), and what a key's own revisions prove counts without it: the first document under a key
  followed none.
- An agent that cannot learn the state of a key refuses requests where the kind says so (`fails_closed`), and takes any
  other kind as absent. It says which key, and mends itself once somebody tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from agent.control.mesh.distrust.holding import Document as HeldDocument
from agent.control.mesh.documents.reading import Read
from agent.frames import PolicyFrame
from agent.rego.together import AUTHZ, REGO, Named, Part, Together, named, put_together
from policies.catalogue import BY_NAME
from policies.kinds.health.document import HealthPolicy
from policies.kinds.rego.document import Bundle
from policies.kinds.tls import decide as tls
from policies.kinds.tls.document import Origin, TlsPolicy
from policies.language.document import Document, Invalid
from policies.language.names import candidates
from registry.keys import Keys
from registry.records import LastGood, encode
from registry.store import Change

Place: TypeAlias = tuple[str, str]
"""A kind, and a pattern."""
NOT_FOR_WORKERS: Final = frozenset({"health", "rego", "scale", "webhook"})
"""Kinds that control acts on by itself."""
KEPT: Final = NOT_FOR_WORKERS | {"authn", "export", "ratelimit", "shadow", "tls"}
"""Kinds that control acts on: it does not read them again."""
KEY: Final = "key"
"""In place of the path in a document: what is wrong is the key."""
AFTER_ALL: Final = 1 << 62
"""In place of a revision: later than any."""
NOT_KNOWN: Final = -1
"""In place of the revision of a last good document."""


class Policy(msgspec.Struct, frozen=True):
    """A document in force."""

    revision: int
    text: bytes
    """As JSON, so that workers do not parse YAML again for each service that it covers."""
    document: Document | None = None
    """Kept for the kinds that control acts on."""
    created: int = 0
    """When the life of its key began; 0: not known."""
    audit: bool = False
    """Whether it is only watched."""
    written: Change | None = None
    """What stands in etcd, where it has to be put together (`together`)."""


class Refused(msgspec.Struct, frozen=True):
    """A policy that is not in force, and why."""

    path: str
    reason: str
    revision: int
    last_good: int
    """Revision of the document that stays in force; 0: there was none; NOT_KNOWN."""
    created: int = 0
    """When the life of its key began; 0: not known."""
    value: bytes = b""
    """As it stands, where the last good state is not known."""
    key: str = ""
    """As it is spelled in etcd."""


def policy_of(kind: str, change: Change, document: Document, text: bytes) -> Policy:
    """A good document. `text`: as JSON."""
    kept = document if kind in KEPT else None
    return Policy(change.revision, text, kept, change.created, document.mode == "audit")


def applies_at_every_level(kind: str) -> bool:
    """Whether the documents of all levels apply together."""
    return kind in BY_NAME and BY_NAME[kind].every_level


def together(levels: Sequence[PolicyFrame]) -> PolicyFrame:
    """What applies to a service of one kind; the most specific first, and only that one unless every level counts."""
    first, *wider = levels
    return msgspec.structs.replace(first, wider=tuple(wider)) if wider else first


class Standing(NamedTuple):
    """What `last_good/` says of a policy, and as of which revision."""

    record: LastGood
    revision: int


class State(Enum):
    """Where what is in force in place of a refused document comes from."""

    HELD = "what this agent has in force"
    RECORDED = "what last_good/ says"
    ABSENT = "there was no document"
    UNKNOWN = "nobody here can tell"


def state_before(refused: Change, *, held: int | None, was_absent: bool, recorded: LastGood | None) -> State:
    """The last good state before a refused document.

    `held`: revision of the document that this agent has in force. `was_absent`: it knows that there was none before
    another refused one in the same life of the key. `recorded`: a state that this agent can enforce. What is older than
    the life of the key was deleted since, and counts no more; of the others the youngest does.
    """
    born = refused.created
    if born and born == refused.revision:
        return State.ABSENT
    if held is not None and held < born:
        held = None
    if recorded is not None and (recorded.revision < born or recorded.revision > refused.revision):
        recorded = None
    if recorded is not None and (held is None or recorded.revision > held):
        return State.RECORDED if recorded.document else State.ABSENT
    if held is not None:
        return State.HELD
    return State.ABSENT if was_absent else State.UNKNOWN


class InForce:
    """Every policy of a mesh."""

    def __init__(self, read: Callable[[str, str, bytes], Read], changed: Callable[[str, str, int], None]) -> None:
        """`read` gives the document in a value. `changed` hears of a kind and a pattern that another state is in force
        for, and how many documents more there are."""
        self._read = read
        self._changed = changed
        self.policies: dict[str, dict[str, Policy]] = {}
        """By kind and pattern."""
        self.enforced: dict[str, dict[str, Policy]] = {}
        """Of these, what is enforced ..."""
        self.watched: dict[str, dict[str, Policy]] = {}
        """... and what is only watched: neither stands in for the other."""
        self.refused: dict[Place, Refused] = {}
        self.closed: dict[str, dict[str, str]] = {}
        """What refuses requests because nobody knows what it should say, and why; by kind and pattern."""
        self.recorded: dict[Place, Standing] = {}
        self._found: dict[Place, LastGood] = {}
        """What etcd's history told."""
        self.held: Container[Place] = ()
        """What is in force though etcd says otherwise: `held/` tells of it (see `distrust.holding`)."""
        self._moved: set[Place] = set()
        """Where `last_good/` may have to say something else."""
        self.together = Together()
        """Documents that count with others put in."""
        self.followers = [self.together]
        """Who hears that another bundle is in force."""

    # The way of a change.

    def take(self, kind: str, pattern: str, change: Change) -> None:
        """What stands under a policy's key is another, or nothing any more."""
        if change.value is None:
            self.together.take(kind, pattern, None)
            self._forget_refusal(kind, pattern)
            self._put(kind, pattern, None)
            return
        document, text = self._read(kind, pattern, change.value)
        if self.together.take(kind, pattern, named(change, document, text)):
            return  # the rest of the revision may say what belongs to it
        if isinstance(document, Invalid):
            self._refuse(kind, pattern, change, document.path, document.reason)
            return
        self._forget_refusal(kind, pattern)
        self._put(kind, pattern, policy_of(kind, change, document, text))

    def settle(self) -> None:
        """Everything of a revision has been taken: put together what belongs together."""
        for pattern, whole in self.together.due():
            self._settle(pattern, whole)

    def _settle(self, pattern: str, whole: Named) -> None:
        made = put_together(pattern, whole, self.part)
        wrong = made if isinstance(made, Invalid) else None
        if isinstance(made, Change):
            assert made.value is not None
            document, text = self._read(AUTHZ, pattern, made.value)
            if isinstance(document, Document):
                policy = msgspec.structs.replace(policy_of(AUTHZ, made, document, text), written=whole.change)
                self._forget_refusal(AUTHZ, pattern)
                if policy != self.policies.get(AUTHZ, {}).get(pattern):
                    self._put(AUTHZ, pattern, policy)
                return
            wrong = document
        assert wrong is not None
        self._refuse(AUTHZ, pattern, whole.change, wrong.path, wrong.reason)

    def part(self, name: str) -> Part | None:
        """A bundle in force."""
        policy = self.enforced.get(REGO, {}).get(name)
        return Part(policy.revision, policy.document) if policy and isinstance(policy.document, Bundle) else None

    def take_misnamed(self, spelled: Place, change: Change, reason: str) -> None:
        """A document whose key names nothing: nothing was in force before it, and nothing is."""
        if change.value is None:
            self.refused.pop(spelled, None)
        else:
            self.refused[spelled] = Refused(KEY, reason, change.revision, 0, change.created, key=change.key)

    def record(self, kind: str, pattern: str, standing: Standing | None) -> None:
        """What `last_good/` says is another, or nothing any more."""
        place = kind, pattern
        self._moved.add(place)
        if standing is None:
            self.recorded.pop(place, None)
            return
        known = self.recorded.get(place)
        self.recorded[place] = standing
        if known is None or known.record != standing.record:
            self._refuse_again(place)

    def find(self, kind: str, pattern: str, record: LastGood) -> None:
        """What etcd's history says of a policy whose last good state nobody had told."""
        place = kind, pattern
        self._found[place] = record
        self._refuse_again(place)

    def _refuse_again(self, place: Place) -> None:
        if self.together.holds(*place):
            self.together.again(place[1])
            return
        refused = self.refused.get(place)
        if refused is not None:
            change = Change(refused.key, refused.value, refused.revision, refused.created)
            self._refuse(*place, change, refused.path, refused.reason)

    def _refuse(self, kind: str, pattern: str, change: Change, path: str, reason: str) -> None:
        place = kind, pattern
        self._moved.add(place)
        held = self.policies.get(kind, {}).get(pattern)
        before = self.refused.get(place)
        knew_absent = before is not None and before.last_good == 0 and before.revision >= change.created
        recorded = self._enforceable(place)
        together = self.together.holds(kind, pattern)
        state = state_before(
            change._replace(revision=AFTER_ALL) if together else change,
            held=held.revision if held is not None else None,
            was_absent=knew_absent and held is None,
            recorded=recorded[0] if recorded is not None else None,
        )
        stays = held if state is State.HELD else None
        if state is State.RECORDED and recorded is not None:
            record, read = recorded
            assert isinstance(read.document, Document), "what is recorded was found good"
            stays = policy_of(kind, Change("", b"", record.revision), read.document, read.text)
        unknown = state is State.UNKNOWN
        last_good = NOT_KNOWN if unknown else stays.revision if stays is not None else 0
        value = change.value or b"" if unknown else b""
        self.refused[place] = Refused(path, reason, change.revision, last_good, change.created, value, change.key)
        why = f"{path}: {reason}; nothing that was put together before is known here" if together else _NOT_KNOWN
        closed = unknown and kind in BY_NAME and BY_NAME[kind].fails_closed
        self._close(kind, pattern, f"policies/{kind}/{pattern}{':' * together} {why}" if closed else "")
        if stays is not held:
            self._put(kind, pattern, stays)

    def _enforceable(self, place: Place) -> tuple[LastGood, Read] | None:
        """What is recorded, where this agent understands it (a newer one may have written it); else what was found."""
        standing = self.recorded.get(place)
        for record in (standing.record if standing is not None else None, self._found.get(place)):
            if record is not None:
                read = self._read(*place, record.document.encode()) if record.document else _NOTHING
                if not record.document or not isinstance(read.document, Invalid):
                    return record, read
        return None

    def _put(self, kind: str, pattern: str, policy: Policy | None) -> None:
        self._moved.add((kind, pattern))
        by_pattern = self.policies.setdefault(kind, {})
        before = by_pattern.pop(pattern, None)
        for known in (self.enforced, self.watched):
            known.setdefault(kind, {}).pop(pattern, None)
        if policy is not None:
            by_pattern[pattern] = policy
            (self.watched if policy.audit else self.enforced)[kind][pattern] = policy
        if policy is not before:
            self._changed(kind, pattern, (policy is not None) - (before is not None))
        if kind == REGO:
            for each in self.followers:
                each.moved(pattern)

    def _forget_refusal(self, kind: str, pattern: str) -> None:
        self._moved.add((kind, pattern))
        self._found.pop((kind, pattern), None)
        self.refused.pop((kind, pattern), None)
        self._close(kind, pattern, "")

    def _close(self, kind: str, pattern: str, why: str) -> None:
        """`why`: requests are refused; empty: they are not."""
        by_pattern = self.closed.setdefault(kind, {})
        if by_pattern.get(pattern, "") == why:
            return
        if why:
            by_pattern[pattern] = why
        else:
            del by_pattern[pattern]
        self._changed(kind, pattern, 0)

    # What is asked.

    def of(self, service: str, *, all_kinds: bool = False) -> dict[str, PolicyFrame]:
        """The most specific policy of each kind for a service, of those that are enforced, or word that nobody knows
        what it says; with the others where every level counts."""
        found: dict[str, PolicyFrame] = {}
        for kind in self.enforced.keys() | self.closed.keys():
            if kind in NOT_FOR_WORKERS and not all_kinds:
                continue
            policies, closed = self.enforced.get(kind, {}), self.closed.get(kind, {})
            levels: list[PolicyFrame] = []
            for pattern in candidates(service):
                if pattern in closed:
                    refused = self.refused[kind, pattern]
                    levels.append(PolicyFrame(pattern, refused.revision, b"", closed[pattern]))
                elif (policy := policies.get(pattern)) is not None:
                    levels.append(PolicyFrame(pattern, policy.revision, policy.text))
                if levels and not applies_at_every_level(kind):
                    break
            if levels:
                found[kind] = together(levels)
        return found

    def health_policy(self, service: str) -> HealthPolicy | None:
        """How instances of a service are checked when they say nothing themselves."""
        by_pattern = self.enforced.get("health", {})
        policy = next((by_pattern[pattern] for pattern in candidates(service) if pattern in by_pattern), None)
        return policy.document if policy is not None and isinstance(policy.document, HealthPolicy) else None

    def origin(self, service: str) -> Origin | None:
        """What instances of a service speak themselves, as far as documents say so."""
        by_pattern = self.enforced.get("tls", {})
        found = [(pattern, by_pattern[pattern]) for pattern in candidates(service) if pattern in by_pattern]
        levels = [
            tls.Level(pattern, policy.revision, policy.document)
            for pattern, policy in found
            if isinstance(policy.document, TlsPolicy)
        ]
        return tls.combine(levels).origin if levels else None

    def documents(self) -> Mapping[Place, HeldDocument]:
        """What is in force, or refuses requests because nobody knows what it should say."""
        return _Documents(self)

    def saved(self, keys: Keys) -> Iterator[tuple[str, bytes, int]]:
        """As `Table.saved`: what is good."""
        for kind, by_pattern in self.policies.items():
            for pattern, policy in by_pattern.items():
                text, revision = standing(policy)
                yield keys.policy(kind, pattern), text, revision
                if policy.written is not None and (kind, pattern) in self.refused:  # what it was made of may be gone
                    yield keys.last_good(kind, pattern), encode(cast(LastGood, self._should_say(kind, pattern))), 0

    def unknown(self) -> Mapping[Place, Refused]:
        """Refused policies whose last good state is not known."""
        return {place: refused for place, refused in self.refused.items() if refused.last_good == NOT_KNOWN}

    def unsettled(self, among: Iterable[Place] | None = None) -> dict[Place, LastGood | None]:
        """Where `last_good/` says something else than it should: what it should say, or None for nothing.

        Never what is older than what stands there: an agent of another version may know more. The cost is that of what
        has changed.
        """
        wanted: dict[Place, LastGood | None] = {}
        for place in list(self._moved if among is None else among):
            if place in self.held:
                self._moved.discard(place)
                continue
            standing = self.recorded.get(place)
            should = self._should_say(*place)
            if should is None:
                if standing is not None and place not in self.refused:
                    wanted[place] = None
            elif standing is None or _says_less(standing, should):
                wanted[place] = should
            if place not in wanted:
                self._moved.discard(place)
        return wanted

    def _should_say(self, kind: str, pattern: str) -> LastGood | None:
        policy = self.policies.get(kind, {}).get(pattern)
        if policy is not None:
            return LastGood(revision=policy.revision, document=policy.text.decode("utf-8", "replace"))
        refused = self.refused.get((kind, pattern))
        if refused is not None and refused.last_good == 0 and refused.created:
            return LastGood(revision=refused.created)
        return None


def standing(policy: Policy) -> tuple[bytes, int]:
    """What makes it be in force, and its revision: what stands in etcd, where that is what is."""
    written = policy.written
    return (policy.text, policy.revision) if written is None else (written.value or b"", written.revision)


def _says_less(standing: Standing, should: LastGood) -> bool:
    """A document weighs more than none: whoever says that there was none may not have understood it. What tells of a
    document that is younger than itself was written in another etcd."""
    record = standing.record
    if record.revision > standing.revision:
        return True
    return (record.revision, bool(record.document)) < (should.revision, bool(should.document))


_NOT_KNOWN: Final = "is refused, and what was in force before it is not known here; mend it, or delete it"
_NOTHING: Final = Read(Invalid("", "", "$", "there was no document"), b"")


class _Documents(Mapping[Place, HeldDocument]):
    """Looked up when it is asked for: of ten thousand policies a put of one asks for one."""

    def __init__(self, in_force: InForce) -> None:
        self._in_force = in_force

    def __getitem__(self, place: Place) -> HeldDocument:
        kind, pattern = place
        policy = self._in_force.policies.get(kind, {}).get(pattern)
        if policy is not None:
            text, revision = standing(policy)
            return HeldDocument(revision, text, policy.created)
        refused = self._in_force.refused[place]
        if refused.last_good != NOT_KNOWN:
            raise KeyError(place)
        return HeldDocument(refused.revision, refused.value, refused.created)

    def __iter__(self) -> Iterator[Place]:
        for kind, by_pattern in self._in_force.policies.items():
            for pattern in by_pattern:
                yield kind, pattern
        yield from self._only_unknown()

    def __len__(self) -> int:
        return sum(map(len, self._in_force.policies.values())) + len(self._only_unknown())

    def _only_unknown(self) -> list[Place]:
        policies = self._in_force.policies
        return [(kind, pattern) for kind, pattern in self._in_force.unknown() if pattern not in policies.get(kind, {})]
