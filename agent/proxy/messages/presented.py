# mypyc: compiled
"""What the instances of a service are told of who is calling, as its `authn` documents say: with the token or without,
and which headers say what claims.

Laws
- What such a header says was verified: whatever anybody else says under its name is taken out of the head before
  anything looks at it, with a token or without, in trailers too, and under names that services take for it (`X_User`).
- A claim ends no line (`policies.kinds.authn.values`).
- Of several documents each takes its token or API key out that says so; of two that say the same header the more
  specific does.
- A token in a query is in no record of a request, nor is what is one to services that part parameters by `;`.
- What services take for the header of a token (`X_JWT`), and nobody verifies, is taken out too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_plus

from agent.proxy.messages.head import REBUILT, RequestHead
from policies.kinds.authn.document import Authn
from policies.kinds.authn.values import all_in_header, in_header

HIDDEN: Final = "hidden"
_PAIRS: Final = re.compile(r"(;|, )")


class Presented:
    """Of one service; never changes."""

    __slots__ = (
        "_cookies",
        "_headers",
        "_payload",
        "_queries",
        "_read",
        "_secret",
        "_strips",
        "_tokens",
        "names",
        "removes",
        "secrets",
    )

    def __init__(self, documents: Sequence[Authn], watched: Sequence[Authn] = ()) -> None:
        """`documents`: those that are in force, the most specific first; `watched`: those that only watch."""
        headers: dict[str, str] = {}
        self._payload = b""
        for document in documents:
            for name, claim in document.headers.items():
                headers.setdefault(name.lower(), claim)
            if not self._payload:
                self._payload = document.payload.lower().encode()
        self._headers = tuple([(name.encode(), claim) for name, claim in headers.items()])
        said = [name for name, _ in self._headers]
        self.names = frozenset([*said, self._payload] if self._payload else said)
        """Of headers that say claims; lower case, with hyphens."""
        read = [place.header.lower().encode() for document in documents for place in document.places if place.header]
        self._read = frozenset([name for name in read if b"-" in name])
        """Headers that tokens and keys are read from, which have another name to some services."""
        self._strips = bool(self.names or self._read)
        gone = [place for document in documents if not document.forward for place in document.places]
        self._tokens = frozenset([place.header.lower().encode() for place in gone if place.header])
        self._cookies = frozenset([place.cookie for place in gone if place.cookie])
        self._queries = frozenset([place.query for place in gone if place.query])
        self.removes = bool(gone)
        """Whether an instance does not get the token."""
        everybody = [place for document in (*documents, *watched) for place in document.places]
        self._secret = frozenset([place.query for place in everybody if place.query])
        self.secrets = frozenset([place.header.lower() for place in everybody if place.header])
        """Headers that have a token or a key; lower case."""

    # What nobody else says.

    def strip(self, request: RequestHead) -> None:
        """Take out of a head what only the mesh says."""
        if not self._strips:
            return
        fields = [field for field in request.fields if not self._is_ours(field.name)]
        if len(fields) == len(request.fields):
            return
        request.fields = fields
        request.special = [f for f in fields if f.code]
        request.wires = [f.wire for f in fields if f.code < REBUILT]

    def without(self, lines: list[bytes]) -> list[bytes]:
        """The same of trailers, in wire form."""
        return [line for line in lines if not self._is_ours(_name(line))]

    def _is_ours(self, name: bytes) -> bool:
        if name in self.names:
            return True
        if b"_" not in name:
            return False
        plain = name.replace(b"_", b"-")
        return plain in self.names or plain in self._read

    # What an instance is told.

    def told(self, claims: dict[str, str] | None) -> Introduction:
        """Of a request with these claims, verified for this service; None: of one with none."""
        lines: list[bytes] = []
        if claims:
            for name, claim in self._headers:
                text = claims.get(claim)
                if text is not None:
                    lines.append(b"%b: %b\r\n" % (name, in_header(text)))
            if self._payload:
                lines.append(b"%b: %b\r\n" % (self._payload, all_in_header(claims)))
        return Introduction(self, lines)

    def kept(self, line: bytes) -> bytes:
        """What is left of a line of a head, in wire form; empty: nothing."""
        name = _name(line)
        if _is_said(name, self.names):
            return b""
        if name in self._tokens and (name != b"authorization" or _value(line)[:7].lower() == "bearer "):
            return b""
        if self._cookies and name == b"cookie":
            value = _without_cookies(_value(line), self._cookies)
            return b"%b: %b\r\n" % (line.partition(b":")[0], value.encode("latin-1")) if value else b""
        return line

    def target(self, target: bytes) -> bytes:
        """Path and query, as an instance has them."""
        if not self._queries:
            return target
        path, mark, query = target.partition(b"?")
        kept = [pair for pair in query.split(b"&") if _parameter(pair) not in self._queries]
        if b";" in query:
            kept = [left for pair in kept if (left := self._parted(pair, self._queries, b""))]
        return path + mark + b"&".join(kept) if kept else path

    def recorded(self, target: bytes) -> bytes:
        """The same, as it may be shown: without any token."""
        if not self._secret or b"?" not in target:
            return target
        path, mark, query = target.partition(b"?")
        pairs = [
            pair.partition(b"=")[0] + b"=hidden" if _parameter(pair) in self._secret else pair
            for pair in query.split(b"&")
        ]
        if b";" in query:
            pairs = [self._parted(pair, self._secret, b"=hidden") for pair in pairs]
        return path + mark + b"&".join(pairs)

    def _parted(self, pair: bytes, names: frozenset[str], instead: bytes) -> bytes:
        """A parameter as who parts them by `;` too reads it: without those of these names, or with that for a value."""
        found = []
        for part in pair.split(b";"):
            if _parameter(part) not in names:
                found.append(part)
            elif instead:
                found.append(part.partition(b"=")[0] + instead)
        return b";".join(found)


class Introduction:
    """What an instance is told of one request."""

    __slots__ = ("_by", "_lines")

    def __init__(self, by: Presented, lines: list[bytes]) -> None:
        self._by = by
        self._lines = lines

    def fields(self, lines: list[bytes]) -> list[bytes]:
        """The lines of a head, with what the mesh says."""
        found: list[bytes] = []
        for line in lines:
            left = self._by.kept(line)
            if left:
                found.append(left)
        return found + self._lines

    def target(self, target: bytes) -> bytes:
        """Path and query."""
        return self._by.target(target)


def _is_said(name: bytes, names: frozenset[bytes]) -> bool:
    """Whether a name, in lower case, is one of these to some service."""
    return name in names or (b"_" in name and name.replace(b"_", b"-") in names)


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _value(line: bytes) -> str:
    return line.partition(b":")[2].decode("latin-1").strip(" \t\r\n")


def _parameter(pair: bytes) -> str:
    """A parameter's name, as `policies.request.query_parameter` reads it."""
    return unquote_plus(pair.partition(b"=")[0].decode("latin-1"))


def _without_cookies(value: str, names: frozenset[str]) -> str:
    """As `policies.request.cookie` tells them apart; the others as they are."""
    parts = _PAIRS.split(value)
    found = ""
    for n in range(0, len(parts), 2):
        if parts[n].partition("=")[0].strip() in names:
            continue
        found += (parts[n - 1] if n and found else "") + parts[n]
    return found.strip(" ")
