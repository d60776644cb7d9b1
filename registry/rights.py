"""What each who asks etcd may do there: the roles of a mesh, as etcd knows rights, in ranges of keys. Pure.

    reader     reads the mesh
    operator   what people write: policies and audits, what they confirm, identity, and instances by hand
    agent      what every agent has: it reads the mesh, and writes to the rooms that hosts share (docs/identity.md)
    host       what one host's agent has besides: its own keys, and nobody else's
    issuer     an agent that signs: certificates, and, once there is one, what is in force in place of a policy

Laws
- No role has a right outside of its mesh, and none that another mesh's keys fall into.
- A host's role has no key of another host, of a person, or of an issuer.
- Once there are issuers (`kept_by_issuers`) agents do not write what puts a policy in force: issuers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from registry.keys import Keys, Room
from registry.store import prefix_end

May = Literal["read", "readwrite"]
Kind = Literal["agent", "issuer", "operator", "reader"]
KINDS: Final[tuple[Kind, ...]] = ("agent", "issuer", "operator", "reader")
KEEPING: Final = (Room.LAST_GOOD, Room.HELD, Room.REJECTED, Room.AUDITS_REJECTED)
"""Two of them put a policy in force, and two say why one is not."""
SHARED: Final = (
    *(Room.CLAIMS, Room.CONDITIONS, Room.EVENTS, Room.TOLD, Room.UNDELIVERED),
    *(Room.SCALE, Room.SCALING),
)
OF_OPERATORS: Final = (
    Room.AUDITS,
    Room.CONFIRMED,
    Room.HEALTH,
    Room.IDENTITY,
    Room.INSTANCES,
    Room.POLICIES,
    Room.UNDELIVERED,
)


class Grant(NamedTuple):
    """A right to a range of keys."""

    key: str
    end: str
    """Empty: the key alone."""
    may: May


class Role(NamedTuple):
    """By name, so that `shoal mesh show` knows whose it is."""

    name: str
    grants: frozenset[Grant]


class Rights:
    """The roles of one mesh."""

    def __init__(self, keys: Keys, *, kept_by_issuers: bool = False) -> None:
        self._keys = keys
        self._kept_by_issuers = kept_by_issuers
        self.prefix = f"shoal:{keys.mesh}:"
        """Of its roles' names; a mesh's name has no colon."""

    def name(self, what: str) -> str:
        """Of a role."""
        return f"{self.prefix}{what}"

    def reader(self) -> Role:
        """Of who looks."""
        return self._role("reader", ())

    def operator(self) -> Role:
        """Of people who steer the mesh."""
        return self._role("operator", map(self._room, OF_OPERATORS))

    def agent(self) -> Role:
        """Of every agent."""
        rooms = SHARED if self._kept_by_issuers else (*SHARED, *KEEPING)
        return self._role("agent", map(self._room, rooms))

    def issuer(self) -> Role:
        """Besides an agent's. Revocations are an operator's to make; issuers put back what a restored etcd has lost."""
        rooms = map(self._room, (Room.SIGNED, Room.SIGNING, *KEEPING))
        joins = _prefix(self._keys.under(Room.IDENTITY, "joins"))
        return self._role("issuer", (*rooms, joins, Grant(self._keys.identity("revocations"), "", "readwrite")))

    def host(self, host: str) -> Role:
        """Of one host's agent. Raises ValueError for a name that is none."""
        keys = self._keys
        alone = (keys.agent(host), keys.ack(host), keys.seen(host), keys.version(host))
        own = [_prefix(keys.under(room, host)) for room in (Room.HOSTS, Room.REPORTS, Room.REQUESTS)]
        return Role(self.name(f"host:{host}"), frozenset((*own, *(Grant(key, "", "readwrite") for key in alone))))

    def shared(self) -> tuple[Role, ...]:
        """All but those of hosts."""
        return (self.reader(), self.operator(), self.agent(), self.issuer())

    def of(self, kind: Kind, host: str) -> tuple[Role, ...]:
        """The roles of a user. `host`: of an agent and an issuer."""
        match kind:
            case "agent":
                return (self.agent(), self.host(host))
            case "issuer":
                return (self.agent(), self.host(host), self.issuer())
            case "operator":
                return (self.operator(),)
            case "reader":
                return (self.reader(),)

    def _room(self, room: Room) -> Grant:
        return _prefix(self._keys.room(room))

    def _role(self, name: str, grants: Iterable[Grant]) -> Role:
        reads = Grant(self._keys.prefix, prefix_end(self._keys.prefix), "read")
        return Role(self.name(name), frozenset((reads, *grants)))


def _prefix(prefix: str) -> Grant:
    return Grant(prefix, prefix_end(prefix), "readwrite")
