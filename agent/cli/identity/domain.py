"""What etcd says of a mesh's identity, read at one revision: what the commands of identity decide on.

Laws
- A key that cannot be read counts as absent for what is decided, and is told of (`malformed`). No command writes over
  one unseen.
- Agents go by what was good before until it is mended or deleted, so what is told of the mesh goes by that too
  (`believed`), as far as etcd's history has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from agent.cli.failure import Exit, Failure
from agent.identity.bundles import Bundle, parse_bundle
from agent.identity.grants import Grant, parse_grant
from agent.identity.revocations import Revocations, parse_revocations
from registry.identity_records import Holds, Host, IssuerRecord, Join, Person, Request, Signed
from registry.keys import Key, Keys, Room
from registry.records import Agent, Instance, Malformed, Seen, decode
from registry.store import Compacted, Compare, Delete, Put, prefix_end

if TYPE_CHECKING:
    from registry.store import KeyValue, Store

Operation = Put | Delete
T = TypeVar("T")

ATTEMPTS = 10
"""At a change that others keep coming before."""
LOOK_EVERY_S = 0.25
MOST_LOOKED_BACK: Final = 8
"""Revisions of a key that are read for one that is good."""
_KEPT: Final[dict[str, Callable[[bytes], Any]]] = {
    "grants": parse_grant,
    "hosts": partial(decode, Host),
    "issuers": partial(decode, IssuerRecord),
    "people": partial(decode, Person),
}
"""Of which what was good before is looked for."""


class Believed(NamedTuple):
    """What agents go by where a record cannot be read: what was good before."""

    hosts: set[str]
    grants: dict[str, Grant]

    def granted(self, host: str) -> list[str]:
        """The patterns that name a host."""
        return sorted(pattern for pattern, grant in self.grants.items() if host in grant.hosts)


class Domain(msgspec.Struct, kw_only=True):
    """A trust domain, and the mesh that it is of."""

    keys: Keys
    revision: int = 0
    bundle: Bundle | None = None
    """None: there is no CA."""
    revocations: Revocations = msgspec.field(default_factory=Revocations)
    trusted: dict[str, Bundle] = msgspec.field(default_factory=dict)
    """Other trust domains' bundles."""
    hosts: dict[str, Host] = msgspec.field(default_factory=dict)
    grants: dict[str, Grant] = msgspec.field(default_factory=dict)
    issuers: dict[str, IssuerRecord] = msgspec.field(default_factory=dict)
    people: dict[str, Person] = msgspec.field(default_factory=dict)
    joins: dict[str, Join] = msgspec.field(default_factory=dict)
    """By the token's digest."""
    holds: dict[str, Holds] = msgspec.field(default_factory=dict)
    requests: dict[tuple[str, str], Request] = msgspec.field(default_factory=dict)
    """By host and name, as are those that follow."""
    signed: dict[tuple[str, str], Signed] = msgspec.field(default_factory=dict)
    agents: dict[str, Agent] = msgspec.field(default_factory=dict)
    instances: dict[tuple[str, str], Instance] = msgspec.field(default_factory=dict)
    """By service and id."""
    seen: dict[str, Seen] = msgspec.field(default_factory=dict)
    """By host, what its agent has seen."""
    items: dict[str, KeyValue] = msgspec.field(default_factory=dict)
    """By key, as it stands."""
    malformed: dict[str, str] = msgspec.field(default_factory=dict)
    before: dict[tuple[str, str], Any] = msgspec.field(default_factory=dict)
    """By what it is and whose: what was good before, of records that cannot be read."""

    def revision_of(self, key: str) -> int:
        """Its mod_revision; 0: nothing stands there."""
        item = self.items.get(key)
        return 0 if item is None else item.mod_revision

    def unchanged(self, key: str) -> Compare:
        """That a key is still as it was read. Raises Failure for one that stands and cannot be read."""
        if key in self.malformed:
            raise Failure(f"{key} cannot be read: {self.malformed[key]}; mend or delete it first")
        return self.as_found(key)

    def as_found(self, key: str) -> Compare:
        """The same, whether or not anybody can read it: for who takes it away."""
        return Compare(key, mod_revision=self.revision_of(key))

    def required(self) -> Bundle:
        """The bundle. Raises Failure where there is none."""
        if self.bundle is None:
            self.unchanged(self.keys.identity("bundle"))
            raise Failure(f"the mesh {self.keys.mesh!r} has no CA yet; `shoal ca init` makes one")
        return self.bundle

    def granted(self, host: str) -> list[str]:
        """The patterns that name a host."""
        return sorted(pattern for pattern, grant in self.grants.items() if host in grant.hosts)

    @property
    def believed(self) -> Believed:
        """What agents go by."""
        kept = {what: {whose: good for (of, whose), good in self.before.items() if of == what} for what in _KEPT}
        return Believed({*self.hosts, *kept["hosts"]}, {**self.grants, **kept["grants"]})


