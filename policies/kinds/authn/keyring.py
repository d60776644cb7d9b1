# mypyc: compiled
"""Keys that are fetched, as they are in force: by source, handed in by who fetches them, asked by who verifies.

Laws
- Keys of one source verify nothing that is of another.
- What was published stands in one object that never changes. Other keys are another object, so that whoever remembers
  what keys have verified sees at once that they are not those any more.
- When an issuer said so last stands apart from what it said: the same keys, heard of again, are no other object.
- A key that is missed is asked for at intervals only, whoever makes up the tokens that miss it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

ASK_AGAIN_S: Final = 1.0
MOST: Final = 1000
"""Sources; documents name fewer."""


class Published:
    """What an issuer publishes, from one fetch."""

    __slots__ = ("jwks",)

    def __init__(self, jwks: Sequence[Mapping[str, Any]]) -> None:
        """Public keys (RFC 7517)."""
        self.jwks = tuple(jwks)


class Keyring:
    """Of one process."""

    __slots__ = ("_asked", "_published", "_said_s", "on_missing")

    def __init__(self) -> None:
        self.on_missing: Callable[[str], None] | None = None
        """Told the source of a key that nobody has, now and then."""
        self._published: dict[str, Published] = {}
        self._asked: dict[str, float] = {}
        self._said_s: dict[str, float] = {}

    def of(self, source: str) -> Published | None:
        """None: they were never got."""
        return self._published.get(source)

    def said_s(self, source: str) -> float:
        """When its issuer said last that these are its keys (Unix time, s); infinity: whoever put them in vouches for
        them."""
        return self._said_s.get(source, math.inf)

    def put(self, source: str, jwks: Sequence[Mapping[str, Any]] | None, said_s: float = math.inf) -> bool:
        """Keys of a source from now on, and when its issuer said so; None: it is wanted no more. Returns whether a key
        of before is gone."""
        before = self._published.get(source)
        self._said_s[source] = said_s
        if jwks is None:
            self._published.pop(source, None)
            self._asked.pop(source, None)
            self._said_s.pop(source, None)
        elif before is None or before.jwks != tuple(jwks):
            self._published[source] = Published(jwks)
        now = () if jwks is None else jwks
        return before is not None and any(key not in now for key in before.jwks)

    def miss(self, source: str, now_s: float) -> None:
        """Of this source a token needs a key that is not there."""
        asked_s = self._asked.get(source)
        if self.on_missing is None or (asked_s is not None and 0 <= now_s - asked_s < ASK_AGAIN_S):
            return
        if len(self._asked) >= MOST:
            self._asked.clear()
        self._asked[source] = now_s
        self.on_missing(source)
