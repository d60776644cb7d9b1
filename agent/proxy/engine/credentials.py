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
from typing import Final, NamedTuple

from agent.proxy.engine.handshake import GREETING

AGENT: Final = "agent.shoal"
"""What SNI calls the agent itself."""
_PROTOCOLS: Final = [GREETING, "http/1.1"]


class Shown(NamedTuple):
    """An SVID in files: its chain (PEM), and its key."""

    chain: Path
    key: Path


def client_context(shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of one caller. `roots`: DER. Raises OSError for files that cannot be read or do not belong together."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, shown, roots)
    context.check_hostname = False  # a SPIFFE id is no host name; the judge says who it is
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_context(services: Mapping[str, Shown], roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of all that are called here, by what SNI calls them; AGENT is one of them, and shown where nothing is called."""
    known = list(roots)
    contexts = {name: _context(ssl.PROTOCOL_TLS_SERVER, shown, known) for name, shown in services.items()}
    for context in contexts.values():
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        found = contexts.get(AGENT if name is None else name.lower())
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = found
        return None

    entry = contexts[AGENT]
    entry.sni_callback = choose
    return entry


def _context(protocol: int, shown: Shown, roots: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(shown.chain, shown.key)
    context.load_verify_locations(cadata=b"".join(roots))
    context.set_alpn_protocols(_PROTOCOLS)
    return context
