"""A request and its answers as they are compared. A frame carries them from a worker to control."""

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


class Asked(msgspec.Struct, frozen=True):
    """A request that was copied."""

    method: str
    target: str
    id: str
    version: str = ""
    """Of the instance that gave the request's own answer; empty: not known."""
    unusable: str = ""
    """Why nothing can be compared; then there are no answers. Empty: it can."""

    @property
    def shown(self) -> str:
        """Without the query, which may hold what nobody is to see."""
        return f"{self.method} {self.target.partition('?')[0]}"
