# mypyc: interpreted, because it is made anew when certificates or trust change, and no request waits for that
"""What a worker can prove, and whom it believes: contexts of TLS for callers and for listeners, and the judge of both.

Laws
- Without a trust domain nothing of it is there, nor loaded: every hop is in plain text.
- Who is believed is decided by the trust of the moment, also in handshakes that began before. What was believed is
  looked at again when trust changes, and ends at the latest with the certificates that it was proven by.
- A certificate that cannot be loaded costs its service what it proves, and nobody else anything.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.frames import Svid, Trust
from agent.identity.revocations import Revocations, parse_revocations
from agent.identity.spiffe import SpiffeId, parse_id, service_id
from agent.identity.verdict import Identity, Refused
from agent.process.memory_file import memory_file
from agent.proxy.engine.credentials import (
    AGENT,
    JOIN,
    Shown,
    Way,
    choosing,
    client_context,
    joining_context,
    server_context,
)
from agent.proxy.engine.half_open import HalfOpen
from agent.proxy.engine.reactor import Reactor
from policies.language.trust import SCHEME

if TYPE_CHECKING:
    from agent.identity.bundles import Bundle

REMEMBERED: Final = 20
_FOREVER: Final = float("inf")
log = logging.getLogger("shoal.worker")


class Failure(NamedTuple):
    """A handshake that came to nothing."""

    at: float
    """Unix seconds."""
    address: str
    """Of the client; or the service that was called."""
    reason: str


class _Context(NamedTuple):
    """What was made of a certificate."""

    svid: Svid
    roots: tuple[bytes, ...]
    context: ssl.SSLContext


class Security:
    """Of one worker."""

    def __init__(self, reactor: Reactor) -> None:
        self.half_open = HalfOpen(reactor)
        self.on_settled: Callable[[], None] = _nothing
        """Called behind what came of a handshake here."""
        self.listens: ssl.SSLContext | None = None
        """What an inbound listener's handshakes are made by; None: it speaks no TLS."""
        self.trust_domain = ""
        self.failures: deque[Failure] = deque(maxlen=REMEMBERED)
        self._shown: Mapping[str, Svid] = {}
        self._roots: tuple[bytes, ...] = ()
        self._bundles: dict[str, Bundle] = {}
        self._revocations = Revocations()
        self._made: dict[tuple[str, str], _Context] = {}
        """By side and name."""
        self._called: dict[ssl.SSLContext, str] = {}
        self._joining: ssl.SSLContext | None = None

    # What control tells.

    def take(self, told: Trust) -> bool:
        """From now on. Returns whether a root is gone, by which anybody may have been believed. Raises ValueError for
        what makes no sense; then everything is as before."""
        bundles = _bundles(told) if told.trust_domain else {}
        revocations = parse_revocations(told.revoked) if told.revoked else Revocations()
        self.trust_domain, self._bundles, self._revocations = told.trust_domain, bundles, revocations
        self._shown = told.shown
        before = self._roots
        self._roots = tuple(root for domain in sorted(told.bundles) for root in told.bundles[domain])
        made, self._made = self._made, {}
        self._listen_as(made)
        self._made |= {key: each for key, each in made.items() if key[0] == "client" and self._is_current(key, each)}
        return not set(before) <= set(self._roots)

    def _is_current(self, key: tuple[str, str], made: _Context) -> bool:
        return made.svid == self._shown.get(key[1]) and made.roots == self._roots

    def _listen_as(self, before: dict[tuple[str, str], _Context]) -> None:
        contexts: dict[str, ssl.SSLContext] = {}
        for name in self._shown:
            context = self._context("server", name, before)
            if context is not None:
                contexts[name or AGENT] = context
        self._joining = None
        self._called = {context: "" if name == AGENT else name for name, context in contexts.items()}
        if not contexts:
            self.listens = None
            return
        self._joining = self._context("join", "", before)
        if self._joining is not None:
            contexts[JOIN] = self._joining
        self.listens = choosing(contexts)

    def _context(
        self, side: str, name: str, before: dict[tuple[str, str], _Context] | None = None
    ) -> ssl.SSLContext | None:
        """What a side of a hop shows as a service, or as the agent; None: it cannot."""
        svid = self._shown.get(name)
        if svid is None:
            return None
        key = (side, name)
        known = self._made.get(key) or (before or {}).get(key)
        if known is None or not self._is_current(key, known):
            try:
                with _in_files(svid) as shown:
                    known = _Context(svid, self._roots, _MAKE[side](shown, self._roots))
            except OSError as error:
                log.error("the certificate of %s cannot be used: %s", name or "the agent", error)
                return None
        self._made[key] = known
        return known.context

    # As a caller.

    def way(self, caller: str, callee: str) -> Way | None:
        """How a caller (empty: one that is not known, for whom the agent shows its own) reaches a service by TLS, with
        its own certificate; None: there is no way. `callee`: a service of ours, or the SPIFFE id of another trust
        domain's."""
        svid = self._shown.get(caller)
        context = self._context("client", caller)
        if svid is None or context is None or svid.ends_s <= time.time():
            return None
        foreign = callee.startswith(SCHEME)
        expected = parse_id(callee) if foreign else service_id(self.trust_domain, callee)
        if foreign and expected.trust_domain not in self._bundles:
            return None
        return Way(context, expected.service, _Judge(self, expected), svid.ends_s, caller)

    def lacks(self, caller: str, expected: str = "") -> str:
        """Why there is no way for a caller to a service, or to somebody of another trust domain (`expected`)."""
        if not expected:
            return f"this agent holds no certificate of {caller}" if caller else "this agent holds no certificate"
        domain = parse_id(expected).trust_domain
        if self.trust_domain and domain not in self._bundles:
            return f"no bundle of {domain} is believed here (identity/trust/{domain}, `shoal trust add`)"
        return self.lacks(caller)

    def judge(self, chain: list[bytes], expected: SpiffeId | None = None) -> Identity | Refused:
        """Who shows a chain, by the trust of now."""
        from agent.identity.verification import verify

        return verify(chain, self._bundles, self._revocations, time.time(), expected)

    def note(self, address: str, reason: str) -> None:
        """A handshake came to nothing."""
        self.failures.append(Failure(time.time(), address, reason))

    # As who is called.

    def judge_caller(self, chain: list[bytes], context: ssl.SSLContext) -> Identity | Refused:
        """Who calls; whoever wants to join is nobody yet."""
        if context is self._joining:
            return Identity(SpiffeId(self.trust_domain, ""), "", 0, _FOREVER, ())
        return self.judge(chain)

    def called(self, context: ssl.SSLContext) -> str:
        """Which service was called in a handshake; empty: the agent itself."""
        return self._called.get(context, "")

    # What was believed.

    def is_over(self, identity: Identity, ends_s: float) -> str:
        """Why who was believed is so no more; empty: he is. `ends_s`: of both sides' certificates."""
        if ends_s <= time.time():
            return f"the certificate of {identity.id} has ended, or ours for it"
        if not self.trust_domain:
            return "nobody can prove anything here any more"
        if identity.id.trust_domain not in self._bundles:
            return f"no bundle of {identity.id.trust_domain} is believed here any more"
        from agent.identity.verification import revoked_by

        return revoked_by(identity, self._revocations)


