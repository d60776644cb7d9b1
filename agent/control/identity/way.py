"""How this agent asks another one: over TLS as its own SVID, and believing nobody but the one that it means.

Law: who answers is judged before a byte of the question is sent.
"""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class NoAnswer(Exception):
    """Why another agent was not heard, in words."""


class Way(NamedTuple):
    """To one agent."""

    context: ssl.SSLContext
    sni: str
    judge: Callable[[list[bytes]], str]
    """Why whoever shows a chain (DER, his own certificate first) is not the one who is meant; empty: he is."""


def client_context(shown: Path, roots: Iterable[bytes]) -> ssl.SSLContext:
    """Of who shows a certificate and its key, in one file. `roots`: DER. Raises OSError for files that are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.check_hostname = False  # a SPIFFE id is no host name; the judge says who it is
    context.load_cert_chain(shown)
    context.load_verify_locations(cadata=b"".join(roots))
    return context


def chain_of(tls: ssl.SSLObject) -> list[bytes]:
    """What the other side showed; empty: nothing. Public from Python 3.13 on."""
    if hasattr(tls, "get_unverified_chain"):
        shown: list[bytes] = list(tls.get_unverified_chain())
        return shown
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]
