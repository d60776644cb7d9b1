"""What a `timeout` document bounds, in seconds, and the defaults where it says nothing."""

from __future__ import annotations

import msgspec

from policies.kind import ANYWHERE, Scope
from policies.kinds.timeout.document import Timeout
from policies.language.duration import seconds


class Timeouts(msgspec.Struct, frozen=True):
    """What is in force, in seconds; 0 is no limit."""

    connect_s: float = 1.0
    try_s: float = 0.0
    request_s: float = 15.0
    idle_s: float = 300.0
    tunnel_s: float = 3600.0
    """Silence, once a connection was upgraded or leads out of the mesh: what is open on purpose is quiet for longer."""


def compile(document: Timeout | None, scope: Scope = ANYWHERE) -> Timeouts:
    """The limits of a document, or the defaults."""
    if document is None:
        return Timeouts()
    default = Timeouts()

    def limit(value: float | str | None, otherwise: float) -> float:
        return otherwise if value is None else seconds(value)

    return Timeouts(
        connect_s=limit(document.connect, default.connect_s),
        try_s=limit(document.try_, default.try_s),
        request_s=limit(document.request, default.request_s),
        idle_s=limit(document.idle, default.idle_s),
        tunnel_s=limit(document.idle, default.tunnel_s),
    )


def remaining_s(value: str) -> float | None:
    """Seconds left by an `x-shoal-deadline`; None when it is no such number, which then counts as absent."""
    if not value.isascii() or not value.isdigit() or len(value) > 10:
        return None
    return int(value) / 1000