@contextmanager
def _in_files(svid: Svid) -> Iterator[Shown]:
    """As OpenSSL wants to read it. Raises OSError."""
    if not svid.pem:
        yield Shown(Path(svid.chain), Path(svid.key))
        return
    with memory_file(svid.pem) as path:
        yield Shown(path, path)


def _nothing() -> None:
    """Nobody waits for it."""


def _bundles(told: Trust) -> dict[str, Bundle]:
    from cryptography.x509 import load_der_x509_certificate

    from agent.identity.bundles import Bundle

    return {
        domain: Bundle(domain, tuple(load_der_x509_certificate(root) for root in roots))
        for domain, roots in told.bundles.items()
    }


class _Judge:
    """Of the handshakes to one service."""

    def __init__(self, security: Security, expected: SpiffeId) -> None:
        self._security = security
        self._expected = expected

    def __call__(self, chain: list[bytes], _: Any) -> Identity | Refused:
        found = self._security.judge(chain, self._expected)
        if isinstance(found, Refused):
            self._security.note(str(self._expected), found.reason)
        return found


def _to_join(shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    return joining_context(shown)


_MAKE: Final[dict[str, Callable[[Shown, Iterable[bytes]], ssl.SSLContext]]] = {
    "client": client_context,
    "server": server_context,
    "join": _to_join,
}
