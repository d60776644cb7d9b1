"""The frames between control and a worker: the only place where the two meet.

A frame is a msgpack map with a `t` that names it, behind a 4-byte big-endian length. Control sends what it wants to be
so; a worker stages it and makes it so at the next `commit`, whole. Frames that are not understood are a bug of ours:
both ends are the same version, started by one process.

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


def said_once(frames: Iterable[Frame]) -> list[Frame]:
    """Frames that are sent to a worker one after the other: the text of a pattern's document, which may come with a
    thousand services, stands in the first of them, and is empty in the others."""
    said: set[tuple[str, str, int]] = set()
    made: list[Frame] = []
    for frame in frames:
        policies = dict(frame.get("policies", {}))
        for kind, policy in policies.items():
            place = (kind, policy.key, policy.revision)
            if place in said:
                policies[kind] = PolicyFrame(policy.key, policy.revision, b"")
            elif "*" in policy.key:
                said.add(place)
        made.append({**frame, "policies": policies} if policies else frame)
    return made


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
