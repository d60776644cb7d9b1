"""What time it is on this host, as records in etcd say it."""

from __future__ import annotations

from datetime import UTC, datetime


def now_text() -> str:
    """Now, as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
