"""Expensive documents, from the types of a kind: for each of its fields some in which it is as large as it may be.

Some are refused, which has to be quick as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from policies.language.plain import MAX_DOCUMENT_BYTES

PATTERNS = ("(?:a?){1000}" * 40, r"\pL{1000}" * 50, "(?:a|b|c)*c[abc]{900}", "(a|b)?" * 80, "[[:alpha:]]{99}" * 30, "x")
ROOM = MAX_DOCUMENT_BYTES - 4096


def documents(kind: type[msgspec.Struct]) -> Iterator[tuple[str, bytes]]:
    """Each with the field that makes it expensive."""
    for path, document in _of_struct(inspect.type_info(kind), ROOM, ""):  # type: ignore[arg-type]
        for spelled in _spelled(document):
            yield path, spelled


def _spelled(document: Any) -> Iterator[bytes]:
    text = json.dumps(document, ensure_ascii=False).encode()
    if len(text) <= 2 * MAX_DOCUMENT_BYTES:
        yield text


def _of_struct(kind: inspect.StructType, room: int, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    needed = {field.encode_name: _small(field.type) for field in kind.fields if field.required}
    for field in kind.fields:
        for inner, value in _of(field.type, room, f"{path}.{field.encode_name}"):
            yield inner, {**needed, field.encode_name: value}


def _of(kind: Any, room: int, path: str) -> Iterator[tuple[str, Any]]:
    """Large values of a type."""
    if len(path) > 120 or room < 64:
        return
    if isinstance(kind, inspect.Metadata):
        yield from _of(kind.type, room, path)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _of(one, room, path)
    elif isinstance(kind, inspect.StructType):
        yield from _of_struct(kind, room, path)
    elif isinstance(kind, inspect.DictType):
        for inner, value in _of(kind.value_type, room // 50, f"{path}{{}}"):
            yield inner, _repeated_names(value, room)
        yield f"{path}{{}}", _repeated_names(_small(kind.value_type), room)
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
        for inner, value in _of(kind.item_type, room // 50, f"{path}[]"):
            yield inner, _repeated(value, room, kind.max_length)
        yield f"{path}[]", _repeated(_small(kind.item_type), room, kind.max_length)
    elif isinstance(kind, inspect.StrType):
        if path.endswith(".regex"):
            yield from ((path, pattern[: kind.max_length or 512]) for pattern in PATTERNS)
        elif path.endswith(".template"):
            yield path, "/{a}-{b}" * min(150, room // 8)
        else:
            yield from ((path, (piece * room)[: min(room, kind.max_length or room)]) for piece in ("/", "é"))
    elif isinstance(kind, inspect.IntType | inspect.FloatType):
        yield path, kind.le or 10**18
        yield path, kind.ge or 0


def _small(kind: Any) -> Any:
    """A small value of a type that is likely right."""
    if isinstance(kind, inspect.Metadata):
        return _small(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _small(kind.types[0])
    if isinstance(kind, inspect.StructType):
        return {field.encode_name: _small(field.type) for field in kind.fields if field.required}
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, inspect.DictType):
        return {}
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        return []
    if isinstance(kind, inspect.StrType):
        return "/a" if kind.pattern and kind.pattern.startswith("^/") else "GET" if kind.pattern else "a"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return kind.ge if kind.ge is not None else 1
    return isinstance(kind, inspect.BoolType) or None


def _repeated(value: Any, room: int, most: int | None) -> list[Any]:
    size = len(json.dumps(value, ensure_ascii=False)) + 2
    return [value] * max(1, min(room // size, most or room))


def _repeated_names(value: Any, room: int) -> dict[str, Any]:
    size = len(json.dumps(value, ensure_ascii=False)) + 12
    return {f"x-{n}": value for n in range(max(1, room // size))}
