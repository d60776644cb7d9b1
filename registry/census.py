"""What etcd holds of a mesh, read and decoded at one revision: what the commands that look around work on."""

from __future__ import annotations

from typing import Final

import msgspec

from registry.identity_records import Holds
from registry.keys import HOSTS, ROOT, Key, Keys, Room, Unknown, owner_of
from registry.records import (
    Ack,
    Agent,
    Health,
    Held,
    Instance,
    Layout,
    Malformed,
    OutboxEntry,
    Rejection,
    Seen,
    Version,
    decode,
)
from registry.store import KeyValue, Refused, Store, prefix_end

ROOMS: Final = (
    "acks",
    "agents",
    "confirmed",
    "health",
    "held",
    "hosts",
    "instances",
    "policies",
    "audits",
    "audits_rejected",
    "rejected",
    "seen",
    "undelivered",
    "versions",
)
ACTED_ON: Final = frozenset({Room.AGENTS, Room.HEALTH, Room.INSTANCES, Room.POLICIES, Room.AUDITS})

LAYOUT: Final = Key(Room.CONFIRMED, HOSTS)


class Policy(msgspec.Struct, frozen=True):
    """One document as it stands in etcd, valid or not."""

    kind: str
    service: str
    revision: int
    text: bytes


class OtherMesh(msgspec.Struct, frozen=True, kw_only=True):
    """Another mesh in the same etcd, by what stands in it."""

    agents: int = 0
    policies: int = 0


class _Bundle(msgspec.Struct):
    spiffe_sequence: int = 0
    trust_domain: str = ""


class Misnamed(msgspec.Struct, frozen=True):
    """A document whose key names nothing, and why."""

    revision: int
    reason: str


class Census(msgspec.Struct):
    """Every key of the mesh at `revision`, by what it names; `malformed` has the keys that cannot be read, and why."""

    revision: int = 0
    instances: dict[tuple[str, str], Instance] = msgspec.field(default_factory=dict)
    health: dict[tuple[str, str], Health] = msgspec.field(default_factory=dict)
    agents: dict[str, Agent] = msgspec.field(default_factory=dict)
    acks: dict[str, Ack] = msgspec.field(default_factory=dict)
    policies: dict[tuple[str, str], Policy] = msgspec.field(default_factory=dict)
    misnamed: dict[tuple[str, str], Misnamed] = msgspec.field(default_factory=dict)
    """By kind and pattern, as they are spelled."""
    rejected: dict[tuple[str, str], Rejection] = msgspec.field(default_factory=dict)
    audits: dict[tuple[str, str], Policy] = msgspec.field(default_factory=dict)
    """Those that are only watched."""
    audits_rejected: dict[tuple[str, str], Rejection] = msgspec.field(default_factory=dict)
    held: dict[tuple[str, str], Held] = msgspec.field(default_factory=dict)
    holds: dict[str, Holds] = msgspec.field(default_factory=dict)
    """By host: which certificates it says that it holds."""
    bundle: int | None = None
    """Which bundle of roots stands; None: none does, or nobody looked."""
    trust_domain: str = ""
    """Whose bundle that is: the mesh's own; empty: it has none, or nobody looked."""
    calls: dict[str, set[str]] = msgspec.field(default_factory=dict)
    """By calling service: the services that it was seen to call, on any host."""
    exposed: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    """By host: instances (service/id) that are reached around its agent, and where."""
    undelivered: dict[str, OutboxEntry] = msgspec.field(default_factory=dict)
    events: dict[str, OutboxEntry] = msgspec.field(default_factory=dict)
    """Those that are still to be told, with what stands of them where all hosts' do."""
    versions: dict[str, Version] = msgspec.field(default_factory=dict)
    """By host: what the version of its agent knows."""
    layout: Layout | None = None
    """Where an operator says that agents write; None: nobody has."""
    layout_revision: int = 0
    """At which that was put; 0: it was not."""
    malformed: dict[str, str] = msgspec.field(default_factory=dict)
    newest: int = 0
    """The highest mod_revision of what agents act on: instances, health, agents, policies."""
    seen: int = 0
    """The highest revision that any agent runs and at which something changed that all of them watch."""

    @property
    def wanted(self) -> int:
        """What all agents should run. Not `newest` alone: etcd keeps no mod_revision of a key that is gone."""
        return max(self.newest, self.seen)


async def take(store: Store, mesh: str, *rooms: str) -> Census:
    """Reads the rooms that are named, or all that people and agents write, at one revision. Raises StoreError."""
    keys = Keys(mesh)
    census = Census()
    wanted = rooms or ROOMS
    for room in (*wanted, Room.HOSTS.value) if rooms and Room.INSTANCES.value in rooms else wanted:
        prefix = keys.room(Room(room))
        found = await store.range(prefix, prefix_end(prefix), revision=census.revision)
        census.revision = census.revision or found.revision
        for item in found.items:
            _enter(census, keys, item)
    return census


