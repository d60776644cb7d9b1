"""How keys of the mesh are spelled: what may stand in each room, and what a key is about. Pure.

Whoever wants a key asks `registry.keys`, which alone joins what is made here.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from policies.language.names import parse_pattern, parse_service

HOSTS, POLICIES = "hosts", "policies"
"""Of what follows `confirmed/`."""
MOVING = ("events", "hosts", "reports")
"""What stands under hosts' own keys where a mesh says so: the outbox; instances and their health; tallies."""
OPENED = "opened/"
"""Of what follows `conditions/`; no subject of a condition is called so."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z")
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
    REPORTS = "reports"
    """What a host tells of itself, and few read; `tallies` under its own key."""
    REQUESTS = "requests"
    SCALE = "scale"
    SCALING = "scaling"
    """Which agent advises how many instances a service should have."""
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
    """The instance (`<id>@<host>`: under a key of the host), the pattern of a policy, the host whose tally it is or
    under whose own key an event stands, or what a signing request is for. Of IDENTITY, `first` is what stands there,
    and this is whose."""


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


@lru_cache(maxsize=1024)
def parse(rest: str) -> Key | Unknown:
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
    if room in (Room.SCALE, Room.SCALING):
        return Key(room, parse_service(rest))
    if room is Room.IDENTITY:
        return Key(room, *of_identity(rest))
    if room in (Room.REQUESTS, Room.SIGNING, Room.SIGNED):
        host, _, name = rest.partition("/")
        return Key(room, check_host(host), request_name(name))
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
        return Key(room, *policy_or_spelled(rest))
    if room is Room.REPORTS:
        host, _, rest = rest.partition("/")
        what, _, service = rest.partition("/")
        if what != Room.TALLIES.value:
            raise ValueError(f"{what[:60]!r} is not: tallies; which stand under reports/<host>/")
        return Key(room, parse_service(service), check_host(host))
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
    if room not in (Room.EVENTS.value, Room.INSTANCES.value, Room.HEALTH.value):
        raise ValueError(f"{room[:60]!r} is none of: events, health, instances, trust; which stand under hosts/<host>/")
    key = _parse_rest(Room(room), rest)
    if key.room is Room.EVENTS:
        return Key(key.room, key.first, check_host(host))
    return Key(key.room, key.first, f"{key.second}@{check_host(host)}")


def request_name(name: str) -> str:
    """What a signing request is for, as it is. Raises ValueError."""
    if name in (AGENT_REQUEST, ISSUER_REQUEST):
        return name
    if not name.startswith(SERVICE_REQUEST):
        raise ValueError(f"{name[:60]!r} is nothing to ask a certificate for: agent, issuer, or svc/<service>")
    return SERVICE_REQUEST + parse_service(name.removeprefix(SERVICE_REQUEST))


def of_identity(rest: str) -> tuple[str, str]:
    """What stands under `identity/`, and whose it is. Raises ValueError."""
    what, _, whose = rest.partition("/")
    if what in ("bundle", "revocations") and not whose:
        return what, ""
    if what == "grants":
        return what, parse_pattern(whose)
    if what in ("hosts", "issuers", "people"):
        return what, check_host(whose)
    if what == "joins" and _DIGEST.match(whose):
        return what, whose
    if what == "trust" and _TRUST_DOMAIN.match(whose):
        return what, whose
    raise ValueError(
        f"{rest[:60]!r} is none of: bundle, grants/<pattern>, hosts/<host>, issuers/<host>, joins/<digest>, "
        "people/<name>, revocations, trust/<trust-domain>; which stand under identity/"
    )


def _policy(rest: str) -> tuple[str, str]:
    kind, slash, pattern = rest.partition("/")
    if not slash:
        raise ValueError(
            "no service behind the kind: policies/<kind>/<service>, such as policies/route/pets.production"
        )
    try:
        return check_kind(kind), parse_pattern(pattern)
    except ValueError as error:
        hint = "; a pattern is a service, '*.production' or '*'" if "*" in pattern else ""
        raise ValueError(f"{error}{hint}") from None


def policy_or_spelled(rest: str) -> tuple[str, str]:
    """Kind and pattern; of what names nothing, as it is spelled."""
    try:
        return _policy(rest)
    except ValueError:
        return _split(rest)


def _split(rest: str) -> tuple[str, str]:
    """What stands behind `policies/` in two, so that `joined` makes it again."""
    kind, _, pattern = rest.partition("/")
    return (kind, pattern) if pattern else (rest, "")


def joined(kind: str, pattern: str) -> str:
    """Two parts of a key; one where there is no second."""
    return f"{kind}/{pattern}" if pattern else kind


def check_kind(kind: str) -> str:
    """A kind of policy as it is. Raises ValueError."""
    if not _KIND.match(kind):
        raise ValueError(f"{kind[:60]!r} is no policy kind: lower-case letters, digits and '-'")
    return kind
