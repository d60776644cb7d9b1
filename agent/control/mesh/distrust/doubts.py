"""Endpoints whose records vanished and who may live all the same (law 4: etcd's absence never stops traffic). Pure.

A lease that ran out says that its owner did not reach etcd, and nothing about whether callers reach its instances. An
etcd that was restored empty, and a `del --prefix` by mistake, say less. Who leaves in order has said so before.

Laws
- An instance whose owner's `agents/` key goes without a word (`stopping`, `draining`), with it, or a moment before or
  after, is a suspect, whatever the number, and in however many revisions.
- So are all that one update takes away with every endpoint of several services and half of the mesh, and all that
  another etcd does not know.
- What is deleted while its owner's key stands is gone.
- Nothing is a suspect for ever: not beyond KEEP_S, not once somebody else is registered at its place, and not RETURN_S
  after its owner is back and says nothing of it.
- An agent that was lost is believed to be one where it was, for as long as somebody answers there: both sides go on as
  they did, until etcd says better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from agent.control.host.own_ports import Place, is_loopback, plain
from agent.frames import EndpointFrame
from registry.records import Agent, Instance

Identity: TypeAlias = tuple[str, str]
EMPTIED_SERVICES: Final = 2
SHARE: Final = 0.5
FAILURES: Final = 3
"""Probes in a row without an answer before a suspect is dropped; one refusal is enough."""
MOMENT_S: Final = 5.0
"""Between an owner's key and its instances', when both go for the same reason."""
RETURN_S: Final = 10.0
KEEP_S: Final = 3600.0
MOST_MISSED: Final = 1000


class Losses(IntEnum):
    """What is made of instances that are deleted without a word."""

    BELIEVED = 0
    """What is known of them is too old."""
    JUDGED = 1
    """By whether their owners went with them."""
    DOUBTED = 2
    """All: who says so does not know better."""


class Suspect(NamedTuple):
    """An endpoint whose record vanished, and where to ask whether it lives: first the first."""

    service: str
    """Empty: it is an agent that was lost, and `id` is its host."""
    id: str
    places: tuple[Place, ...]


class Doubt(NamedTuple):
    """Why an endpoint is kept, and until when."""

    since_s: float
    agent: str
    through: Place | None
    """Where its owner's agent was; None: it was dialled directly."""
    direct: Place | None
    """Its own address; None where that means another host here than it did there."""


def is_mass_deletion(instances_before: int, removed: int, emptied: int) -> bool:
    """Whether the deletion of so many instances, which empties so many services, is not to be believed."""
    return emptied >= EMPTIED_SERVICES and removed >= SHARE * instances_before


def doubt_of(endpoint: EndpointFrame, since_s: float) -> Doubt:
    """Of an endpoint as it was dialled last. An address of its own host's loopback is nobody's here, unless the owner's
    agent is dialled there too."""
    through = (endpoint.dial_address, endpoint.dial_port) if endpoint.via else None
    foreign = through is not None and is_loopback(endpoint.address) and not is_loopback(through[0])
    return Doubt(since_s, endpoint.agent, through, None if foreign else (endpoint.address, endpoint.port))


