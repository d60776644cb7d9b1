"""The tables of `agent.toml`: each setting, its default and its type. What types cannot say is in `check`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from policies.kinds.authn.document import Algorithm
from policies.kinds.health.document import HealthPolicy
from policies.language.document import convert
from policies.language.duration import Age, Duration
from registry.records import Port, Weight

DEFAULT_ETCD = "http://127.0.0.1:2379"
MAX_DEFAULT_WORKERS = 4
SOCKET_NAME = "agent.sock"
UNIX = "unix://"
"""How URLs of sockets begin, before the path."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table in the file."""


class Etcd(Part, frozen=True, kw_only=True):
    """`[etcd]`: where it is, and who we are to it."""

    endpoints: Annotated[tuple[str, ...], Meta(min_length=1)] = (DEFAULT_ETCD,)
    ca: str = ""
    """PEM file of the authority that etcd's certificate is judged by; the system's without it."""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    """Holds the password and nothing else. Not in this file, which many may read."""
    timeout: Duration = "5s"
    proxy: str = ""
    """`http://address:port` of an HTTP proxy through which etcd is reached; what the environment names is not asked."""


class Outbound(Part, frozen=True, kw_only=True):
    """`[outbound]`: where this host's services send their calls."""

    listen: str = "127.0.0.1:15001"
    socket: str = ""
    """A path where they may do so too, and are known by the user that the kernel says they are; empty: none."""


class CallerSettings(Part, frozen=True, kw_only=True):
    """`[[callers]]`: a listener whose requests are one service's, for programs that cannot send credentials."""

    service: str
    listen: str
    """A port of loopback, or a path. Who connects has to be a user that may be the service."""


class Inbound(Part, frozen=True, kw_only=True):
    """`[inbound]`: where other hosts' agents bring requests for this host's instances."""

    listen: str = "0.0.0.0:15006"
    advertise_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """The port that others dial, where it is not the one that is listened on (a port mapping); 0: it is."""
    agents: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Ranges that agents come from whose address is not the registered one: `10.8.0.0/16`, or the address of a NAT."""


class Admin(Part, frozen=True, kw_only=True):
    """`[admin]`: health, readiness, metrics, state and explanations, for whoever can connect. Changes nothing."""

    listen: str = "127.0.0.1:15000"


class MetricsPart(Part, frozen=True, kw_only=True):
    """`[metrics]`: metrics, readiness and where other agents are scraped, for whoever can connect, by whatever name."""

    listen: str = ""
    """Besides the admin port, which has them too; empty: nowhere."""


class Oidc(Part, frozen=True, kw_only=True):
    """`[people.oidc]`: people whom a provider vouches for, by tokens of OpenID Connect."""

    issuer: str = ""
    """`iss` of its tokens; empty: there is none."""
    audiences: Annotated[tuple[str, ...], Meta(max_length=50)] = ()
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    jwks_url: str = ""
    """Where its keys are; empty: where it says itself."""
    name: str = "sub"
    """The claim that says who it is."""
    claim: str | tuple[str, ...] = "groups"
    """The one that gives a role; several names lead into objects."""
    view: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Values of it that let look; `*`: whatever it is."""
    tap: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """That let look into live requests, too."""
    operate: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    client_id: str = ""
    """As what a browser that logs in here is sent to the provider; empty: none is."""
    client_secret_file: str = ""
    """A whole path; empty: a public client, which has none."""
    redirect: str = ""
    """How browsers call this agent: scheme, name and port. The provider sends them back to `/ui/login/done` there."""
    scopes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)] = ("openid",)

    @property
    def path(self) -> tuple[str, ...]:
        """To the claim."""
        return (self.claim,) if isinstance(self.claim, str) else self.claim


class PeoplePart(Part, frozen=True, kw_only=True):
    """`[people]`: the admin API for people who have logged in, over the network, each by his role."""

    listen: str = ""
    """TLS 1.3; empty: nowhere."""
    names: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...], Meta(max_length=20)] = ()
    """By which browsers may call this agent there, besides its host and addresses."""
    certificate: str = ""
    """A whole path: of a chain that browsers believe, for these names; empty: they are shown the agent's own."""
    key: str = ""
    """Of its key; empty: it stands in the same file."""
    oidc: Oidc = Oidc()


