"""Suspects among the endpoints of services: what `doubts` decides, carried out on what control knows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from agent.control.host.own_ports import Place
from agent.control.mesh.distrust.doubts import KEEP_S, Doubt, Doubts, Identity, Losses, Suspect
from agent.control.mesh.service import Service
from agent.frames import EndpointFrame
from registry.records import Agent, Instance


class Lost(NamedTuple):
    """An agent whose key went without a word."""

    host: str
    record: Agent
    since_s: float
    suspects: int
    """Of its instances: how many are kept as suspects."""
    believed: bool
    """Whether it may live, for all that was found out: somebody answers where it was."""


class Suspects:
    """Every suspect of a mesh, and the agents that were lost."""

    def __init__(self, services: dict[str, Service]) -> None:
        self._services = services
        self._doubts = Doubts()
        self.agent_went = self._doubts.agent_went
        self.agent_came = self._doubts.agent_came
        self.drop_agent = self._doubts.drop_agent
        self.displaced = self._doubts.displaced

    @property
    def agents(self) -> Mapping[str, Agent]:
        """Lost without a word, and as yet believed to live."""
        return self._doubts.agents

    def missed(self, now_s: float) -> dict[str, Agent]:
        """Agents that went without a word lately, whether or not somebody still answers where they were."""
        return {host: record for host, (record, at_s) in self._doubts.missed.items() if now_s - at_s < KEEP_S}

    def lost(self, now_s: float) -> list[Lost]:
        """`missed`, by host, with what is kept of each."""
        kept = Counter(doubt.agent for doubt in self._doubts.of.values())
        return [
            Lost(host, record, at_s, kept[host], host in self._doubts.agents)
            for host, (record, at_s) in sorted(self._doubts.missed.items())
            if now_s - at_s < KEEP_S
        ]

    def doubted(self) -> Iterator[tuple[Identity, Doubt]]:
        """Every suspect, and since when and whose it is."""
        yield from self._doubts.of.items()

    def miss_no_more(self, hosts: Collection[str]) -> None:
        """Those that were put out on purpose."""
        for host in hosts:
            self._doubts.missed.pop(host, None)

    def __iter__(self) -> Iterator[Suspect]:
        """Endpoints whose record vanished without a word, and where each is asked whether it lives."""
        return self._doubts.suspects()

    def __len__(self) -> int:
        return len(self._doubts.of)

    def __contains__(self, identity: Identity) -> bool:
        return identity in self._doubts.of

    def lost_agents(self) -> Iterator[Suspect]:
        """Agents, likewise."""
        return self._doubts.lost_agents()

    def of_hosts(self, hosts: Collection[str]) -> list[Identity]:
        """All that is kept of some hosts: endpoints, and the agents (without a service)."""
        found = [identity for identity, doubt in self._doubts.of.items() if doubt.agent in hosts]
        return found + [("", host) for host in self._doubts.agents if host in hosts]

    def judge(self, removed: Mapping[Identity, EndpointFrame | None], now_s: float, losses: Losses) -> list[Identity]:
        """Keep those whose deletion is not believed; returns them."""
        kept = self._doubts.judge(removed, now_s, losses)
        new: list[Identity] = []
        for (name, identity), endpoint in kept.items():
            service = self._services.setdefault(name, Service())
            if identity not in service.instances:
                service.suspects[identity] = msgspec.structs.replace(endpoint, suspect=True)
                self._doubts.keep((name, identity), endpoint, now_s)
                new.append((name, identity))
        return new

    def drop(self, name: str, identity: str) -> bool:
        """It stands again, or is gone for good; whether it was suspected."""
        self._doubts.settle((name, identity))
        service = self._services.get(name)
        return service is not None and service.suspects.pop(identity, None) is not None

    def is_through(self, name: str, identity: str, place: Place) -> bool:
        """Whether a place is where the agent of a suspect's owner is."""
        doubt = self._doubts.of.get((name, identity))
        return doubt is not None and doubt.through == place

    def dial(self, name: str, identity: str, place: Place) -> bool:
        """Have requests go where it answers; whether they went elsewhere before."""
        service = self._services.get(name)
        before = service.suspects.get(identity) if service is not None else None
        if service is None or before is None:
            return False
        via = self.is_through(name, identity, place)
        after = msgspec.structs.replace(before, dial_address=place[0], dial_port=place[1], via=via)
        service.suspects[identity] = after
        return after != before

    def outlived(self, agents: Mapping[str, Agent], now_s: float) -> list[Identity]:
        """Those that have been doubted for long enough, agents among them (without a service)."""
        lost = [("", host) for host in self._doubts.outlived_agents(now_s)]
        return self._doubts.outlived(agents.keys(), now_s) + lost


def record_of(suspect: EndpointFrame) -> Instance:
    """As it stood in etcd."""
    return Instance(
        address=suspect.address,
        port=suspect.port,
        version=suspect.version,
        zone=suspect.zone,
        weight=suspect.weight,
        agent=suspect.agent,
        metadata=suspect.metadata,
    )