async def take(store: Store, mesh: str) -> Domain:
    """Reads it at one revision. Raises StoreError."""
    domain = Domain(keys=Keys(mesh))
    for room in (
        Room.IDENTITY,
        Room.HOSTS,
        Room.REQUESTS,
        Room.SIGNED,
        Room.AGENTS,
        Room.INSTANCES,
        Room.SEEN,
    ):
        prefix = domain.keys.room(room)
        found = await store.range(prefix, prefix_end(prefix), revision=domain.revision)
        domain.revision = domain.revision or found.revision
        for item in found.items:
            _enter(domain, item)
    for key in sorted(domain.malformed):
        await _look_back(store, domain, domain.items[key])
    return domain


async def _look_back(store: Store, domain: Domain, item: KeyValue) -> None:
    """For what was good before, where agents go on by it. Raises StoreError."""
    key = domain.keys.parse(item.key)
    if not isinstance(key, Key) or key.room is not Room.IDENTITY or key.first not in _KEPT:
        return
    stays = "agents that knew what stood there before go by that until it is mended"
    looked: KeyValue | None = item
    for _ in range(MOST_LOOKED_BACK):
        if looked is None or looked.mod_revision <= looked.create_revision:
            stays = "nothing good stood there before"
            break
        try:
            looked = await store.get(item.key, revision=looked.mod_revision - 1)
            if looked is not None:
                domain.before[key.first, key.second] = _KEPT[key.first](looked.value)
                stays = f"what was put at revision {looked.mod_revision} stays in force until it is mended"
                break
        except Compacted:
            break
        except (Malformed, ValueError):
            continue
    domain.malformed[item.key] += f"; {stays}"


def _enter(domain: Domain, item: KeyValue) -> None:
    key = domain.keys.parse(item.key)
    domain.items[item.key] = item
    if not isinstance(key, Key):
        domain.malformed[item.key] = key.reason
        return
    try:
        if key.room is Room.IDENTITY:
            _enter_identity(domain, key, item.value)
        else:
            _enter_record(domain, key, item.value)
    except (Malformed, ValueError) as error:
        domain.malformed[item.key] = str(error)


def _enter_identity(domain: Domain, key: Key, value: bytes) -> None:
    what, whose = key.first, key.second
    if what == "bundle":
        domain.bundle = parse_bundle("", value)
    elif what == "revocations":
        domain.revocations = parse_revocations(value)
    elif what == "trust":
        domain.trusted[whose] = parse_bundle(whose, value)
    elif what == "grants":
        domain.grants[whose] = parse_grant(value)
    elif what == "hosts":
        domain.hosts[whose] = decode(Host, value)
    elif what == "issuers":
        domain.issuers[whose] = decode(IssuerRecord, value)
    elif what == "people":
        domain.people[whose] = decode(Person, value)
    elif what == "joins":
        domain.joins[whose] = decode(Join, value)


def _enter_record(domain: Domain, key: Key, value: bytes) -> None:
    pair = (key.first, key.second)
    if key.room is Room.TRUST:
        domain.holds[key.first] = decode(Holds, value)
    elif key.room is Room.REQUESTS:
        domain.requests[pair] = decode(Request, value)
    elif key.room is Room.SIGNED:
        domain.signed[pair] = decode(Signed, value)
    elif key.room is Room.SEEN:
        domain.seen[key.first] = decode(Seen, value)
    elif key.room is Room.AGENTS:
        domain.agents[key.first] = decode(Agent, value)
    elif key.room is Room.INSTANCES:
        domain.instances[pair] = decode(Instance, value, key.second.partition("@")[2])


class Change(msgspec.Struct):
    """What is to be written, in one transaction, and that what it was decided on stands still."""

    compares: list[Compare]
    operations: list[Operation]


async def settle(store: Store, mesh: str, decide: Callable[[Domain], tuple[Change, T]]) -> tuple[T, Domain, int]:
    """Reads, decides and writes, anew as long as others come before; what was decided, on what, and the revision of it
    (0: there was nothing to write). Raises Failure, and whatever `decide` does."""
    for _ in range(ATTEMPTS):
        domain = await take(store, mesh)
        change, told = decide(domain)
        if not change.operations:
            return told, domain, 0
        outcome = await store.transact(change.compares, change.operations)
        if outcome.succeeded:
            return told, domain, outcome.revision
    raise Failure("others keep changing the same keys; nothing was changed, try again", Exit.NO)


def now_s() -> float:
    """Seconds of the epoch."""
    return time.time()


async def wait_for(
    store: Store, mesh: str, timeout_s: float, missing: Callable[[Domain], list[str]]
) -> tuple[Domain, list[str]]:
    """Looks until nothing is missing any more, or the time is over; how it stands then, and what is missing."""
    import trio

    domain = await take(store, mesh)
    with trio.move_on_after(timeout_s):
        while missing(domain):
            await trio.sleep(LOOK_EVERY_S)
            domain = await take(store, mesh)
    return domain, missing(domain)
