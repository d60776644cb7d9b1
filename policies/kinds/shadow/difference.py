"""What differs between two answers to one request, field by field.

Laws
- Whatever the bodies are, the work is bounded: by their size, by the values that are looked at, by the depth and by
  the fields that are reported. What lies beyond is compared as a whole.
- A field is reported where the difference is, and not with all that is below it: an object that is missing is one
  field, a list of another length is one field beside what differs among the elements that both have.
- What follows from something else is not compared: the length and the digests of a body, what belongs to a
  connection or to the mesh, and, where one answer is an error and the other none, all but the status.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from policies.kinds.shadow.answer import Answer
from policies.kinds.shadow.fieldpath import ANSWER, BODY, ELEMENT, HEADERS, STATUS, FieldSet, field_name, step
from policies.kinds.shadow.unordered import Unordered

MAX_VALUES: Final = 50_000
MAX_DEPTH: Final = 64
MAX_DIFFERENCES: Final = 500
MAX_INFLATED_BYTES: Final = 4 * 1024 * 1024
MAX_SHOWN: Final = 120
REDACTED: Final = "(redacted)"
UNCOMPARED: Final = frozenset(
    ("age", "connection", "content-digest", "content-length", "content-md5", "date", "digest", "etag", "keep-alive",
     "proxy-authenticate", "proxy-connection", "repr-digest", "server-timing", "te", "trailer", "traceparent",
     "tracestate", "transfer-encoding", "upgrade", "via", "x-correlation-id", "x-request-id", "x-response-time",
     "x-runtime", "x-trace-id")
)  # fmt: skip
"""Headers that differ by themselves, that belong to a connection, or that say again what the body says."""
SECRET: Final = frozenset(("authorization", "cookie", "set-cookie", "www-authenticate", "x-api-key", "x-auth-token"))


class Difference(msgspec.Struct, frozen=True):
    """A field that two answers do not share, as it is shown."""

    field: str
    left: str
    right: str


class _Missing:
    """No value stands there."""


_MISSING: Final = _Missing()


class Parsed:
    """An answer, taken apart once for all that it is compared with."""

    __slots__ = ("answer", "content", "headers", "is_json", "tree")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.headers: dict[str, str] = {}
        for name, value in answer.headers:
            name = name.lower()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.content = _inflated(answer.body, self.headers.get("content-encoding", "").strip().lower())
        self.is_json = False
        self.tree: Any = None
        if not answer.truncated and self.content[:64].lstrip()[:1] in _BEGINS_JSON:
            try:
                self.tree = msgspec.json.decode(self.content)
                self.is_json = True
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
                pass  # then it is bytes


_BEGINS_JSON: Final = tuple(bytes((character,)) for character in b'{["-0123456789tfn')


def _inflated(body: bytes, encoding: str) -> bytes:
    """Without its gzip or deflate, where that is what it is, and not a bomb."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return body
    inflater = zlib.decompressobj(wbits=15 if encoding == "deflate" else 31)
    try:
        found = inflater.decompress(body, MAX_INFLATED_BYTES)
    except zlib.error:
        return body
    return found if inflater.eof else body


class Comparer:
    """Compares, and shows what differs; `ignore` is not compared, `redact` never shown, and of `unordered` lists the
    order says nothing."""

    __slots__ = ("_ignore", "_redact", "_unordered")

    def __init__(self, ignore: Sequence[str] = (), redact: Sequence[str] = (), unordered: Sequence[str] = ()) -> None:
        self._ignore = FieldSet(ignore)
        self._redact = FieldSet(redact)
        self._unordered = Unordered(unordered, self._ignore)

    def differences(self, left: Parsed, right: Parsed) -> dict[str, Difference]:
        """By field; at most MAX_DIFFERENCES."""
        found: dict[str, Difference] = {}
        for steps, a, b in _fields(left, right, self._unordered):
            if self._ignore.covers(steps):
                continue
            name = steps[0] if steps[0] != "$" else field_name(steps[1:])
            if name not in found:
                if len(found) >= MAX_DIFFERENCES:
                    break
                hidden = self._redact.covers(steps) or steps[0][len(HEADERS) :] in SECRET
                found[name] = Difference(name, *((REDACTED, REDACTED) if hidden else (shown(a), shown(b))))
        return found


