# mypyc: compiled
"""Cookies that the mesh adds to an answer.

Laws
- A service's own cookie of that name stands, also one that takes the cookie away: it knows more of its user.
- An answer that says that others may have it too gets none: a cache would hand one user's cookie to all.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.head import ResponseHead

NOT_MODIFIED: Final = 304


def may_set(head: ResponseHead, cookie: bytes) -> bool:
    """Whether an answer may carry a Set-Cookie of `name=value; ...` besides what it has."""
    if head.status == NOT_MODIFIED:
        return False  # it renews what a cache has (RFC 9111 section 4.3.4)
    name = cookie.partition(b"=")[0] + b"="
    control = b""
    expires = False
    for field in head.fields:
        if field.name == b"set-cookie":
            if field.value.startswith(name):
                return False
        elif field.name == b"cache-control":
            control = control + b"," + field.value.lower()
        elif field.name == b"expires":
            expires = field.value not in (b"0", b"-1")
    return not _is_shared(control) if control else not expires


def _is_shared(control: bytes) -> bool:
    """Whether a Cache-Control lets caches hand the answer to others (RFC 9111 section 3)."""
    shared = False
    for each in control.split(b","):
        word, _, value = each.strip().partition(b"=")
        if word in (b"private", b"no-store"):
            return False
        if word in (b"public", b"s-maxage") or (word == b"max-age" and value.strip(b'"0')):
            shared = True
    return shared
