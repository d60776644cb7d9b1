"""Names that were known until a moment ago. Pure.

A restart takes the instances of a host away for about a second. Whoever calls meanwhile is told to try again (503
with Retry-After), for as long as it takes to come back, and not that there is no such service (404), as if for good.

Laws
- A name that something ran for, or that somebody wrote a policy for, is known for KEEP_S longer; then it is forgotten.
- At most MOST are remembered; of more, those that went first are forgotten first.
"""

from __future__ import annotations

from typing import Final

from agent.control.mesh.service import Service

KEEP_S: Final = 60.0
MOST: Final = 10_000


class Departed:
    """Keeps the services that nothing is left of, for a while."""

    def __init__(self, services: dict[str, Service]) -> None:
        self._services = services
        self._at: dict[str, float] = {}
        """When each went, in that order."""

    def settle(self, name: str, now_s: float) -> None:
        """Something of a service has changed: it is there, it has just gone, or was never known."""
        service = self._services.get(name)
        if service is None:
            return
        if service.present:
            service.was_present, service.departed = True, False
            self._at.pop(name, None)
        elif service.was_present:
            service.was_present, service.departed = False, True
            self._at[name] = now_s
        elif service.empty and not service.departed:
            del self._services[name]

    def forget(self, now_s: float) -> set[str]:
        """Those that did not come back; they are known no more."""
        names: set[str] = set()
        for name, at in self._at.items():
            if now_s - at <= KEEP_S and len(self._at) - len(names) <= MOST:
                break
            names.add(name)
        for name in names:
            del self._at[name]
            self._services[name].departed = False
            self.settle(name, now_s)
        return names
