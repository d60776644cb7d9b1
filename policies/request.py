# mypyc: interpreted, because it is a protocol, whose implementation on the request path is agent/proxy/phases/view.py
"""What policies may ask about a request. The proxy answers lazily from the bytes it parsed; tests use Request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, Protocol, TypeAlias
from urllib.parse import parse_qsl

from msgspec import Meta

from policies.stranger import Stranger

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
"""Names of headers and cookies (RFC 9110 section 5.6.2)."""

SECRET_HEADERS: Final = frozenset(
    ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token")
)
"""Headers whose values nobody records."""

METHOD_OVERRIDES: Final = ("x-http-method-override", "x-method-override", "x-http-method")
"""Headers by which frameworks take a request's method for another."""

# `$` alone would let a line feed pass at the end.
Method: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Z][A-Z-]{0,31}$(?!\n)", extra={"right": "a method in upper case, such as GET"})
]


class RequestView(Protocol):
    """Read-only view. ``path`` is percent-encoded, in its normal form and without parameters where the service's `path`
    policy keeps no other; ``whole_path`` is what the service is sent, both without the query; ``query`` is without its
    '?'."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def whole_path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def caller(self) -> str:
        """Service name of who is calling; empty when unknown."""
        ...

    @property
    def stranger(self) -> Stranger | None:
        """Who calls from another trust domain; None: nobody such. Then `caller` is empty."""
        ...

    @property
    def address(self) -> str:
        """Of whoever connected; empty where that is another agent, which says so last in X-Forwarded-For."""
        ...

    @property
    def vouched(self) -> str:
        """The client's address as the mesh vouches for it, however many agents and trusted proxies are between; empty
        where nobody does."""
        ...

    @property
    def in_plain_text(self) -> bool:
        """Whether it came from another host, on a connection without TLS."""
        ...

    @property
    def principal(self) -> str:
        """The SPIFFE id of who is calling: the one that was proven, or that of the service whose credentials were
        shown; empty where there is neither."""
        ...

    @property
    def overriding(self) -> tuple[str, ...]:
        """The methods that a request asks to be taken for (`overriding_methods`)."""
        ...

    def header(self, name: str) -> str | None:
        """Value of a header (lower-case name); several fields of one name joined with ', '."""
        ...

    def claim(self, name: str) -> str | None:
        """A claim of the caller's verified token; None without one. What nobody verified is not a claim."""
        ...

    def headers(self) -> dict[str, str]:
        """All of them, by lower-case name, as `header` has them; but what is between a caller and its agent."""
        ...

    def claimed(self) -> dict[str, str]:
        """All claims of the caller's verified token; none without one."""
        ...


class Request:
    """A plain RequestView, for explain and for tests."""

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Mapping[str, str] | None = None,
        caller: str = "",
        claims: Mapping[str, str] | None = None,
        address: str = "",
        in_plain_text: bool = False,
        stranger: Stranger | None = None,
        principal: str = "",
        vouched: str = "",
    ) -> None:
        self.method = method
        path, _, self.query = target.partition("?")
        self.path = self.whole_path = path
        self.caller = caller
        self.stranger = stranger
        self.address = address
        self.vouched = vouched or address
        self.in_plain_text = in_plain_text
        self.principal = principal if stranger is None else stranger.id
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._claims = dict(claims or {})

    @property
    def overriding(self) -> tuple[str, ...]:
        found = [value for name in METHOD_OVERRIDES if (value := self._headers.get(name)) is not None]
        return overriding_methods(found, self.query)

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    def claim(self, name: str) -> str | None:
        return self._claims.get(name)

    def headers(self) -> dict[str, str]:
        return dict(self._headers)

    def claimed(self) -> dict[str, str]:
        return dict(self._claims)


def overriding_methods(headers: Sequence[str], query: str) -> tuple[str, ...]:
    """What frameworks may take a request's method for, by the values of METHOD_OVERRIDES or by `_method` of its query;
    in alphabetical order, mostly none."""
    asked = {text.strip().upper() for value in headers for text in value.split(",")}
    if "_method" in query or "%" in query:
        asked |= {value.strip().upper() for name, value in parse_qsl(query) if name == "_method"}
    asked.discard("")
    return tuple(sorted(asked))


def cookie(request: RequestView, name: str) -> str | None:
    """The first cookie of that name (RFC 6265 section 4.2)."""
    return _cookies(request.header("cookie") or "").get(name)


def query_parameter(request: RequestView, name: str) -> str | None:
    """The first value of a query parameter, percent-decoded."""
    return _parameters(request.query).get(name)


def query_parameters(request: RequestView) -> Mapping[str, str]:
    """The first value of each query parameter, percent-decoded."""
    return _parameters(request.query)


def several_parameters(query: str) -> Mapping[str, tuple[str, ...]]:
    """Query parameters that stand there more than once, with other values than their first: all of these, once."""
    return _several_parameters(query) if "&" in query else _NONE


def several_cookies(field: str) -> Mapping[str, tuple[str, ...]]:
    """The same of cookies."""
    return _several_cookies(field) if ";" in field or ", " in field else _NONE


# A document may ask for a thousand of them of one request, which are read once.


@lru_cache(maxsize=1)
def _cookies(field: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for key, value in _each_cookie(field):
        found.setdefault(key, value)
    return found


def _each_cookie(field: str) -> Iterator[tuple[str, str]]:
    # Several Cookie fields come joined with ", " although ";" would be right: RFC 6265 section 5.4 wants one field.
    for pair in field.replace(", ", ";").split(";"):
        key, sep, value = pair.partition("=")
        if sep:
            yield key.strip(), value.strip().strip('"')


@lru_cache(maxsize=1)
def _parameters(query: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True, max_num_fields=None):
        found.setdefault(key, value)
    return found


@lru_cache(maxsize=1)
def _several_parameters(query: str) -> Mapping[str, tuple[str, ...]]:
    return _several(parse_qsl(query, keep_blank_values=True, max_num_fields=None))


@lru_cache(maxsize=1)
def _several_cookies(field: str) -> Mapping[str, tuple[str, ...]]:
    return _several(_each_cookie(field))


def _several(pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for key, value in pairs:
        found.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in found.items() if len(values) > 1}


_NONE: Final[Mapping[str, tuple[str, ...]]] = {}
