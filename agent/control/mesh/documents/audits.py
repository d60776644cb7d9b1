"""Documents that are only watched: those under `audits/`, and those under `policies/` that say so. Pure.

Laws
- They displace nothing that is enforced, and nothing that is enforced displaces them: of each kind the most specific
  one is watched, beside what is in force; where every level counts, all are. Of two for the same name the one under
  `audits/` is.
- A refused one replaces none that is good. It is not looked for what was good before, in no history and with nobody:
  what is not known is not watched, and that opens no door, whatever the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from agent.control.mesh.documents.in_force import (
    NOT_FOR_WORKERS,
    InForce,
    Place,
    Policy,
    Refused,
    applies_at_every_level,
    policy_of,
    standing,
    together,
)
from agent.control.mesh.documents.reading import Read
from agent.frames import PolicyFrame
from agent.rego.together import AUTHZ, Stands, Together, named, put_together
from policies.language.document import Invalid
from policies.language.names import candidates
from registry.keys import Keys
from registry.records import Rejection
from registry.store import Change


class Audits:
    """Of a mesh."""

    def __init__(
        self,
        in_force: InForce,
        read: Callable[[str, str, bytes], Read],
        changed: Callable[[str, str], None],
    ) -> None:
        """`read`: as of `InForce`. `changed` hears of a kind and a pattern that something else is watched for."""
        self._in_force = in_force
        self._read = read
        self._changed = changed
        self.together = Together()
        in_force.followers.append(self.together)
        self.policies: dict[str, dict[str, Policy]] = {}
        """Under `audits/`, by kind and pattern."""
        self.refused: dict[Place, Refused] = {}
        self.rejections: dict[Place, Rejection] = {}
        """What stands in etcd about refused ones, whoever wrote it."""

    def take(self, kind: str, pattern: str, change: Change) -> None:
        """What stands under a key is another, or nothing any more."""
        if change.value is None:
            self.together.take(kind, pattern, None)
            self.refused.pop((kind, pattern), None)
            self._put(kind, pattern, None)
            return
        document, text = self._read(kind, pattern, change.value)
        if not self.together.take(kind, pattern, named(change, document, text)):
            self._take(kind, pattern, change, change, Read(document, text))

    @property
    def stands(self) -> Stands:
        """What whoever reads ahead has to know."""
        return Stands((self._in_force.together.named, self.together.named), self._in_force.part)

    def settle(self) -> None:
        """Everything of a revision has been taken: put together what belongs together, what is enforced first."""
        self._in_force.settle()
        for pattern, whole in self.together.due():
            made = put_together(pattern, whole, self._in_force.part)
            if isinstance(made, Invalid):
                self._take(AUTHZ, pattern, whole.change, whole.change, Read(made, b""))
            else:
                assert made.value is not None
                self._take(AUTHZ, pattern, whole.change, made, self._read(AUTHZ, pattern, made.value))

    def _take(self, kind: str, pattern: str, written: Change, change: Change, read: Read) -> None:
        """`written`: what stands in etcd; `change`: what counts of it."""
        document, text = read
        if isinstance(document, Invalid):
            before = self.policies.get(kind, {}).get(pattern)
            good = before.revision if before is not None else 0
            self.refused[kind, pattern] = Refused(
                document.path, document.reason, written.revision, good, written.created, key=written.key
            )
            return
        self.refused.pop((kind, pattern), None)
        policy = policy_of(kind, change, document, text)
        self._put(kind, pattern, policy if change is written else msgspec.structs.replace(policy, written=written))

    def _put(self, kind: str, pattern: str, policy: Policy | None) -> None:
        by_pattern = self.policies.setdefault(kind, {})
        before = by_pattern.pop(pattern, None)
        if policy is not None:
            by_pattern[pattern] = policy
        if policy is not before:
            self._changed(kind, pattern)

    def holds(self, kind: str, pattern: str) -> bool:
        """Whether something stands under a key."""
        return pattern in self.policies.get(kind, {}) or (kind, pattern) in self.refused

    def watched(self, kind: str) -> Mapping[str, Policy]:
        """By pattern, every document of a kind that is not enforced. Of two for one pattern the one under `audits/`."""
        own, beside = self.policies.get(kind, {}), self._in_force.watched.get(kind, {})
        return {**beside, **own} if own else beside

    def of(self, service: str) -> dict[str, PolicyFrame]:
        """The most specific of each kind for a service; all of them where every level counts."""
        found: dict[str, PolicyFrame] = {}
        beside = self._in_force.watched
        for kind in (self.policies.keys() | beside.keys()) - NOT_FOR_WORKERS:
            watched = self.watched(kind)
            levels: list[PolicyFrame] = []
            for pattern in candidates(service) if watched else ():
                policy = watched.get(pattern)
                if policy is not None:
                    levels.append(PolicyFrame(pattern, policy.revision, policy.text))
                    if not applies_at_every_level(kind):
                        break
            if levels:
                found[kind] = together(levels)
        return found

    def saved(self, keys: Keys) -> Iterator[tuple[str, bytes, int]]:
        """As `Table.saved`."""
        for kind, by_pattern in self.policies.items():
            for pattern, policy in by_pattern.items():
                text, revision = standing(policy)
                yield keys.audit(kind, pattern), text, revision
