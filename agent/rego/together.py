"""`authz` documents whose modules stand in documents of their own (`rego.bundles`) count with these put in. Pure.

Laws
- What is put together is a document like any other, with all modules inside: it is read, compiled, refused, kept as the
  last good one and sent as that. So a module that is broken replaces none that is good, wherever it stands, and agents
  that know nothing of bundles understand what `last_good/` says.
- All that one revision changes is put together as it is after it: the order of keys says nothing.
- It is as young as the youngest of its parts.
- What cannot be put together is refused, and what was before stays. That its key is new proves nothing of what was
  before: where nobody knows of a good state, no request passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from policies.kinds.authz.document import Authz
from policies.kinds.rego.document import Bundle
from policies.language.document import Document, Invalid
from policies.language.plain import MAX_DOCUMENT_BYTES, load
from registry.store import Change

AUTHZ: Final = "authz"
REGO: Final = "rego"


class Part(NamedTuple):
    """A bundle that is in force."""

    revision: int
    document: Bundle


Parts: TypeAlias = Callable[[str], Part | None]
"""By name; None where there is none in force."""


class Named(NamedTuple):
    """A document that names bundles, as it stands."""

    change: Change
    text: bytes
    """As JSON."""
    bundles: tuple[str, ...]


def named(change: Change, document: Document | Invalid, text: bytes) -> Named | None:
    """None: it names none."""
    if isinstance(document, Authz) and document.rego is not None and document.rego.bundles:
        return Named(change, text, document.rego.bundles)
    return None


def put_together(pattern: str, whole: Named, parts: Parts) -> Change | Invalid:
    """As if all of it had been written into one document, at the revision of its youngest part."""
    document: dict[str, Any] = load(whole.text)
    rego: dict[str, Any] = document["rego"]
    modules, data = dict(rego.get("modules") or {}), dict(rego.get("data") or {})
    revision = whole.change.revision
    for n, name in enumerate(whole.bundles):
        path = f"$.rego.bundles[{n}]"
        part = parts(name)
        if part is None:
            reason = f"policies/rego/{name} is not there; put it first, or both with `shoal apply`"
            return Invalid(AUTHZ, pattern, path, reason)
        revision = max(revision, part.revision)
        for what, into, more in (
            ("module", modules, {f"{name}/{module}": text for module, text in part.document.modules.items()}),
            ("data", data, part.document.data),
        ):
            twice = sorted(into.keys() & more.keys())
            if twice:
                return Invalid(AUTHZ, pattern, path, f"{what} {twice[0][:60]!r} of {name} is there already")
            into.update(more)
    del rego["bundles"]
    rego["modules"], rego["data"] = modules, data
    text = msgspec.json.encode(document)
    if len(text) > MAX_DOCUMENT_BYTES:
        reason = f"{len(text)} bytes with its bundles; at most {MAX_DOCUMENT_BYTES}"
        return Invalid(AUTHZ, pattern, "$.rego.bundles", reason)
    return Change(whole.change.key, text, revision, whole.change.created)


class Together:
    """Those of one room."""

    def __init__(self) -> None:
        self.named: dict[str, Named] = {}
        """By pattern."""
        self._due: set[str] = set()

    def holds(self, kind: str, pattern: str) -> bool:
        """Whether what stands under a key names bundles."""
        return kind == AUTHZ and pattern in self.named

    def take(self, kind: str, pattern: str, found: Named | None) -> bool:
        """Another document stands under a key. Returns whether it has to be put together first."""
        if kind != AUTHZ:
            return False
        if found is None:
            self.named.pop(pattern, None)
            self._due.discard(pattern)
            return False
        self.named[pattern] = found
        self._due.add(pattern)
        return True

    def again(self, pattern: str) -> None:
        """What was before is known by now, perhaps."""
        self._due.add(pattern)

    def moved(self, bundle: str) -> None:
        """Another one is in force, or none."""
        self._due.update(pattern for pattern, each in self.named.items() if bundle in each.bundles)

    def due(self) -> list[tuple[str, Named]]:
        """What has to be put together, once."""
        due, self._due = self._due, set()
        return [(pattern, self.named[pattern]) for pattern in sorted(due) if pattern in self.named]


class Stands(NamedTuple):
    """What is known already, to those that read ahead."""

    rooms: tuple[Mapping[str, Named], ...] = ({}, {})
    """Documents that name bundles, under `policies/` and under `audits/`."""
    parts: Parts = lambda name: None


class Changed(NamedTuple):
    """What one change will make of a document under `policies/` (`room` 0) or `audits/` (1)."""

    room: int
    kind: str
    pattern: str
    change: Change
    document: Document | Invalid | None
    """None: it is deleted."""
    text: bytes = b""


def ahead(puts: Iterable[Changed], stands: Stands) -> Iterator[tuple[str, str, bytes]]:
    """What will be put together when these have been taken, by kind, pattern and value: for whoever reads it before. A
    guess: a bundle that is refused then may have another last good state than is known now."""
    rooms = [dict(each) for each in stands.rooms]
    bundles: dict[str, Part | None] = {}
    due: set[tuple[int, str]] = set()
    for put in puts:
        if put.kind == REGO and put.room == 0 and not isinstance(put.document, Invalid):
            bundle = put.document
            bundles[put.pattern] = Part(put.change.revision, bundle) if isinstance(bundle, Bundle) else None
        elif put.kind == AUTHZ:
            found = named(put.change, put.document, put.text) if put.document is not None else None
            if found is None:
                rooms[put.room].pop(put.pattern, None)
            else:
                rooms[put.room][put.pattern] = found
                due.add((put.room, put.pattern))
    for room, each in enumerate(rooms):
        due |= {(room, pattern) for pattern, whole in each.items() if not bundles.keys().isdisjoint(whole.bundles)}
    for room, pattern in sorted(due):
        if pattern in rooms[room]:
            made = put_together(
                pattern, rooms[room][pattern], lambda name: bundles[name] if name in bundles else stands.parts(name)
            )
            if isinstance(made, Change):
                assert made.value is not None
                yield AUTHZ, pattern, made.value
