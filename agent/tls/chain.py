"""What the other side of a connection has shown."""

from __future__ import annotations

import _ssl
import ssl
from typing import Any


def chain_of(tls: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """What the other side showed; empty: nothing. Public from Python 3.13 on."""
    if tls.getpeercert(True) is None:
        return []  # of a server's client without one, Python makes a chain of None
    if hasattr(tls, "get_unverified_chain"):
        shown: list[bytes] = list(tls.get_unverified_chain())
        return shown
    inner: Any = tls._sslobj  # type: ignore[union-attr]
    return [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]
