"""The frames between control and a worker: the only place where the two meet.

A frame is a msgpack map with a `t` that names it, behind a 4-byte big-endian length. Control sends what it wants to be
so; a worker stages it and makes it so at the next `commit`, whole. A worker takes them as types (`known`); one that it
does not know, or cannot read, is told of in its log and passed over; fields that it does not know are ignored.

control -> worker
    configure  host, zone, mesh, limits, callers (service -> token), access_log, share, agents [range]
                                                                                               once, first; at changes
    agents     host, addresses {host: address}                   who lives, and where; staged until commit
    service    name, revision, endpoints [EndpointFrame], policies {kind: PolicyFrame}       staged until commit
    gone       name                                                                          staged until commit
    commit     revision, agents (how many live)                 swap in all that is staged; answered with `runs`
    ask        id, what ("ping" | "state" | "metrics" | "demand" | "explain"), args {}        answered with `answer`
    peer_answer  id, status, body                                               control's answer to a `peer`
    stored     id, name, reason (empty: it is on disk)                       control's answer to a `store`
    shares     shares {service: {limit: fraction}}               this worker's parts of rate limits; in force at once
    drain      deadline_s                            stop accepting, finish what is in flight, leave; `drained`
worker -> control
    ready      pid, build ("compiled", …)                                listening; the first commit is in force
    runs       revision, refused [{kind, key, revision, path, reason}]
    answer     id, value | error
    peer       id, path, body, address (it comes from)         another agent's question; answered with `peer_answer`
    store      id, name, topic {url, user, secret}, record (bytes, JSON)     to be kept; answered with `stored`
    happened   events [{kind ("breaker" | "outlier"), service, endpoint, before, after, reason, audit, at}]
    records    count, lines (bytes)         access records: JSON objects with the fields of Record, one a line
    compared   service, revision, request {method, target, id}, answers {role: status, headers, body, truncated, error,
               latency_s}                         what a request and its copies got, for a shadow policy that compares
    drained
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack
import msgspec

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024

Frame = dict[str, Any]


class Record(msgspec.Struct):
    """What is remembered of a request: a line of the access log, as JSON."""

    time: float
    """Of the start, Unix seconds."""
    direction: str
    caller: str
    service: str
    endpoint: str
    method: str
    host: str
    target: str
    status: int
    duration_s: float
    bytes_in: int
    bytes_out: int
    attempts: int
    request_id: str
    why: str
    """What ended it, other than an endpoint's answer."""


class Limits(msgspec.Struct, frozen=True):
    """What a worker allows the clients of each listener, from the agent's settings; counts are this worker's share."""

    max_connections: int = 20_000
    head_s: float = 10.0
    """For a whole request head, however it drips."""
    idle_s: float = 300.0
    """Between two requests of a connection."""
    max_waiting: int = 1024
    """Requests held until the first table is there."""
    waiting_s: float = 10.0


class EndpointFrame(msgspec.Struct, frozen=True, array_like=True):
    """One endpoint on the wire, in the order of the fields."""

    id: str
    address: str
    port: int
    version: str
    zone: str
    weight: float
    metadata: dict[str, str]
    healthy: bool
    draining: bool
    suspect: bool
    agent: str
    dial_address: str
    dial_port: int
    via: bool


class PolicyFrame(msgspec.Struct, frozen=True, array_like=True):
    """One document in force for a service, already validated by control."""

    key: str
    """The pattern it was put for: `pets.production`, `*.production` or `*`."""
    revision: int
    text: bytes
    """The document as it stands in etcd; empty when the frames since the last commit have told it already."""
    unknown: str = ""
    """Why nobody can say what it should be: then requests are refused. Empty for a document."""


