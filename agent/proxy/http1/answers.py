# mypyc: compiled
"""Answers of the mesh's own (`agent.proxy.messages.answers`), as HTTP/1.1 writes them."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from agent.proxy.messages.answers import Refusal, refusal_body, refusal_fields

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 503 Service Unavailable`, with its CRLF."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b""))


class _Dated:
    """A Date field, and the second that it is of."""

    __slots__ = ("line", "second")

    def __init__(self) -> None:
        self.second = -1
        self.line = b""


_dated: Final = _Dated()


def date_line() -> bytes:
    """`date: Tue, 15 Nov 1994 08:12:31 GMT` of now, with its CRLF; written once a second (RFC 9110 section 6.6.1)."""
    second = int(time.time())
    if second != _dated.second:
        _dated.second = second
        _dated.line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
    return _dated.line


def closing_answer(refusal: Refusal) -> bytes:
    """A whole response for a connection that is closed behind it, for when no request could be made out."""
    body = refusal_body(refusal, b"")
    return b"".join(
        [
            status_line(refusal.status),
            *refusal_fields(refusal),
            date_line(),
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        ]
    )
