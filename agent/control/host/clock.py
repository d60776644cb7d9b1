"""What time it is on this host, as records in etcd say it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_text() -> str:
    """Now, as RFC 3339 in UTC."""
    return text_of(time.time())


def text_of(unix_s: float) -> str:
    """A Unix time (s), likewise."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
