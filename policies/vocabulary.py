"""What documents of a kind may say: the fields of each object in them, and the words that some fields take.

Derived from the documents' types, and plain enough to be published: an agent tells in etcd what its version knows, and
commands say which agents do not know what a document uses. A path is that of a document with `[]` for any element of a
list and `.*` for any entry of a map: `$.limits[].burst`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from policies.catalogue import BY_NAME
from policies.language.plain import below

MOST_UNKNOWN: Final = 20
"""Paths that are told of a document."""
EXTRAS: Final = {"cel": "cel_expr_python", "rego": "regopy"}
"""Packages that an agent may have besides, by the extra of `shoal-mesh` that brings them, with a module of theirs."""
_STEP: Final = re.compile(r"\[\]|\.[^.\[]+")
_DEPTH: Final = 32
"""Of a document's types, which may contain themselves."""


class Vocabulary(msgspec.Struct, frozen=True):
    """Of one kind, in one version. What a newer version tells besides is ignored."""

    fields: dict[str, tuple[str, ...]]
    """By the path of an object."""
    words: dict[str, tuple[str, ...]] = {}
    """By the path of a text that is one of these."""


@cache
def vocabulary(kind: str) -> Vocabulary:
    """Of a kind in this version. Raises KeyError."""
    fields: dict[str, tuple[str, ...]] = {}
    words: dict[str, tuple[str, ...]] = {}
    for path, found in _walk(inspect.type_info(BY_NAME[kind].document), "$", 0):
        if isinstance(found, inspect.StructType):
            fields[path] = tuple(field.encode_name for field in found.fields)
        elif all(isinstance(value, str) for value in found.values):
            words[path] = tuple(str(value) for value in found.values)
    return Vocabulary(fields, words)


def unknown(document: Any, theirs: Vocabulary, ours: Vocabulary | None = None) -> list[str]:
    """What of a document, as plain data, a vocabulary does not have: `$.limits[].burst`, or `$.algorithm: 'maglev'`.
    `ours` knows more: what is an object by it, and is none in the other, is not known there."""
    found = dict.fromkeys(_unknown(document, "$", theirs, ours or theirs))
    return list(found)[:MOST_UNKNOWN]


def extras(kind: str, document: Any) -> dict[str, str]:
    """Which packages a document, as plain data, needs besides what every agent has: by the path of what needs them."""
    found = {}
    for path, extra in _needs(kind):
        if any(_found(document, _STEP.findall(path))):
            found[path] = extra
    return found


@cache
def _needs(kind: str) -> tuple[tuple[str, str], ...]:
    return tuple(_needing(inspect.type_info(BY_NAME[kind].document), "$", 0)) if kind in BY_NAME else ()


def _needing(kind: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Where types say that a package is needed."""
    if depth > _DEPTH:
        return
    if isinstance(kind, inspect.Metadata):
        extra = (kind.extra or {}).get("needs")
        if extra:
            yield path, extra
        yield from _needing(kind.type, path, depth)
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from _needing(field.type, below(path, field.encode_name), depth + 1)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _needing(one, path, depth)
    elif isinstance(kind, inspect.DictType):
        yield from _needing(kind.value_type, f"{path}.*", depth + 1)
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
        yield from _needing(kind.item_type, f"{path}[]", depth + 1)


def _found(value: Any, steps: list[str]) -> Iterator[bool]:
    """Whether something stands at each place that a path leads to."""
    if not steps:
        yield bool(value)
    elif steps[0] in ("[]", ".*"):
        inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        for each in inner:
            yield from _found(each, steps[1:])
    elif isinstance(value, dict) and steps[0][1:] in value:
        yield from _found(value[steps[0][1:]], steps[1:])


def _walk(kind: Any, path: str, depth: int) -> Iterator[tuple[str, inspect.StructType | inspect.LiteralType]]:
    """Every object and every choice of words in a type."""
    if depth > _DEPTH:
        return
    if isinstance(kind, inspect.Metadata):
        yield from _walk(kind.type, path, depth)
    elif isinstance(kind, inspect.StructType):
        yield path, kind
        for field in kind.fields:
            yield from _walk(field.type, below(path, field.encode_name), depth + 1)
    elif isinstance(kind, inspect.UnionType):
        plain = any(isinstance(one, inspect.StrType) for one in map(_bare, kind.types))
        for one in kind.types:
            if not (plain and isinstance(_bare(one), inspect.LiteralType)):  # any text will do beside the words
                yield from _walk(one, path, depth)
    elif isinstance(kind, inspect.DictType):
        yield from _walk(kind.value_type, f"{path}.*", depth + 1)
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
        yield from _walk(kind.item_type, f"{path}[]", depth + 1)
    elif isinstance(kind, inspect.LiteralType):
        yield path, kind


def _bare(kind: Any) -> Any:
    return _bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _unknown(value: Any, path: str, theirs: Vocabulary, ours: Vocabulary) -> Iterator[str]:
    if isinstance(value, list):
        for element in value:
            yield from _unknown(element, f"{path}[]", theirs, ours)
    elif isinstance(value, dict) and path in theirs.fields:
        for name, inner in value.items():
            if name in theirs.fields[path]:
                yield from _unknown(inner, below(path, name), theirs, ours)
            else:
                yield below(path, name)
    elif isinstance(value, dict) and path in ours.fields:
        yield path
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _unknown(inner, f"{path}.*", theirs, ours)
    elif isinstance(value, str) and value not in theirs.words.get(path, (value,)):
        yield f"{path}: {value[:60]!r}"
