# mypyc: interpreted, because contexts are made when certificates change, and no request waits for that
"""What one side of a hop shows: contexts of TLS, made anew when certificates or trust change, and never altered.

Laws
- TLS 1.3 only. No tickets: one would outlive the certificate that it was given for, and Python cannot shorten it. So
  nothing is resumed, and there is no early data.
- Both sides show a certificate. OpenSSL asks whether any root that we know has signed it; who it is says the judge
  (`agent.identity.verification`), which OpenSSL's one pool of roots cannot.
- SNI says which service is called, and its SVID is shown or none: who calls what is not here is told so.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.tls.greeting import GREETING

if TYPE_CHECKING:
    from agent.proxy.engine.handshake import Judge

AGENT: Final = "agent.shoal"
"""What SNI calls the agent itself."""
JOIN: Final = "join.shoal"
"""What SNI calls it by whoever has a token, and no certificate yet."""
_PROTOCOLS: Final = [GREETING, "http/1.1"]


class Shown(NamedTuple):
    """An SVID in files: its chain (PEM), and its key."""

    chain: Path
    key: Path


class Way:
    """A caller's hop to a service: as whom, by which name, and who is believed to be it. Another takes its place when
    the caller has another certificate; connections that are there go on until theirs ends."""

    def __init__(self, context: ssl.SSLContext, sni: str, judge: Judge, ends_s: float, caller: str = "") -> None:
        """`ends_s`: when what is shown ends, in seconds of the epoch. `caller`: the service that is shown; empty: it is
        the agent."""
        self.context = context
        self.sni = sni
        self.judge = judge
        self.ends_s = ends_s
        self.caller = caller


def client_context(shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of one caller. `roots`: DER. Raises OSError for files that cannot be read or do not belong together."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, shown, roots)
    context.check_hostname = False  # a SPIFFE id is no host name; the judge says who it is
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_context(shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of one that is called here. `roots`: DER. Raises OSError like `client_context`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, shown, roots)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return context


def joining_context(agent: Shown) -> ssl.SSLContext:
    """Of the agent, for who has nothing to show yet, and a token: nobody is asked who he is. Raises OSError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, agent, ())
    context.num_tickets = 0
    return context


def choosing(contexts: Mapping[str, ssl.SSLContext]) -> ssl.SSLContext:
    """One for a listener, of those of all that are called here (one or more), by what SNI calls them. AGENT is shown
    where nothing is called, if it is there."""

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        found = contexts.get(AGENT if name is None else name.lower())
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = found
        return None

    entry = contexts.get(AGENT) or next(iter(contexts.values()))
    if JOIN in contexts:  # OpenSSL goes on with this first one's mode; the judge refuses who shows nothing elsewhere
        entry.verify_mode = ssl.CERT_OPTIONAL
    entry.sni_callback = choose
    return entry


def _context(protocol: int, shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(shown.chain, shown.key)
    known = b"".join(roots)
    if known:
        context.load_verify_locations(cadata=known)
    context.set_alpn_protocols(_PROTOCOLS)
    return context
