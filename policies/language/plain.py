# mypyc: interpreted, because it reads documents, and no request waits for that
"""Text to plain data: JSON or YAML as dicts, lists, text, numbers, booleans and None, or a Flaw that says where.

Laws
- Whatever the bytes are, the answer is plain data or a Flaw, and the work is linear in their number.
- Nothing is guessed. A field that stands twice, an alias, a tag and a number that is none are refused.
- YAML is read by the core schema of YAML 1.2: `on` and `no` are text, `010` is text, `1e3` is a number. (YAML 1.1 would
  turn the field `on` into a boolean, and the country `no` too.)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import yaml

MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 20_000
MAX_YAML_BYTES: Final = 32 * 1024
MAX_YAML_VALUES: Final = 5_000
"""Less, because reading YAML takes fifty times as long, and its parser lets nobody else run meanwhile."""
MAX_NAME: Final = 256
_MAX_WHOLE: Final = 1 << 63

Step: TypeAlias = str | int
"""A field name, or a number in a list."""


class Flaw(Exception):
    """Something in a document is wrong. `path` is where (`$.rules[0].weight`), `reason` what would be right."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


A = TypeVar("A")
R = TypeVar("R")


def read_at(path: str, read: Callable[[A], R], value: A) -> R:
    """What `read` makes of a value; the ValueError that it may raise becomes a Flaw at `path`."""
    try:
        return read(value)
    except ValueError as error:
        raise Flaw(path, str(error)) from None


_SIMPLE: Final = re.compile(r"[A-Za-z0-9_-]{1,60}\Z")


def below(path: str, *steps: Step) -> str:
    """The path of something inside of `path`; names that are no plain words are quoted, and never long.

    >>> below("$.rules", 0, "match", "a b")
    '$.rules[0].match["a b"]'
    """
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if _SIMPLE.match(step) else f"[{json.dumps(step[:60])}]"
    return path


def load(text: bytes) -> Any:
    """JSON or YAML as plain data. Raises Flaw for anything else, and for what is ambiguous or too large."""
    if len(text) > MAX_DOCUMENT_BYTES:
        raise Flaw("$", f"{len(text)} bytes; a document has at most {MAX_DOCUMENT_BYTES}")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Flaw("$", f"not UTF-8 at byte {error.start}") from None
    if not decoded.strip():
        raise Flaw("$", "empty; to remove a policy delete its key")
    raw = _load_json(decoded) if decoded.lstrip()[0] in "{[" else _load_yaml(decoded)
    if not _is_fine(raw):
        _check(raw)
    return raw


def as_json(text: bytes) -> bytes:
    """A valid document as JSON; what is JSON already stays as it was written."""
    if text.lstrip()[:1] == b"{":
        return text
    try:
        return msgspec.json.encode(load(text))
    except Flaw:
        return text


