# mypyc: compiled
"""The figures that a `shed` document comes to."""

from __future__ import annotations


class Figures:
    """The figures; 0 turns one off."""

    __slots__ = ("cpu_percent", "fixed", "initial", "least", "most", "most_load", "queue_s")

    def __init__(
        self,
        *,
        fixed: int = 0,
        initial: int = 20,
        least: int = 2,
        most: int = 1000,
        queue_s: float = 0.0,
        cpu_percent: float = 0.0,
        most_load: float = 0.0,
    ) -> None:
        self.fixed = fixed
        """A limit that does not move; 0: it finds itself."""
        self.initial = initial
        self.least = least
        self.most = most
        self.queue_s = queue_s
        """More waiting than this shrinks the limit, however few wait."""
        self.cpu_percent = cpu_percent
        """Of the host; beyond it less and less is let in."""
        self.most_load = most_load
        """Of an instance's own word."""
