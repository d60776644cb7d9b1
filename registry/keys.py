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
    /shoal/<mesh>/events/<id>                       outbox: what is still to be told, and how far it is
    /shoal/<mesh>/health/<service>/<instance>       written on transitions only        on the owning agent's lease
    /shoal/<mesh>/held/<kind>/<service>             what is in force though etcd says otherwise
    /shoal/<mesh>/hosts/<host>/instances/…, health/…   the same two, under keys that are that host's alone
    /shoal/<mesh>/hosts/<host>/events/<id>          an event that this host tells of
    /shoal/<mesh>/hosts/<host>/trust                what that host holds: bundle, SVIDs    on the agent's lease
    /shoal/<mesh>/identity/bundle                   the trust domain's roots
    /shoal/<mesh>/identity/grants/<pattern>         which hosts may hold these services
    /shoal/<mesh>/identity/hosts/<host>             that a host belongs to the mesh
    /shoal/<mesh>/identity/issuers/<host>           an intermediate, and that this host may issue
    /shoal/<mesh>/identity/joins/<digest>           a one-time token, as a digest
    /shoal/<mesh>/identity/people/<name>            that somebody may log in
    /shoal/<mesh>/identity/revocations              what is revoked
    /shoal/<mesh>/identity/trust/<trust-domain>     another domain's roots
    /shoal/<mesh>/instances/<service>/<instance>    one running copy                   on the owning agent's lease
    /shoal/<mesh>/last_good/<kind>/<service>        what is in force when that policy is refused
    /shoal/<mesh>/policies/<kind>/<service>         written by people
    /shoal/<mesh>/rejected/<kind>/<service>         why a policy was refused
    /shoal/<mesh>/reports/<host>/tallies/<service>  the same as tallies/, under a key that is that host's alone
    /shoal/<mesh>/requests/<host>/<name>            a signing request: agent, issuer or svc/<service>
    /shoal/<mesh>/scale/<service>                   how many instances it should have
    /shoal/<mesh>/scaling/<service>                 which agent advises that           on the agent's lease
    /shoal/<mesh>/seen/<host>                       which service called which there   on the agent's lease
    /shoal/<mesh>/signed/<host>/<name>              the certificate for it
    /shoal/<mesh>/signing/<host>/<name>             which issuer has taken it          on the issuer's lease
    /shoal/<mesh>/tallies/<service>/<host>          how answers compared there         on the agent's lease
    /shoal/<mesh>/told/<id>                         events that were told              for a day
    /shoal/<mesh>/undelivered/<id>                  events that some webhook did not take
    /shoal/<mesh>/versions/<host>                   what its version knows             on the agent's lease

