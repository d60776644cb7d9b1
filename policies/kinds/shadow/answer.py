"""An answer as it is compared with others. A frame carries it from a worker to control."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """What came of a request at one of the places that it was sent to."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    truncated: bool = False
    """Whether the body went on beyond what was kept."""
    error: str = ""
    """Why there is no whole answer; empty: there is."""
    latency_s: float = 0.0
