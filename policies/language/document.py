"""The frame that every policy document has, and how plain data becomes one: typed, validated and frozen.

Unknown fields are refused, because a misspelt field that is ignored is a policy that is not in force.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, inspect

from policies.language.plain import Flaw, Step, below, load


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
    by: Annotated[str, Meta(max_length=256, description="Who put it, by his own word")] = ""
    reason: Annotated[str, Meta(max_length=1024, description="Why it was put, for people")] = ""

    def check(self) -> None:
        """What the types cannot say. Raises Flaw."""


def says_audit(text: bytes) -> bool:
    """Whether a document as it stands in etcd says itself that it is only watched; valid or not."""
    try:
        content = load(text)
    except Flaw:
        return False
    return isinstance(content, dict) and content.get("mode") == "audit"


class Invalid(msgspec.Struct, frozen=True):
    """Why a document is refused."""

    kind: str
    key: str
    """The service or pattern that it was put for."""
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}: {self.path}: {self.reason}"


# Plain data to a document.

D = TypeVar("D", bound=msgspec.Struct)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_STEPS: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")
_WRITTEN_FOR_PEOPLE: Final = ("by", "reason")
"""Fields of every kind that commands write, and that nobody looks for who misspelt another."""
_SOME: Final = -1
"""The step into an object whose key the library does not tell."""


def convert(raw: Any, document: type[D]) -> D:
    """Plain data as a typed document. Raises Flaw with the path of what is wrong."""
    try:
        return msgspec.convert(raw, document, strict=True)
    except msgspec.ValidationError as error:
        what, steps = _parted(error)
        steps = _exact(raw, document, steps)
        raise Flaw(
            below("$", *("..." if step == _SOME else step for step in steps)), _said(what, _type_at(document, steps))
        ) from None
    except (RecursionError, OverflowError) as error:
        raise Flaw("$", str(error)) from None


def why_not(error: msgspec.MsgspecError, text: bytes, kind: type[msgspec.Struct]) -> Flaw:
    """What is wrong with JSON that was not read as a record, in the words in which documents are told of."""
    if isinstance(error, msgspec.ValidationError):
        try:
            convert(msgspec.json.decode(text), kind)
        except Flaw as flaw:
            return flaw
        except (msgspec.DecodeError, RecursionError) as worse:
            return Flaw("$", f"not JSON: {worse}")
        what, at, where = str(error).rpartition(" - at `")
        return Flaw(where.rstrip("`") if at else "$", what if at else where)
    return Flaw("$", f"not JSON: {error}")


def _parted(error: msgspec.ValidationError) -> tuple[str, list[Step]]:
    what, at, where = str(error).rpartition(" - at `")
    if not at:
        return where, []
    found = _STEPS.findall(where.removesuffix("`"))
    return what, [name or (int(number) if number else _SOME) for name, number, _ in found]


def _exact(raw: Any, document: type[D], steps: list[Step]) -> list[Step]:
    """The steps with the keys of objects filled in, each found by halving the object until one entry is left."""
    for n, step in enumerate(steps):
        found = _follow(raw, steps[:n]) if step == _SOME else None
        if not isinstance(found, dict):
            continue
        names = list(found)
        while len(names) > 1:
            half = names[: len(names) // 2]
            wrong = _fails_at(_narrowed(raw, steps[:n], half), document, steps[: n + 1])
            names = half if wrong is not None else names[len(half) :]
        raw = _narrowed(raw, steps[:n], names)
        rest = _fails_at(raw, document, steps[: n + 1])
        if names and rest is not None:
            return _exact(raw, document, [*steps[:n], names[0], *rest[n + 1 :]])
    return steps


def _fails_at(raw: Any, document: type[D], place: list[Step]) -> list[Step] | None:
    """Where the conversion fails, when that is inside of `place`, whose objects have one entry each."""
    try:
        msgspec.convert(raw, document, strict=True)
    except msgspec.ValidationError as error:
        _, steps = _parted(error)
        same = len(steps) >= len(place) and all(b in (a, _SOME) for a, b in zip(place, steps, strict=False))
        return steps if same else None
    return None


def _follow(raw: Any, steps: Iterable[Step]) -> Any:
    for step in steps:
        if isinstance(raw, dict):
            raw = raw.get(str(step))
        elif isinstance(raw, list) and isinstance(step, int) and step < len(raw):
            raw = raw[step]
        else:
            return None
    return raw


def _narrowed(raw: Any, steps: list[Step], names: list[str]) -> Any:
    """A copy in which the object at `steps` has only the entries `names`."""
    if not steps:
        return {name: raw[name] for name in names}
    inner = _narrowed(raw[steps[0]], steps[1:], names)
    if isinstance(raw, dict):
        return {**raw, str(steps[0]): inner}
    return [inner if n == steps[0] else value for n, value in enumerate(raw)]


# What went wrong, as a person would say it.


def _said(what: str, kind: Any) -> str:
    unknown = _UNKNOWN.match(what)
    if unknown:
        fields = [field.encode_name for field in getattr(_bare(kind), "fields", ())]
        told = [name for name in fields if name not in _WRITTEN_FOR_PEOPLE]
        return f"no field {unknown[1][:60]!r} here{meant(unknown[1], fields)}; there are: {', '.join(told)}"
    if what.startswith("Invalid enum value "):
        allowed = [str(value) for value in _words(kind)]
        given = what.removeprefix("Invalid enum value ")
        return f"{given[:60]} is none of: {', '.join(allowed)}{meant(given.strip(chr(39)), allowed)}"
    if " matching regex " in what:
        return f"expected {_right(kind) or _in_words(what.removeprefix('Expected '))}"
    if what.endswith(" of length >= 1") and (right := _right(kind)):
        return f"empty; expected {right}"
    if what.startswith("Object missing required field"):
        return what.replace("Object missing required field", "missing field").replace("`", "'")
    said = _in_words(what).replace("Expected ", "expected ").replace("`", "'")
    return said + "; put it in quotes" if re.match(r"expected text, got (a|true)", said) else said


_WORDS: Final = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "object": "an object",
    "array": "a list",
    "bool": "true or false",
    "null": "null",
}


def _in_words(what: str) -> str:
    """The library's words for types as a person would say them."""
    return re.sub(r"`([a-z| ]+)`", lambda names: _either(names[1]) or names[0], what)


