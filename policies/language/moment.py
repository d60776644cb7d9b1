# mypyc: interpreted, because it reads documents, and no request waits for that
"""Points in time as documents write them (RFC 3339): 2026-11-24T18:00:00Z."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
_YEAR_10000: Final = 253_402_300_800


def moment(text: str) -> float:
    """In Unix seconds. Raises ValueError that says what would be right."""
    right = f"{text[:40]!r} is no time; write one with its zone, such as 2026-11-24T18:00:00Z"
    if not _RFC_3339.match(text):
        raise ValueError(right)
    try:
        found = datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(right) from None
    if not 0 < found < _YEAR_10000:
        raise ValueError(right)
    return found
