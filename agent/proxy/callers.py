"""Who is calling: the credentials that a local service's HTTP_PROXY carries (RFC 7617), checked against its token."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from agent.proxy.answers import Refusal

_REMEMBER: Final = 1024


class Callers:
    """Tokens of the local services; the answer for credentials seen before is one look-up."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}
        self._known: dict[bytes, str] = {}

    def configure(self, tokens: Mapping[str, str]) -> None:
        """Replace all tokens (service name to token)."""
        self._tokens = dict(tokens)
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
        name, token = unquote(name), unquote(token)
        expected = self._tokens.get(name)
        if scheme.lower() != b"basic" or expected is None or not hmac.compare_digest(token, expected):
            return Refusal(407, "caller", f"the proxy credentials are not those of a service on this host: {name!r}")
        return name
