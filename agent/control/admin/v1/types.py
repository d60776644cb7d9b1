"""What the API shows, each resource a type. Times are RFC 3339 in UTC; empty text: not known, or none."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from agent.control.mesh.documents.in_force import Policy as PolicyInForce

MOST: int = 1000
Limit = Annotated[int, Meta(ge=1, le=MOST, description="How many at most")]
After = Annotated[str, Meta(max_length=512, description="Those behind this one: `next` of the answer before")]
Severity = Literal["error", "warning", "info"]
Scope = Annotated[Literal["agent", "mesh"], Meta(description="agent: what this agent says; mesh: all agents are asked")]
Deadline = Annotated[float, Meta(ge=0.1, le=30, description="For how long all agents are waited for, in seconds")]
SERVICE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,4}$"
ServiceName = Annotated[
    str,
    Meta(
        pattern=r"^$|" + SERVICE,
        extra={"right": "a service, such as pets.production"},
        description="A service, such as pets.production",
    ),
]
Within = Annotated[
    str,
    Meta(
        pattern=r"^\*$|^(\*\.)?" + SERVICE[1:],
        extra={"right": "a pattern, such as *.production"},
        description="Those that a pattern covers: *.production",
    ),
]
AnyState = Annotated[Literal["", "healthy", "unhealthy", "unchecked", "draining", "suspect"], Meta()]
AnyMode = Annotated[Literal["", "enforce", "audit"], Meta()]
Kind = Annotated[str, Meta(max_length=64, description="A kind of policy, such as route")]
HostName = Annotated[str, Meta(max_length=255, description="An agent, by its host's name")]


Mode: TypeAlias = Literal["enforce", "audit"]
State: TypeAlias = Literal["healthy", "unhealthy", "unchecked", "draining", "suspect"]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what may be asked for."""


class ListQuery(Query, frozen=True, kw_only=True):
    """Of a list."""

    limit: Limit = 100
    after: After = ""


class WideQuery(Query, frozen=True, kw_only=True):
    """Of what each agent says for itself."""

    limit: Limit = 100
    scope: Scope = "agent"
    deadline_s: Deadline = 5.0


