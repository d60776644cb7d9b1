"""`agent.toml`: what an agent is told. Everything has a default; what is unknown or wrong is refused, with its line.

Laws
- A setting that is not understood is an error, never ignored: a misspelt limit is a limit that is not in force.
- Reading settings does no I/O but reading the file, and asks nothing of the machine but its name, its CPUs and its
  users.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from agent.accounts import find_account
from agent.hooks.receivers import Receivers
from agent.hooks.targets import Targets
from agent.ports import Ports
from agent.trust import parse_ranges
from policies.kinds.health.document import HealthPolicy
from policies.language.document import convert
from policies.language.duration import Duration, seconds
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw, below
from registry.keys import Keys, check_host, check_id
from registry.proxying import through
from registry.records import Malformed, Port, Weight, check_address

DEFAULT_ETCD = "http://127.0.0.1:2379"
MAX_DEFAULT_WORKERS = 4
SOCKET_NAME = "agent.sock"
MAX_SOCKET_PATH = 107
"""Bytes, in Linux' struct sockaddr_un."""
_UNKNOWN = re.compile("no field '([^']+)' here")


class SettingsError(Exception):
    """A file that cannot be used; the message has the file, the line, the setting and what would be right."""


class Address(NamedTuple):
    """Where to listen. Port 0: one that the system picks."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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


class Topics(Part, frozen=True, kw_only=True):
    """`[topics]`: requests that are stored on this host's disk until their topic's broker has them."""

    max_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 1 << 30
    """Over all topics; beyond it requests are refused instead of stored."""


class Checks(Part, frozen=True, kw_only=True):
    """`[checks]`: what `health` policies, and instances that register themselves, may have this agent do."""

    commands: bool = False
    """Whether a policy may name a program that is run on this host."""
    ports: Annotated[tuple[int | str, ...], Meta(max_length=1000)] = ()
    """Ports and ranges that may be asked beside an instance's own: `8081`, `"9000-9100"`."""


