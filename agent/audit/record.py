"""A record of the audit log: a line of JSON that holds on to the one before.

    n, at, host, event, until, prev, content   what `hash` is over: the number, the time (s of the epoch), whose log it
                                               is, what happened, until when the content is kept (0: as long as the
                                               log), the hash of the record before, and the hash of the content
    data, personal                             the content: what is told, and a commitment to each personal value
    values, salts                              the personal values, and what their commitments are made with

Laws
- Values and salts are hashed by nobody: erasing a person takes both away, and the chain stays as it was. Without the
  salt nobody can find out a value from its commitment by trying.
- What has been kept long enough loses its content and nothing else: number, time, event and hash stay.
- A record has one spelling, in ASCII. What is spelled otherwise was not written here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

SALT_BYTES: Final = 16
MAX_TEXT: Final = 1024
"""Characters of one text; a longer one is cut, with a mark that says how long it was."""
MAX_ENTRIES: Final = 64
"""Of one object or list."""
MAX_DEPTH: Final = 6
MAX_LINE: Final = 256 * 1024
"""Bytes; a longer line was not written here."""
BEGUN: Final = "segment.begun"
SEALED: Final = "segment.sealed"
LOST: Final = "audit.lost"
ERASED: Final = "audit.erased"
EXPIRED: Final = "audit.expired"

Chance = Callable[[int], bytes]
"""So many random bytes that nobody can foresee."""


class Position(NamedTuple):
    """Behind which record the next one stands."""

    n: int = 0
    hash: str = ""
    """Empty: there is none before."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them."""

    n: int
    at: float
    host: str
    event: str
    until: float
    prev: str
    content: str
    hash: str
    data: dict[str, Any] | None
    """None: it has been kept long enough."""
    personal: dict[str, str]
    values: dict[str, str]
    salts: dict[str, str]

    @property
    def position(self) -> Position:
        """What the next one follows."""
        return Position(self.n, self.hash)


class Draft(NamedTuple):
    """What is to be recorded, before it has a place."""

    event: str
    at: float
    data: Mapping[str, Any]
    personal: Mapping[str, str] = {}
    """Values by which a person is known: `person`, `client`, `claim.sub`."""
    until: float = 0.0


def made(draft: Draft, host: str, behind: Position, chance: Chance) -> Record:
    """The record that stands behind another one. Whatever was said by strangers is bounded."""
    values = {_text(name): _text(value) for name, value in list(draft.personal.items())[:MAX_ENTRIES]}
    salts = {name: chance(SALT_BYTES).hex() for name in values}
    personal = {name: commitment(name, value, salts[name]) for name, value in values.items()}
    data = bounded(dict(draft.data))
    unhashed = Record(
        n=behind.n + 1,
        at=round(float(draft.at), 3),
        host=host,
        event=draft.event[:MAX_TEXT],
        until=round(float(draft.until), 3),
        prev=behind.hash,
        content=content_hash(data, personal),
        hash="",
        data=data,
        personal=personal,
        values=values,
        salts=salts,
    )
    return msgspec.structs.replace(unhashed, hash=record_hash(unhashed))


def commitment(name: str, value: str, salt: str) -> str:
    """To a value, of its field. Raises ValueError for what is no salt."""
    return hmac.new(bytes.fromhex(salt), f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()


def content_hash(data: Mapping[str, Any], personal: Mapping[str, str]) -> str:
    """Of what is told."""
    return hashlib.sha256(_ascii([data, personal])).hexdigest()


def record_hash(record: Record) -> str:
    """Of all that is hashed."""
    chained = [record.n, record.at, record.host, record.event, record.until, record.prev, record.content]
    return hashlib.sha256(_ascii(chained)).hexdigest()


def line(record: Record) -> bytes:
    """As it stands in a file."""
    return _ascii(record) + b"\n"


def parsed(text: bytes) -> Record | str:
    """The record of a line; or why it is none that was written here. Its hashes are not looked at."""
    if len(text) > MAX_LINE:
        return f"a line of {len(text)} bytes"
    try:
        found = msgspec.json.decode(text, type=Record)
        spelled = line(found)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return f"no record: {str(error)[:200]}"
    return found if spelled == text else "it is not spelled as a record is"


def flaw(record: Record) -> str:
    """What of a record by itself is not as it was written; empty: nothing."""
    if record_hash(record) != record.hash:
        return "its hash is not that of what it says"
    if record.data is None:
        return "its content is gone, and not all of it" if record.personal or record.values or record.salts else ""
    if content_hash(record.data, record.personal) != record.content:
        return "its content is not what its hash is of"
    if record.values.keys() != record.salts.keys() or not record.values.keys() <= record.personal.keys():
        return "its personal values are not those that it was written with"
    for name, value in record.values.items():
        try:
            same = hmac.compare_digest(commitment(name, value, record.salts[name]), record.personal[name])
        except ValueError:
            same = False
        if not same:
            return f"its {name} is not the one that it was written with"
    return ""


def erased(record: Record) -> Record:
    """Without its personal values."""
    return msgspec.structs.replace(record, values={}, salts={})


def expired(record: Record) -> Record:
    """Without its content."""
    return msgspec.structs.replace(record, data=None, personal={}, values={}, salts={})


def bounded(value: Any, depth: int = 0) -> Any:
    """Plain data that is safe to write, whoever said it."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | None):
        return value if value is None or abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        found = {_text(str(name)): bounded(inner, depth + 1) for name, inner in list(value.items())[:MAX_ENTRIES]}
        return found if len(value) <= MAX_ENTRIES else {**found, "…": f"{len(value)} entries"}
    if isinstance(value, list | tuple | set | frozenset):
        return [bounded(inner, depth + 1) for inner in list(value)[:MAX_ENTRIES]]
    return _text(str(value))


def _text(text: str) -> str:
    if len(text) > MAX_TEXT:
        mark = f"… [cut, {len(text)} characters]"
        text = text[: MAX_TEXT - len(mark)] + mark
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _ascii(value: Any) -> bytes:
    """JSON in ASCII, which a terminal shows and does not obey."""
    text = msgspec.json.encode(value)
    if text.isascii() and b"\x7f" not in text:
        return text
    return "".join(char if " " <= char < "\x7f" else _escape(ord(char)) for char in text.decode()).encode()


def _escape(code: int) -> str:
    if code < 1 << 16:
        return f"\\u{code:04x}"
    high, low = divmod(code - (1 << 16), 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
