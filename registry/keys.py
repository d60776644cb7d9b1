"""Every key of the mesh. Nobody else joins path strings.

    /shoal/<mesh>/acks/<host>                       the revision that host's workers run; agents never watch this
    /shoal/<mesh>/agents/<host>                     a live agent                       on the agent's lease
    /shoal/<mesh>/audits/<kind>/<service>           written by people: watched, and never enforced
    /shoal/<mesh>/audits_rejected/<kind>/<service>  why one of these was refused
    /shoal/<mesh>/claims/<pattern>                  who tells a pattern's webhooks     on the agent's lease
    /shoal/<mesh>/conditions/<subject>              what has begun and not ended
    /shoal/<mesh>/conditions/mesh                   what tells this mesh from others of its name
    /shoal/<mesh>/conditions/opened/<pattern>/<hook>/<subject>   what a webhook opened, and is to close
    /shoal/<mesh>/confirmed/hosts                   an operator: where agents write what is theirs
    /shoal/<mesh>/confirmed/policies                an operator: what stands in etcd is meant
    /shoal/<mesh>/events/<id>                       outbox: what is still to be told
    /shoal/<mesh>/health/<service>/<instance>       written on transitions only        on the owning agent's lease
    /shoal/<mesh>/held/<kind>/<service>             what is in force though etcd says otherwise
    /shoal/<mesh>/hosts/<host>/instances/<service>/<instance>   the same, under a key that is that host's alone
    /shoal/<mesh>/hosts/<host>/health/<service>/<instance>
    /shoal/<mesh>/hosts/<host>/trust                what that host holds: bundle, SVIDs    on the agent's lease
    /shoal/<mesh>/identity/bundle                   the trust domain's roots
    /shoal/<mesh>/identity/grants/<pattern>         which hosts may hold these services
    /shoal/<mesh>/identity/hosts/<host>             that a host belongs to the mesh
    /shoal/<mesh>/identity/issuers/<host>           an intermediate, and that this host may issue
    /shoal/<mesh>/identity/joins/<digest>           a one-time token, as a digest
    /shoal/<mesh>/identity/revocations              what is revoked
    /shoal/<mesh>/identity/trust/<trust-domain>     another domain's roots
    /shoal/<mesh>/instances/<service>/<instance>    one running copy                   on the owning agent's lease
    /shoal/<mesh>/last_good/<kind>/<service>        what is in force when that policy is refused
    /shoal/<mesh>/policies/<kind>/<service>         written by people
    /shoal/<mesh>/rejected/<kind>/<service>         why a policy was refused
    /shoal/<mesh>/requests/<host>/<name>            a signing request: agent, issuer or svc/<service>
    /shoal/<mesh>/seen/<host>                       which service called which there   on the agent's lease
    /shoal/<mesh>/signed/<host>/<name>              the certificate for it
    /shoal/<mesh>/signing/<host>/<name>             which issuer has taken it          on the issuer's lease
    /shoal/<mesh>/tallies/<service>/<host>          how answers compared there         on the agent's lease
    /shoal/<mesh>/told/<id>                         events that were told              for a day
    /shoal/<mesh>/undelivered/<id>                  events that some webhook did not take
    /shoal/<mesh>/versions/<host>                   what its version knows             on the agent's lease

`acks` sorts before everything else and is written most, `requests`, `seen` and what follows behind it all, so one
contiguous range, `agents/` to the end of `rejected/`, is all that an agent watches: one watch, in which a revision is
never split.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from policies.language.names import parse_pattern, parse_service

ROOT = "/shoal"
MAX_KEY_BYTES = 1024
MESH_ID = "mesh"
HOSTS, POLICIES = "hosts", "policies"
"""Of what follows `confirmed/`."""
OPENED = "opened/"
"""Of what follows `conditions/`; no subject of a condition is called so."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z")
_MESH = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
AGENT_REQUEST = "agent"
ISSUER_REQUEST = "issuer"
SERVICE_REQUEST = "svc/"
"""What a signing request is for: the agent, an issuer's intermediate, or, with a name behind it, a service."""


class Room(Enum):
    """What a key is about."""

    ACKS = "acks"
    AGENTS = "agents"
    AUDITS = "audits"
    AUDITS_REJECTED = "audits_rejected"
    CLAIMS = "claims"
    CONDITIONS = "conditions"
    CONFIRMED = "confirmed"
    EVENTS = "events"
    HEALTH = "health"
    HELD = "held"
    HOSTS = "hosts"
    IDENTITY = "identity"
    INSTANCES = "instances"
    LAST_GOOD = "last_good"
    POLICIES = "policies"
    REJECTED = "rejected"
    REQUESTS = "requests"
    SEEN = "seen"
    SIGNED = "signed"
    SIGNING = "signing"
    TALLIES = "tallies"
    TOLD = "told"
    TRUST = "trust"
    """Stands under the host whose it is."""
    UNDELIVERED = "undelivered"
    VERSIONS = "versions"


