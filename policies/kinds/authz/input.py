# mypyc: compiled
"""What Rego and an external OPA are told of a request: the document `input`, or the parts of it that they read.

    method             GET                            parsed_path        ["lamps", "7"]
    path               /lamps/7                       query.<name>       the first value of that name
    source.service     shop.production                headers.<name>     lower-case names; several values with ", "
    source.namespace   production                     claims.<name>      of a verified token
    source.principal   spiffe://…                     service            who is called
    source.trust_domain                               source.address     the client's, as the mesh vouches for it

Laws
- What is not there is not in it: no header is an empty text, and nobody's name is one.
- It is made of the values that were looked up, so that equal values are the same question.
- A claim is here what it is in its token: a list, an object, a number or a text. A text that reads like a list is none:
  whoever may choose his name must not choose his roles by it, nor be remembered as somebody who has them.
- Our library for Rego keeps texts as JSON writes them, and takes an escape for characters of its own: what it is told
  has none (`untold`), so that no text is another one to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from policies.claim import Json
from policies.request import RequestView, query_parameter, query_parameters

Values: TypeAlias = tuple[Any, ...]
"""What was looked up, in the order of the reads: texts, None, or pairs."""

MAPS: Final = ("headers", "query", "claims")
SOURCE: Final = ("source.service", "source.namespace", "source.principal", "source.trust_domain", "source.address")
PLAIN: Final = ("method", "path", "parsed_path", "service", *SOURCE)
EVERYTHING: Final = (*PLAIN, *MAPS)
_JSON: Final = "j"
_TEXT: Final = "t"
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')


def check_read(text: str) -> None:
    """Raises ValueError that says what would be right."""
    if text in PLAIN or text in MAPS or text == "source":
        return
    head, dot, name = text.partition(".")
    if head not in MAPS or not dot or not name:
        raise ValueError(
            f"{text[:60]!r} is not told; such as method, path, source.service, headers.x-tenant, claims.sub, query.page"
        )
    if head == "headers" and name != name.lower():
        raise ValueError(f"headers have names in lower case: headers.{name.lower()[:60]}")


class Read:
    """One value that is looked up."""

    __slots__ = ("_head", "_name", "steps")

    def __init__(self, text: str) -> None:
        head, _, name = text.partition(".")
        self._head = head if head in MAPS else text
        self._name = name
        self.steps: tuple[str, ...] = (head, name) if name else (head,)
        """Where it stands in `input`."""

    def value(self, request: RequestView, service: str) -> Any:
        """None: it is not there. Whole maps are pairs, so that they can be a part of a key."""
        head, name = self._head, self._name
        if head == "headers":
            return request.header(name) if name else tuple(sorted(request.headers().items()))
        if head == "claims":
            if not name:
                return tuple([(each, _typed(text)) for each, text in sorted(request.claimed().items())])
            claim = request.claim(name)
            return None if claim is None else _typed(claim)
        if head == "query":
            return query_parameter(request, name) if name else tuple(sorted(query_parameters(request).items()))
        if head == "method":
            return request.method
        if head == "path" or head == "parsed_path":
            return request.path
        if head == "source.service":
            return request.caller or None
        if head == "source.namespace":
            return request.caller.partition(".")[2] or None
        if head == "source.principal":
            return request.principal or None
        if head == "source.trust_domain":
            return request.principal.removeprefix("spiffe://").partition("/")[0] or None
        if head == "source.address":
            return request.vouched or None
        return service

    def shown(self, value: Any) -> Any:
        """As it stands in `input`."""
        if self.steps[0] == "parsed_path":
            return [segment for segment in str(value).split("/")[1:] if segment]
        if self.steps[0] == "claims":
            return {name: _claim(text) for name, text in value} if isinstance(value, tuple) else _claim(value)
        return dict(value) if isinstance(value, tuple) else value


class Inputs:
    """What one document reads."""

    __slots__ = ("reads",)

    def __init__(self, reads: tuple[str, ...]) -> None:
        wanted: list[str] = []
        for text in reads:
            wanted.extend(SOURCE if text == "source" else (text,))
        self.reads = [Read(text) for text in dict.fromkeys(wanted)]

    def values(self, request: RequestView, service: str) -> Values:
        """What there is of it in a request."""
        return tuple([read.value(request, service) for read in self.reads])

    def document(self, values: Values) -> dict[str, Any]:
        """What makes `input` of it. A whole map stands before what is read of it besides."""
        made: dict[str, Any] = {}
        for read, value in zip(self.reads, values, strict=True):
            if value is None:
                continue
            if len(read.steps) == 1:
                made[read.steps[0]] = read.shown(value)
                continue
            inner = made.setdefault(read.steps[0], {})
            if isinstance(inner, dict):
                inner[read.steps[1]] = read.shown(value)
        return made


def _typed(text: str) -> str:
    """A claim as a part of a key: a text and JSON that are written alike are two."""
    return f"{_JSON if isinstance(text, Json) else _TEXT}{text}"


def _claim(typed: str) -> Any:
    """As it stands in the token."""
    return json.loads(typed[1:]) if typed[0] == _JSON else typed[1:]


def untold(told: Any, place: str = "input") -> str:
    """Where in an input a text stands that our library for Rego would take for another; empty: nowhere."""
    if isinstance(told, str):
        return place if _ESCAPED.search(told) else ""
    if isinstance(told, dict):
        for name, inner in told.items():
            found = untold(name, f"a name in {place}") or untold(inner, f"{place}.{name}")
            if found:
                return found
    elif isinstance(told, list):
        for inner in told:
            found = untold(inner, place)
            if found:
                return found
    return ""


def size_of(values: Values) -> int:
    """Of what is looked up, about, in characters."""
    size = 0
    for value in values:
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, tuple):
            for name, text in value:
                size += len(name) + len(text)
    return size


def as_read(found: Iterable[str]) -> tuple[str, ...]:
    """What a module reads, as a document would declare it: of places in `input` as the compiler tells them, those that
    are told at all."""
    reads: list[str] = []
    for place in sorted(found):
        head, _, name = place.partition(".")
        if not head:
            return EVERYTHING
        if head in MAPS:
            if name and not (head == "headers" and name != name.lower()):
                reads.append(f"{head}.{name}")
            elif not name:
                reads.append(head)
        elif head == "source":
            reads.append(place if place in SOURCE else "source")
        elif head in PLAIN:
            reads.append(head)
    return tuple(dict.fromkeys(reads))
