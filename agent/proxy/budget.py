# mypyc: compiled
"""What clients of one listener may take."""

from __future__ import annotations

from typing import Final

STRANGERS_PERCENT: Final = 75
"""Of the inbound listener's connections: the rest is for agents."""


class Budget:
    """What clients of one listener, the outbound or the inbound one, may take in this worker; each has its own, so that
    whoever floods one of them locks nobody out of the other. Of the inbound one, a part is kept for agents."""

    __slots__ = ("inbound", "open", "strangers", "waiting")

    def __init__(self, *, inbound: bool) -> None:
        self.inbound = inbound
        self.open = 0
        """Connections."""
        self.strangers = 0
        """Those of them that no agent made."""
        self.waiting = 0
        """Requests that wait for the first table."""

    def enter(self, most: int, *, agent: bool) -> bool:
        """Take a connection, of `most` that there may be; False when it is one too many."""
        if self.open >= most:
            return False
        if self.inbound and not agent:
            if self.strangers >= max(1, most * STRANGERS_PERCENT // 100):
                return False
            self.strangers += 1
        self.open += 1
        return True

    def leave(self, *, agent: bool) -> None:
        """It closed; `agent` as it was when it came."""
        self.open -= 1
        if self.inbound and not agent:
            self.strangers -= 1