class Key(NamedTuple):
    """A key of ours, taken apart."""

    room: Room
    first: str
    """The service, the policy kind, the host or the event."""
    second: str = ""
    """The instance (`<id>@<host>`: under a key of the host), the pattern of a policy, the host whose tally it is, or
    what a signing request is for. Of IDENTITY, `first` is what stands there, and this is whose."""


class Unknown(NamedTuple):
    """A key under our prefix that is none of ours, and why."""

    reason: str
    policy: tuple[str, str] | None = None
    """Of one that stands where policies do, though it names nothing: kind and pattern, as they are spelled."""


def check_id(text: str) -> str:
    """An instance id as it is. Raises ValueError."""
    if not _ID.match(text):
        raise ValueError(
            f"{text[:80]!r} is no instance id: 1 to 128 of A-Z, a-z, 0-9 and '._:-', the first a letter or digit"
        )
    return text


def owner_of(instance: str) -> str:
    """The host under whose own key an instance stands; empty: under one that is nobody's. Two hosts may use one id."""
    return instance.partition("@")[2]


def own(instance: str, host: str) -> str:
    """What an instance is called that stands under a host's own key."""
    return f"{instance}@{host}"


def check_host(text: str) -> str:
    """A host name as it is. Raises ValueError."""
    if not _HOST.match(text):
        raise ValueError(f"{text[:80]!r} is no host name: letters, digits, '.', '-' and '_'")
    return text


