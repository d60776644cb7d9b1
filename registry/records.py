"""What stands behind the keys that agents write: frozen records, JSON at rest, unknown fields forbidden.

Every decode goes through `decode`, which turns whatever a person or a broken program put there into a record or into
a Malformed that says what is wrong, where, and what would be right. A record is never half believed.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

MAX_RECORD_BYTES = 64 * 1024
MAX_LAST_GOOD_BYTES = 1024 * 1024
"""A document in it has up to 256 KiB, and its quotation marks are escaped once more."""

MOVED = ("events", "reports")
"""What `Layout.rooms` may name."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[float, Meta(ge=0, le=1_000_000)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Base of everything that agents put into etcd."""


class Instance(Record, frozen=True, kw_only=True):
    """`instances/<service>/<instance>`: one running copy of a service."""

    address: str
    """IPv4 or IPv6 address (never a name: what is resolved can change without anyone seeing it)."""
    port: Port
    version: Annotated[str, Meta(max_length=128)] = ""
    zone: Annotated[str, Meta(max_length=128)] = ""
    weight: Weight = 100
    agent: str = ""
    """Host of the agent that owns and checks it; empty for one put by hand."""
    state: Literal["serving", "draining"] = "serving"
    """`draining`: takes no new request; its deletion, when it comes, is an orderly one."""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class Health(Record, frozen=True, kw_only=True):
    """`health/<service>/<instance>`: written by the owning agent, on transitions only."""

    healthy: bool
    reason: str = ""
    since: str = ""
    """RFC 3339, UTC."""
    agent: str = ""


class Agent(Record, frozen=True, kw_only=True):
    """`agents/<host>`: a live agent and where its inbound listener is."""

    address: str
    inbound_port: Port
    zone: str = ""
    version: str = ""
    started: str = ""
    boot: str = ""
    """Random id of this run: two agents that claim one host name are told apart by it."""
    stopping: bool = False
    """It leaves in order: what vanishes with it was not lost."""


class Rejection(Record, frozen=True, kw_only=True):
    """`rejected/<kind>/<service>`: why a policy is not in force."""

    path: str
    reason: str
    revision: int
    """mod_revision of the refused document."""
    agent: str
    at: str
    last_good: int = 0
    """mod_revision of the document that stays in force; 0 where there was none, -1 where nobody knows."""


class LastGood(Record, frozen=True, kw_only=True):
    """`last_good/<kind>/<service>`: what is in force when the policy that stands is refused."""

    revision: int
    """mod_revision of the document; where there was none, that of the first one that was refused."""
    document: str = ""
    """As JSON; empty where there was none."""


class Held(Record, frozen=True, kw_only=True):
    """`held/<kind>/<service>`: a policy that is in force though etcd says otherwise, which nobody has confirmed."""

    revision: int
    """mod_revision of the document in the etcd that had it."""
    document: str = ""
    """As JSON; empty: none is in force."""
    stands: int = 0
    """mod_revision of the document that stands in its place, and is not in force; 0: none stands there."""
    reason: str = ""
    agent: str = ""
    at: str = ""


class Confirmed(Record, frozen=True, kw_only=True):
    """`confirmed/policies`: an operator's word that the policies are meant as they stand."""

    at: str
    """RFC 3339, UTC: an agent that heard of this etcd's predecessor later than that does not count it."""
    by: str = ""


