"""What the programs beside an agent prove with that a call is theirs: one token an instance. Pure.

Laws
- A token is shown once, to whom it was made for; kept is its digest, here, on disk and in the workers.
- Another registration of the same service gets a token of its own: nobody is ever handed somebody else's.
- One whose instance has left is good for LINGER_S more: the program finishes what it began.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

import msgspec

LINGER_S: Final = 600.0
FROM_BEFORE_S: Final = 24 * 3600.0
"""How long tokens are good that an agent of 0.1.0's first days gave to a service as a whole."""
MAX_LEAVING: Final = 10_000
_LENGTH: Final = 18
_MIN_SAID: Final = 24
"""Characters: what `_LENGTH` random bytes come to."""


class Token(msgspec.Struct):
    """One that was given out."""

    service: str
    instance: str
    digest: str
    """SHA-256, in hex."""
    until: float | None = None
    """Unix time (s) at which it ends; None while its instance is here."""


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """Those of this host."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, str], Token] = {}
        self._leaving: list[Token] = []

    def has(self, service: str, instance: str) -> bool:
        """Whether an instance was given one."""
        return (service, instance) in self._standing

    def issue(self, service: str, instance: str, now: float, token: str = "") -> str:
        """A new token for an instance, which is shown this once; the one before ends soon.

        `token`: one that it was given by this host before, and that was forgotten here.
        """
        self.retire(service, instance, now)
        if len(token) < _MIN_SAID:
            token = secrets.token_urlsafe(_LENGTH)
        self._standing[service, instance] = Token(service, instance, digest(token))
        return token

    def retire(self, service: str, instance: str, now: float) -> None:
        """The instance has left, or has another."""
        token = self._standing.pop((service, instance), None)
        if token is not None:
            token.until = now + LINGER_S
            self._leaving = [*self._leaving[-MAX_LEAVING + 1 :], token]

    def expire(self, now: float) -> bool:
        """Forget what has ended; whether there was any."""
        left = [token for token in self._leaving if token.until is None or token.until > now]
        changed = len(left) != len(self._leaving)
        self._leaving = left
        return changed

    def callers(self) -> dict[str, str]:
        """What workers know: whose each digest is."""
        return {token.digest: token.service for token in (*self._standing.values(), *self._leaving)}

    def saved(self) -> list[Token]:
        """For the disk."""
        return [*self._standing.values(), *self._leaving]

    def load(self, saved: Any, now: float) -> bool:
        """What was saved; nothing where it makes no sense. False where some of it made none. Raises nothing, whatever
        it is."""
        if isinstance(saved, dict):  # by service, as they were given out before there was one an instance
            given = [(name, text) for name, text in saved.items() if isinstance(name, str) and isinstance(text, str)]
            self._leaving += [Token(name, "", digest(text), now + FROM_BEFORE_S) for name, text in given]
            return len(given) == len(saved)
        whole = isinstance(saved, list)
        for raw in saved if isinstance(saved, list) else []:
            try:
                token = msgspec.convert(raw, Token)
            except msgspec.ValidationError:
                whole = False
                continue
            if token.until is None:
                self._standing[token.service, token.instance] = token
            else:
                self._leaving.append(token)
        return whole

    def keep_only(self, instances: set[tuple[str, str]], now: float) -> None:
        """Retire those of instances that are not here any more."""
        for service, instance in self._standing.keys() - instances:
            self.retire(service, instance, now)
