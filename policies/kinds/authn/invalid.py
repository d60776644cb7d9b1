# mypyc: interpreted, because exceptions of compiled modules cannot be extended by interpreted ones
"""Why a token or an API key does not count."""

from __future__ import annotations

from typing import Final

VALID: Final = "valid"
ABSENT: Final = "absent"
VERDICTS: Final = (
    *(VALID, ABSENT, "malformed", "issuer", "algorithm", "key", "signature", "expired", "not-yet", "audience"),
    *("claim", "two", "api-key", "unjudged", "ended"),
)
"""What requests are counted under: of an invalid token, what is wrong with it first; `two`: several
where one may be; `unjudged`: its issuer's keys were never got, or not for too long; `ended`: it counted, and does not
any more, by another document."""


class Invalid(Exception):
    """A token that does not count; why is for who operates."""

    status = 401
    what = "invalid token"
    """In the words that whoever calls is told."""

    def __init__(self, reason: str, verdict: str = "malformed") -> None:
        """`verdict`: one of VERDICTS."""
        super().__init__(reason)
        self.verdict = verdict
        self.source = ""
        """Whose fetched keys said so; empty: none did."""


class InvalidKey(Invalid):
    """An API key that does not count."""

    what = "invalid API key"

    def __init__(self, reason: str, verdict: str = "api-key") -> None:
        super().__init__(reason, verdict)


class Unjudged(Invalid):
    """Nobody can say whether a token counts: its issuer's keys were never got, or not for too long. It may come
    again."""

    status = 503
    what = "keys are not known yet"


class Missed(Invalid):
    """By a key that is not here, as it seems: its issuer may have made one since."""