class _Twice(dict[str, Any]):
    """An object with a field that stands twice, kept until its path is known."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def _load_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        # Flow-style YAML begins with a brace too; the JSON error is the one that helps, unless YAML reads it.
        try:
            return _load_yaml(text)
        except Flaw:
            raise Flaw("$", f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Flaw("$", f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        raise Flaw("$", "a number of thousands of digits") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    return _Twice(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


# YAML, from the events of its parser: aliases would multiply, and constructors do more than a document needs.

_Parser: Final[Any] = getattr(yaml, "CParser", None)
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", "-.inf", ".Inf", ".INF"), math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


class _Open:
    """A list or an object that is being read."""

    __slots__ = ("name", "value")

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value = value
        self.name: str | None = None
        """The field whose value comes next."""

    def step(self) -> Step:
        return len(self.value) if isinstance(self.value, list) else self.name or ""


def _load_yaml(text: str) -> Any:
    if len(text) > MAX_YAML_BYTES:
        raise Flaw("$", f"YAML of {len(text)} characters, at most {MAX_YAML_BYTES}; write it as JSON")
    try:
        return _built(_events(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise Flaw("$", f"neither JSON nor YAML: {error.problem}{where}") from None
    except yaml.YAMLError as error:
        raise Flaw("$", f"neither JSON nor YAML: {str(error).splitlines()[0]}") from None


def _events(text: str) -> Iterator[Any]:
    parser = _Parser(text) if _Parser is not None else yaml.SafeLoader(text)
    try:
        while parser.check_event():
            yield parser.get_event()
    finally:
        parser.dispose()


def _built(events: Iterator[Any]) -> Any:
    open_: list[_Open] = []
    documents: list[Any] = []
    for count, event in enumerate(events):
        if count > MAX_YAML_VALUES:
            raise Flaw("$", f"YAML of more than {MAX_YAML_VALUES} values takes too long to read; write it as JSON")
        if isinstance(event, yaml.AliasEvent):
            raise _fault(open_, event, "YAML aliases are not accepted; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _fault(open_, event, "YAML tags are not accepted")
        if isinstance(event, yaml.ScalarEvent):
            _place(open_, documents, _scalar(event), event)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_) > MAX_DEPTH:
                raise _fault(open_, event, f"nested deeper than {MAX_DEPTH}")
            open_.append(_Open([] if isinstance(event, yaml.SequenceStartEvent) else {}))
        elif isinstance(event, yaml.CollectionEndEvent):
            _place(open_, documents, open_.pop().value, event)
        elif isinstance(event, yaml.DocumentStartEvent) and documents:
            raise _fault(open_, event, "a second document; a key holds one")
    return documents[0] if documents else None


def _place(open_: list[_Open], documents: list[Any], value: Any, event: Any) -> None:
    if not open_:
        documents.append(value)
        return
    inner = open_[-1]
    if isinstance(inner.value, list):
        inner.value.append(value)
    elif inner.name is not None:
        inner.value[inner.name] = value
        inner.name = None
    elif not isinstance(value, str):
        raise _fault(open_[:-1], event, f"a field name that is not text, but {kind_of(value)}; put it in quotes")
    elif value in inner.value:
        raise _fault(open_[:-1], event, f"the field {value[:60]!r} stands twice in one object")
    else:
        inner.name = value


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text[:40])  # more digits than a document can have anyway
    return float(text) if _FLOAT.match(text) else text


def _fault(open_: list[_Open], event: Any, reason: str) -> Flaw:
    path = below("$", *(inner.step() for inner in open_))
    return Flaw(path, f"{reason} (line {event.start_mark.line + 1})")


# What both can say, and a document cannot.


def _is_fine(raw: Any) -> bool:
    """What `_check` finds nothing in, in a third of the time: it does not keep where it is."""
    level, depth, count = [raw], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            raise Flaw("$", f"more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            return False
        inner: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                if not all(len(name) <= MAX_NAME and name.isascii() for name in value):
                    return False
                inner += value.values()
            elif kind is list:
                inner += value
            elif kind is str:
                if not (value.isascii() or _encodes(value)):
                    return False
            elif kind is int:
                if not -_MAX_WHOLE <= value < _MAX_WHOLE:
                    return False
            elif kind is float:
                if not math.isfinite(value):
                    return False
            elif kind is not bool and value is not None:
                return False
        level, depth = inner, depth + 1
    return True


class _Place:
    """Where a value stands; the path is only spelled out when there is a fault."""

    __slots__ = ("above", "depth", "step")

    def __init__(self, above: _Place | None, step: Step) -> None:
        self.above = above
        self.step = step
        self.depth: int = above.depth + 1 if above is not None else 0

    def __str__(self) -> str:
        steps: list[Step] = []
        place = self
        while place.above is not None:
            steps.append(place.step)
            place = place.above
        return below("$", *reversed(steps))


def _check(raw: Any) -> None:
    stack: list[tuple[Any, _Place]] = [(raw, _Place(None, ""))]
    while stack:
        value, place = stack.pop()
        reason = _wrong(value, place.depth)
        if reason:
            raise Flaw(str(place), reason)
        if isinstance(value, dict):
            stack.extend((inner, _Place(place, name)) for name, inner in value.items())
        elif isinstance(value, list):
            stack.extend((inner, _Place(place, n)) for n, inner in enumerate(value))


def _wrong(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH}"
    if isinstance(value, _Twice):
        return f"the field {value.name[:60]!r} stands twice in one object"
    if isinstance(value, dict):
        return next((wrong for name in value if (wrong := _wrong_name(name))), "")
    if isinstance(value, str):
        return "" if _encodes(value) else "half of a surrogate pair, which no text can hold"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    if isinstance(value, int) and not -_MAX_WHOLE <= value < _MAX_WHOLE:
        return "a whole number of more than 64 bits"
    return ""


def _wrong_name(name: str) -> str:
    if len(name) > MAX_NAME:
        return f"a field name of {len(name)} characters; at most {MAX_NAME}"
    return "" if _encodes(name) else "half of a surrogate pair in a field name"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    """What a plain value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null")
