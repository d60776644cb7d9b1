"""How this agent asks another one, and is asked by people: over TLS as its own SVID, and believing nobody but the one
that it means.

Law: who answers is judged before a byte of the question is sent.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class NoAnswer(Exception):
    """Why another agent was not heard, in words."""


class TooLate(NoAnswer):
    """It did not answer in time."""


class TooLarge(NoAnswer):
    """It answers more than is read."""


class Way(NamedTuple):
    """To one agent."""

    context: ssl.SSLContext
    sni: str
    judge: Callable[[list[bytes]], str]
    """Why whoever shows a chain (DER, his own certificate first) is not the one who is meant; empty: he is."""


def client_context(shown: Path, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of who shows a certificate and its key, in one file. `roots`: DER. Raises OSError for files that are none."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, shown, roots)
    context.check_hostname = False  # a SPIFFE id is no host name; the judge says who it is
    return context


def server_context(shown: Path, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of who is asked, and wants a certificate too. As `client_context`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, shown, roots)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context


def open_server_context(shown: Path, roots: Iterable[bytes]) -> ssl.SSLContext:
    """The same, of who takes it for an answer that there is no certificate. One that is shown has to be good."""
    context = server_context(shown, roots)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _context(protocol: int, shown: Path, roots: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(shown)
    context.load_verify_locations(cadata=b"".join(roots))
    return context