def said_once(frames: Iterable[Frame]) -> list[Frame]:
    """Frames that are sent to a worker one after the other: the text of a pattern's document, which may come with a
    thousand services, stands in the first of them, and is empty in the others."""
    said: set[tuple[str, str, int]] = set()
    made: list[Frame] = []
    for frame in frames:
        policies = dict(frame.get("policies", {}))
        for kind, policy in policies.items():
            if policy.unknown:
                continue
            place = (kind, policy.key, policy.revision)
            if place in said:
                policies[kind] = PolicyFrame(policy.key, policy.revision, b"")
            elif "*" in policy.key:
                said.add(place)
        made.append({**frame, "policies": policies} if policies else frame)
    return made


# What control sends, as a worker takes it.


class Configure(msgspec.Struct, tag_field="t", tag="configure"):
    """What the agent is, and what it allows; comes first, and again at changes."""

    host: str = ""
    zone: str = ""
    share: float = 1.0
    """This worker's part of what the agent may let pass."""
    limits: Limits = Limits()
    callers: dict[str, str] = {}
    """Service to token."""
    access_log: bool = False
    agents: list[str] = []
    """Ranges of addresses where agents are believed to be, beside those that are registered."""


class Where(msgspec.Struct, tag_field="t", tag="agents"):
    """Who lives, and where; from the next commit on."""

    host: str
    """This one."""
    addresses: dict[str, str]


class Stage(msgspec.Struct, tag_field="t", tag="service"):
    """A service as it will be at the commit."""

    name: str
    revision: int
    endpoints: list[EndpointFrame]
    policies: dict[str, PolicyFrame]


class Gone(msgspec.Struct, tag_field="t", tag="gone"):
    """A service that will be no more at the commit."""

    name: str


class Commit(msgspec.Struct, tag_field="t", tag="commit"):
    """Swap in all that is staged."""

    revision: int
    agents: int = 1
    """How many live."""


class Ask(msgspec.Struct, tag_field="t", tag="ask"):
    """Wants an `answer`."""

    id: int
    what: str
    args: dict[str, Any] = {}


class PeerAnswer(msgspec.Struct, tag_field="t", tag="peer_answer"):
    """To a `peer`."""

    id: int
    status: int
    body: bytes


class Stored(msgspec.Struct, tag_field="t", tag="stored"):
    """To a `store`."""

    id: int
    name: str
    reason: str
    """Empty: it is on disk."""


class Shares(msgspec.Struct, tag_field="t", tag="shares"):
    """This worker's parts of rate limits: by service, by limit."""

    shares: dict[str, dict[str, float]]


class Drain(msgspec.Struct, tag_field="t", tag="drain"):
    """Stop accepting, finish, leave."""

    deadline_s: float


class Unknown(msgspec.Struct):
    """A frame that makes no sense here: of a newer version, perhaps."""

    kind: str
    reason: str
    asks: bool = False
    """Whether it wants an answer, with ..."""
    id: Any = None


ToWorker = Configure | Where | Stage | Gone | Commit | Ask | PeerAnswer | Stored | Shares | Drain


def known(frame: Frame) -> ToWorker | Unknown:
    """What control wants of a worker."""
    try:
        found: ToWorker = msgspec.convert(frame, ToWorker)
    except msgspec.ValidationError as error:
        asks = frame.get("t") == "ask" and "id" in frame
        return Unknown(str(frame.get("t"))[:60], str(error), asks, frame.get("id"))
    return found


def encode(frame: Frame) -> bytes:
    """Length and body. Structs are encoded as arrays. Raises ValueError for a frame beyond the limit."""
    body = msgspec.msgpack.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


class Decoder:
    """Bytes in, frames out; no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that `data` completes. Raises ValueError for what is none: beyond the limit, or no map."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(buffer, start)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes; the limit is {MAX_FRAME_BYTES}")
            end = start + HEADER.size + size
            if len(buffer) < end:
                break
            frame = msgpack.unpackb(memoryview(buffer)[start + HEADER.size : end].tobytes(), raw=False)
            if not isinstance(frame, dict):
                raise ValueError(f"a frame that is no map: {type(frame).__name__}")
            yield frame
            start = end
        if start:
            del buffer[:start]