class LocalPart(Part, frozen=True, kw_only=True):
    """`[local]`: the socket through which users of this host register, and operate."""

    socket: str = ""
    """A path; see `socket_path` for the default."""
    mode: Annotated[str, Meta(pattern=r"^0?[0-7]{3}$(?!\n)", extra={"right": "permissions, such as 0660"})] = "0666"
    """Who may connect at all; who may do what is decided by who it is."""
    group: str = ""
    """Whose group the socket is, by name or number."""
    operate: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Users, and groups as `@name`, that may do everything, besides root and the agent's own user."""
    tap: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Those that may look into live requests, and follow them; who may do everything may."""
    services: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Who may be which service: users and @groups by service or pattern; the most specific pattern decides."""
    max_instances: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """Registered through the socket by one user."""


class Limits(Part, frozen=True, kw_only=True):
    """`[limits]`: of the agent as a whole; connections and waiting requests are divided among the workers."""

    max_connections: Annotated[int, Meta(ge=16, le=1_000_000)] = 20_000
    """Of each listener, the outbound and the inbound one."""
    head_timeout: Duration = "10s"
    """For a whole request head, however it drips."""
    idle_timeout: Duration = "5m"
    """Between two requests of a connection."""
    max_waiting: Annotated[int, Meta(ge=0, le=1_000_000)] = 1024
    """Requests of each listener that are held until the first table is there."""
    waiting_timeout: Duration = "10s"
    max_head_bytes: Annotated[int, Meta(ge=4096, le=262_144)] = 61_440
    """Of a request or an answer: its first line and its fields."""
    max_head_fields: Annotated[int, Meta(ge=16, le=1000)] = 100
    underscores: Literal["allow", "drop", "refuse"] = "allow"
    """What becomes of a request's fields with an underscore in their name."""


class Hooks(Part, frozen=True, kw_only=True):
    """`[hooks]`: what webhooks may do through this agent; whoever may only write policies cannot."""

    allow: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Ranges and host names that may be called besides the public internet: `10.1.0.0/16`, `*.corp.example`."""
    secrets_dir: str = "/etc/shoal/secrets"
    """Where the files are that webhooks name."""
    exec: bool = False
    """Whether webhooks may run programs on this host."""
    secrets: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Which hosts may be sent a secret, by its file's or variable's name: `github = ["api.github.com"]`."""
    link: str = ""
    """Where people see more of an event: a URL with {subject}, {service}, {id} or {mesh} in it."""


class AuthnPart(Part, frozen=True, kw_only=True):
    """`[authn]`: where this agent fetches the keys of those who make tokens, as documents name them."""

    allow: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Ranges and host names that may be asked besides the public internet; plain HTTP is spoken to these only."""
    ca_file: str = ""
    """Roots that issuers' certificates may be of, besides the system's (PEM)."""


class Topics(Part, frozen=True, kw_only=True):
    """`[topics]`: requests that are stored on this host's disk until their topic's broker has them."""

    max_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 1 << 30
    """Over all topics; beyond it requests are refused instead of stored."""


class SinkSettings(Part, frozen=True, kw_only=True):
    """`[[records.sinks]]`: a place where records go."""

    to: str
    """A path, `-`, or a URL; `agent.settings.sinks` reads it."""
    kinds: Annotated[tuple[Literal["access", "audit", "events", "traces"], ...], Meta(min_length=1)]
    name: Annotated[str, Meta(max_length=64)] = ""
    """What metrics call it; empty: `to`."""
    ca: str = ""
    """PEM file of the authority that the receiver's certificate is judged by; the system's without it."""
    cert: str = ""
    key: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Of OTLP requests: by name, the file that holds the value and nothing else."""
    format: str = "json"
    """Of access records: `json`, `combined`, or a template (`agent.requests.format`)."""
    facility: Annotated[int, Meta(ge=0, le=23)] = 16
    """Of syslog messages; 16 is local0."""
    max_waiting_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] = 32 << 20
    """Of records that may wait for it; beyond it they are lost, and counted."""


