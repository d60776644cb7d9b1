"""What agents will say of `authz` documents whose modules stand in documents of their own, judged as they judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from agent.cli.failure import Failure

if TYPE_CHECKING:
    from agent.cli.documents import Source
    from agent.rego.together import Part
    from policies.language.document import Invalid

Place: TypeAlias = tuple[str, str]
"""A kind, and a pattern."""


def refused(
    texts: Mapping[Place, bytes], touched: Collection[Place], watched: Mapping[str, bytes] | None = None
) -> Iterator[tuple[bool, Invalid]]:
    """Those that cannot be put together, of those that are touched or name what is; and whether each is only watched.
    `texts`: all documents under `policies/`, as they will stand. `watched`: those of the kind under `audits/` that are
    touched. What is refused for itself is not told of here."""
    from agent.rego.together import AUTHZ, REGO

    bundles = {service for kind, service in touched if kind == REGO}
    for (kind, service), text in sorted(texts.items()):
        if kind == AUTHZ and (found := _wrong(service, text, texts, bundles, due=(kind, service) in touched)):
            yield False, found
    for service, text in sorted((watched or {}).items()):
        if found := _wrong(service, text, texts, bundles, due=True):
            yield True, found


def check(
    held: Mapping[Place, bytes], puts: Collection[Source], pruned: Collection[Place] = (), done: str = "nothing was put"
) -> None:
    """That what will stand can be put together. Raises Failure."""
    from agent.rego.together import AUTHZ

    texts = {place: text for place, text in held.items() if place not in pruned}
    texts |= {(each.kind, each.service): each.text for each in puts if not each.watched}
    watched = {each.service: each.text for each in puts if each.watched and each.kind == AUTHZ}
    touched = {(each.kind, each.service) for each in puts if not each.watched} | set(pruned)
    found = [f"{'audits/' * aside}{each}" for aside, each in refused(texts, touched, watched)]
    if found:
        raise Failure(f"{done}: {'; '.join(found[:5])}")


def _wrong(
    service: str, text: bytes, texts: Mapping[Place, bytes], bundles: Collection[str], *, due: bool
) -> Invalid | None:
    if b"bundles" not in text:
        return None
    from agent.rego.proving import prove
    from agent.rego.together import AUTHZ, named, put_together
    from policies.catalogue import parse
    from policies.language.document import Invalid
    from policies.language.plain import as_json
    from registry.store import Change

    whole = named(Change("", text, 0), parse(AUTHZ, service, text), as_json(text))
    if whole is None or not (due or any(name in bundles for name in whole.bundles)):
        return None
    made = put_together(service, whole, lambda name: _part(texts, name))
    if isinstance(made, Invalid):
        return made
    assert made.value is not None
    found = prove(AUTHZ, service, parse(AUTHZ, service, made.value))
    return found if isinstance(found, Invalid) else None


def _part(texts: Mapping[Place, bytes], name: str) -> Part | None:
    from agent.rego.together import REGO, Part
    from policies.catalogue import parse
    from policies.kinds.rego.document import Bundle

    text = texts.get((REGO, name))
    document = parse(REGO, name, text) if text is not None else None
    return Part(0, document) if isinstance(document, Bundle) else None
