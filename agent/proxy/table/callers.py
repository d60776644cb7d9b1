# mypyc: compiled
"""Who is calling: the credentials that a local service's HTTP_PROXY carries (RFC 7617).

Tokens are random and long, and only their digests are known here: what is looked up in a dict tells an attacker with a
clock nothing that he could use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from agent.proxy.messages import words
from agent.proxy.messages.answers import Refusal
from agent.proxy.peer import Peer
from agent.proxy.proof.local_user import SHOWN, LocalUser, read_basic

_REMEMBER: Final = 1024


class Callers:
    """Tokens of the instances of this host; the answer for credentials seen before is one look-up."""

    def __init__(self) -> None:
        self._services: dict[str, str] = {}
        self._known: dict[bytes, str] = {}

    def configure(self, services: Mapping[str, str]) -> None:
        """Replace all: which service a token's digest (SHA-256, hex) stands for."""
        self._services = dict(services)
        self._known = {}

    def caller(self, credentials: bytes, local: LocalUser | None = None) -> str | Refusal:
        """The service that a Proxy-Authorization value stands for, or why it is not believed (407). `local`: whose
        connection it is, where the kernel has said that."""
        if local is not None:
            return local.named(credentials)
        known = self._known.get(credentials)
        if known is not None:
            return known
        caller = self._check(credentials)
        if isinstance(caller, str):
            if len(self._known) >= _REMEMBER:
                self._known.clear()
            self._known[credentials] = caller
        return caller

    def named(self, peer: Peer, credentials: bytes | None) -> int:
        """NAMED for a client that is one of this host's services, else 0: a bit of who sends a request."""
        name = self.caller(credentials, peer.local) if credentials is not None else peer.caller
        return words.NAMED if name and isinstance(name, str) else 0

    def _check(self, credentials: bytes) -> str | Refusal:
        read = read_basic(credentials)
        if read is None:
            return Refusal(407, "caller", "proxy credentials that are not Basic service:token")
        name, token = read
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        if self._services.get(digest, "") != name or not name:
            shown = f"{name[:SHOWN]!r}"
            return Refusal(407, "caller", f"the proxy credentials are not those of a service on this host: {shown}")
        return name
