"""What time it is on this host, as records in etcd say it."""

from __future__ import annotations

from datetime import UTC, datetime


def now_text() -> str:
    """Now, as RFC 3339 in UTC."""
    return _text(datetime.now(UTC))


def text_of(unix_s: float) -> str:
    """A Unix time (s), likewise."""
    return _text(datetime.fromtimestamp(unix_s, UTC))


def _text(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
