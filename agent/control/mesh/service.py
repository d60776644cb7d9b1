"""A service, as far as control knows it. Pure."""

from __future__ import annotations

from agent.frames import EndpointFrame
from registry.records import Health, Instance


class Service:
    """What is known of one service."""

    __slots__ = ("health", "instances", "policies", "suspects")

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.health: dict[str, Health] = {}
        self.suspects: dict[str, EndpointFrame] = {}
        self.policies = 0
        """How many policies are put for this very name."""

    @property
    def known(self) -> bool:
        """Whether callers can name it: something runs, or somebody wrote a policy for it."""
        return bool(self.instances or self.suspects or self.policies)

    @property
    def empty(self) -> bool:
        """Whether nothing at all is known of it."""
        return not (self.known or self.health)
