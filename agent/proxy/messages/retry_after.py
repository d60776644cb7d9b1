# mypyc: compiled
"""When an answer says to come again: `Retry-After` (RFC 9110 section 10.2.3), seconds or a date."""

from __future__ import annotations

import calendar
from email.utils import parsedate
from typing import Final

from agent.proxy.messages.head import ResponseHead

_DATE_BYTES: Final = 40


def retry_after_s(head: ResponseHead, wall_s: float) -> float | None:
    """In so many seconds; None when it does not say. A date counts from the answer's own `Date`, since the clock of who
    answers may be another than ours: `wall_s`, Unix seconds, which is for an answer without."""
    said, date = b"", b""
    for field in head.fields:
        if field.name == b"retry-after":
            said = field.value
        elif field.name == b"date":
            date = field.value
    if said.isdigit():
        return float(said[:10])
    at = _unix_s(said)
    if at is None:
        return None
    since = _unix_s(date)
    return max(0.0, at - (wall_s if since is None else since))


def _unix_s(date: bytes) -> float | None:
    if not date or len(date) > _DATE_BYTES:
        return None
    try:
        parts = parsedate(date.decode("latin-1"))
        return None if parts is None else float(calendar.timegm(parts))
    except (ValueError, OverflowError):
        return None
