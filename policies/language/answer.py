"""Answers that the mesh gives by itself, as a document writes them, and the headers that it may write."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.plain import Flaw, below
from policies.request import TOKEN

_PROTECTED: Final = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
     "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-forwarded-for", "x-forwarded-proto",
     "x-request-id")
)  # fmt: skip
BODILESS: Final = (204, 205, 304)
LINES: Final = Meta(max_length=64)
"""Each is written with each message."""


class DirectResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Answer without asking an instance."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    headers: Annotated[dict[str, str], LINES] = msgspec.field(default_factory=dict)
    body: Annotated[str, Meta(max_length=65536)] = ""


def check_bodiless(answer: DirectResponse, path: str) -> None:
    """No body where the status has no room for one. Raises Flaw."""
    if answer.status in BODILESS and answer.body:
        raise Flaw(below(path, "body"), f"an answer with status {answer.status} has no body")


def check_answer(answer: DirectResponse, path: str) -> None:
    """What the types let pass. Raises Flaw."""
    check_headers(answer.headers, below(path, "headers"))
    check_bodiless(answer, path)


def check_headers(headers: dict[str, str], path: str) -> None:
    """Header lines that a document writes."""
    for name, value in headers.items():
        check_header(below(path, name), name, value)


def check_header(path: str, name: str, value: str) -> None:
    """One header line that may be written. Raises Flaw."""
    if not TOKEN.match(name):
        raise Flaw(path, f"{name[:60]!r} is no header name")
    if name.lower() in _PROTECTED or name.lower().startswith("x-shoal-"):
        hint = "; use rewrite.host" if name.lower() == "host" else ""
        raise Flaw(path, f"{name} belongs to the proxy and cannot be edited{hint}")
    if not printable(value):
        raise Flaw(path, "a character that cannot stand in a header: printable ASCII on one line")


def printable(value: str) -> bool:
    """Whether it can stand in a header."""
    return all(" " <= c <= "~" or c == "\t" for c in value)
