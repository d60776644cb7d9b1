"""Signatures of Standard Webhooks: the receiver can tell who sent a body, and that it is neither changed nor old.

https://github.com/standard-webhooks/standard-webhooks: HMAC-SHA256 over id, time and body, one signature for each
secret, so that a receiver may know the old secret or the new one while they rotate.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

_PREFIX: Final = "whsec_"
_LEAST, _MOST = 24, 64


def decode(text: str) -> bytes:
    """The key in a secret as it stands in a file: base64, with or without `whsec_`. Raises ValueError."""
    try:
        key = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a signing secret is base64 behind whsec_; make one: see docs/policies/webhook.md") from None
    if not _LEAST <= len(key) <= _MOST:
        raise ValueError(f"a signing secret of {len(key)} bytes; from {_LEAST} to {_MOST}")
    return key


def sign(id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers to add. `timestamp` is in seconds since 1970, of this attempt; `id` is the same for all of them."""
    signed = b"%s.%d.%s" % (id.encode(), timestamp, body)
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