class Keys:
    """The keys of one mesh."""

    def __init__(self, mesh: str = "default") -> None:
        if not _MESH.match(mesh):
            raise ValueError(f"{mesh[:80]!r} is no mesh name: a DNS label, such as 'default'")
        self.mesh = mesh
        self.prefix = f"{ROOT}/{mesh}/"
        self.watched = (f"{self.prefix}agents/", f"{self.prefix}rejected0")
        """The range that agents watch: from the first key up to, and without, the second."""

    def room(self, room: Room) -> str:
        """The prefix of everything in a room."""
        return f"{self.prefix}{room.value}/"

    def under(self, room: Room, first: str) -> str:
        """The prefix of what a room has of one host, or of one sort."""
        return f"{self.room(room)}{check_host(first)}/"

    def instance(self, service: str, instance: str) -> str:
        """Where an instance stands. Raises ValueError for names that are none."""
        return self._of_instance(Room.INSTANCES, service, instance)

    def health(self, service: str, instance: str) -> str:
        """Where an instance's health stands."""
        return self._of_instance(Room.HEALTH, service, instance)

    def _of_instance(self, room: Room, service: str, instance: str) -> str:
        id, at, host = instance.partition("@")
        place = f"{self.room(Room.HOSTS)}{check_host(host)}/{room.value}/" if at else self.room(room)
        return f"{place}{parse_service(service)}/{check_id(id)}"

    def agent(self, host: str) -> str:
        """Where an agent stands."""
        return f"{self.prefix}agents/{check_host(host)}"

    def ack(self, host: str) -> str:
        """Where the revision that a host runs stands."""
        return f"{self.prefix}acks/{check_host(host)}"

    def seen(self, host: str) -> str:
        """Where the calls that a host has seen stand."""
        return f"{self.prefix}seen/{check_host(host)}"

    def trust(self, host: str) -> str:
        """Where it stands which bundle and which SVIDs a host holds."""
        return f"{self.room(Room.HOSTS)}{check_host(host)}/{Room.TRUST.value}"

    def identity(self, what: str, whose: str = "") -> str:
        """Where something of the mesh's identity stands: bundle or revocations; grants, hosts, issuers, joins or trust,
        which are of somebody. Raises ValueError for names that are none."""
        return f"{self.room(Room.IDENTITY)}{_joined(*_of_identity(_joined(what, whose)))}"

    def request(self, host: str, name: str) -> str:
        """Where a host's signing request stands; `name` as in AGENT_REQUEST and what follows it."""
        return self._of_request(Room.REQUESTS, host, name)

    def signing(self, host: str, name: str) -> str:
        """Where it stands which issuer has taken it."""
        return self._of_request(Room.SIGNING, host, name)

    def signed(self, host: str, name: str) -> str:
        """Where the certificate stands."""
        return self._of_request(Room.SIGNED, host, name)

    def _of_request(self, room: Room, host: str, name: str) -> str:
        return f"{self.room(room)}{check_host(host)}/{_request_name(name)}"

    def version(self, host: str) -> str:
        """Where it stands what the version of a host's agent knows."""
        return f"{self.prefix}versions/{check_host(host)}"

    def tally(self, service: str, host: str) -> str:
        """Where it stands how the answers of a service compared on a host."""
        return f"{self.tallies(service)}{check_host(host)}"

    def tallies(self, service: str) -> str:
        """The prefix of every host's."""
        return f"{self.prefix}tallies/{parse_service(service)}/"

    def claim(self, pattern: str) -> str:
        """Where it stands who tells the webhooks of a pattern."""
        return f"{self.prefix}claims/{parse_pattern(pattern)}"

    def condition(self, subject: str) -> str:
        """Where it stands that something has begun."""
        return f"{self.prefix}conditions/{subject}"

    @property
    def mesh_id(self) -> str:
        """Where it stands what tells this mesh from others of its name."""
        return self.condition(MESH_ID)

    def opened(self, hook: str, subject: str) -> str:
        """Where it stands what a hook (`<pattern>/<name>`) opened about a subject."""
        return self.condition(f"{OPENED}{hook}/{subject}")

    def event(self, id: str, room: Room = Room.EVENTS) -> str:
        """Where an event stands: in EVENTS, TOLD or UNDELIVERED."""
        return f"{self.prefix}{room.value}/{id}"

    def policy(self, kind: str, pattern: str) -> str:
        """Where a policy stands."""
        return f"{self.prefix}policies/{_check_kind(kind)}/{parse_pattern(pattern)}"

    def audit(self, kind: str, pattern: str) -> str:
        """Where a policy stands that is only watched."""
        return f"{self.prefix}audits/{_check_kind(kind)}/{parse_pattern(pattern)}"

    def audit_rejection(self, kind: str, pattern: str) -> str:
        """Where the refusal of a watched policy stands."""
        return f"{self.prefix}audits_rejected/{_check_kind(kind)}/{parse_pattern(pattern)}"

    def last_good(self, kind: str, pattern: str) -> str:
        """Where the last good state of a policy stands."""
        return f"{self.prefix}last_good/{_check_kind(kind)}/{parse_pattern(pattern)}"

    def held(self, kind: str, pattern: str) -> str:
        """Where it stands that a policy is in force though etcd says otherwise."""
        return f"{self.prefix}held/{_check_kind(kind)}/{parse_pattern(pattern)}"

    @property
    def confirmed(self) -> str:
        """Where an operator says that the policies are meant as they stand."""
        return f"{self.prefix}confirmed/{POLICIES}"

    @property
    def layout(self) -> str:
        """Where an operator says under which keys agents write what is theirs."""
        return f"{self.prefix}confirmed/{HOSTS}"

    def rejection(self, kind: str, pattern: str) -> str:
        """Where the refusal of a policy stands; of one whose key names nothing, under the same spelling."""
        return f"{self.room(Room.REJECTED)}{_joined(*_policy_or_spelled(_joined(kind, pattern)))}"

    def spelled(self, kind: str, pattern: str) -> str:
        """Where a policy stands that is spelled so, though it may name nothing."""
        return f"{self.room(Room.POLICIES)}{_joined(kind, pattern)}"

    def canonical(self, key: Key) -> str:
        """The spelling of a key that goes before all others."""
        if key.room in (Room.INSTANCES, Room.HEALTH):
            return self._of_instance(key.room, key.first, key.second)
        if key.room is Room.TRUST:
            return self.trust(key.first)
        return f"{self.room(key.room)}{_joined(key.first, key.second)}"

    def parse(self, key: str) -> Key | Unknown:
        """What a key is about. Never raises, whatever stands in etcd."""
        if not key.startswith(self.prefix):
            return Unknown(f"not under {self.prefix}")
        if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
            return Unknown(f"longer than {MAX_KEY_BYTES} bytes")
        return _parse(key[len(self.prefix) :])


@lru_cache(maxsize=1024)
def _parse(rest: str) -> Key | Unknown:
    """What stands behind the mesh's prefix. Remembered: everybody who takes a change asks."""
    room_name, _, rest = rest.partition("/")
    try:
        room = Room(room_name)
    except ValueError:
        known = ", ".join(room.value for room in Room)
        return Unknown(f"{room_name[:60]!r} is none of: {known}")
    try:
        return _parse_rest(room, rest)
    except ValueError as error:
        return Unknown(str(error), _split(rest) if room is Room.POLICIES else None)