class HostQuery(Query, frozen=True, kw_only=True):
    """Of what another agent is asked."""

    limit: Limit = 100
    deadline_s: Deadline = 5.0


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is shown. A field that came later has a default: agents of several versions answer together."""


class Missing(Base, frozen=True, kw_only=True):
    """A host whose agent did not answer."""

    why: Annotated[
        str, Meta(description="late, refused, older, unreachable, too_large, failed or no_agent, as docs/api.md says")
    ]
    reason: str


class Page(Base, frozen=True, kw_only=True):
    """Base of lists; each has `items` besides."""

    revision: Annotated[int, Meta(description="Of etcd, that this agent's table is of")] = 0
    total: Annotated[int, Meta(description="How many there are, shown or not")] = 0
    next: Annotated[str, Meta(description="`after` of the next page; empty: this is the last")] = ""


class WidePage(Page, frozen=True, kw_only=True):
    """Base of lists that all agents have a part of."""

    asked: Annotated[int, Meta(description="How many agents were")] = 1
    missing: Annotated[dict[str, Missing], Meta(description="By host: who did not answer, and why")] = msgspec.field(
        default_factory=dict
    )


# The mesh, as this agent's table has it.


class Mesh(Base, frozen=True, kw_only=True):
    """The mesh at a glance."""

    name: str
    host: Annotated[str, Meta(description="Of the agent that tells")]
    version: str
    revision: int
    age_s: Annotated[float | None, Meta(description="Since etcd was heard of; null: it never was")]
    etcd_connected: bool
    services: int
    instances: int
    agents: int
    policies: int
    refused: int
    held: int
    suspects: int


class PolicyRef(Base, frozen=True, kw_only=True):
    """Which policy is in force."""

    kind: str
    pattern: str
    revision: int
    mode: Mode


class Service(Base, frozen=True, kw_only=True):
    """A service that has instances, or policies for its very name."""

    name: str
    instances: int
    healthy: int
    draining: int
    versions: dict[str, int]
    policies: list[PolicyRef]


class Instance(Base, frozen=True, kw_only=True):
    """One running copy of a service."""

    service: str
    id: str
    address: str
    port: int
    version: str
    zone: str
    weight: float
    agent: str
    state: State
    since: str
    reason: str
    metadata: dict[str, str]


class Policy(Base, frozen=True, kw_only=True):
    """A document in force."""

    kind: str
    pattern: str
    revision: int
    mode: Mode
    document: Annotated[Any, Meta(description="As it is in force, as JSON")]


class PolicyAt(NamedTuple):
    """A document whose text is not read yet."""

    kind: str
    pattern: str
    policy: PolicyInForce
    mode: Mode


class NotKnown(Base, frozen=True, kw_only=True):
    """A policy that is refused without anybody knowing what it said before: where its kind guards, requests are."""

    kind: str
    pattern: str
    reason: str


class ServiceDetail(Service, frozen=True, kw_only=True):
    """A service with everything that is known of it here."""

    members: Annotated[list[Instance], Meta(description="At most 1,000; /instances has all")]
    in_force: Annotated[list[Policy], Meta(description="The most specific of each kind first, then the levels above")]
    watched: Annotated[list[Policy], Meta(description="What is only watched, likewise")]
    closed: list[NotKnown]
    callers: Annotated[list[str], Meta(description="As this agent has seen; empty text: without a name")]
    calls: list[str]


class Agent(Base, frozen=True, kw_only=True):
    """An agent that lives; what only it can say is null where it was not asked."""

    host: str
    address: str
    inbound_port: int
    zone: str
    version: str
    started: str
    stopping: bool
    instances: int
    certificate_ends: str
    runs: Annotated[int | None, Meta(description="The revision that every worker of it runs")] = None
    ready: bool | None = None
    build: str | None = None
    refused: Annotated[int | None, Meta(description="Policies that are not in force there")] = None
    etcd_connected: bool | None = None


class Targets(Base, frozen=True, kw_only=True):
    """What a Prometheus is to scrape, as its HTTP service discovery wants to hear it."""

    targets: Annotated[list[str], Meta(description="Address and port")]
    labels: Annotated[dict[str, str], Meta(description="host and mesh; zone, where the agent has one")]


class Services(Page, frozen=True, kw_only=True):
    """Services, by name."""

    items: list[Service]


class Instances(Page, frozen=True, kw_only=True):
    """Instances, by service and id."""

    items: list[Instance]


class Policies(Page, frozen=True, kw_only=True):
    """Documents in force, by kind and pattern."""

    items: list[Policy]


class Agents(WidePage, frozen=True, kw_only=True):
    """Agents, by host."""

    items: list[Agent]


# What each agent says for itself.


class Refused(Base, frozen=True, kw_only=True):
    """A document that is not in force."""

    host: str
    kind: str
    pattern: str
    path: Annotated[str, Meta(description="Where in it; key: its key is wrong")]
    reason: str
    revision: int
    last_good: Annotated[int, Meta(description="Revision of what is in force instead; 0: nothing; -1: nobody knows")]
    closed: Annotated[bool, Meta(description="Whether requests are refused meanwhile")]
    watched: Annotated[bool, Meta(description="Whether it would be watched only")]


class OwnEndpoint(Base, frozen=True, kw_only=True):
    """An instance, and what workers have seen of it."""

    id: str
    address: str
    port: int
    version: str
    zone: str
    weight: float
    healthy: bool
    draining: bool
    suspect: bool
    agent: str
    active: int
    requests: int
    successes: int
    failures: int
    breaker: Annotated[str, Meta(description="closed, half-open, open; empty: none is in force")]
    ejected: bool


class Endpoint(OwnEndpoint, frozen=True, kw_only=True):
    """An instance as the workers of an agent see it."""

    host: str
    service: str


class Call(Base, frozen=True, kw_only=True):
    """Who was seen to call whom."""

    host: str
    caller: Annotated[str, Meta(description="Empty: without a name")]
    service: str
    requests: Annotated[int, Meta(description="Since that agent started, as far as it counts callers")]


class Event(Base, frozen=True, kw_only=True):
    """Something that happened."""

    host: str
    time: str
    type: Annotated[str, Meta(description="breaker.open, outlier.out; of what waits for webhooks, as docs/events.md")]
    subject: str
    service: str
    reason: str
    state: Annotated[
        Literal["turned", "waits"],
        Meta(description="turned: the workers of that agent told it; waits: a webhook has still to be told"),
    ]
    id: str = ""


class Finding(Base, frozen=True, kw_only=True):
    """What is wrong, where, how bad it is, and what to do next."""

    host: str
    id: str
    severity: Severity
    where: str
    what: str
    next: str


class RefusedPolicies(WidePage, frozen=True, kw_only=True):
    """Refused documents, by kind, pattern and host."""

    items: list[Refused]


class Endpoints(WidePage, frozen=True, kw_only=True):
    """Endpoints, by service, id and host."""

    items: list[Endpoint]


class Calls(WidePage, frozen=True, kw_only=True):
    """Calls, by caller, service and host."""

    items: list[Call]


class Events(WidePage, frozen=True, kw_only=True):
    """Events, the latest first."""

    items: list[Event]


class Findings(WidePage, frozen=True, kw_only=True):
    """Findings, the worst first."""

    items: list[Finding]


# Explain.

Printable = Annotated[
    str, Meta(max_length=8192, pattern=r"^[\x21-\x7e]*$", extra={"right": "ASCII; percent-encode the rest"})
]
Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A field of a request's head."""

    name: Word
    value: Annotated[str, Meta(max_length=8192, pattern=r"^[\x20-\x7e]*$")] = ""


class ProposedDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document that nobody has put: what would be decided with it. Neither `text` nor `document`: without it."""

    kind: Annotated[str, Meta(min_length=1, max_length=60)]
    pattern: Annotated[str, Meta(min_length=1, max_length=260, description="A service, or *.production, or *")]
    mode: Mode = "enforce"
    text: Annotated[str, Meta(max_length=200_000, description="JSON or YAML")] = ""
    document: Annotated[Any, Meta(description="The same as JSON")] = None


class Explain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request whose way is asked for."""

    url: Annotated[Printable, Meta(min_length=1, description="http://service/path, or service/path")]
    method: Word = "GET"
    caller: Annotated[Printable, Meta(description="A service, or a SPIFFE id")] = ""
    address: Annotated[str, Meta(max_length=64, pattern=r"^[0-9A-Fa-f.:]*$", description="The client's")] = ""
    headers: Annotated[list[Header], Meta(max_length=100)] = msgspec.field(default_factory=list)
    claims: (
        Annotated[
            dict[str, Annotated[str, Meta(max_length=1024)]],
            Meta(max_length=100, description="Of a token that it is supposed to have, as if it was verified"),
        ]
        | None
    ) = None
    documents: Annotated[
        list[ProposedDocument], Meta(max_length=20, description="As if these were put: nothing is")
    ] = msgspec.field(default_factory=list)
    seed: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**53 - 1,
                description="What splits, balancing, faults and samples draw, they draw from this, each for itself: "
                "two questions with the same one differ by what their documents say",
            ),
        ]
        | None
    ) = None


class Share(Base, frozen=True, kw_only=True):
    """What a target of a split gets of what comes to its rule."""

    to: str
    percent: float


class Decision(Base, frozen=True, kw_only=True):
    """One that the request would meet."""

    phase: str
    decision: str
    reason: str
    policy: Annotated[str, Meta(description="kind/pattern; empty: the built-in default")] = ""
    revision: Annotated[int, Meta(description="0 with a policy: it is only supposed")] = 0
    mode: str = "enforce"
    shares: Annotated[list[Share], Meta(description="Of the whole split of a route, whatever was drawn")] = (
        msgspec.field(default_factory=list)
    )
    host: Annotated[str, Meta(description="Of the agent that said it, where it is another one")] = ""


class Explained(Base, frozen=True, kw_only=True):
    """Where it would go, and why."""

    decisions: list[Decision]
    endpoint: Annotated[dict[str, Any] | None, Meta(description="Null: the mesh answers itself")] = None
    status: Annotated[int | None, Meta(description="Of the mesh's own answer")] = None
    refused: Annotated[
        list[Refused], Meta(description="Documents for the service that was asked for that are not in force")
    ] = []
