"""Documents that nobody has put: what would be in force for services with them. Pure; nothing of the table is changed.

Laws
- They are judged by what judges those of etcd, and what is refused there is refused here, with its place.
- They have no revision, for nobody has put them: 0. One that says what is in force anyway is that one.
- Only services are told of for which something else would be in force, among those that a request may come to: the one
  that is asked for, and whom documents lead to from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from agent.control.mesh.documents.audits import Audits
from agent.control.mesh.documents.in_force import AFTER_ALL, InForce, Policy, Refused, together
from agent.control.mesh.documents.reading import Put, Read, read
from agent.control.mesh.table import Table
from agent.frames import PolicyFrame
from agent.questions import Supposed
from agent.rego.together import REGO
from policies.language.plain import Flaw
from registry.store import Change

MOST_SERVICES: Final = 64
"""That one request may come to."""
NONE: Final[Mapping[Put, Read]] = MappingProxyType({})


class Proposed(NamedTuple):
    """A document as it might be put."""

    kind: str
    pattern: str
    watched: bool
    """Under audits/."""
    text: bytes | None
    """None: it is taken away."""


class Mesh:
    """Documents of a table, with others in it."""

    def __init__(self, table: Table, documents: Sequence[Proposed], known: Mapping[Put, Read] = NONE) -> None:
        """`known`: what was read of them already. Raises Flaw for one that would be refused, with its place:
        `$.documents[0].text.rules[0]`."""

        def reading(kind: str, pattern: str, value: bytes) -> Read:
            return known.get((kind, pattern, value)) or read(kind, pattern, value)

        self._table = table
        self.in_force = InForce(reading, lambda *_: None)
        self.audits = Audits(self.in_force, reading, lambda *_: None)
        was = table.in_force
        for name in ("policies", "enforced", "watched", "closed"):
            setattr(self.in_force, name, {kind: dict(of) for kind, of in getattr(was, name).items()})
        self.in_force.refused = dict(was.refused)
        self.audits.policies = {kind: dict(of) for kind, of in table.audits.policies.items()}
        for number, each in enumerate(documents):
            self._take(f"$.documents[{number}]", each)

    def _take(self, place: str, each: Proposed) -> None:
        if each.kind == REGO:
            raise Flaw(
                f"{place}.kind", "bundles are not supposed: write modules into the authz document that names them"
            )
        change = Change("", each.text, AFTER_ALL, 1)
        if each.watched:
            self.audits.take(each.kind, each.pattern, change)
        else:
            self.in_force.take(each.kind, each.pattern, change)
        self.audits.settle()
        refused = (self.audits if each.watched else self.in_force).refused.get((each.kind, each.pattern))
        if each.text is not None and refused is not None:
            raise _flaw(place, refused)

    def supposed(self, service: str) -> list[Supposed]:
        """What would be other, for a request to a service."""
        found: list[Supposed] = []
        seen: set[str] = set()
        left = [service]
        while left and len(seen) < MOST_SERVICES:
            name = left.pop()
            if name in seen or name not in self._table.services:
                continue
            seen.add(name)
            was = self._table
            policies = _unput(self.in_force.of(name), was.in_force.enforced)
            audits = _unput(self.audits.of(name), was.audits.policies, was.in_force.watched)
            left += _named(policies.values())
            if policies != was.in_force.of(name) or audits != was.audits.of(name):
                found.append(Supposed(name, policies, audits))
        return found


def _unput(frames: Mapping[str, PolicyFrame], *known: Mapping[str, Mapping[str, Policy]]) -> dict[str, PolicyFrame]:
    """With revisions that there are. `known`: what is so, by kind and pattern; the first that says anything counts."""
    found: dict[str, PolicyFrame] = {}
    for kind, frame in frames.items():
        levels: list[PolicyFrame] = []
        for level in (msgspec.structs.replace(frame, wider=()), *frame.wider):
            if level.revision == AFTER_ALL:
                stands = next((of[kind][level.key] for of in known if level.key in of.get(kind, {})), None)
                same = stands is not None and stands.text == level.text
                level = msgspec.structs.replace(level, revision=stands.revision if stands is not None and same else 0)
            levels.append(level)
        found[kind] = together(levels)
    return found


def _flaw(place: str, refused: Refused) -> Flaw:
    return Flaw(f"{place}.text{refused.path.removeprefix('$')}", refused.reason)


def _named(frames: Iterable[PolicyFrame]) -> list[str]:
    """Services that documents lead to: what stands under `service` anywhere in them."""
    found: list[str] = []
    for frame in frames:
        for level in (frame, *frame.wider):
            if level.text:
                found += _services(msgspec.json.decode(level.text))
    return found


def _services(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "service" and isinstance(inner, str):
                yield inner
            else:
                yield from _services(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _services(inner)
