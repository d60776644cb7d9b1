"""A service, as far as control knows it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.frames import EndpointFrame
from registry.keys import Keys
from registry.records import Agent, Health, Instance, encode


class Service:
    """What is known of one service."""

    __slots__ = ("departed", "health", "instances", "policies", "suspects", "was_present")

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.health: dict[str, Health] = {}
        self.suspects: dict[str, EndpointFrame] = {}
        self.policies = 0
        """How many policies are put for this very name."""

        self.was_present = False
        self.departed = False
        """Whether its name was known until a moment ago: callers wait for it to come back, and are not told 404."""

    @property
    def known(self) -> bool:
        """Whether callers can name it: something runs, or somebody wrote a policy for it."""
        return self.present or self.departed

    @property
    def present(self) -> bool:
        """Whether anything runs or is written for it."""
        return bool(self.instances or self.suspects or self.policies)

    def saved(self, keys: Keys, name: str) -> Iterator[tuple[str, bytes, int]]:
        """As `Table.saved`: what it has registered."""
        for identity, instance in self.instances.items():
            yield keys.instance(name, identity), encode(instance), 0
        for identity, health in self.health.items():
            yield keys.health(name, identity), encode(health), 0

    @property
    def empty(self) -> bool:
        """Whether nothing at all is known of it."""
        return not (self.present or self.health)


def endpoint_of(
    identity: str, record: Instance, health: Health | None, owner: Agent | None, secured_until: float = 0.0
) -> EndpointFrame:
    """An instance as workers get it. `owner`: the living agent on another host that it is dialled through, which says
    that it holds the service's SVID until `secured_until` (s of the epoch; 0: it does not).

    Whose agent is not there is dialled directly: a record put by hand may name none, or one that has left.
    """
    dial = (owner.address, owner.inbound_port) if owner is not None else (record.address, record.port)
    return EndpointFrame(
        id=identity,
        address=record.address,
        port=record.port,
        version=record.version,
        zone=record.zone,
        weight=record.weight,
        metadata=record.metadata,
        healthy=health is None or health.healthy,
        draining=record.state == "draining",
        suspect=False,
        agent=record.agent,
        dial_address=dial[0],
        dial_port=dial[1],
        via=owner is not None,
        secured_until=secured_until if owner is not None else 0.0,
    )