class ProgramSettings(Part, frozen=True, kw_only=True):
    """`[programs]`: how programs of checks and webhooks are run."""

    user: str = ""
    """Whom they run as; empty: the agent's own user."""
    max_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 256 << 20
    """Of each process; 0: no limit."""


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
    access_log: str = ""
    """A file that is appended to, `-` for standard output; empty: none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    lease_ttl: Duration = "10s"
    """After so long without a word from this agent its instances leave the mesh."""
    spread_timeout: Duration = "3s"
    """Stopping: how long to wait for the other agents to hear of it."""
    drain_timeout: Duration = "30s"
    """Stopping: how long requests in flight may take."""
    etcd: Etcd = Etcd()
    outbound: Outbound = Outbound()
    inbound: Inbound = Inbound()
    admin: Admin = Admin()
    local: LocalPart = LocalPart()
    limits: Limits = Limits()
    hooks: Hooks = Hooks()
    topics: Topics = Topics()
    checks: Checks = Checks()
    programs: ProgramSettings = ProgramSettings()
    instances: tuple[InstanceSettings, ...] = ()

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


def parse_listen(text: str) -> Address:
    """`127.0.0.1:15001`, `[::1]:15001`. Raises ValueError that says what would be right."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    right = f"{text!r} is nowhere to listen; write an address and a port, such as 127.0.0.1:15001 or [::1]:15001"
    if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(right)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return Address(host, int(port))
    raise ValueError(right)


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in a file, or the defaults without one. Raises SettingsError.

    SHOAL_ETCD and SHOAL_MESH, which the command line reads too, fill in what the file does not say.
    """
    if path is None:
        return parse("", "the environment", environment)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse(text, str(path), environment)


def parse(text: str, name: str, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in a text; `name` is what messages call it. Raises SettingsError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: {_syntax(str(error))}") from None
    _fill_in(raw, environment or {})
    try:
        settings = convert(raw, Settings)
        _check(settings)
    except Flaw as fault:
        unknown = _UNKNOWN.match(fault.reason)
        line = line_of(text, _steps(fault.path) + ([unknown[1]] if unknown else []))
        raise SettingsError(f"{name}:{line or 1}: {fault.path.removeprefix('$.')}: {fault.reason}") from None
    return settings


def _fill_in(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    if mesh := environment.get("SHOAL_MESH"):
        raw.setdefault("mesh", mesh)
    etcd = raw.setdefault("etcd", {})
    if (urls := environment.get("SHOAL_ETCD")) and isinstance(etcd, dict):
        etcd.setdefault("endpoints", urls.replace(",", " ").split())


def _syntax(message: str) -> str:
    return f"not TOML: {message[:1].lower()}{message[1:]}; see https://toml.io for the form of the file"


# What the types cannot say.


def _check(settings: Settings) -> None:
    _told("$.mesh", lambda: Keys(settings.mesh))
    _told("$.host", lambda: check_host(settings.host))
    _check_ip("$.address", settings.address)
    for name in ("outbound", "inbound", "admin"):
        part: Outbound | Inbound | Admin = getattr(settings, name)
        _told(f"$.{name}.listen", lambda part=part: parse_listen(part.listen))
    _check_local(settings.local)
    _check_apart(settings)
    _check_times(settings)
    _check_etcd(settings.etcd)
    for number, text in enumerate(settings.inbound.agents):
        _told(f"$.inbound.agents[{number}]", lambda text=text: parse_ranges([text]))
    _told("$.hooks.allow", lambda: Targets(settings.hooks.allow))
    _told("$.hooks.secrets", lambda: Receivers(settings.hooks.secrets))
    _told("$.checks.ports", lambda: Ports(settings.checks.ports))
    if settings.programs.user:
        _told("$.programs.user", lambda: find_account(settings.programs.user))
    if settings.hooks.link and not settings.hooks.link.startswith(("https://", "http://")):
        raise Flaw("$.hooks.link", "a URL, such as https://mesh.corp.example/{subject}")
    if not settings.hooks.secrets_dir.startswith("/"):
        raise Flaw("$.hooks.secrets_dir", "a whole path, such as /etc/shoal/secrets")
    seen: dict[tuple[str, str], int] = {}
    for number, instance in enumerate(settings.instances):
        _check_instance(f"$.instances[{number}]", instance)
        identity = (parse_service(instance.service), instance.id or str(instance.port))
        if identity in seen:
            raise Flaw(f"$.instances[{number}]", f"the same service and id as instances[{seen[identity]}]")
        seen[identity] = number


def _check_local(local: LocalPart) -> None:
    if local.socket and not local.socket.startswith("/"):
        raise Flaw("$.local.socket", "a whole path, such as /run/shoal/agent.sock")
    if len(local.socket.encode()) > MAX_SOCKET_PATH:
        raise Flaw("$.local.socket", f"longer than {MAX_SOCKET_PATH} bytes, which is all that a socket's path may be")
    for number, name in enumerate(local.operate):
        _check_user(f"$.local.operate[{number}]", name)
    for pattern, names in local.services.items():
        _told(below("$.local.services", pattern), lambda pattern=pattern: parse_pattern(pattern))
        for number, name in enumerate(names):
            _check_user(f"{below('$.local.services', pattern)}[{number}]", name)


def _check_user(path: str, name: str) -> None:
    if not name.removeprefix("@"):
        raise Flaw(path, "a user as alice or 1000, a group as @staff or @50")


def _check_apart(settings: Settings) -> None:
    """Three listeners, three places: SO_REUSEPORT would let two of ours share one."""
    seen: dict[str, Address] = {}
    for name in ("outbound", "inbound", "admin"):
        address = parse_listen(getattr(settings, name).listen)
        for other, taken in seen.items():
            everywhere = any(ipaddress.ip_address(host).is_unspecified for host in (address.host, taken.host))
            if address.port and address.port == taken.port and (address.host == taken.host or everywhere):
                raise Flaw(f"$.{name}.listen", f"{address} is where {other}.listen is already; give each its own port")
        seen[name] = address


def _told(path: str, ask: Any) -> None:
    try:
        ask()
    except ValueError as error:
        raise Flaw(path, str(error)) from None


def _check_ip(path: str, address: str) -> None:
    try:
        if address:
            check_address(address)
    except Malformed as error:
        raise Flaw(path, error.reason) from None


_TIMES: dict[str, tuple[float, float]] = {
    "lease_ttl": (2, 3600),  # etcd grants no lease shorter than its election time-out allows
    "spread_timeout": (0, 60),
    "drain_timeout": (0, 3600),
    "etcd.timeout": (0.1, 60),
    "limits.head_timeout": (0.1, 600),
    "limits.idle_timeout": (0.1, 86400),
    "limits.waiting_timeout": (0, 600),
}


def _check_times(settings: Settings) -> None:
    for path, (low_s, high_s) in _TIMES.items():
        value: Any = settings
        for name in path.split("."):
            value = getattr(value, name)
        try:
            length_s = seconds(value)
        except ValueError as error:
            raise Flaw(f"$.{path}", str(error)) from None
        if not low_s <= length_s <= high_s:
            raise Flaw(f"$.{path}", f"{length_s:g} s; from {low_s:g} s to {high_s:g} s")


def _check_etcd(etcd: Etcd) -> None:
    for number, url in enumerate(etcd.endpoints):
        if not url.startswith(("http://", "https://")):
            raise Flaw(f"$.etcd.endpoints[{number}]", f"{url!r} is no URL, such as {DEFAULT_ETCD}")
    _told("$.etcd.proxy", lambda: through(etcd.proxy))
    if bool(etcd.cert) != bool(etcd.key):
        given, missing = ("cert", "key") if etcd.cert else ("key", "cert")
        raise Flaw(f"$.etcd.{given}", f"a client certificate is a pair: {missing} is missing")
    if bool(etcd.user) != bool(etcd.password_file):
        given, missing = ("user", "password_file") if etcd.user else ("password_file", "user")
        raise Flaw(f"$.etcd.{given}", f"user and password_file go together: {missing} is missing")


def _check_instance(path: str, instance: InstanceSettings) -> None:
    _told(f"{path}.service", lambda: parse_service(instance.service))
    if instance.id:
        _told(f"{path}.id", lambda: check_id(instance.id))
    _check_ip(f"{path}.address", instance.address)
    try:
        _ = instance.checked
    except Flaw as fault:
        raise Flaw(f"{path}.health{fault.path[1:]}", fault.reason) from None


# Where in the text a setting stands. tomllib does not tell, but it can be asked about the beginning of the text.


def _steps(path: str) -> list[str | int]:
    """`$.instances[0].port` as `["instances", 0, "port"]`."""
    steps: list[str | int] = []
    for part in path.removeprefix("$").split("."):
        name, *indices = part.replace("]", "").split("[")
        steps += [name] if name else []
        steps += [int(index) if index.isdigit() else index for index in indices]
    return steps


def line_of(text: str, steps: list[str | int]) -> int:
    """The line (from 1) of the statement that brings a setting, or else the nearest table around it; 0: none does.

    Every beginning of the text that ends with that statement, or later, holds the setting: it is found by halving.
    """
    lines = text.splitlines()
    for depth in range(len(steps), 0, -1):
        if _holds(lines, steps[:depth]):
            ends = _statements(lines)
            number = bisect_left(ends, True, key=lambda end: _holds(lines[:end], steps[:depth]))
            return (ends[number - 1] if number else 0) + 1
    return 0


def _statements(lines: list[str]) -> list[int]:
    """Behind which line each statement ends; blank lines and comments count as statements."""
    ends: list[int] = []
    start = 0
    for end in range(1, len(lines) + 1):
        if _parsed(lines[start:end]) is not None:
            ends.append(end)
            start = end
    return ends


def _parsed(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _holds(lines: list[str], steps: list[str | int]) -> bool:
    value: Any = _parsed(lines)
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True