class RecordsPart(Part, frozen=True, kw_only=True):
    """`[records]`: what becomes of records of requests, of audit and of events."""

    sinks: Annotated[tuple[SinkSettings, ...], Meta(max_length=16)] = ()


class Origins(Part, frozen=True, kw_only=True):
    """`[origins]`: instances that speak TLS themselves (`origin` of a `tls` policy)."""

    certificates_dir: str = "/etc/shoal/origins"
    """Where `<service>.pem` is, the chain and key that instances of that service are shown where they want one."""


class OpaPart(Part, frozen=True, kw_only=True):
    """`[opa]`: Open Policy Agents that `authz` documents may have this agent ask."""

    allow: Annotated[tuple[str, ...], Meta(max_length=100)] = ("http://127.0.0.1:8181",)
    """`http://address:port` of each. What is told them is in plain text."""


class AuditSettings(Part, frozen=True, kw_only=True):
    """`[audit]`: this host's audit log, what is held of others', and where its segments are copied to."""

    directory: str = ""
    """A whole path; empty: `audit/` in the state directory."""
    keep: Age = "90d"
    """How long records are kept of which no document says otherwise."""
    max_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 1 << 30
    """Of the log; beyond it the oldest segment goes, whatever `keep` says."""
    segment_bytes: Annotated[int, Meta(ge=65_536, le=64 << 20)] = 8 << 20
    """After so many a segment is closed, and another begun."""
    segment_age: Duration = "1h"
    """Or after so long."""
    head_every: Duration = "5m"
    """How often the end of the log is signed, and countersigned by another agent."""
    copies: Annotated[int, Meta(ge=0, le=10)] = 1
    """How many other agents have each closed segment."""
    copy_to: str = ""
    """A directory where each closed segment is copied to as well, such as a mounted share; empty: nowhere."""
    copies_max_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 1 << 30
    """Of what is held here of other hosts' logs."""


class Checks(Part, frozen=True, kw_only=True):
    """`[checks]`: what `health` policies, and instances that register themselves, may have this agent do."""

    commands: bool = False
    """Whether a policy may name a program that is run on this host."""
    ports: Annotated[tuple[int | str, ...], Meta(max_length=1000)] = ()
    """Ports and ranges that may be asked beside an instance's own: `8081`, `"9000-9100"`."""


class GuardPart(Part, frozen=True, kw_only=True):
    """`[guard]`: what the rules of `shoal guard` keep for the agent."""

    ports: Annotated[tuple[int | str, ...], Meta(max_length=1000)] = ()
    """Ports and ranges where instances listen, which nobody else is to reach: `"20000-29999"`."""
    loopback: Literal["agent", "anybody"] = "agent"
    """Who reaches them from this host, besides root."""


class ProgramSettings(Part, frozen=True, kw_only=True):
    """`[programs]`: how programs of checks and webhooks are run."""

    user: str = ""
    """Whom they run as; empty: the agent's own user."""
    max_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 256 << 20
    """Of each process; 0: no limit."""


class IdentitySettings(Part, frozen=True, kw_only=True):
    """`[identity]`: where this host's certificates come from."""

    spiffe_endpoint_socket: str = ""
    """`unix:///path` of a Workload API, such as SPIRE's; empty: issuers of the mesh, where there are any."""

    @property
    def socket_path(self) -> str:
        """Its path; empty: there is none."""
        return self.spiffe_endpoint_socket.removeprefix(UNIX)


