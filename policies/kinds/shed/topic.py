"""Where a durable topic is: `redis://host:6379/0?stream=NAME`, or the URL of a producer of Pulsar's WebSocket API.

Laws
- What is one is decided here, once, for the document, for the agent that stores and for `shoal replay`.
- No secret stands in a URL: it is shown in logs, in answers and in etcd.
- `{service}` in the name of a stream or topic becomes the service's own name, so that one document for many services
  keeps their requests apart.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec
from msgspec import Meta

from policies.language.plain import Flaw, below, read_at
from policies.language.secret import Reference
from policies.request import Method

PRODUCER: Final = "/ws/v2/producer/persistent/"
EXAMPLES: Final = (
    "such as redis://redis.corp:6379/0?stream=orders or "
    "ws://pulsar.corp:8080/ws/v2/producer/persistent/public/default/orders"
)
_PLACE: Final = "{service}"
_PORTS: Final = {"redis": 6379, "rediss": 6379, "ws": 8080, "wss": 8443}
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]{2,45})\Z")
_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._=:-]{0,199})\Z")
_STREAM: Final = re.compile(r"[!-~]{1,200}\Z")
_FIELD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_MAX_URL: Final = 1000


class Place(msgspec.Struct, frozen=True):
    """A topic's place, read from its URL."""

    url: str
    """As it stood, with the service's name in it; what the topic is known by."""
    pulsar: bool
    tls: bool
    host: str
    port: int
    name: str
    """The stream; or tenant/namespace/topic."""
    database: int = 0
    query: str = ""
    """Of a Pulsar producer: batching and such."""


class Topic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A way out: the request is stored, its caller is told 202, and it is sent to the service later."""

    url: Annotated[str, Meta(description="Of a Redis stream, or of a Pulsar producer (WebSocket)")]
    methods: Annotated[tuple[Method, ...], Meta(description="Others are not stored", min_length=1, max_length=20)] = (
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    )
    without: Annotated[tuple[str, ...], Meta(description="Headers that are not stored", max_length=50)] = ()
    user: Annotated[str, Meta(description="Of Redis, where it has users", max_length=200)] = ""
    secret: Annotated[Reference | None, Meta(description="Redis' password, or Pulsar's token")] = None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        place = read_at(below(path, "url"), lambda url: parse_topic(url, "pets.production"), self.url)
        if self.secret is not None:
            self.secret.check(below(path, "secret"))
        if self.user and (place.pulsar or self.secret is None):
            reason = "is for Redis; Pulsar knows who we are by the token" if place.pulsar else "needs a secret"
            raise Flaw(below(path, "user"), reason)
        for n, name in enumerate(self.without):
            if not _FIELD.match(name):
                raise Flaw(below(path, "without", n), f"{name[:60]!r} is no header's name")


def parse_topic(url: str, service: str = "") -> Place:
    """The place that a URL names, for a service. Raises ValueError that says what would be right."""
    parts = _split(url)
    filled = url.replace(_PLACE, service)
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:
        raise ValueError(f"{url[:80]!r} has no port that is one; {EXAMPLES}") from None
    assert parts.hostname is not None
    tls = parts.scheme in ("rediss", "wss")
    if parts.scheme in ("ws", "wss"):
        name = parts.path.removeprefix(PRODUCER)
        pieces = name.replace(_PLACE, service or "x").split("/")
        if not parts.path.startswith(PRODUCER) or len(pieces) != 3 or not all(map(_PART.match, pieces)):
            raise ValueError(f"{url[:120]!r} is no producer's; {EXAMPLES}")
        if "token" in parse_qs(parts.query):
            raise ValueError("a token does not stand in a URL, which everybody may read; say where it is in `secret`")
        name = name.replace(_PLACE, service)
        return Place(filled, True, tls, parts.hostname, port, name, query=parts.query)
    query = parse_qs(parts.query)
    stream = query.get("stream", [""])[-1].replace(_PLACE, service)
    if query.keys() - {"stream"} or not _STREAM.match(stream):
        raise ValueError(f"{url[:120]!r} names no stream (?stream=NAME); {EXAMPLES}")
    database = parts.path.strip("/")
    if database and (not database.isascii() or not database.isdigit() or len(database) > 3):
        raise ValueError(f"{url[:120]!r}: the path is the number of a database; {EXAMPLES}")
    return Place(filled, False, tls, parts.hostname, port, stream, database=int(database or 0))


def _split(url: str) -> SplitResult:
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url[:60]!r} is no URL; {EXAMPLES}")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
        parts = urlsplit("")
    if parts.scheme not in _PORTS or not _HOST.match(host) or parts.fragment:
        raise ValueError(f"{url[:80]!r} is no topic; {EXAMPLES}")
    if "@" in parts.netloc:
        raise ValueError("no password stands in a URL, which everybody may read; say where it is in `secret`")
    return parts
