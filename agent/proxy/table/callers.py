# mypyc: compiled
"""Who is calling: the credentials that a local service's HTTP_PROXY carries (RFC 7617).

Tokens are random and long, and only their digests are known here: what is looked up in a dict tells an attacker with a
clock nothing that he could use.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from agent.proxy.messages.answers import Refusal

_REMEMBER: Final = 1024
_SHOWN: Final = 80
"""Characters of a name that are repeated to whoever sent it."""


class Callers:
    """Tokens of the instances of this host; the answer for credentials seen before is one look-up."""

    def __init__(self) -> None:
        self._services: dict[str, str] = {}
        self._known: dict[bytes, str] = {}

    def configure(self, services: Mapping[str, str]) -> None:
        """Replace all: which service a token's digest (SHA-256, hex) stands for."""
        self._services = dict(services)
        self._known = {}

    def caller(self, credentials: bytes) -> str | Refusal:
        """The service that a Proxy-Authorization value stands for, or why it is not believed (407)."""
        known = self._known.get(credentials)
        if known is not None:
            return known
        caller = self._check(credentials)
        if isinstance(caller, str):
            if len(self._known) >= _REMEMBER:
                self._known.clear()
            self._known[credentials] = caller
        return caller

    def _check(self, credentials: bytes) -> str | Refusal:
        scheme, _, encoded = credentials.partition(b" ")
        try:
            name, _, token = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Refusal(407, "caller", "proxy credentials that are not Basic service:token")
        name = unquote(name)
        digest = hashlib.sha256(unquote(token).encode("utf-8", "surrogateescape")).hexdigest()
        if scheme.lower() != b"basic" or self._services.get(digest, "") != name or not name:
            shown = f"{name[:_SHOWN]!r}"
            return Refusal(407, "caller", f"the proxy credentials are not those of a service on this host: {shown}")
        return name
