"""What pages watch of this agent's answers, counted: who watches is served by the admin API (`admin/live`)."""

from __future__ import annotations


class Watched:
    """Of one agent."""

    def __init__(self) -> None:
        self.connections = 0
        self.watches = 0
        """On all of them."""
        self.looks = 0
        """Different answers that somebody watches: each is asked for once, however many do."""
        self.asked = 0
        """How often."""
        self.skipped = 0
        """Answers that a slow reader was not told, because a newer one had come."""
