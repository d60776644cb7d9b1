"""Where records go, as `[[records.sinks]]` says it: a path, standard output, a syslog receiver, an OTLP collector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from agent.settings.document import SinkSettings
from policies.language.plain import Flaw, below

Way: TypeAlias = Literal["file", "udp", "tcp", "tls", "unix", "http", "https"]
SCHEMES: Final[dict[str, tuple[Way, int]]] = {
    "syslog+udp": ("udp", 514),
    "syslog+tcp": ("tcp", 514),
    "syslog+tls": ("tls", 6514),
    "syslog+unix": ("unix", 0),
    "otlp+http": ("http", 4318),
    "otlp+https": ("https", 4318),
}
"""What a URL begins with: how it is spoken to, and its usual port."""
OTLP_PATH: Final = "/v1/logs"
OTLP_TRACES_PATH: Final = "/v1/traces"
"""Where spans go, beside it."""
EXAMPLES: Final = (
    "a path as /var/log/shoal/audit.log, - for standard output, syslog+udp://HOST, syslog+tcp://HOST, "
    "syslog+tls://HOST, syslog+unix:///dev/log, otlp+http://HOST:4318 or otlp+https://HOST:4318"
)


class Place(NamedTuple):
    """Where records go."""

    way: Way
    path: str = ""
    """Of a file or a socket, `-` for standard output; of a URL of HTTP, its path."""
    host: str = ""
    port: int = 0


def place_of(to: str) -> Place:
    """Raises ValueError that says what would be right."""
    if to == "-" or to.startswith("/"):
        return Place("file", to)
    try:
        parts = urlsplit(to)
        way, usual = SCHEMES[parts.scheme]
        host, port = parts.hostname or "", usual if parts.port is None else parts.port
        odd = parts.username is not None or parts.query or parts.fragment
    except (ValueError, KeyError):
        raise ValueError(f"{to[:120]!r}; such as {EXAMPLES}") from None
    if odd:
        raise ValueError(f"{parts.scheme}://{host}: no user, query or fragment; secrets are headers, from files")
    if way == "unix":
        if host or not parts.path.startswith("/") or parts.path == "/":
            raise ValueError("a socket's whole path, such as syslog+unix:///dev/log")
        return Place(way, parts.path)
    if not host or not port:
        raise ValueError(f"a host and a port, such as {parts.scheme}://logs.corp.example:{usual}")
    if way in ("http", "https"):
        return Place(way, parts.path if parts.path not in ("", "/") else OTLP_PATH, host, port)
    if parts.path not in ("", "/"):
        raise ValueError(f"syslog has no path: {parts.scheme}://{host}:{port}")
    return Place(way, "", host, port)


def traces_path(path: str) -> str:
    """Where a collector takes spans, of which a URL says one path: beside that of logs, or just there."""
    base = path.removesuffix(OTLP_PATH)
    return path if base == path else base + OTLP_TRACES_PATH


def logs_path(path: str) -> str:
    """The same of everything else."""
    base = path.removesuffix(OTLP_TRACES_PATH)
    return path if base == path else base + OTLP_PATH


def check_sinks(sinks: Sequence[SinkSettings]) -> None:
    """Raises Flaw with the path of what is wrong."""
    names: dict[str, int] = {}
    for number, sink in enumerate(sinks):
        path = f"$.records.sinks[{number}]"
        try:
            place = place_of(sink.to)
        except ValueError as error:
            raise Flaw(f"{path}.to", str(error)) from None
        _check_means(path, sink, place.way)
        _check_signals(f"{path}.kinds", sink, place)
        name = sink.name or sink.to
        if name in names:
            wrong = "name" if sink.name else "to"
            raise Flaw(f"{path}.{wrong}", f"{name} is sinks[{names[name]}] already; give each its own name")
        names[name] = number


def _check_signals(path: str, sink: SinkSettings, place: Place) -> None:
    """A collector takes spans and logs at two paths."""
    mixed = "traces" in sink.kinds and len(set(sink.kinds)) > 1
    if mixed and place.way in ("http", "https") and traces_path(place.path) == logs_path(place.path):
        raise Flaw(
            path,
            f"traces go to another path than the rest, and the URL says one for all, {place.path}; "
            f"end it with {OTLP_PATH}, or give traces a sink of their own",
        )


def _check_means(path: str, sink: SinkSettings, way: Way) -> None:
    """What is said of a sink has to mean something where it goes."""
    secured = way in ("tls", "https")
    for field in ("ca", "cert", "key"):
        if getattr(sink, field) and not secured:
            raise Flaw(f"{path}.{field}", "for syslog+tls:// and otlp+https:// only: nothing else has certificates")
    if bool(sink.cert) != bool(sink.key):
        given, missing = ("cert", "key") if sink.cert else ("key", "cert")
        raise Flaw(f"{path}.{given}", f"a client certificate is a pair: {missing} is missing")
    if sink.headers and way not in ("http", "https"):
        raise Flaw(f"{path}.headers", "for otlp+http:// and otlp+https:// only")
    for name, file in sink.headers.items():
        if not name or not name.replace("-", "").isalnum() or not name.isascii():
            raise Flaw(below(f"{path}.headers", name), "the name of a header, such as authorization")
        if not file.startswith("/"):
            raise Flaw(
                below(f"{path}.headers", name),
                "the path of a file that holds the value, such as /etc/shoal/secrets/otlp: many may read this one",
            )
