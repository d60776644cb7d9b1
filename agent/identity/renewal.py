"""When certificates are renewed: by the clock, never by traffic, and both directions alike.

Half of a certificate's life, give or take a tenth; an alarm from two thirds on. Asked again at each look at the clock,
so that a clock that jumps, as on a machine that slept, is seen with the next one.
"""

from __future__ import annotations

from typing import Final

JITTER: Final = 0.1
ALARM: Final = 2 / 3
FIRST_WAIT_S: Final = 5.0
MOST_WAIT_S: Final = 300.0


def renew_at_s(begins_s: float, ends_s: float, chance: float) -> float:
    """When to ask for another; `chance` in [0, 1), drawn once for each certificate."""
    return begins_s + (ends_s - begins_s) * (0.5 + JITTER * (2 * chance - 1) * 0.5)


def alarm_at_s(begins_s: float, ends_s: float) -> float:
    """From when on it is told that there should have been another by now."""
    return begins_s + (ends_s - begins_s) * ALARM


def wait_s(failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row, 1 or more; half of that is chance."""
    whole = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + 0.5 * chance)
