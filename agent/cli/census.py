"""What etcd holds of a mesh, read and decoded at one revision: what the commands that look around work on."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from registry.keys import Keys
from registry.records import Ack, Agent, Health, Instance, Record, Rejection
from registry.store import Store

R = TypeVar("R", bound=Record)


class Policy(msgspec.Struct, frozen=True):
    """One document as it stands in etcd, valid or not."""

    kind: str
    service: str
    revision: int
    text: bytes


class Census(msgspec.Struct):
    """Every key of the mesh at `revision`, by what it names; `malformed` has the keys that cannot be read, and why."""

    revision: int = 0
    instances: dict[tuple[str, str], Instance] = msgspec.field(default_factory=dict)
    health: dict[tuple[str, str], Health] = msgspec.field(default_factory=dict)
    agents: dict[str, Agent] = msgspec.field(default_factory=dict)
    acks: dict[str, Ack] = msgspec.field(default_factory=dict)
    policies: dict[tuple[str, str], Policy] = msgspec.field(default_factory=dict)
    rejected: dict[tuple[str, str], Rejection] = msgspec.field(default_factory=dict)
    malformed: dict[str, str] = msgspec.field(default_factory=dict)
    newest: int = 0
    """The highest mod_revision of what agents act on: instances, health, agents, policies."""


async def take(store: Store, mesh: str, *rooms: str) -> Census:
    """Reads the rooms that are named, or all that people and agents write, at one revision. Raises StoreError."""
    keys = Keys(mesh)
    census = Census()
    for room in rooms or ROOMS:
        found = await store.range(getattr(keys, room), revision=census.revision)
        census.revision = census.revision or found.revision
        for item in found.items:
            _enter(census, keys, item)
    return census