`acks` sorts before everything else and is written most, `reports`, `requests`, `seen` and what follows behind it all,
so one contiguous range, `agents/` to the end of `rejected/`, is all that an agent watches: one watch, in which a
revision is never split.
"""

from __future__ import annotations

import re

from policies.language.names import parse_pattern, parse_service
from registry.key_forms import (
    AGENT_REQUEST,
    HOSTS,
    ISSUER_REQUEST,
    MOVING,
    OPENED,
    POLICIES,
    SERVICE_REQUEST,
    Key,
    Room,
    Unknown,
    check_host,
    check_id,
    check_kind,
    joined,
    of_identity,
    own,
    owner_of,
    parse,
    policy_or_spelled,
    request_name,
)

__all__ = [
    "AGENT_REQUEST",
    "HOSTS",
    "ISSUER_REQUEST",
    "MAX_KEY_BYTES",
    "MESH_ID",
    "MOVING",
    "OPENED",
    "POLICIES",
    "ROOT",
    "SERVICE_REQUEST",
    "Key",
    "Keys",
    "Room",
    "Unknown",
    "check_host",
    "check_id",
    "own",
    "owner_of",
]

ROOT = "/shoal"
MAX_KEY_BYTES = 1024
MESH_ID = "mesh"
_MESH = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


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
        """Where something of the mesh's identity stands: bundle or revocations; grants, hosts, issuers, joins, people
        or trust, which are of somebody. Raises ValueError for names that are none."""
        return f"{self.room(Room.IDENTITY)}{joined(*of_identity(joined(what, whose)))}"

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
        return f"{self.room(room)}{check_host(host)}/{request_name(name)}"

    def version(self, host: str) -> str:
        """Where it stands what the version of a host's agent knows."""
        return f"{self.prefix}versions/{check_host(host)}"

    def tally(self, service: str, host: str, *, own: bool = False) -> str:
        """Where it stands how the answers of a service compared on a host. `own`: under that host's own key."""
        if own:
            return f"{self.under(Room.REPORTS, host)}tallies/{parse_service(service)}"
        return f"{self.tallies(service)}{check_host(host)}"

    def tallies(self, service: str) -> str:
        """The prefix of every host's."""
        return f"{self.prefix}tallies/{parse_service(service)}/"

    def claim(self, pattern: str) -> str:
        """Where it stands who tells the webhooks of a pattern."""
        return f"{self.prefix}claims/{parse_pattern(pattern)}"

    def advice(self, service: str) -> str:
        """Where it stands how many instances a service should have."""
        return f"{self.prefix}scale/{parse_service(service)}"

    def scaling(self, service: str) -> str:
        """Where it stands who advises that."""
        return f"{self.prefix}scaling/{parse_service(service)}"

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
        """Where an event stands, or how far it is told: in EVENTS, TOLD or UNDELIVERED."""
        return f"{self.prefix}{room.value}/{id}"

    def own_event(self, host: str, id: str) -> str:
        """Where an event stands that a host tells of, under its own key."""
        return f"{self.own_events(host)}{id}"

    def own_events(self, host: str) -> str:
        """The prefix of all of a host's."""
        return f"{self.under(Room.HOSTS, host)}{Room.EVENTS.value}/"

    def policy(self, kind: str, pattern: str) -> str:
        """Where a policy stands."""
        return f"{self.prefix}policies/{check_kind(kind)}/{parse_pattern(pattern)}"

    def audit(self, kind: str, pattern: str) -> str:
        """Where a policy stands that is only watched."""
        return f"{self.prefix}audits/{check_kind(kind)}/{parse_pattern(pattern)}"

    def audit_rejection(self, kind: str, pattern: str) -> str:
        """Where the refusal of a watched policy stands."""
        return f"{self.prefix}audits_rejected/{check_kind(kind)}/{parse_pattern(pattern)}"

    def last_good(self, kind: str, pattern: str) -> str:
        """Where the last good state of a policy stands."""
        return f"{self.prefix}last_good/{check_kind(kind)}/{parse_pattern(pattern)}"

    def held(self, kind: str, pattern: str) -> str:
        """Where it stands that a policy is in force though etcd says otherwise."""
        return f"{self.prefix}held/{check_kind(kind)}/{parse_pattern(pattern)}"

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
        return f"{self.room(Room.REJECTED)}{joined(*policy_or_spelled(joined(kind, pattern)))}"

    def spelled(self, kind: str, pattern: str) -> str:
        """Where a policy stands that is spelled so, though it may name nothing."""
        return f"{self.room(Room.POLICIES)}{joined(kind, pattern)}"

    def canonical(self, key: Key) -> str:
        """The spelling of a key that goes before all others."""
        if key.room in (Room.INSTANCES, Room.HEALTH):
            return self._of_instance(key.room, key.first, key.second)
        if key.room is Room.TRUST:
            return self.trust(key.first)
        if key.room is Room.EVENTS and key.second:
            return self.own_event(key.second, key.first)
        if key.room is Room.REPORTS:
            return self.tally(key.first, key.second, own=True)
        return f"{self.room(key.room)}{joined(key.first, key.second)}"

    def parse(self, key: str) -> Key | Unknown:
        """What a key is about. Never raises, whatever stands in etcd."""
        if not key.startswith(self.prefix):
            return Unknown(f"not under {self.prefix}")
        if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
            return Unknown(f"longer than {MAX_KEY_BYTES} bytes")
        return parse(key[len(self.prefix) :])
