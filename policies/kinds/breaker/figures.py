# mypyc: compiled
"""The figures that a `breaker` document comes to."""

from __future__ import annotations


class Figures:
    """The figures of a breaker; 0 turns a condition off."""

    __slots__ = (
        "consecutive",
        "error_rate",
        "max_active",
        "max_connections",
        "max_open_s",
        "max_pending",
        "max_requests_in_window",
        "max_retries",
        "min_requests",
        "open_s",
        "probes",
        "retry_after_s",
        "slow_rate",
        "slow_s",
        "successes",
        "window_s",
    )

    def __init__(
        self,
        *,
        consecutive: int = 0,
        error_rate: float = 0.0,
        slow_rate: float = 0.0,
        slow_s: float = 0.0,
        window_s: float = 10.0,
        min_requests: int = 20,
        max_requests_in_window: int = 0,
        probes: int = 1,
        successes: int = 3,
        open_s: float = 5.0,
        max_open_s: float = 60.0,
        max_active: int = 0,
        max_pending: int = 0,
        max_connections: int = 0,
        max_retries: int = 0,
        retry_after_s: float = 0.0,
    ) -> None:
        self.consecutive = consecutive
        self.error_rate = error_rate
        """Share of failures, 0 to 1, over the window."""
        self.slow_rate = slow_rate
        self.slow_s = slow_s
        """What takes longer is slow."""
        self.window_s = window_s
        self.min_requests = min_requests
        self.max_requests_in_window = max_requests_in_window
        self.probes = probes
        """Requests at a time while half-open."""
        self.successes = successes
        """Good ones in a row that close it."""
        self.open_s = open_s
        self.max_open_s = max_open_s
        self.max_active = max_active
        self.max_pending = max_pending
        self.max_connections = max_connections
        self.max_retries = max_retries
        self.retry_after_s = retry_after_s
        """When whoever is refused shall come back; 0: when it is no longer open."""

    def limits(self) -> bool:
        """Whether anything limits what is under way."""
        return bool(self.max_active or self.max_pending or self.max_connections or self.max_retries)

    def trips(self) -> bool:
        """Whether anything opens it."""
        return bool(self.consecutive or self.error_rate or self.slow_rate or self.max_requests_in_window)
