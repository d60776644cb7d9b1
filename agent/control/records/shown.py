"""TLS to a receiver of records: whom it is believed by, and what it is shown."""

from __future__ import annotations

import ssl
from typing import NamedTuple

MIN_TLS = ssl.TLSVersion.TLSv1_2


class Shown(NamedTuple):
    """Files, as the settings name them; read again with each connection, so that renewed ones are used."""

    ca: str = ""
    """Empty: the system's authorities."""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """In a thread. Raises OSError for files that are none."""
        context = ssl.create_default_context(cafile=self.ca or None)
        context.minimum_version = MIN_TLS
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


def reason_of(error: BaseException) -> str:
    """Why a connection is of no use, in words: what lies beneath says more than what wraps it."""
    inner: BaseException = error
    while beneath := inner.__cause__ or inner.__context__:
        inner = beneath
    if isinstance(inner, BaseExceptionGroup):
        return reason_of(inner.exceptions[0])
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {inner.verify_message}"
    strerror = inner.strerror if isinstance(inner, OSError) else ""
    return strerror or str(inner) or type(inner).__name__
