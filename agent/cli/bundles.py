"""What agents will say of `authz` documents whose modules stand in documents of their own, judged as they judge.

Law: what is wrong is said where somebody can mend it: in the file, else under the key in etcd, and for a module of a
bundle in the bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from agent.cli.documents import Problem, Source, read, siblings
from agent.cli.failure import Failure

if TYPE_CHECKING:
    from agent.rego.together import Part
    from policies.language.document import Invalid

Place: TypeAlias = tuple[str, str]
"""A kind, and a pattern."""
Texts: TypeAlias = Mapping[Place, bytes]
"""Documents under `policies/`."""
AUTHZ, REGO = "authz", "rego"
MOST_TOLD = 5


def refused(
    texts: Texts, touched: Collection[Place], watched: Mapping[str, bytes] | None = None
) -> Iterator[tuple[bool, Invalid]]:
    """Those that cannot be put together, of those that are touched or name what is; and whether each is only watched.
    `texts`: all documents under `policies/`, as they will stand. `watched`: those of the kind under `audits/` that are
    touched. What is refused for itself is not told of here."""
    bundles = {service for kind, service in touched if kind == REGO}
    for (kind, service), text in sorted(texts.items()):
        due = kind == AUTHZ and ((kind, service) in touched or not bundles.isdisjoint(named_by(text)))
        if due and (found := _wrong(service, text, texts)):
            yield False, found
    for service, text in sorted((watched or {}).items()):
        if found := _wrong(service, text, texts):
            yield True, found


def problems(
    held: Texts, puts: Collection[Source], pruned: Collection[Place] = (), beside: Iterable[Source] = ()
) -> list[Problem]:
    """What could not be put together of what will stand, each where it is to be mended. `beside`: files of what is
    held."""
    texts = {place: text for place, text in held.items() if place not in pruned}
    texts |= {(each.kind, each.service): each.text for each in puts if not each.watched}
    watched = {each.service: each.text for each in puts if each.watched and each.kind == AUTHZ}
    touched = {(each.kind, each.service) for each in puts if not each.watched} | set(pruned)
    files = {(each.watched, each.kind, each.service): each.place for each in (*beside, *puts)}

    def place(aside: bool, kind: str, service: str) -> str:
        return files.get((aside, kind, service)) or f"{'audits' if aside else 'policies'}/{kind}/{service}"

    found = []
    for aside, invalid in refused(texts, touched, watched):
        at, path, reason = place(aside, AUTHZ, invalid.key), invalid.path, invalid.reason
        text = watched[invalid.key] if aside else texts[AUTHZ, invalid.key]
        for bundle, there, below in _in_bundles(texts, named_by(text)):
            if path.startswith(there):
                reason = f"{reason} (with {at})"
                at, path = place(False, REGO, bundle), below + path.removeprefix(there)
                break
        found.append(Problem(at, path, reason))
    return list(dict.fromkeys(found))


def check(held: Texts, puts: Collection[Source], pruned: Collection[Place] = ()) -> None:
    """That what will stand can be put together. Raises Failure."""
    if found := problems(held, puts, pruned):
        raise Failure(f"nothing was put: {'; '.join(map(str, found[:MOST_TOLD]))}")


def named_by(text: bytes) -> tuple[str, ...]:
    """The bundles that an `authz` document names, also one that is refused for something else."""
    if b"bundles" not in text:
        return ()
    from policies.language.plain import Flaw, load

    try:
        content = load(text)
    except Flaw:
        return ()
    rego = content.get("rego") if isinstance(content, dict) else None
    names = rego.get("bundles") if isinstance(rego, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


# Files that were not given.


def around(files: Iterable[Path], given: Sequence[Source]) -> tuple[list[Source], list[Problem]]:
    """Bundles, and documents that name them, in files beside those that are given; what is given counts for itself. A
    bundle that stands there twice is a problem: nobody could tell which one will count."""
    known = {(each.watched, each.kind, each.service) for each in given}
    found: dict[Place, Source] = {}
    twice: list[Problem] = []
    for source in read(siblings(files))[0]:
        place = (source.kind, source.service)
        if source.kind not in (AUTHZ, REGO) or source.watched or (False, *place) in known:
            continue
        earlier = found.setdefault(place, source)
        if earlier is not source and source.kind == REGO:
            reason = f"{source.kind}/{source.service} stands in {earlier.place} too; give the one that counts"
            twice.append(Problem(source.place, "$", reason))
    return list(found.values()), twice


def whole(around: Iterable[Source], texts: Texts) -> Texts:
    """Of what stands beside, the texts; without documents whose bundles are not all there: nobody asked for them."""
    found = {(each.kind, each.service): each.text for each in around}
    there = {service for kind, service in {**texts, **found} if kind == REGO}
    return {at: text for at, text in found.items() if at[0] != AUTHZ or there.issuperset(named_by(text))}


def missing(given: Iterable[Source], around: Iterable[Source]) -> list[tuple[Source, str]]:
    """Documents that are given, each with a bundle that stands in none of the files."""
    given = list(given)
    there = {each.service for each in (*given, *around) if each.kind == REGO and not each.watched}
    return [(each, name) for each in given if each.kind == AUTHZ for name in named_by(each.text) if name not in there]


def concerned(sources: Iterable[Source]) -> bool:
    """Whether any of this is to be asked of them."""
    return any(each.kind == REGO or (each.kind == AUTHZ and named_by(each.text)) for each in sources)


# Removing.


def users(name: str, policies: Texts, audits: Texts) -> list[str]:
    """Keys of documents that name a bundle, in force or watched."""
    from policies.language.document import says_audit

    rooms = (("", policies), ("audits/", audits))
    return [
        f"{room}{kind}/{service}{' (watched)' if not room and says_audit(text) else ''}"
        for room, texts in rooms
        for (kind, service), text in sorted(texts.items())
        if kind == AUTHZ and name in named_by(text)
    ]


def _wrong(service: str, text: bytes, texts: Texts) -> Invalid | None:
    if b"bundles" not in text:
        return None
    from agent.rego.proving import prove
    from agent.rego.together import named, put_together
    from policies.catalogue import parse
    from policies.language.document import Invalid
    from policies.language.plain import as_json
    from registry.store import Change

    document = parse(AUTHZ, service, text)
    if isinstance(document, Invalid):
        return None
    found = named(Change("", text, 0), document, as_json(text))
    if found is None or any((REGO, name) in texts and _part(texts, name) is None for name in found.bundles):
        return None  # of a bundle that is refused what was good stays, and only agents know it
    made = put_together(service, found, lambda name: _part(texts, name))
    if isinstance(made, Invalid):
        return made
    assert made.value is not None
    proved = prove(AUTHZ, service, parse(AUTHZ, service, made.value))
    return proved if isinstance(proved, Invalid) else None


def _part(texts: Texts, name: str) -> Part | None:
    from agent.rego.together import Part
    from policies.catalogue import parse
    from policies.kinds.rego.document import Bundle

    text = texts.get((REGO, name))
    document = parse(REGO, name, text) if text is not None else None
    return Part(0, document) if isinstance(document, Bundle) else None


def _in_bundles(texts: Texts, names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Bundle by bundle, where its modules stand when they are put together, and where they stand in it."""
    from policies.language.plain import below

    for name in names:
        part = _part(texts, name)
        for module in part.document.modules if part is not None else ():
            yield name, below("$.rego", "modules", f"{name}/{module}"), below("$", "modules", module)
