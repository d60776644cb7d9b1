"""`rego` and `opa` of an `authz` document: what is asked besides its rules, and not by the process that serves.

Laws
- What they are told of a request is what they read of it (`policies.kinds.authz.input`), and nothing else: so what they
  answer is remembered by that.
- Whatever goes wrong denies, unless the document says otherwise.
- What modules say is bounded before anybody compiles them. Whether they compile is not asked here, since the library
  that does it may not be trusted with what strangers write: `agent.rego` asks it, in a process of its own.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from policies.kinds.authz.input import check_read
from policies.language.duration import Duration, bounded
from policies.language.plain import Flaw, below, read_at

MAX_MODULES: Final = 32
MAX_SOURCE: Final = 64 * 1024
"""Characters of all modules together: compiling a thousand rules takes most of a second."""
MAX_NESTING: Final = 32
MAX_READS: Final = 50
CACHE_S: Final = 5.0
"""How long an answer counts that depends on the time of the day."""
MOST_CACHED_S: Final = 300.0

ModuleName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,62}[A-Za-z0-9_])?$(?!\n)",
        extra={"right": "the name of a module, such as lamps.rego: letters, digits and any of . _ / -"},
    ),
]
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

    modules: Annotated[dict[ModuleName, str], Meta(min_length=1, max_length=MAX_MODULES, description="Rego, by name")]
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
    if size > MAX_SOURCE:
        raise Flaw(below(path, "modules"), f"{size} characters of Rego; at most {MAX_SOURCE}, and lists belong to data")
    for name, source in rego.modules.items():
        _check_source(source, below(path, "modules", name))
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


# Strings and comments, in which brackets count for nothing; a text that does not end goes to the end of its line.
_SKIPPED: Final = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"?|`[^`]*`?')
_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u")


def _check_source(source: str, path: str) -> None:
    if "\0" in source:
        raise Flaw(path, "a NUL, which no Rego has")
    if not source.strip():
        raise Flaw(path, "empty; a module begins with its package")
    for text in _SKIPPED.finditer(source):
        if text[0].startswith('"') and _ESCAPE.search(text[0]):
            raise Flaw(placed(path, source, text.start()), "\\u is not taken for its character; write that")
    depth, line, start = 0, 1, 0
    for found in re.finditer(r"\n|[\[{(]|[\]})]", _SKIPPED.sub(_blank, source)):
        sign = found[0]
        if sign == "\n":
            line, start = line + 1, found.end()
        elif sign in "[{(":
            depth += 1
            if depth > MAX_NESTING:
                raise Flaw(f"{path}:{line}:{found.start() - start + 1}", f"nested deeper than {MAX_NESTING}")
        else:
            depth -= 1


def placed(path: str, source: str, offset: int) -> str:
    """A place in a module, by the number of characters before it."""
    before = source[:offset]
    return f"{path}:{before.count(chr(10)) + 1}:{offset - before.rfind(chr(10))}"


def _blank(found: re.Match[str]) -> str:
    """As many characters, of which none says anything."""
    return re.sub(r"[^\n]", " ", found[0])
