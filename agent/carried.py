"""What frames carry (`agent.frames`): values that are none by themselves.

Laws
- As of frames: fields that an end does not know are ignored, and new ones have defaults. Those that are lists on the
  wire only grow at their end.
"""

from __future__ import annotations

import msgspec


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
    head_bytes: int = 60 * 1024
    head_fields: int = 100
    underscores: str = "allow"
    """In names of header fields: allow, drop the field, or refuse the request."""


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
    secured_until: float = 0.0
    """Until when the agent there says that it holds the SVID of this service, in seconds of the epoch; 0: it does
    not."""


class PolicyFrame(msgspec.Struct, frozen=True, array_like=True):
    """One document in force for a service, already validated by control."""

    key: str
    """The pattern it was put for: `pets.production`, `*.production` or `*`."""
    revision: int
    text: bytes
    """The document as it stands in etcd; empty when the frames since the last commit have told it already."""
    unknown: str = ""
    """Why nobody can say what it should be: then requests are refused. Empty for a document."""
    wider: tuple[PolicyFrame, ...] = ()
    """Of a kind whose documents of every level apply: those for less specific patterns."""


class LocalUsers(msgspec.Struct, frozen=True):
    """Who on this host may do what, by numbers of users and of groups."""

    masters: list[int] = []
    """Users that may do everything."""
    operators: tuple[list[int], list[int]] = ([], [])
    services: dict[str, tuple[list[int], list[int]]] = {}
    """Who may be the services of a pattern."""


class ClientCertificate(msgspec.Struct, frozen=True, array_like=True):
    """What instances of a service are shown that speak TLS themselves."""

    path: str
    """A file of this host's, with chain and key (PEM)."""
    mark: str
    """Another one when the file is."""
    reason: str = ""
    """Why it is of no use; empty: it is."""


class Svid(msgspec.Struct, frozen=True, array_like=True):
    """A certificate and its key, in files of this host or in memory."""

    chain: str
    """PEM; empty: it is in no file."""
    key: str
    ends_s: float
    """Of the epoch: when the first of its chain ends."""
    pem: bytes = b""
    """Both, where they are in no file."""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """To a span of another trace."""

    trace_id: str
    span_id: str


class Span(msgspec.Struct, omit_defaults=True):
    """What a hop, or a try, leaves of itself in a trace: a line of JSON on its way to a collector."""

    time: float
    """When it began, Unix seconds."""
    duration_s: float
    service: str
    """Whose it is."""
    name: str
    kind: str
    """`server`: of who serves the request; `client`: of who makes it."""
    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty: it is the first."""
    state: str = ""
    """tracestate."""
    flags: int = 0
    """As in traceparent."""
    remote: bool = False
    """Whether its parent is of another process."""
    error: str = ""
    """`error.type`; empty: it went well."""
    attributes: dict[str, str | int | bool | list[str]] = {}
    """By the names of OpenTelemetry's conventions, and `shoal.…`."""
    links: list[Link] = []


class Part(msgspec.Struct, frozen=True, array_like=True):
    """An agent's, of a limit of the whole mesh, that its workers take from together."""

    share: float
    least: float = 0.0
    """Of the burst it has at least this part."""
    rest: float = 0.0
    """Of the rate this part comes in while nobody asks."""


class Uncompiled(msgspec.Struct, frozen=True):
    """What of a commit could not be done: a document that control took and the worker does not, a whole plan, a
    frame."""

    key: str
    """The document's pattern; the service; the frame's kind."""
    path: str
    reason: str
    kind: str = ""
    """Of policy; empty where it is no document."""


class Topic(msgspec.Struct, frozen=True):
    """Where a request is stored, and as whom."""

    url: str
    user: str = ""
    secret: dict[str, str] | None = None
    """A reference, as it stands in the document."""


class Transition(msgspec.Struct, frozen=True):
    """Something changed of itself."""

    kind: str
    """breaker, outlier or shed."""
    service: str
    endpoint: str
    """Empty: of the service as a whole."""
    before: str
    after: str
    reason: str
    audit: bool
    at: float
    """Unix seconds."""