class InstanceSettings(Part, frozen=True, kw_only=True):
    """`[[instances]]`: one that runs on this host, whoever starts it."""

    service: str
    port: Port
    id: str = ""
    """`<host>-<port>` without it: the same after a restart."""
    address: str = ""
    version: Annotated[str, Meta(max_length=128)] = ""
    zone: Annotated[str, Meta(max_length=128)] = ""
    weight: Weight = 100
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    health: dict[str, Any] | None = None
    """The same document as a `health` policy; `checked` has it typed."""

    @property
    def checked(self) -> HealthPolicy | None:
        """How it is checked, if it says so itself. Raises Flaw."""
        return None if self.health is None else health_policy(self.health)


class Settings(Part, frozen=True, kw_only=True):
    """The whole file."""

    mesh: str = "default"
    host: str = msgspec.field(default_factory=socket.gethostname)
    """The agent's name in the mesh; one agent a name."""
    address: str = ""
    """The IP address that other hosts dial; without it the one that this host has towards etcd."""
    zone: Annotated[str, Meta(max_length=128)] = ""
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    """0: see `worker_count`."""
    state_dir: str = ""
    """Keeps the last table and the services' tokens; see `state_path` for the default."""
    trusted_proxies: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Ranges of addresses of proxies before this agent's listeners, which are believed about who is behind them."""
    access_log: str = ""
    """A file that is appended to, `-` for standard output; empty: none."""
    access_log_format: str = "json"
    """Of that file: `json`, `combined`, or a template."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    lease_ttl: Duration = "10s"
    """After so long without a word from this agent its instances leave the mesh."""
    spread_timeout: Duration = "3s"
    """Stopping: how long to wait for the other agents to hear of it."""
    drain_timeout: Duration = "30s"
    """Stopping: how long requests in flight may take."""
    reload_timeout: Duration = "4h"
    """Reloading: how long what is alive may go on under the previous workers."""
    etcd: Etcd = Etcd()
    outbound: Outbound = Outbound()
    inbound: Inbound = Inbound()
    admin: Admin = Admin()
    metrics: MetricsPart = MetricsPart()
    people: PeoplePart = PeoplePart()
    local: LocalPart = LocalPart()
    limits: Limits = Limits()
    hooks: Hooks = Hooks()
    authn: AuthnPart = AuthnPart()
    topics: Topics = Topics()
    records: RecordsPart = RecordsPart()
    audit: AuditSettings = AuditSettings()
    checks: Checks = Checks()
    origins: Origins = Origins()
    opa: OpaPart = OpaPart()
    guard: GuardPart = GuardPart()
    programs: ProgramSettings = ProgramSettings()
    identity: IdentitySettings = IdentitySettings()
    instances: tuple[InstanceSettings, ...] = ()
    callers: tuple[CallerSettings, ...] = ()

    @property
    def worker_count(self) -> int:
        """Half of the CPUs that this process may use, 1 to 4, when the file names no number.

        Half, because the agent is a guest of the services beside it; at most four, because one worker serves well over
        ten thousand requests a second, and each keeps its own table and its own pools.
        """
        return self.workers or max(1, min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)) // 2))

    @property
    def state_path(self) -> Path:
        """`state_dir`, else where systemd says, else /var/lib/shoal for root, else ~/.local/state/shoal."""
        if self.state_dir:
            return Path(self.state_dir)
        if given := os.environ.get("STATE_DIRECTORY"):
            return Path(given.partition(":")[0])
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        base = Path("/var/lib/shoal") if os.geteuid() == 0 else Path(home) / "shoal"
        return base / f"{self.mesh}.{self.host}"

    @property
    def socket_path(self) -> Path:
        """`local.socket`, else where `runtime_directory` says."""
        return Path(self.local.socket) if self.local.socket else runtime_directory() / SOCKET_NAME


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's agent has its socket: systemd's word, /run/shoal for root, else a place of the user's own."""
    if given := environment.get("RUNTIME_DIRECTORY"):
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/run/shoal")
    if given := environment.get("XDG_RUNTIME_DIR"):
        return Path(given) / "shoal"
    return Path.home() / ".local" / "state" / "shoal"


def health_policy(raw: Any) -> HealthPolicy:
    """An instance's own health check, typed. Raises Flaw with the path inside of it."""
    document = convert(raw, HealthPolicy)
    document.check()
    return document
