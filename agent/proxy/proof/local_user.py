# mypyc: compiled
"""A program of this host at a listener where the kernel says whose it is: in whose name it calls.

Laws
- It calls in the name of a service that its user may be (`[local]` of the settings), or is refused. No header and no
  token makes it another: what counts is what the kernel says of its connection, once.
- Of whom the kernel does not say whose it is, nothing is believed.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote

from agent.frames import LocalUsers
from agent.identity.users import Members, User, Users
from agent.proxy.messages.answers import Refusal
from policies.language.names import parse_service

SHOWN: Final = 80
"""Characters of a name that are repeated to whoever sent it."""


def read_basic(credentials: bytes) -> tuple[str, str] | None:
    """Name and password of a Proxy-Authorization value (RFC 7617), unquoted as they stand in a URL."""
    scheme, _, encoded = credentials.partition(b" ")
    try:
        name, _, token = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (unquote(name), unquote(token)) if scheme.lower() == b"basic" else None


class LocalUser:
    """Of one connection."""

    __slots__ = ("_known", "_listener", "_named", "_user", "_users", "refusal", "service")

    def __init__(self, user: User | None, users: Users, listener: str) -> None:
        """`user`: None where the kernel does not say. `listener`: the service whose it is; empty: everybody's."""
        self._user = user
        self._users = users
        self._listener = listener
        self._known = b""
        self._named: str | Refusal = ""
        self.refusal: Refusal | None = None
        """Why it may not call here at all."""
        self.service = ""
        """In whose name it calls where it says nothing; empty: nobody's."""
        if user is None:
            self.refusal = Refusal(403, "caller", "the kernel does not say whose connection this is", unsent=True)
        elif not listener:
            self.service = users.only(user)
        elif users.may_be(user, listener):
            self.service = listener
        else:
            self.refusal = _may_not(user, listener)

    def named(self, credentials: bytes) -> str | Refusal:
        """The service that it calls in the name of where it names one; no token is needed, and none is heard."""
        if credentials != self._known or not self._known:
            self._known, self._named = credentials, self._judged(credentials)
        return self._named

    def _judged(self, credentials: bytes) -> str | Refusal:
        read, user = read_basic(credentials), self._user
        try:
            name = parse_service(read[0]) if read is not None else ""
        except ValueError:
            name = ""
        if not name or user is None:
            return Refusal(407, "caller", "proxy credentials that name no service: Basic, and service:", unsent=True)
        if self._listener and name != self._listener:
            reason = f"this listener is {self._listener}'s, and the proxy credentials name {name[:SHOWN]!r}"
            return Refusal(407, "caller", reason, unsent=True)
        return name if self._users.may_be(user, name) else _may_not(user, name)


def _may_not(user: User, service: str) -> Refusal:
    reason = f"{user} may not call as {service[:SHOWN]}; [local.services] in agent.toml says who may"
    return Refusal(403, "caller", reason, unsent=True)


def users(told: LocalUsers) -> Users:
    """As control tells of them."""
    services = {pattern: _members(numbers) for pattern, numbers in told.services.items()}
    return Users(told.masters, _members(told.operators), services)


def _members(numbers: tuple[list[int], list[int]]) -> Members:
    return Members(frozenset(numbers[0]), frozenset(numbers[1]))
