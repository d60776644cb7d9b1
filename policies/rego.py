# mypyc: interpreted, because it reads documents, and no request waits for that
"""Modules of Rego as documents have them: bounded before anybody compiles them."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from policies.language.plain import Flaw

MAX_NESTING: Final = 32

ModuleName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,380}[A-Za-z0-9_])?$(?!\n)",
        extra={"right": "the name of a module, such as lamps.rego: letters, digits and any of . _ / -"},
    ),
]


# Strings and comments, in which brackets count for nothing; a text that does not end goes to the end of its line.
_SKIPPED: Final = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"?|`[^`]*`?')
_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u")


def check_source(source: str, path: str) -> None:
    """Raises Flaw for what is refused before anybody compiles it."""
    if "\0" in source:
        raise Flaw(path, "a NUL, which no Rego has")
    if not source.strip():
        raise Flaw(path, "empty; a module begins with its package")
    for text in _SKIPPED.finditer(source):
        if text[0].startswith('"') and _ESCAPE.search(text[0]):
            raise Flaw(placed(path, source, text.start()), "\\u is not taken for its character; write that")
    depth, line, start = 0, 1, 0
    for found in re.finditer(r"\n|[\[{(]|[\]})]", _SKIPPED.sub(_blank, source)):
        sign = found[0]
        if sign == "\n":
            line, start = line + 1, found.end()
        elif sign in "[{(":
            depth += 1
            if depth > MAX_NESTING:
                raise Flaw(f"{path}:{line}:{found.start() - start + 1}", f"nested deeper than {MAX_NESTING}")
        else:
            depth -= 1


def placed(path: str, source: str, offset: int) -> str:
    """A place in a module, by the number of characters before it."""
    before = source[:offset]
    return f"{path}:{before.count(chr(10)) + 1}:{offset - before.rfind(chr(10))}"


def _blank(found: re.Match[str]) -> str:
    """As many characters, of which none says anything."""
    return re.sub(r"[^\n]", " ", found[0])
