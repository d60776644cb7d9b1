# mypyc: compiled
"""`log`: whether a request that is over has an access record, and what may stand in it.

Laws
- What failed or was slow is recorded, whatever the share of the others is (but for `requests: none`).
- Chance is handed in. Who hands in the same for the same request on every host has either all of its records or none.
- A value that is not to be written down is not in a record at all: what stands in its place is the same for any value.
"""

from __future__ import annotations

from typing import Final

from policies.kind import ANYWHERE, Scope
from policies.kinds.log.document import Log
from policies.language.duration import seconds
from policies.request import SECRET_HEADERS

REDACTED: Final = "[redacted]"
_REDACTED_BYTES: Final = REDACTED.encode()


def compile(document: Log, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    exact: list[int] = []
    classes: list[int] = []
    for each in document.statuses:
        text = str(each)
        if text.endswith("xx"):
            classes.append(int(text[0]))
        else:
            exact.append(int(text))
    hidden = [name.lower().encode() for name in document.redact_headers]
    paths = [path.encode() for path in document.leave_out]
    tap = document.tap
    return Compiled(
        nothing=document.requests == "none",
        everything=document.requests == "all",
        share=document.share,
        statuses=frozenset(exact),
        classes=frozenset(classes),
        slow_s=seconds(document.slow) if document.slow is not None else 0.0,
        left_out=frozenset([path for path in paths if path[-1:] != b"*"]),
        left_out_under=tuple([path[:-1] for path in paths if path[-1:] == b"*"]),
        fields=frozenset([str(field) for field in document.fields]),
        headers=frozenset([name.lower().encode() for name in document.headers]),
        hidden=frozenset([*hidden, *[name.encode() for name in SECRET_HEADERS]]),
        query=frozenset([name.encode() for name in document.redact_query]),
        tap_headers=tap is not None and tap.headers,
        tap_bodies=tuple([each.lower() for each in tap.bodies]) if tap is not None else (),
        tap_bytes=tap.max_bytes if tap is not None else 0,
        tap_fields=frozenset([name.lower().encode() for name in tap.redact]) if tap is not None else frozenset(),
    )


class Compiled:
    """Of one document."""

    __slots__ = (
        "_classes",
        "_everything",
        "_hidden",
        "_left_out",
        "_left_out_under",
        "_nothing",
        "_query",
        "_share",
        "_slow_s",
        "_statuses",
        "_tap_fields",
        "fields",
        "headers",
        "tap_bodies",
        "tap_bytes",
        "tap_headers",
    )

    def __init__(
        self,
        nothing: bool,
        everything: bool,
        share: float,
        statuses: frozenset[int],
        classes: frozenset[int],
        slow_s: float,
        left_out: frozenset[bytes],
        left_out_under: tuple[bytes, ...],
        fields: frozenset[str],
        headers: frozenset[bytes],
        hidden: frozenset[bytes],
        query: frozenset[bytes],
        tap_headers: bool,
        tap_bodies: tuple[str, ...],
        tap_bytes: int,
        tap_fields: frozenset[bytes],
    ) -> None:
        self._nothing = nothing
        self._everything = everything
        self._share = share
        self._statuses = statuses
        self._classes = classes
        self._slow_s = slow_s
        self._left_out = left_out
        self._left_out_under = left_out_under
        self.fields = fields
        """What a record has; empty: everything."""
        self.headers = headers
        """That are recorded; lower case."""
        self._hidden = hidden
        self._query = query
        self.tap_headers = tap_headers
        """Whether a tap shows headers;"""
        self.tap_bodies = tap_bodies
        """of which types it shows bodies (none: of none), and"""
        self.tap_bytes = tap_bytes
        """how much of each."""
        self._tap_fields = tap_fields

    def takes(self, status: int, failed: bool, duration_s: float, target: bytes, chance: float) -> bool:
        """Whether a request is recorded. `failed`: somebody's fault is known, whatever the status is; `chance`: from 0
        to 1, the latter not included."""
        if self._nothing:
            return False
        if failed or status // 100 in self._classes or status in self._statuses:
            return True
        if self._slow_s and duration_s >= self._slow_s:
            return True
        if not self._everything or chance >= self._share:
            return False
        if self._left_out or self._left_out_under:
            path = target.partition(b"?")[0]
            if path in self._left_out:
                return False
            for start in self._left_out_under:
                if path.startswith(start):
                    return False
        return True

    def hides(self, header: bytes) -> bool:
        """Whether of a header, in lower case, no more is said than that it was there."""
        return header in self._hidden

    def shown(self, target: bytes) -> bytes:
        """Path and query, as they may be written down."""
        if not self._query:
            return target
        path, mark, query = target.partition(b"?")
        if not query:
            return target
        everything = b"*" in self._query
        found: list[bytes] = []
        for part in query.split(b"&"):
            name, equals, _ = part.partition(b"=")
            if equals and (everything or _plain(name) in self._query):
                found.append(name + b"=" + _REDACTED_BYTES)
            elif everything or (not equals and _plain(name) in self._query):
                found.append(_REDACTED_BYTES)  # what has no name is a value
            else:
                found.append(part)
        return path + mark + b"&".join(found)

    @property
    def redacts_query(self) -> bool:
        """Whether anything of a query is left out."""
        return bool(self._query)

    @property
    def tap_redacts(self) -> bool:
        """Whether fields of bodies are shown without their values."""
        return bool(self._tap_fields)

    @property
    def form_redacts(self) -> bool:
        """Whether those of forms are, which are written as queries are."""
        return bool(self._tap_fields or self._query)

    def redacts_field(self, name: str) -> bool:
        """Whether a field of JSON is shown without its value."""
        return name.lower().encode() in self._tap_fields

    def form(self, body: bytes) -> bytes:
        """A form, as a tap shows it."""
        return b"&".join([self._form_field(part) for part in body.split(b"&")])

    def _form_field(self, part: bytes) -> bytes:
        name, equals, _ = part.partition(b"=")
        known = _plain(name)
        if b"*" not in self._query and known not in self._query and known.lower() not in self._tap_fields:
            return part
        return name + b"=" + _REDACTED_BYTES if equals else _REDACTED_BYTES


def _plain(name: bytes) -> bytes:
    """A name of a field without percent-encoding: another spelling is no way around."""
    if b"%" not in name and b"+" not in name:
        return name
    pieces = name.replace(b"+", b" ").split(b"%")
    plain = pieces[0]
    for piece in pieces[1:]:
        try:
            plain += bytes([int(piece[:2], 16)]) + piece[2:]
        except ValueError:
            plain += b"%" + piece
    return plain