def _parse_rest(room: Room, rest: str) -> Key:
    if room in (Room.AGENTS, Room.ACKS, Room.SEEN, Room.VERSIONS):
        return Key(room, check_host(rest))
    if room is Room.CLAIMS:
        return Key(room, parse_pattern(rest))
    if room is Room.IDENTITY:
        return Key(room, *_of_identity(rest))
    if room in (Room.REQUESTS, Room.SIGNING, Room.SIGNED):
        host, _, name = rest.partition("/")
        return Key(room, check_host(host), _request_name(name))
    if room is Room.TRUST:
        raise ValueError("it stands under its host: hosts/<host>/trust")
    if room in (Room.EVENTS, Room.TOLD, Room.UNDELIVERED, Room.CONDITIONS):
        if not rest:
            raise ValueError("a key that ends with a slash")
        return Key(room, rest)
    if room is Room.CONFIRMED:
        if rest not in (HOSTS, POLICIES):
            raise ValueError("there are only confirmed/hosts and confirmed/policies")
        return Key(room, rest)
    if room is Room.REJECTED:
        return Key(room, *_policy_or_spelled(rest))
    if room is Room.HOSTS:
        return _parse_own(*rest.partition("/")[::2])
    if room in (Room.POLICIES, Room.AUDITS, Room.AUDITS_REJECTED, Room.LAST_GOOD, Room.HELD):
        return Key(room, *_policy(rest))
    service, slash, instance = rest.rpartition("/")
    if room is Room.TALLIES:
        if not slash:
            raise ValueError("no host behind the service: tallies/<service>/<host>")
        return Key(room, parse_service(service), check_host(instance))
    if not slash:
        raise ValueError(f"no instance id behind the service: {room.value}/<service>/<instance>")
    return Key(room, parse_service(service), check_id(instance))


def _parse_own(host: str, rest: str) -> Key:
    """What stands behind `hosts/<host>/`."""
    room, _, rest = rest.partition("/")
    if room == Room.TRUST.value and not rest:
        return Key(Room.TRUST, check_host(host))
    if room not in (Room.INSTANCES.value, Room.HEALTH.value):
        raise ValueError(f"{room[:60]!r} is none of: health, instances, trust; which stand under hosts/<host>/")
    key = _parse_rest(Room(room), rest)
    return Key(key.room, key.first, f"{key.second}@{check_host(host)}")


def _request_name(name: str) -> str:
    if name in (AGENT_REQUEST, ISSUER_REQUEST):
        return name
    if not name.startswith(SERVICE_REQUEST):
        raise ValueError(f"{name[:60]!r} is nothing to ask a certificate for: agent, issuer, or svc/<service>")
    return SERVICE_REQUEST + parse_service(name.removeprefix(SERVICE_REQUEST))


def _of_identity(rest: str) -> tuple[str, str]:
    what, _, whose = rest.partition("/")
    if what in ("bundle", "revocations") and not whose:
        return what, ""
    if what == "grants":
        return what, parse_pattern(whose)
    if what in ("hosts", "issuers"):
        return what, check_host(whose)
    if what == "joins" and _DIGEST.match(whose):
        return what, whose
    if what == "trust" and _TRUST_DOMAIN.match(whose):
        return what, whose
    raise ValueError(
        f"{rest[:60]!r} is none of: bundle, grants/<pattern>, hosts/<host>, issuers/<host>, joins/<digest>, "
        "revocations, trust/<trust-domain>; which stand under identity/"
    )


def _policy(rest: str) -> tuple[str, str]:
    kind, slash, pattern = rest.partition("/")
    if not slash:
        raise ValueError(
            "no service behind the kind: policies/<kind>/<service>, such as policies/route/pets.production"
        )
    try:
        return _check_kind(kind), parse_pattern(pattern)
    except ValueError as error:
        hint = "; a pattern is a service, '*.production' or '*'" if "*" in pattern else ""
        raise ValueError(f"{error}{hint}") from None


def _policy_or_spelled(rest: str) -> tuple[str, str]:
    try:
        return _policy(rest)
    except ValueError:
        return _split(rest)


def _split(rest: str) -> tuple[str, str]:
    """What stands behind `policies/` in two, so that `_joined` makes it again."""
    kind, _, pattern = rest.partition("/")
    return (kind, pattern) if pattern else (rest, "")


def _joined(kind: str, pattern: str) -> str:
    return f"{kind}/{pattern}" if pattern else kind


def _check_kind(kind: str) -> str:
    if not _KIND.match(kind):
        raise ValueError(f"{kind[:60]!r} is no policy kind: lower-case letters, digits and '-'")
    return kind
