"""Who is dialled where: by address and port, the agents of the mesh and the services of its instances. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.control.host.own_ports import Place, plain


class Places:
    """Two indices, so that a change of one costs nothing of the mesh's size."""

    __slots__ = ("_agents", "_services")

    def __init__(self) -> None:
        self._agents: dict[Place, set[str]] = {}
        self._services: dict[Place, dict[str, int]] = {}

    def count(self, address: str, port: int, service: str, by: int) -> None:
        """An instance of a service came (1) or went (-1)."""
        place = (plain(address), port)
        services = self._services.setdefault(place, {})
        services[service] = services.get(service, 0) + by
        if services[service] <= 0:
            del services[service]
            if not services:
                del self._services[place]

    def move(self, host: str, before: Place | None, after: Place | None) -> Iterable[str]:
        """An agent is dialled elsewhere; None: it is not there. Returns the services with instances at either place."""
        touched: set[str] = set()
        for place, there in ((before, False), (after, True)):
            if place is None:
                continue
            place = (plain(place[0]), place[1])
            hosts = self._agents.setdefault(place, set())
            (hosts.add if there else hosts.discard)(host)
            if not hosts:
                del self._agents[place]
            touched.update(self._services.get(place, ()))
        return touched

    def agent_at(self, address: str, port: int) -> str:
        """The host whose agent is dialled there; empty: none is."""
        return min(self._agents.get((address, port), ()), default="")