def comparable(one: Answer, other: Answer) -> bool:
    """Whether there is more to compare than that one failed: statuses of one class."""
    return not one.error and not other.error and one.status // 100 == other.status // 100


Found = tuple[tuple[str, ...], Any, Any]


def _fields(left: Parsed, right: Parsed, unordered: Unordered) -> Iterator[Found]:
    one, other = left.answer, right.answer
    if one.error or other.error:
        if bool(one.error) != bool(other.error):
            yield (ANSWER,), one.error or f"status {one.status}", other.error or f"status {other.status}"
        return
    if one.status != other.status:
        yield (STATUS,), one.status, other.status
    if not comparable(one, other):
        return
    for name in sorted(left.headers.keys() | right.headers.keys()):
        if name in UNCOMPARED or name.startswith("x-shoal-"):
            continue
        a, b = left.headers.get(name, _MISSING), right.headers.get(name, _MISSING)
        if a != b:
            yield (HEADERS + name,), a, b
    yield from _bodies(left, right, unordered)


def _bodies(left: Parsed, right: Parsed, unordered: Unordered) -> Iterator[Found]:
    if left.is_json and right.is_json:
        if left.content != right.content:
            yield from _trees(left.tree, right.tree, unordered)
        return
    a, b = left.content, right.content
    if left.answer.truncated and right.answer.truncated:
        length = min(len(a), len(b))
        a, b = a[:length], b[:length]
    if a != b or left.answer.truncated != right.answer.truncated:
        yield (BODY,), _digest(left), _digest(right)


def _digest(parsed: Parsed) -> str:
    more = " and more" if parsed.answer.truncated else ""
    kind = parsed.headers.get("content-type", "").partition(";")[0] or "no type"
    return f"{len(parsed.content)} bytes{more}, {kind}, {hashlib.blake2b(parsed.content, digest_size=4).hexdigest()}"


def _trees(left: Any, right: Any, unordered: Unordered) -> Iterator[Found]:
    """Where two JSON values differ."""
    stack: list[Found] = [(("$",), left, right)]
    room = MAX_VALUES
    while stack:
        steps, a, b = stack.pop()
        opens = len(steps) <= MAX_DEPTH and type(a) is type(b)
        if opens and isinstance(a, dict) and len(a) + len(b) <= room:
            room -= len(a) + len(b)
            stack.extend(((*steps, step(name)), value, b.get(name, _MISSING)) for name, value in a.items())
            stack.extend(((*steps, step(name)), _MISSING, value) for name, value in b.items() if name not in a)
        elif opens and isinstance(a, list) and len(a) + len(b) <= room:
            room -= len(a) + len(b)
            if len(a) != len(b):
                yield steps, a, b
            if unordered and unordered.holds(steps):
                found = unordered.paired(steps, a, b, room)
                if found is None:
                    if not _same(a, b):
                        yield steps, a, b
                    continue
                a, b, room = found
            inner = (*steps, ELEMENT)
            stack.extend((inner, x, y) for x, y in zip(a, b, strict=False))
        elif not _same(a, b):
            yield steps, a, b


def _same(a: Any, b: Any) -> bool:
    """As JSON: `true` is not 1, and 1 is 1.0."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if type(a) is not type(b):
        return False
    if isinstance(a, dict | list):
        try:
            return msgspec.json.encode(a, order="sorted") == msgspec.json.encode(b, order="sorted")
        except RecursionError:
            return False
    return bool(a == b)


def shown(value: Any) -> str:
    """A value as an example: short, on one line, and of an object or a list only the size."""
    if value is _MISSING:
        return "(none)"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    cut = text[: MAX_SHOWN + 1]
    cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return cut if len(cut) <= MAX_SHOWN else cut[: MAX_SHOWN - 1] + "…"
