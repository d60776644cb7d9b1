"""What an agent tells of itself, typed: everything of `/state` but its services, with the same names."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.control.admin.v1.types import Base


class EtcdState(Base, frozen=True, kw_only=True):
    """Its connection to etcd."""

    endpoints: list[str]
    connected: bool
    error: str
    revision: int
    resyncs: int
    lease: str
    lease_error: str
    not_allowed: Annotated[list[str], Meta(description="Rooms that it may not write")] = msgspec.field(
        default_factory=list
    )


class LoopState(Base, frozen=True, kw_only=True):
    """How late control's loop was."""

    late: int
    late_s: float
    worst_s: float
    stack: Any = None


class TableState(Base, frozen=True, kw_only=True):
    """Its table."""

    revision: int
    age_s: float | None
    services: int
    instances: int
    policies: int


class WorkerState(Base, frozen=True, kw_only=True):
    """One of its workers."""

    index: int
    pid: int
    ready: bool
    revision: int
    build: str


class Listener(Base, frozen=True, kw_only=True):
    """Where it listens."""

    name: str
    address: str
    port: int


class Descriptors(Base, frozen=True, kw_only=True):
    """How many connections its descriptors are enough for, and how many its settings want."""

    limit: int
    connections: int
    connections_wanted: int


class RefusedState(Base, frozen=True, kw_only=True):
    """A policy that is not in force."""

    kind: str
    service: str
    path: str
    reason: str
    revision: int = 0
    last_good: int = 0
    closed: bool = False


class HeldState(Base, frozen=True, kw_only=True):
    """A policy that is in force though etcd says otherwise."""

    kind: str
    service: str
    reason: str
    revision: int
    stands: Any = None


class KeyState(Base, frozen=True, kw_only=True):
    """A key, and what is the matter with it."""

    key: str
    reason: str


class InstanceTrouble(Base, frozen=True, kw_only=True):
    """An instance of its host, and what is the matter with it."""

    service: str
    id: str
    reason: str


class LostState(Base, frozen=True, kw_only=True):
    """Another host's agent whose lease ran out without a word of stopping; for an hour, or until it is back."""

    host: str
    address: str
    since: str
    suspects: Annotated[
        int, Meta(description="Of its instances: how many are kept, and used where there is nothing else")
    ]
    answers: Annotated[bool, Meta(description="Whether its inbound port still answers")]


class SinkState(Base, frozen=True, kw_only=True):
    """Where records go."""

    name: str
    kinds: list[str]
    waiting_bytes: int
    delivered: dict[str, int]
    lost: dict[str, int]
    trouble: str


class EventsState(Base, frozen=True, kw_only=True):
    """Its part in telling webhooks."""

    waiting: Any = None
    slowed: Any = None
    pending: int = 0
    disbelieved: dict[str, Any] = msgspec.field(default_factory=dict)
    claims: dict[str, str] = msgspec.field(default_factory=dict)
    conditions: list[str] = msgspec.field(default_factory=list)
    outcomes: Any = None
    failures: list[Any] = msgspec.field(default_factory=list)


class Judged(Base, frozen=True, kw_only=True):
    """How often a document that is only watched would have done something else."""

    service: str
    kind: str
    document: str
    done: str
    would: str
    requests: int


class AgentState(Base, frozen=True, kw_only=True):
    """An agent, by its own word."""

    host: str
    mesh: str
    zone: str
    address: str
    version: str
    build: str
    build_reason: str
    started: str
    ready: bool
    not_ready: Annotated[str, Meta(description="Why it is not; empty: it is")]
    etcd: EtcdState
    loop: LoopState
    table: TableState
    workers: list[WorkerState]
    previous_workers: Annotated[list[int], Meta(description="Processes that finish what they had before a reload")]
    worker_restarts: int
    recent_commits: Annotated[list[tuple[int, float]], Meta(description="Revision, and when (Unix s)")]
    refused: list[RefusedState]
    audits_refused: list[RefusedState]
    judged: list[Judged]
    held: list[HeldState]
    malformed: list[KeyState]
    malformed_unlisted: int
    instances_refused: list[InstanceTrouble]
    checks_refused: list[InstanceTrouble]
    checks_unable: list[InstanceTrouble]
    listeners: list[Listener]
    descriptors: Descriptors
    shadowed: list[KeyState]
    suspects: Annotated[
        list[dict[str, str]],
        Meta(description="Instances whose record vanished without a word, and that are kept: whose, and since when"),
    ]
    happened: Annotated[list[dict[str, Any]], Meta(description="What breakers and ejectors turned to, the latest last")]
    standing: Annotated[list[dict[str, Any]], Meta(description="Of that, what lasts")]
    events: EventsState
    identity: Annotated[dict[str, Any], Meta(description="Certificates and their ends; empty without a trust bundle")]
    client_certificates: dict[str, dict[str, Any]]
    handshakes_failed: list[dict[str, Any]]
    topics: list[dict[str, Any]]
    local: Annotated[list[dict[str, Any]], Meta(description="Instances of its host, as they were registered")]
    lost: list[LostState] = msgspec.field(default_factory=list)
    records: list[SinkState] = msgspec.field(default_factory=list)
    audit: Annotated[
        dict[str, Any], Meta(description="Its audit log: how far it is, and what keeps it from being written")
    ] = msgspec.field(default_factory=dict)
    people_certificate: Annotated[
        dict[str, Any],
        Meta(description="That of `people.certificate`: when it `ends`, whether it is `ending`, why it is of no use"),
    ] = msgspec.field(default_factory=dict)
    followed: Annotated[
        dict[str, int],
        Meta(description="Requests as they end: `filters` that are followed, `taps`, and how many were `lost` to both"),
    ] = msgspec.field(default_factory=dict)
    issuers: Annotated[
        list[dict[str, Any]], Meta(description="Of tokens: whose keys it fetches, and how old they are")
    ] = msgspec.field(default_factory=list)
    opas: Annotated[
        list[dict[str, Any]],
        Meta(description="Open Policy Agents that documents have it ask, and that it may not, or asks in vain"),
    ] = msgspec.field(default_factory=list)
    instances_exposed: Annotated[
        dict[str, str], Meta(description="Instances that other hosts reach around it, and where")
    ] = msgspec.field(default_factory=dict)
    guard: Annotated[dict[str, Any], Meta(description="Ports that its settings say are guarded")] = msgspec.field(
        default_factory=dict
    )
