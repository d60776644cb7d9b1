# mypyc: compiled
"""Answers of the mesh's own (`agent.proxy.messages.answers`), as HTTP/1.1 writes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from agent.proxy.messages.answers import Refusal, refusal_body, refusal_fields

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 503 Service Unavailable`, with its CRLF."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b""))


def closing_answer(refusal: Refusal) -> bytes:
    """A whole response for a connection that is closed behind it, for when no request could be made out."""
    body = refusal_body(refusal, b"")
    return b"".join(
        [
            status_line(refusal.status),
            *refusal_fields(refusal),
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        ]
    )