class Layout(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`confirmed/hosts`: where agents write what is theirs. What a newer version says besides is ignored."""

    state: Literal["own", "own_only", "common"]
    """`own`: under `hosts/`, and what agents wrote elsewhere counts as before. `own_only`: it counts no more. `common`:
    where they wrote before there was `hosts/`."""
    at: str = ""
    """RFC 3339, UTC."""
    by: str = ""
    rooms: list[str] = msgspec.field(default_factory=list)
    """What stands under hosts' own keys besides instances and their health, as not every version that knows these knows
    it: `events`, `reports`."""

    @property
    def own(self) -> bool:
        """Whether agents write under their hosts' own keys."""
        return self.state != "common"

    def has(self, room: str) -> bool:
        """Whether that is under hosts' own keys."""
        return self.own and (room in self.rooms or room not in MOVED)


class Ack(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`acks/<host>`: the revision that each of the host's workers runs. What a newer one tells besides is ignored."""

    revision: int
    """The lowest of all workers: everything up to it is in force on this host."""
    newest: int = 0
    """The newest among it at which something changed that agents watch, where that is earlier: its agent has read
    everything anew, at a revision that others need not hear of. 0: `revision` itself."""
    workers: dict[str, int] = msgspec.field(default_factory=dict)
    at: str = ""


class Seen(Record, frozen=True, kw_only=True):
    """`seen/<host>`: which service called which through this host's agent since it started."""

    calls: dict[str, list[str]] = msgspec.field(default_factory=dict)
    """By calling service (empty: callers that do not say who they are): the services called."""
    plain: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    """By service, and host or address at the other end: when a request for it last came or went in plain text, where
    its policy is permissive."""
    exposed: dict[str, str] = msgspec.field(default_factory=dict)
    """By service/id of an instance of the host: where it listens for other hosts too, such as 0.0.0.0:8080."""
    at: str = ""


class Version(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`versions/<host>`: what the version of a host's agent knows. What a newer one tells besides is ignored."""

    version: str
    build: str = ""
    """`compiled` or `interpreted`."""
    kinds: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Of policies: what may stand in their documents, as `policies.vocabulary` has it."""
    frames: list[str] = msgspec.field(default_factory=list)
    """Between its control and its workers."""
    questions: list[str] = msgspec.field(default_factory=list)
    """That it answers to other agents."""
    keys: list[str] = msgspec.field(default_factory=list)
    """Rooms that not every version writes: those of `registry.keys.MOVING` that etcd lets it write."""
    lacks: list[str] = msgspec.field(default_factory=list)
    """Packages that some documents need and the host has not, by the extras that bring them."""


class Compared(Record, frozen=True, kw_only=True):
    """`tallies/<service>/<host>`: how answers of primary, secondary and candidate compared on a host."""

    revision: int
    """mod_revision of the `shadow` document that was in force; what was counted under another is another matter."""
    thresholds: dict[str, float] = msgspec.field(default_factory=dict)
    """Of that document, by name."""
    tally: dict[str, Any] = msgspec.field(default_factory=dict)
    """As `policies.kinds.shadow.comparison` counts."""
    at: str = ""


class Claimed(Record, frozen=True, kw_only=True):
    """`claims/<pattern>`: which agent tells the webhooks of a pattern."""

    agent: str
    at: str = ""


class Advised(Record, frozen=True, kw_only=True):
    """`scale/<service>`: how many instances a service should have, by a `scale` policy; written when that changes."""

    replicas: Annotated[int, Meta(ge=1)]
    before: int = 0
    """What was advised before; 0: nothing."""
    instances: int = 0
    """That there were then."""
    reason: str = ""
    panic: bool = False
    """Whether load had jumped."""
    least: int = 1
    most: int = 0
    policy: str = ""
    """Kind and pattern."""
    revision: int = 0
    """Of the policy."""
    agent: str = ""
    at: str = ""
    """RFC 3339, UTC."""


class Begun(Record, frozen=True, kw_only=True):
    """`conditions/<subject>`: something has begun, and its end was not seen yet."""

    event: str
    """Id of the event that told it."""
    at: str = ""


class MeshId(Record, frozen=True, kw_only=True):
    """`conditions/mesh`: what tells this mesh from another one of its name, where both tell the same service."""

    id: Annotated[str, Meta(max_length=32)]
    at: str = ""


class Opened(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`conditions/opened/<pattern>/<hook>/<subject>`: a webhook was told that something has begun, and is to be told
    that it has ended. What a newer agent tells besides is ignored."""

    event: str
    """Id of the event that told it."""
    type: str
    """Of that event, in full."""
    service: str = ""
    state: Literal["opening", "open", "closed"] = "open"
    """`opening`: it was asked for, and whether that came about is not known. `closed`: it may be opened again."""
    at: str = ""
    """RFC 3339, UTC: since when that is so."""
    place: str = ""
    """Where it was opened: an address without secrets."""
    id: str = ""
    """What it is called there, as the answer said."""
    asked: int = 0
    """How often it was asked for without an answer."""


class OutboxEntry(Record, frozen=True, kw_only=True):
    """`events/<id>`, `told/<id>` and `undelivered/<id>`: an event, and what came of it."""

    event: dict[str, Any] = msgspec.field(default_factory=dict)
    """As `policies.kinds.webhook.event` has it; empty where it stands under a host's own key."""
    host: str = ""
    """Under whose own key it stands; empty: here."""
    done: dict[str, str] = msgspec.field(default_factory=dict)
    """By hook (`<pattern>/<name>`): what came of it there. The others have still to be told."""
    trying: dict[str, str] = msgspec.field(default_factory=dict)
    """By hook: why it was not told yet, as of one of the last tries."""
    at: str = ""


class Malformed(Exception):
    """A value that is no such record. `path` is where (`$.port`), `reason` what, in words that name the fix."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """JSON, one space of indent away from a person: `etcdctl get` shows it as it is."""
    return msgspec.json.encode(record)


def decode(kind: type[R], value: bytes, owner: str = "") -> R:
    """The record in a value. Raises Malformed, and nothing else, whatever the bytes are. `owner`: the host under whose
    own key it stands, and for whom alone it speaks."""
    most = MAX_LAST_GOOD_BYTES if kind in (LastGood, Held) else MAX_RECORD_BYTES
    if len(value) > most:
        raise Malformed("$", f"{len(value)} bytes; a record has at most {most}")
    try:
        record = msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError as error:
        raise _malformed(error, value, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("$", f"not JSON: {error}") from None
    if isinstance(record, Instance | Agent):
        check_address(record.address)
    if owner and isinstance(record, Instance | Health):
        if record.agent not in ("", owner):
            raise Malformed("$.agent", f"{record.agent[:80]!r} under a key that is {owner}'s; leave it out")
        record = msgspec.structs.replace(record, agent=owner)
    return record


def _malformed(error: msgspec.ValidationError, value: bytes, kind: type[Record]) -> Malformed:
    from policies.language.document import why_not  # for what is wrong alone: agents of a good mesh need none of it

    flaw = why_not(error, value, kind)
    return Malformed(flaw.path, flaw.reason)


def check_address(address: str) -> None:
    """Raises Malformed unless it is an IP address that one can connect to."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise Malformed("$.address", f"{address[:80]!r} is no IPv4 or IPv6 address, such as 10.0.0.5") from None
    if parsed.is_unspecified or parsed.is_multicast:
        raise Malformed("$.address", f"{address} cannot be connected to; put the address of the instance's host")