async def around(store: Store, mesh: str) -> tuple[dict[str, str], dict[str, OtherMesh], str]:
    """Keys of this mesh that are none, the other meshes, and why they could not be looked at. Raises StoreError."""
    keys = Keys(mesh)
    try:
        found = [item.key for item in (await store.range(f"{ROOT}/", prefix_end(f"{ROOT}/"), keys_only=True)).items]
        bare = [item.key for item in (await store.range("shoal/", prefix_end("shoal/"), keys_only=True)).items]
    except Refused as error:
        return {}, {}, str(error)
    strangers = dict.fromkeys(bare, "keys begin with a slash: /shoal/<mesh>/…")
    meshes: dict[str, OtherMesh] = {}
    for key in found:
        name, _, rest = key[len(ROOT) + 1 :].partition("/")
        if name != mesh:
            known = meshes.get(name, OtherMesh())
            room = rest.partition("/")[0]
            meshes[name] = OtherMesh(
                agents=known.agents + (room == Room.AGENTS.value),
                policies=known.policies + (room == Room.POLICIES.value),
            )
        elif isinstance(parsed := keys.parse(key), Unknown) and parsed.policy is None:
            strangers[key] = parsed.reason
    return strangers, meshes, ""


async def trust_domain(store: Store, mesh: str) -> str:
    """The mesh's own; empty: it has none, or we may not read it. Raises StoreError."""
    try:
        return (await take(store, mesh, "identity")).trust_domain
    except Refused:
        return ""


def _enter(census: Census, keys: Keys, item: KeyValue) -> None:
    key = keys.parse(item.key)
    if not isinstance(key, Key):
        if key.policy is None:
            census.malformed[item.key] = key.reason
        else:
            census.misnamed[key.policy] = Misnamed(item.mod_revision, key.reason)
            census.newest = max(census.newest, item.mod_revision)
        return
    if key.room in ACTED_ON:
        census.newest = max(census.newest, item.mod_revision)
    try:
        _enter_record(census, key, item)
    except Malformed as error:
        census.malformed[item.key] = str(error)


def _bundle(bundle: bytes) -> _Bundle:
    """What a SPIFFE bundle document says of its age, and of whom it is. Raises Malformed."""
    try:
        return msgspec.json.decode(bundle, type=_Bundle)
    except msgspec.MsgspecError as error:
        raise Malformed("$", str(error)) from None


def _enter_record(census: Census, key: Key, item: KeyValue) -> None:
    pair = (key.first, key.second)
    if key.room is Room.INSTANCES:
        census.instances[pair] = decode(Instance, item.value, owner_of(key.second))
    elif key.room is Room.HEALTH:
        census.health[pair] = decode(Health, item.value, owner_of(key.second))
    elif key.room is Room.AGENTS:
        census.agents[key.first] = decode(Agent, item.value)
    elif key.room is Room.ACKS:
        ack = census.acks[key.first] = decode(Ack, item.value)
        census.seen = max(census.seen, ack.newest or ack.revision)
    elif key.room is Room.REJECTED:
        census.rejected[pair] = decode(Rejection, item.value)
    elif key.room is Room.AUDITS_REJECTED:
        census.audits_rejected[pair] = decode(Rejection, item.value)
    elif key.room is Room.HELD:
        census.held[pair] = decode(Held, item.value)
    elif key.room is Room.UNDELIVERED:
        census.undelivered[key.first] = decode(OutboxEntry, item.value)
    elif key.room is Room.EVENTS:
        if not key.second:
            census.events[key.first] = decode(OutboxEntry, item.value)
    elif key.room is Room.TRUST:
        census.holds[key.first] = decode(Holds, item.value)
    elif key.room is Room.IDENTITY:
        if key.first == "bundle":
            bundle = _bundle(item.value)
            census.bundle, census.trust_domain = bundle.spiffe_sequence, bundle.trust_domain
    elif key.room is Room.VERSIONS:
        census.versions[key.first] = decode(Version, item.value)
    elif key == LAYOUT:
        census.layout_revision = item.mod_revision
        census.layout = decode(Layout, item.value)
    elif key.room is Room.SEEN:
        seen = decode(Seen, item.value)
        if seen.exposed:
            census.exposed[key.first] = seen.exposed
        for caller, services in seen.calls.items():
            census.calls.setdefault(caller, set()).update(services)
    elif key.room is Room.AUDITS:
        census.audits[pair] = Policy(key.first, key.second, item.mod_revision, item.value)
    elif key.room is Room.POLICIES:
        census.policies[pair] = Policy(key.first, key.second, item.mod_revision, item.value)
