# mypyc: interpreted, because it raises what an interpreted module makes; a look-up beside a signature costs nothing
"""Tokens that did not count a moment ago, so that who sends the same again is not verified again.

Laws
- Apart from what was verified: whoever makes up tokens, however many, forgets good ones for nobody.
- By a hash of the token: no token stands in memory for this, and one that is long costs no more than a short one.
- As long as the keys that refused it are those of its issuer, for KEPT_S at most, and with the document.
- What another moment may answer otherwise is not kept: a token that counts later only, and one that nobody can judge.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from policies.kinds.authn.invalid import Invalid, Missed, Unjudged
from policies.kinds.authn.keyring import Keyring, Published

MAX_REFUSED: Final = 4096
KEPT_S: Final = 60.0


class _Kept(NamedTuple):
    made: type[Invalid]
    reason: str
    verdict: str
    source: str
    published: Published | None
    since_s: float


class Refused:
    """Of one document."""

    __slots__ = ("_kept", "_keyring")

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._kept: dict[bytes, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def judge(self, digest: bytes, now_s: float) -> None:
        """Raises Invalid, as it was raised before."""
        kept = self._kept.get(digest)
        if kept is None:
            return
        if not 0.0 <= now_s - kept.since_s < KEPT_S or self._keyring.of(kept.source) is not kept.published:
            del self._kept[digest]
            return
        if kept.source and issubclass(kept.made, Missed):
            self._keyring.miss(kept.source, now_s)
        raise kept.made(kept.reason, kept.verdict)

    def note(self, digest: bytes, why: Invalid, now_s: float) -> None:
        """It does not count."""
        if isinstance(why, Unjudged) or why.verdict == "not-yet":
            return
        if len(self._kept) >= MAX_REFUSED:
            self._kept.clear()
        published = self._keyring.of(why.source)
        self._kept[digest] = _Kept(type(why), str(why), why.verdict, why.source, published, now_s)


def digest_of(token: str) -> bytes:
    """By which it is known; nobody finds another of the same."""
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=16).digest()
