"""`rego` and `opa` of an `authz` document: what is asked besides its rules, and not by the process that serves.

Laws
- What they are told of a request is what they read of it (`policies.kinds.authz.input`), and nothing else: so what they
  answer is remembered by that.
- Whatever goes wrong denies, unless the document says otherwise.
- Modules that stand in documents of their own (`bundles`) are put in by control before anybody is asked: what is
  asked has all of them inside, and names none.
- What modules say is bounded before anybody compiles them. Whether they compile is not asked here, since the library
  that does it may not be trusted with what strangers write: `agent.rego` asks it, in a process of its own.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from policies.kinds.authz.input import check_read
from policies.language.duration import Duration, bounded
from policies.language.names import parse_service
from policies.language.plain import Flaw, below, read_at
from policies.rego import ModuleName, check_source

MAX_MODULES: Final = 128
MAX_SOURCE: Final = 192 * 1024
"""Characters of all modules together, those of bundles too; how long compiling may take is bounded besides."""
MAX_BUNDLES: Final = 32
MAX_READS: Final = 50
CACHE_S: Final = 5.0
"""How long an answer counts that depends on the time of the day."""
MOST_CACHED_S: Final = 300.0

Query: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^data(?:\.[A-Za-z_][A-Za-z0-9_]{0,62}){2,12}$(?!\n)",
        extra={"right": "a rule of a package, such as data.shoal.allow"},
    ),
]
Path: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,64}(?:/[A-Za-z0-9_.-]{1,64}){0,11}$(?!\n)",
        extra={"right": "a path below /v1/data, such as shoal/allow"},
    ),
]
Reads: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(max_length=MAX_READS, description="All that it is told of a request, such as source.service, claims.sub"),
]
OnFailure: TypeAlias = Annotated[
    Literal["deny", "allow"], Meta(description="What becomes of requests that it says nothing of")
]


class Rego(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Modules that the agent evaluates itself."""

    modules: Annotated[dict[ModuleName, str], Meta(max_length=MAX_MODULES, description="Rego, by name")] = {}
    bundles: Annotated[
        tuple[str, ...],
        Meta(max_length=MAX_BUNDLES, description="Documents of the kind rego whose modules and data belong to it"),
    ] = ()
    query: Annotated[Query, Meta(description="The rule that has to be true")] = "data.shoal.allow"
    data: Annotated[dict[str, Any], Meta(description="What the modules see under data, besides themselves")] = {}
    reads: Reads = ()
    cache: Annotated[Duration | None, Meta(description="How long an answer counts")] = None
    timeout: Annotated[Duration, Meta(description="How long a request waits for an answer")] = "1s"
    on_failure: OnFailure = "deny"


class Opa(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An Open Policy Agent that is asked."""

    url: Annotated[str, Meta(description="Where it is; one that the agent's settings allow")]
    path: Annotated[Path, Meta(description="Of the rule that has to be true, below /v1/data")]
    reads: Reads = ()
    cache: Annotated[Duration, Meta(description="How long an answer counts")] = 0
    timeout: Annotated[Duration, Meta(description="How long a request waits for an answer")] = "500ms"
    on_failure: OnFailure = "deny"


def check_rego(rego: Rego, path: str) -> None:
    """Raises Flaw for what is refused before anybody compiles it."""
    size = sum(len(source) for source in rego.modules.values())
    if not rego.modules and not rego.bundles:
        raise Flaw(path, "neither modules nor bundles; one of them says what is asked")
    if size > MAX_SOURCE:
        raise Flaw(below(path, "modules"), f"{size} characters of Rego; at most {MAX_SOURCE}, and lists belong to data")
    for name, source in rego.modules.items():
        check_source(source, below(path, "modules", name))
    for n, name in enumerate(rego.bundles):
        where = below(path, "bundles", n)
        if read_at(where, parse_service, name) != name:
            raise Flaw(where, f"{name[:60]!r}; write {parse_service(name)!r}")
        if name in rego.bundles[:n]:
            raise Flaw(where, f"{name[:60]!r} stands twice")
    _check_asked(path, rego.reads, rego.timeout)
    if rego.cache is not None:
        bounded(below(path, "cache"), rego.cache, 0.0, MOST_CACHED_S)


def check_opa(opa: Opa, path: str) -> None:
    """Raises Flaw."""
    read_at(below(path, "url"), origin, opa.url)
    _check_asked(path, opa.reads, opa.timeout)
    bounded(below(path, "cache"), opa.cache, 0.0, MOST_CACHED_S)


def origin(url: str) -> tuple[str, int]:
    """Host and port of an OPA's URL. Raises ValueError."""
    try:
        parts = urlsplit(url)
        port = parts.port or 8181
    except ValueError as error:
        raise ValueError(f"{url[:80]!r} is no URL: {error}") from None
    if parts.scheme != "http":
        raise ValueError(f"{url[:80]!r}: http://host:port; OPA is asked beside the agent, where nobody listens")
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{url[:80]!r}: http://host:port, such as http://127.0.0.1:8181, and the rest in path")
    try:
        return str(ip_address("127.0.0.1" if parts.hostname == "localhost" else parts.hostname)), port
    except ValueError:
        raise ValueError(f"{url[:80]!r}: an IP address or localhost; workers resolve no names for it") from None


def _check_asked(path: str, reads: tuple[str, ...], timeout: float | str) -> None:
    bounded(below(path, "timeout"), timeout, 0.01, 10.0)
    for n, each in enumerate(reads):
        read_at(below(path, "reads", n), check_read, each)