def _either(names: str) -> str:
    words = [_WORDS.get(name, "") for name in names.split(" | ")]
    if len(words) > 1:
        words = [word for word in words if word != "null"]
    return " or ".join(words) if all(words) else ""


def _right(kind: Any) -> str:
    """What would be right, from the `extra` of a type's Meta; wherever in a union the text is."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra or {}).get("right", "")) or _right(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next((found for inner in kind.types if (found := _right(inner))), "")
    return ""


def _type_at(document: type[msgspec.Struct], steps: list[Step]) -> Any:
    """The type that steps lead to, found by walking the types."""
    kind: Any = inspect.type_info(document)
    for step in steps:
        kind = _inside(_bare(kind), step)
    return kind


def _inside(kind: Any, step: Step) -> Any:
    if isinstance(kind, inspect.StructType):
        return next((field.type for field in kind.fields if field.encode_name == step), kind)
    return getattr(kind, "item_type", None) or getattr(kind, "value_type", kind)


def _words(kind: Any) -> tuple[Any, ...]:
    """Those that a field may have; wherever in a union they are."""
    if isinstance(kind, inspect.Metadata):
        return _words(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(word for inner in kind.types for word in _words(inner))
    return tuple(getattr(kind, "values", ()))


def _bare(kind: Any) -> Any:
    """Without its constraints; of a union the part that has parts itself."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if not isinstance(kind, inspect.UnionType):
        return kind
    inner = [_bare(one) for one in kind.types if not isinstance(one, inspect.NoneType)]
    is_struct: Callable[[Any], bool] = lambda one: isinstance(one, inspect.StructType)  # noqa: E731
    return next(filter(is_struct, inner), inner[0])


def meant(name: str, known: Iterable[str]) -> str:
    """A hint at the name that a wrong one is close to; empty when there is none."""
    close = difflib.get_close_matches(name[:60], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