class Doubts:
    """What is doubted of a mesh's losses, by times (s) that whoever asks gives."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        """Lost without a word, and as yet believed to live."""
        self.missed: dict[str, tuple[Agent, float]] = {}
        """Those that went without a word, and when, whatever was found out about them since: whoever watches hosts is
        told of them for as long as suspects are kept. The newest `MOST_MISSED`."""
        self.of: dict[Identity, Doubt] = {}
        self._went: dict[str, float] = {}
        """When an agent's key went without a word, by host; for a moment."""
        self._agent_since: dict[str, float] = {}
        self._back: dict[str, float] = {}
        """When an agent that was lost came back, by host."""
        self._believed: dict[Identity, tuple[float, EndpointFrame]] = {}
        """Deletions that were believed a moment ago."""
        self._at: dict[Place, set[Identity]] = {}

    # Agents.

    def agent_went(self, host: str, record: Agent, now_s: float) -> None:
        """Its key is gone."""
        self.missed.pop(host, None)
        if record.stopping:
            self.agents.pop(host, None)
            return
        if len(self.missed) >= MOST_MISSED:
            del self.missed[next(iter(self.missed))]
        self.missed[host] = record, now_s
        self._went[host] = self._agent_since[host] = now_s
        self.agents[host] = record

    def agent_came(self, host: str, now_s: float) -> None:
        """Its key stands."""
        self.missed.pop(host, None)
        if self.agents.pop(host, None) is not None or host in self._went:
            self._back[host] = now_s

    # What was deleted.

    def judge(
        self, removed: Mapping[Identity, EndpointFrame | None], now_s: float, losses: Losses
    ) -> dict[Identity, EndpointFrame]:
        """Which of the deletions of an update, and of those just before it, are not to be believed.

        `removed`: with the endpoint, where it had not been draining.
        """
        self._forget(now_s)
        if losses is Losses.BELIEVED:
            return {}
        kept: dict[Identity, EndpointFrame] = {}
        for identity, (_, endpoint) in self._believed.items():
            if endpoint.agent in self._went:
                kept[identity] = endpoint
        for identity, gone in removed.items():
            if gone is None:
                self._believed.pop(identity, None)
                kept.pop(identity, None)
            elif losses is Losses.DOUBTED or (gone.agent and gone.agent in self._went):
                kept[identity] = gone
            elif gone.agent:
                self._believed[identity] = (now_s, gone)
        return kept

    def _forget(self, now_s: float) -> None:
        if self._went:
            self._went = {host: at for host, at in self._went.items() if now_s - at <= MOMENT_S}
        if self._believed:
            self._believed = {id: was for id, was in self._believed.items() if now_s - was[0] <= MOMENT_S}
        if self._back:
            self._back = {host: at for host, at in self._back.items() if now_s - at <= KEEP_S}

    def keep(self, identity: Identity, endpoint: EndpointFrame, since_s: float) -> None:
        """It is a suspect from now on."""
        self._believed.pop(identity, None)
        doubt = self.of[identity] = doubt_of(endpoint, since_s)
        if doubt.direct is not None:
            self._at.setdefault((plain(doubt.direct[0]), doubt.direct[1]), set()).add(identity)

    def settle(self, identity: Identity) -> None:
        """It stands again, or is gone for good."""
        self._believed.pop(identity, None)
        doubt = self.of.pop(identity, None)
        if doubt is not None and doubt.direct is not None:
            place = plain(doubt.direct[0]), doubt.direct[1]
            self._at[place].discard(identity)
            if not self._at[place]:
                del self._at[place]

    def displaced(self, record: Instance) -> list[Identity]:
        """Suspects whose place somebody has who is registered now."""
        there = self._at.get((plain(record.address), record.port), ()) if self._at else ()
        anywhere = bool(there) and not is_loopback(record.address)
        return [identity for identity in there if anywhere or self.of[identity].agent == record.agent]

    def outlived(self, agents: Set[str], now_s: float) -> list[Identity]:
        """Suspects that were kept long enough, and those of whom an owner that is back says nothing."""
        return [identity for identity, doubt in self.of.items() if self._is_over(doubt, agents, now_s)]

    def _is_over(self, doubt: Doubt, agents: Set[str], now_s: float) -> bool:
        if now_s - doubt.since_s > KEEP_S:
            return True
        since_s = max(doubt.since_s, self._back.get(doubt.agent, doubt.since_s))
        return doubt.agent in agents and now_s - since_s > RETURN_S

    def drop_agent(self, host: str) -> bool:
        """Nobody answers there; whether that was still believed."""
        self._agent_since.pop(host, None)
        return self.agents.pop(host, None) is not None

    def outlived_agents(self, now_s: float) -> list[str]:
        """Lost agents that were believed long enough."""
        return [host for host in self.agents if now_s - self._agent_since[host] > KEEP_S]

    # Who is asked.

    def suspects(self) -> Iterator[Suspect]:
        """Endpoints, where requests would reach them."""
        for (service, identity), doubt in self.of.items():
            yield Suspect(service, identity, tuple(at for at in (doubt.through, doubt.direct) if at is not None))

    def lost_agents(self) -> Iterator[Suspect]:
        """Agents, where they were."""
        for host, agent in self.agents.items():
            yield Suspect("", host, ((agent.address, agent.inbound_port),))
