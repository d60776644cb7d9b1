# mypyc: interpreted, because only what fails asks it
"""What went wrong with TLS, as people say it."""

from __future__ import annotations

import ssl
from typing import Final

REFUSED: Final = "identity refused by the other side"
"""How words begin of who was judged, and is not believed."""
_OF_IDENTITY: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "UNRECOGNIZED_NAME")


def words(error: OSError) -> str:
    """Of a failure of TLS, or of its connection."""
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was cut: it ended without close_notify"
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed: {error.verify_message.rstrip('.')}"
    reason = str(error.reason or error.strerror or error)
    _, alert, what = reason.partition("ALERT_")
    said = (what if alert else reason).replace("_", " ").lower().removeprefix("tlsv1 ")
    if (alert and any(word in what for word in _OF_IDENTITY)) or "UNRECOGNIZED_NAME" in reason:
        return f"{REFUSED}: {said}"
    return f"TLS: the other side says {said}" if alert else f"TLS: {said}"
