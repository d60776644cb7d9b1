"""Who has a key that only one may have, by what stands there. Pure.

Laws
- An instance is the host's that it names, and a host's name the agent's whose start it names.
- What nobody can read nobody can use: it is written over.
"""

from __future__ import annotations

from registry.fences import Whose
from registry.keys import Key, Keys, Room, owner_of
from registry.records import Agent, Instance, Malformed, decode
from registry.store import KeyValue


def whose(keys: Keys, host: str, boot: str) -> Whose:
    """For the agent of a host, and its start."""

    def who(found: KeyValue) -> str:
        key = keys.parse(found.key)
        if not isinstance(key, Key):
            return ""
        try:
            if key.room is Room.AGENTS:
                agent = decode(Agent, found.value)
                return "" if agent.boot == boot else f"an agent at {agent.address} lives under this name"
            instance = decode(Instance, found.value, owner_of(key.second))
        except Malformed:
            return ""
        return "" if instance.agent == host else held(keys, key.first, key.second, instance)

    return who


def held(keys: Keys, service: str, id: str, standing: Instance) -> str:
    """Who has an instance's id, where that is, and what would be right."""
    at = f"[{standing.address}]:{standing.port}" if ":" in standing.address else f"{standing.address}:{standing.port}"
    if not standing.agent:
        return f"{service}/{id} was put by hand, at {at}; choose another id, or delete {keys.instance(service, id)}"
    by = f"already registered by the agent on {standing.agent!r}"
    return f"{service}/{id} is {by}, at {at}; choose another id, or take it out there"
