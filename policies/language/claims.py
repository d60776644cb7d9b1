# mypyc: interpreted, because it looks at documents, and only for who asks about them
"""Where a document names a claim: those of `match`, of conditions in CEL, and what tells users apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from policies.language.plain import below

CEL_TEXT: Final = re.compile(r'[rR]?"(?:[^"\\\n]|\\.)*"|[rR]?\'(?:[^\'\\\n]|\\.)*\'')
_CLAIMS: Final = re.compile(r"(?<![.\w])claims\b")


def bare(condition: str) -> str:
    """A condition in CEL with its texts taken out."""
    return CEL_TEXT.sub('""', condition)


def asks_claims(condition: str) -> bool:
    """Whether it looks at claims of a token."""
    return _CLAIMS.search(bare(condition)) is not None


def claims_named(document: msgspec.Struct) -> list[str]:
    """Paths of all that can hold only where a token is verified."""
    return list(_found(document, "$"))


def names_claim(document: msgspec.Struct) -> bool:
    """Whether there is any."""
    return any(True for _ in _found(document, "$"))


def _found(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, msgspec.Struct):
        for name, field in _fields(type(value)):
            inner = getattr(value, name)
            if field == "claim" and isinstance(inner, str):
                if inner:
                    yield below(path, field)
            elif field == "claims" and isinstance(inner, Mapping):
                for claim in inner:
                    yield below(path, field, claim)
            elif field == "when" and isinstance(inner, str):
                if asks_claims(inner):
                    yield below(path, field)
            else:
                yield from _found(inner, below(path, field))
    elif isinstance(value, tuple | list):
        for n, each in enumerate(value):
            yield from _found(each, below(path, n))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _found(each, below(path, name))


@lru_cache(maxsize=256)
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """As they are called here, and in documents."""
    return tuple((field.name, field.encode_name) for field in msgspec.structs.fields(kind))
