"""`health`: how an instance is checked by the agent beside it, and when it counts as healthy.

The check itself is I/O and lives with the agent; what is here is the document and the pure state machine that turns
single results into transitions. Only transitions are written anywhere.
"""

from __future__ import annotations

import random
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from policies.document import Document, Fault, below
from policies.duration import Duration, seconds
from policies.request import TOKEN, Method

# `$` alone would let a line feed pass at the end.
_Target: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^/[\x21-\x7e]*$(?!\n)",
        max_length=2048,
        extra={"right": "a path, which begins with /, without spaces"},
    ),
]
_OURS: Final = frozenset(("host", "content-length", "transfer-encoding", "connection"))


class HttpCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to the instance."""

    path: _Target = "/health"
    method: Method = "GET"
    statuses: Annotated[tuple[Annotated[int, Meta(ge=200, le=599)], ...], Meta(description="Default: 200 to 299")] = ()
    headers: dict[str, Annotated[str, Meta(max_length=4096)]] = msgspec.field(default_factory=dict)
    host: Annotated[str, Meta(description="Host header; default: the service's name", max_length=255)] = ""
    body: Annotated[
        str, Meta(description="Text that the body has to contain, in its first 64 KiB", max_length=4096)
    ] = ""
    port: Annotated[int, Meta(ge=0, le=65535, description="Default: the instance's own")] = 0


class TcpCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A connection to the instance; with `send`, what is sent, and with `expect`, what has to come back."""

    send: Annotated[str, Meta(max_length=4096)] = ""
    expect: Annotated[str, Meta(max_length=4096)] = ""
    port: Annotated[int, Meta(ge=0, le=65535, description="Default: the instance's own")] = 0


class CommandCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A program that the agent runs; exit status 0 is healthy. $ADDRESS, $PORT, $SERVICE and $INSTANCE are set."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]


class HealthPolicy(Document, frozen=True, kw_only=True):
    """The document; also the form of an instance's own check in agent.toml and `shoal register`."""

    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    command: CommandCheck | None = None
    ttl: Annotated[
        Duration | None, Meta(description="The instance tells by itself, at least this often: shoal's admin API")
    ] = None
    interval: Annotated[Duration, Meta(description="Between the ends and starts of checks")] = "5s"
    jitter: Annotated[float, Meta(ge=0, le=1, description="Share of the interval that is random, either way")] = 0.1
    timeout: Annotated[Duration, Meta(description="For one check")] = "2s"
    rise: Annotated[int, Meta(ge=1, le=100, description="Successes in a row that make healthy")] = 2
    fall: Annotated[int, Meta(ge=1, le=100, description="Failures in a row that make unhealthy")] = 3
    initially: Annotated[bool, Meta(description="What counts before the first verdict: healthy or not")] = False

    def check(self) -> None:
        """One way to check, and lengths of time that make sense."""
        ways = [name for name in ("http", "tcp", "command", "ttl") if getattr(self, name) is not None]
        if len(ways) != 1:
            found = f"{' and '.join(ways)} together" if ways else "none of them"
            raise Fault("$", f"exactly one of http, tcp, command and ttl says how to check; here: {found}")
        times = {"interval": self.interval, "timeout": self.timeout}
        if self.ttl is not None:
            times["ttl"] = self.ttl
        for name, value in times.items():
            try:
                length = seconds(value)
            except ValueError as error:
                raise Fault(f"$.{name}", str(error)) from None
            if not 0.05 <= length <= 3600:
                raise Fault(f"$.{name}", f"{length:g} s; from 50ms to 1h")
        if self.http is not None:
            _check_http(self.http)
        if self.command is not None:
            _check_argv(self.command.argv)


def _check_http(http: HttpCheck) -> None:
    for name, value in http.headers.items():
        path = below("$.http.headers", name)
        if not TOKEN.match(name) or name.lower() in _OURS:
            raise Fault(path, "no header that a check can set (for Host use $.http.host)")
        if not value.isprintable() or not value.isascii():
            raise Fault(path, "a value is printable ASCII on one line")
    if not http.host.isascii() or not http.host.isprintable() or " " in http.host:
        raise Fault("$.http.host", f"{http.host[:60]!r} is no host name")
    if http.body and http.method == "HEAD":
        raise Fault("$.http.body", "the answer to HEAD has no body to look into; use GET")


def _check_argv(argv: tuple[str, ...]) -> None:
    if not argv[0].strip():
        raise Fault("$.command.argv[0]", "names no program")
    for n, word in enumerate(argv):
        if "\0" in word:
            raise Fault(f"$.command.argv[{n}]", "a NUL character, which no argument can have")


class Transition(msgspec.Struct, frozen=True):
    """An instance changed sides."""

    healthy: bool
    reason: str


class Tracker:
    """Rise and fall: turns results into transitions.

    A newcomer is starting until its first success, which makes it healthy at once: it has nothing to recover from.
    """

    __slots__ = ("_fall", "_rise", "_row", "healthy", "known")

    def __init__(self, policy: HealthPolicy) -> None:
        self._rise = policy.rise
        self._fall = policy.fall
        self._row = 0
        self.healthy = policy.initially
        self.known = False
        """Whether there is a verdict; starting before that."""

    def observe(self, ok: bool, reason: str) -> Transition | None:
        """Take a result; a transition when it changes the verdict, or is the first one."""
        if not self.known and ok:
            self.known = True
            self._row = 0
            changed, self.healthy = not self.healthy, True
            return Transition(True, reason) if changed else None
        if ok == self.healthy:
            starting = not self.known and not ok
            self._row = self._row + 1 if starting else 0
            # It is still starting, and one success will do; but why it fails is no longer "not checked yet".
            return Transition(False, reason) if starting and self._row == self._fall else None
        self._row += 1
        if self._row < (self._rise if ok else self._fall):
            return None
        self._row = 0
        self.known = True
        self.healthy = ok
        return Transition(ok, reason)

    def adopt(self, policy: HealthPolicy) -> None:
        """Go on under an edited document; the verdict stays."""
        self._rise = policy.rise
        self._fall = policy.fall


def pause_s(policy: HealthPolicy, rng: random.Random) -> float:
    """How long to wait before the next check, with jitter, so that checks do not march in step."""
    base = seconds(policy.interval)
    return base * (1 + policy.jitter * (2 * rng.random() - 1))
