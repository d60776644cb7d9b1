# mypyc: interpreted, because it counts what documents ask for, and no request waits for that
"""How much work a document may ask for: regular expressions unrolled, and conditions that a request is held against.

Laws
- Work is counted in what stands in the document, never in seconds. A slow host and a quick one refuse the same
  documents, or what is in force would depend on whose agent one asks.
- It is counted before it is done: what would take long is not begun.

Bytes and values are bounded in `plain`, templates in `template`, rings and tables in `entries`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from policies.language.plain import Flaw, Step, below

MAX_PATTERN: Final = 1500
"""Of one expression: what RE2 compiles within a millisecond, and runs over a long header within five."""
MAX_PATTERNS: Final = 20_000
"""Of a document's expressions together. A group's counts wherever a rule names the group."""
MAX_CONDITIONS: Final = 4000
_TOO_LONG: Final = f"more than {MAX_PATTERN} steps with its repetitions written out; shorter, or with fewer of them"
_WIDE: Final = 60
"""Letters of all scripts, as `\\pL`, are hundreds of ranges of bytes."""
_ANY: Final = 8
_MOST: Final = 1000
"""RE2 repeats nothing more often."""
_TOKEN: Final = re.compile(
    r"\\[pP](?:\{[^}]*\}|.)|\\x\{[^}]*\}|\\.|\[\^?\]?(?:\\[pP]?.|\[:\^?[a-z]+:\]|[^\]\\])*\]?"
    r"|\{([0-9]+)(,?)([0-9]*)\}|.",
    re.DOTALL,
)


def unrolled(pattern: str) -> int:
    """About how many steps an expression has when each `{n}` is written out; never much too few."""
    groups = [0]
    last = 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            groups.append(0)
            last = 0
        elif text == ")":
            last = groups.pop()
            groups = groups or [0]
            groups[-1] += last
        elif token[1] is not None:
            times = min(_MOST, max(int(token[1][:5]), int(token[3][:5] or 0)))
            groups[-1] += last * max(0, times - 1)
            last *= max(1, times)
        else:
            last = _weight(text)
            groups[-1] += last
    insensitive = 2 if re.search(r"\(\?[a-zA-Z]*i", pattern) else 1
    return sum(groups) * insensitive


def _weight(text: str) -> int:
    if text[0] == "[":
        inner = text.count("\\p") + text.count("\\P")
        return (
            _ANY + len(text) + inner * _WIDE if inner or text[1:2] == "^" or not text.isascii() else 1 + len(text) // 8
        )
    if text[:2] in ("\\p", "\\P"):
        return _WIDE
    return _ANY if text == "." or text in ("\\D", "\\S", "\\W", "\\C") else len(text.encode("utf-8", "replace"))


def check_pattern(pattern: str, path: str) -> None:
    """Raises Flaw."""
    if unrolled(pattern) > MAX_PATTERN:
        raise Flaw(path, _TOO_LONG)


def check_work(document: msgspec.Struct) -> None:
    """That a typed document, which nobody has checked yet, does not ask for more than it may. Raises Flaw."""
    steps = conditions = 0
    for path, asked, number in _asked(document, ()):
        if asked == "pattern":
            steps += number
            if number > MAX_PATTERN:
                raise Flaw(below("$", *path), _TOO_LONG)
        else:
            conditions += number
        if steps > MAX_PATTERNS or conditions > MAX_CONDITIONS:
            raise _too_much(below("$", *path), steps)
    groups = {name: _patterns_in(group) for name, group in getattr(document, "groups", {}).items()}
    if steps + sum(groups.get(name, 0) * number for name, number in _named(document)) > MAX_PATTERNS:
        raise _too_much("$.rules", MAX_PATTERNS + 1)


def _too_much(path: str, steps: int) -> Flaw:
    if steps > MAX_PATTERNS:
        return Flaw(
            path,
            f"the document's regular expressions and path templates have more than {MAX_PATTERNS} steps together, "
            "counting a group's wherever it is named",
        )
    return Flaw(path, f"more than {MAX_CONDITIONS} conditions on requests in a document")


def _asked(value: Any, path: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], str, int]]:
    """What costs, by its fields' names: the kinds share the types of `matching`."""
    if isinstance(value, msgspec.Struct):
        for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            inner = getattr(value, name)
            if inner is None or isinstance(inner, int | float | bool):
                continue
            here = (*path, encoded)
            if name == "regex":
                yield here, "pattern", unrolled(inner)
            elif name == "template" and isinstance(inner, str):
                yield here, "pattern", len(inner)
            elif name in ("match", "not_"):
                yield here, "conditions", _conditions(inner)
            if not isinstance(inner, str):
                yield from _asked(inner, here)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, msgspec.Struct):
                yield from _asked(inner, (*path, key))
    elif isinstance(value, tuple):
        for n, inner in enumerate(value):
            if isinstance(inner, msgspec.Struct):
                yield from _asked(inner, (*path, n))


def _conditions(match: Any) -> int:
    """Of one Match; each is asked of each request that comes as far as its rule."""
    parts = (match.headers, match.query, match.cookies, match.claims, match.caller, match.groups)
    return sum(map(len, parts)) + (match.path is not None) + bool(match.method)


def _patterns_in(group: msgspec.Struct) -> int:
    return sum(number for _, asked, number in _asked(group, ()) if asked == "pattern")


def _named(document: Any) -> Iterator[tuple[str, int]]:
    """The groups that rules name."""
    counted: dict[str, int] = {}
    for rule in getattr(document, "rules", None) or ():
        for name in rule.match.groups:
            counted[name] = counted.get(name, 0) + 1
    yield from counted.items()
