"""Whose word changes are."""

from __future__ import annotations

from typing import Final, NamedTuple


class Source(NamedTuple):
    """Of one update."""

    another: str = ""
    """Why it is not the etcd of the updates before; empty: it is."""
    resync: bool = False
    """It was away, and what happened meanwhile is told at once."""
    heard_at: str = ""
    """When the etcd of the updates before was heard of last (RFC 3339)."""
    disk: bool = False
    """No etcd's: it is what was in force when it was kept."""


ETCD: Final = Source()
DISK: Final = Source(disk=True)
