# mypyc: interpreted, because it reads documents and compares answers, and no request waits for that
"""Names of an answer's fields: `status`, `headers.etag`, `body`, or a place in a JSON body such as `$.items[*].price`.

Elements of a list are not told apart (`[*]`), nor are names that are somebody's id (`.*`): what is the same field for
people is one. What `shoal diff` shows can be written into a document as it is, and covers all that is below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from policies.language.plain import Flaw, below
from policies.request import TOKEN

ANSWER: Final = "answer"
STATUS: Final = "status"
BODY: Final = "body"
HEADERS: Final = "headers."
ELEMENT: Final = "[*]"
ANY: Final = "*"
MAX_NAME: Final = 300
_ID: Final = re.compile(
    r"(?:[0-9]+|[0-9a-fA-F]{16,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})\Z"
)
_STEP: Final = re.compile(r'\.(?P<name>[A-Za-z0-9_-]+|\*)|\["(?P<quoted>(?:[^"\\]|\\.)*)"\]|(?P<element>\[\*\])')

Steps = tuple[str, ...]


def step(name: str) -> str:
    """The step into a field of an object; all ids are one."""
    return ANY if _ID.match(name) else name[:60]


def field_name(steps: Sequence[str]) -> str:
    """The place in a body as people write it; where it is beyond reading, the place that it is below."""
    name = "$"
    for one in steps:
        longer = name + one if one == ELEMENT else f"{name}.*" if one == ANY else below(name, one)
        if len(longer) > MAX_NAME:
            return name
        name = longer
    return name


def parse_field(text: str) -> Steps:
    """A field's name as steps: the first is `$`, or the whole name of what is no place in a body. Raises ValueError."""
    if text in (STATUS, BODY, ANSWER):
        return (text,)
    if text.startswith(HEADERS):
        name = text[len(HEADERS) :]
        if not TOKEN.match(name):
            raise ValueError(f"{name[:60]!r} is no header name")
        return (HEADERS + name.lower(),)
    if not text.startswith("$"):
        raise ValueError(f"{text[:60]!r} is no field: status, body, headers.NAME or a place such as $.items[*].price")
    steps, at = ["$"], 1
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ValueError(f'{text[at : at + 40]!r} is no step: .name, .*, ["a name"] or [*] for every element')
        steps.append(ELEMENT if found["element"] else step(found["name"] or _unquoted(found["quoted"])))
        at = found.end()
    return tuple(steps)


def _unquoted(text: str) -> str:
    """Raises ValueError."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        raise ValueError(f'"{text[:40]}" is no name in quotes, as JSON has them') from None


def check_field(text: str, path: str) -> None:
    """Raises Flaw."""
    try:
        parse_field(text)
    except ValueError as error:
        raise Flaw(path, str(error)) from None


class FieldSet:
    """Some fields, each with all that is below it."""

    __slots__ = ("_patterns",)

    def __init__(self, names: Iterable[str]) -> None:
        self._patterns = [parse_field(name) for name in names]

    def covers(self, steps: Sequence[str]) -> bool:
        """Whether a field is one of them or below one: its steps, from `$` or its whole name on."""
        return any(
            len(pattern) <= len(steps) and all(a in (ANY, b) for a, b in zip(pattern, steps, strict=False))
            for pattern in self._patterns
        )

    def names(self, steps: Sequence[str]) -> bool:
        """Whether a field is one of them itself."""
        return any(
            len(pattern) == len(steps) and all(a in (ANY, b) for a, b in zip(pattern, steps, strict=True))
            for pattern in self._patterns
        )

    def __bool__(self) -> bool:
        return bool(self._patterns)
