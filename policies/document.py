"""The frame that every policy document has, and how text becomes one: typed, validated and frozen, or Invalid.

A value in etcd is JSON or YAML. Whatever its bytes are, `parse` returns; it never raises and never half believes.
Unknown fields are refused, because a misspelt field that is ignored is a policy that is not in force.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
import yaml
from msgspec import Meta

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 100_000


class Fault(Exception):
    """Something in a document is wrong. `path` is where (`$.rules[0].weight`), `reason` what would be right."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every policy kind."""

    mode: Annotated[
        Literal["enforce", "audit"], Meta(description="audit: evaluated, counted and logged, never enforced")
    ] = "enforce"
    kind: Annotated[str, Meta(description="The kind, for files; in etcd it must agree with the key")] = ""
    service: Annotated[
        str, Meta(description="The service or pattern, for files; in etcd it must agree with the key")
    ] = ""
    description: Annotated[str, Meta(max_length=4096, description="For people")] = ""

    def check(self) -> None:
        """What the types cannot say. Raises Fault."""


class Invalid(msgspec.Struct, frozen=True):
    """Why a document is refused."""

    kind: str
    key: str
    """The service or pattern that it was put for."""
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}: {self.path}: {self.reason}"


def parse(kind: str, key: str, text: bytes) -> Document | Invalid:
    """The document in a value that stands under `policies/<kind>/<key>`; `key` is a canonical pattern."""
    from policies.catalogue import BY_NAME  # the catalogue names every kind, and each kind is made of this module

    known = BY_NAME.get(kind)
    if known is None:
        return Invalid(
            kind, key, "$", f"no policy kind {kind[:60]!r}; there are: {', '.join(BY_NAME)}{_meant(kind, BY_NAME)}"
        )
    try:
        raw = load(text)
        if not isinstance(raw, dict):
            raise Fault("$", f"a document is an object with fields, not {_type_name(raw)}")
        document = convert(raw, known.document)
        _agree(document, kind, key)
        document.check()
    except Fault as fault:
        return Invalid(kind, key, fault.path, fault.reason)
    return document


def schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind. Raises KeyError."""
    from policies.catalogue import BY_NAME

    return msgspec.json.schema(BY_NAME[kind].document)


def _agree(document: Document, kind: str, key: str) -> None:
    if document.kind not in ("", kind):
        raise Fault("$.kind", f"{document.kind!r}, but the key says {kind!r}; leave it out or make them agree")
    if document.service and key:
        from policies.names import parse_pattern

        try:
            service = parse_pattern(document.service)
        except ValueError as error:
            raise Fault("$.service", str(error)) from None
        if service != key:
            raise Fault("$.service", f"{service!r}, but the key says {key!r}; leave it out or make them agree")


# Text to plain data.


def load(text: bytes) -> Any:
    """JSON or YAML as plain data. Raises Fault for anything else, and for what is ambiguous or too large."""
    if len(text) > MAX_DOCUMENT_BYTES:
        raise Fault("$", f"{len(text)} bytes; a document has at most {MAX_DOCUMENT_BYTES}")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault("$", f"not UTF-8 at byte {error.start}") from None
    if not decoded.strip():
        raise Fault("$", "empty; to remove a policy delete its key")
    raw = _load_json(decoded) if decoded.lstrip()[0] in "{[" else _load_yaml(decoded)
    _check_shape(raw)
    return raw


def _load_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        # Flow-style YAML begins with a brace too; the JSON error is the one that helps, unless YAML reads it.
        try:
            return _load_yaml(text)
        except Fault:
            raise Fault("$", f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Fault("$", f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        if isinstance(error.args[0], Fault):
            raise error.args[0] from None
        raise Fault("$", f"not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(Fault("$", f"the field {twice!r} stands twice in one object"))
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(Fault("$", f"{name} is no number that a policy can use"))


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they multiply) and without duplicate keys (one of them would be lost)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses aliases."""
        if self.check_event(yaml.AliasEvent):
            raise Fault("$", "YAML aliases are not accepted; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses duplicate keys, and keys that are not text."""
        names: set[str] = set()
        for key_node, _ in node.value:
            name = self.construct_object(key_node, deep=True)
            if not isinstance(name, str):
                raise Fault("$", f"the field name {name!r} is not text; put it in quotes")
            if name in names:
                raise Fault("$", f"the field {name!r} stands twice in one object")
            names.add(name)
        return super().construct_mapping(node, deep)


def _load_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Fault("$", f"neither JSON nor YAML: {error.problem}{where}") from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise Fault("$", f"neither JSON nor YAML: {str(error).splitlines()[0][:200]}") from None


def _check_shape(raw: Any) -> None:
    nodes = 0
    stack: list[tuple[Any, str, int]] = [(raw, "$", 0)]
    while stack:
        value, path, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise Fault(path[:200], f"nested deeper than {MAX_DEPTH}")
        if nodes > MAX_NODES:
            raise Fault("$", f"more than {MAX_NODES} values")
        if isinstance(value, float) and not math.isfinite(value):
            raise Fault(path, "not a finite number")
        if isinstance(value, dict):
            stack.extend((inner, f"{path}.{name}", depth + 1) for name, inner in value.items())
        elif isinstance(value, list):
            stack.extend((inner, f"{path}[{n}]", depth + 1) for n, inner in enumerate(value))


# Plain data to a document.

D = TypeVar("D", bound=msgspec.Struct)
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")


def convert(raw: Any, document: type[D]) -> D:
    """Plain data as a typed document. Raises Fault with the path of what is wrong."""
    try:
        return msgspec.convert(raw, document, strict=True)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `")
        path = where.rstrip("`") or "$"
        unknown = _UNKNOWN.match(what)
        if unknown:
            fields = _fields_at(document, path)
            what = f"no field {unknown[1]!r} here{_meant(unknown[1], fields)}; there are: {', '.join(fields)}"
        elif what.startswith("Invalid enum value"):
            allowed = _values_at(document, path)
            given = what.removeprefix("Invalid enum value ")
            what = f"{given} is none of: {', '.join(allowed)}{_meant(given.strip(chr(39)), allowed)}"
        raise Fault(path, _plain(what)) from None
    except (RecursionError, OverflowError) as error:
        raise Fault("$", str(error)) from None


_WORDS = {
    "`float`": "a number",
    "`int`": "a whole number",
    "`str`": "text",
    "`object`": "an object",
    "`array`": "a list",
    "`bool`": "true or false",
    "`null`": "null",
    "Expected ": "expected ",
    "Object missing required field": "missing field",
    "`": "'",
}


def _plain(what: str) -> str:
    """The library's words for types as a person would say them."""
    for theirs, ours in _WORDS.items():
        what = what.replace(theirs, ours)
    return what


def _type_at(document: type[msgspec.Struct], path: str) -> Any:
    """The type that a path leads to, found by walking the types; for messages."""
    kind: Any = msgspec.inspect.type_info(document)
    for name, _ in re.findall(r"\.([^.\[]+)|(\[[^\]]*\])", path):
        kind = _step(kind, name)
    return _struct(kind)


def _fields_at(document: type[msgspec.Struct], path: str) -> list[str]:
    return [field.encode_name for field in getattr(_type_at(document, path), "fields", ())]


def _values_at(document: type[msgspec.Struct], path: str) -> list[str]:
    return [str(value) for value in getattr(_type_at(document, path), "values", ())]


def _step(kind: Any, name: str) -> Any:
    kind = _struct(kind)
    if isinstance(kind, msgspec.inspect.StructType):
        return next((field.type for field in kind.fields if field.encode_name == name), kind)
    return getattr(kind, "item_type", None) or getattr(kind, "value_type", kind)


def _struct(kind: Any) -> Any:
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        inner = [t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)]
        structs = [t for t in inner if isinstance(_struct(t), msgspec.inspect.StructType)]
        return _struct((structs or inner)[0])
    return kind


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _type_name(value: Any) -> str:
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)
