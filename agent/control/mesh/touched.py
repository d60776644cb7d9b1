"""What changed of each service, so that workers are told of that and of no more. Pure."""

from __future__ import annotations


class Touch:
    """Of one service."""

    __slots__ = ("instances", "policies", "whole")

    def __init__(self) -> None:
        self.instances: set[str] = set()
        """That came, went, or are something else now; by id."""
        self.policies = False
        """Whether other documents are in force."""
        self.whole = False
        """Whether any of its instances may be something else."""


class Touched:
    """Of a mesh. Adds up: two changes of an instance are one."""

    __slots__ = ("services",)

    def __init__(self) -> None:
        self.services: dict[str, Touch] = {}

    def service(self, name: str) -> Touch:
        """To add to."""
        found = self.services.get(name)
        if found is None:
            found = self.services[name] = Touch()
        return found

    def add(self, other: Touched) -> None:
        """What another knows, too."""
        for name, touch in other.services.items():
            mine = self.service(name)
            mine.instances |= touch.instances
            mine.policies |= touch.policies
            mine.whole |= touch.whole
