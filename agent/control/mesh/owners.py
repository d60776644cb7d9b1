"""The agents of a mesh: which live, what they own instances of, and what they say that they can prove. Pure.

Law: what a host has said that it can prove holds until it says otherwise, or until the certificates end; that its
record is gone says nothing, for an agent that lost its lease serves on. It is forgotten with the host's last instance.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry.identity_records import Holds
from registry.records import Agent


class Owners:
    """By host."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.holds: dict[str, Holds] = {}
        self._silent: set[str] = set()
        """Hosts whose records are gone."""
        self._owned: dict[str, dict[str, int]] = {}
        """How many instances of which services an agent owns."""

    def count(self, host: str, name: str, by: int) -> None:
        """A host owns so many more instances of a service."""
        owned = self._owned.setdefault(host, {})
        owned[name] = owned.get(name, 0) + by
        if owned[name] <= 0:
            del owned[name]
            if not owned:
                del self._owned[host]
                self._forget(host)

    def services(self, host: str) -> Iterable[str]:
        """What a host owns instances of."""
        return self._owned.get(host, ())

    def secured_until(self, host: str, name: str) -> float:
        """Until when a host says that it holds a service's SVID, in seconds of the epoch; 0: it does not."""
        held = self.holds.get(host)
        ends = held.services.get(name) if held is not None else None
        return ends.timestamp() if ends is not None else 0.0

    def take_holds(self, host: str, held: Holds | None) -> set[str]:
        """What a host says now; the services that it owns instances of and says something else about."""
        before = {name: self.secured_until(host, name) for name in self.services(host)}
        if held is None:
            self._silent.add(host)
            self._forget(host)
        else:
            self._silent.discard(host)
            self.holds[host] = held
        return {name for name, until in before.items() if until != self.secured_until(host, name)}

    def _forget(self, host: str) -> None:
        if host in self._silent and host not in self._owned:
            self._silent.discard(host)
            self.holds.pop(host, None)
