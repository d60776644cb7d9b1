# mypyc: interpreted, because it reads documents, and no request waits for that
"""Times as people write them: lengths (`250ms`, `5s`, `1m`, `1h`, or a number of seconds), and points (RFC 3339:
`2026-11-24T18:00:00Z`)."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from policies.language.plain import Flaw, read_at

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)\Z")
_DAYS = re.compile(r"([0-9]{1,6}(?:\.[0-9]+)?)d\Z")
DAY_S = 86400.0
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
_YEAR_10000: Final = 253_402_300_800


Duration = Annotated[float | str, Meta(description='A length of time: "250ms", "5s", "1m", "1h", or seconds')]

Age = Annotated[float | str, Meta(description='A length of time: "90d", "12h", "30m", or seconds')]


def seconds(value: float | str) -> float:
    """The duration in seconds. Raises ValueError that says what would be right."""
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if match is None:
            raise ValueError(f'{value[:40]!r} is no duration; write "250ms", "5s", "1m", "1h" or a number of seconds')
        value = float(match[1]) * _UNITS_S[match[2]]
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is no duration; it has to be 0 or more seconds")
    return float(value)


def age_s(value: float | str) -> float:
    """The same, of what lasts longer: `90d`, too. Raises ValueError that says what would be right."""
    if isinstance(value, str) and (match := _DAYS.match(value.strip())):
        return float(match[1]) * DAY_S
    try:
        return seconds(value)
    except ValueError:
        raise ValueError(f'{str(value)[:40]!r} is no length of time; write "90d", "12h", "30m" or seconds') from None


def bounded(path: str, value: float | str, least_s: float, most_s: float) -> float:
    """The seconds of a duration that may be from `least_s` to `most_s` long. Raises Flaw."""
    length_s = read_at(path, seconds, value)
    if not least_s <= length_s <= most_s:
        raise Flaw(path, f"{length_s:g} s; from {least_s:g} s to {most_s:g} s")
    return length_s


def positive(path: str, value: float | str, most_s: float) -> float:
    """The seconds of a duration that is one, and at most `most_s` long. Raises Flaw."""
    length_s = read_at(path, seconds, value)
    if not 0 < length_s <= most_s:
        raise Flaw(path, f"{length_s:g} s; more than nothing, and at most {most_s:g} s")
    return length_s


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
