"""Where this agent dials instances from, for who starts programs beside it: `shoal run`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation
from agent.ports import Ports
from agent.process.listening import network
from agent.settings.document import Settings

Ends: TypeAlias = Annotated[list[int], Meta(min_length=2, max_length=2)]
"""No tuple: msgspec writes one in a way of JSON Schema that OpenAPI 3.1 does not have."""


class Network(types.Base, frozen=True, kw_only=True):
    """Of its host."""

    network: Annotated[int, Meta(description="The number of the network namespace that the agent is in; 0: not known")]
    guarded: Annotated[list[Ends], Meta(description="First and last of each range of ports that its guard keeps")]


def operation(settings: Settings) -> Operation:
    """For whoever may look."""

    async def told(_: Asked) -> Network:
        return Network(network=network(), guarded=[list(ends) for ends in Ports(settings.guard.ports).ranges])

    summary = "Where this agent dials instances from, and which ports its host's firewall keeps for it"
    return Operation("GET", "/network", "getNetwork", summary, NoQuery, Network, told)
