"""`health`: how an instance is checked by the agent beside it, and when it counts as healthy.

The check itself is I/O and lives with the agent; what is here is the document and the pure state machine that turns
single results into transitions. Only transitions are written anywhere.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.plain import Flaw, below
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
            raise Flaw("$", f"exactly one of http, tcp, command and ttl says how to check; here: {found}")
        times = {"interval": self.interval, "timeout": self.timeout}
        if self.ttl is not None:
            times["ttl"] = self.ttl
        for name, value in times.items():
            bounded(f"$.{name}", value, 0.05, 3600)
        if self.http is not None:
            _check_http(self.http)
        if self.command is not None:
            _check_argv(self.command.argv)


def _check_http(http: HttpCheck) -> None:
    for name, value in http.headers.items():
        path = below("$.http.headers", name)
        if not TOKEN.match(name) or name.lower() in _OURS:
            raise Flaw(path, "no header that a check can set (for Host use $.http.host)")
        if not value.isprintable() or not value.isascii():
            raise Flaw(path, "a value is printable ASCII on one line")
    if not http.host.isascii() or not http.host.isprintable() or " " in http.host:
        raise Flaw("$.http.host", f"{http.host[:60]!r} is no host name")
    if http.body and http.method == "HEAD":
        raise Flaw("$.http.body", "the answer to HEAD has no body to look into; use GET")


def _check_argv(argv: tuple[str, ...]) -> None:
    if not argv[0].strip():
        raise Flaw("$.command.argv[0]", "names no program")
    for n, word in enumerate(argv):
        if "\0" in word:
            raise Flaw(f"$.command.argv[{n}]", "a NUL character, which no argument can have")
