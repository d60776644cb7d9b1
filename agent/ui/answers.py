"""How files of the page are answered: what keeps them, and what a browser lets them do. Pure.

Laws
- The page runs its own scripts only, and asks only where it came from: nothing inline, nothing from elsewhere, in no
  frame. What a name or a document in the mesh says can be shown, and not run.
- What a browser holds already is not sent again; what it takes by gzip it is sent so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from agent.ui import File

FOREVER: Final = "public, max-age=31536000, immutable"
ASK_AGAIN: Final = "no-cache"
_HOST: Final = re.compile(r"[a-z0-9._-]+(:\d{1,5})?", re.ASCII)
_GZIP: Final = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?P<q>[0-9.]+)\s*)?(?:,|$)", re.IGNORECASE)
ALWAYS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}


class Told(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def policy(host: str, *, secure: bool) -> str:
    """The Content-Security-Policy of a page that was asked for at a host. Older browsers do not take a WebSocket of the
    same place for `'self'`."""
    socket = f" {'wss' if secure else 'ws'}://{host}" if _HOST.fullmatch(host.lower()) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self'{socket}; font-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'self'"
    )


def answer(file: File, asked: Mapping[str, str], *, secure: bool) -> Told:
    """A file, to who asks with these fields, whose names are in small letters."""
    headers = {
        **ALWAYS,
        "content-security-policy": policy(asked.get("host", ""), secure=secure),
        "cache-control": FOREVER if file.forever else ASK_AGAIN,
        "etag": file.tag,
        "vary": "accept-encoding",
    }
    held = [each.strip().removeprefix("W/") for each in asked.get("if-none-match", "").split(",")]
    if file.tag in held or "*" in held:
        return Told(304, headers, b"")
    headers["content-type"] = file.kind
    if file.packed and _takes_gzip(asked.get("accept-encoding", "")):
        return Told(200, {**headers, "content-encoding": "gzip"}, file.packed)
    return Told(200, headers, file.body)


def _takes_gzip(accepted: str) -> bool:
    found = _GZIP.search(accepted)
    return found is not None and (found["q"] is None or found["q"].strip("0.") != "")
