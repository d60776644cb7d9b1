# mypyc: compiled
"""What has come of a request that did not go straight."""

from __future__ import annotations

from policies.endpoint import Endpoint


class Detours:
    """Of one request; most have none."""

    __slots__ = ("fallbacks", "tried", "ways")

    def __init__(self) -> None:
        self.tried: list[Endpoint] = []
        """Endpoints that are not to be picked again."""
        self.fallbacks = 0
        self.ways = 0
        """Ways out of an overload that were looked at."""
