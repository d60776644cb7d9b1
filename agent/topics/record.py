"""A stored request: one JSON object, as the proxy writes it, people read it and a replay sends it."""

from __future__ import annotations

import base64
import binascii

import msgspec


class Stored(msgspec.Struct, frozen=True):
    """Unknown fields are passed over: a later version may have written it."""

    id: str
    service: str
    at: float
    """When it was stored: Unix time (s)."""
    method: str
    target: str
    """Path and query, as sent."""
    headers: list[tuple[str, str]]
    """Names in lower case; values as latin-1."""
    caller: str = ""
    body: str | None = None
    body_base64: str | None = None
    """In place of `body` where that is no UTF-8."""

    @property
    def content(self) -> bytes:
        """The body. Raises ValueError."""
        if self.body_base64 is None:
            return (self.body or "").encode()
        try:
            return base64.b64decode(self.body_base64, validate=True)
        except binascii.Error as error:
            raise ValueError(f"body_base64: {error}") from None


_decoder = msgspec.json.Decoder(Stored)


def read_record(record: bytes) -> Stored | str:
    """The request in a record; or why there is none."""
    try:
        return _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"no stored request: {error}"
