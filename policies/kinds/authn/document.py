"""`authn`: who people are. Issuers that are trusted, with their public keys, and where a request has its token."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from policies.kinds.authn.api_keys import DEFAULT_HEADER, ApiKeys
from policies.kinds.authn.keys import check_keys
from policies.kinds.authn.source import Source, of_issuer, of_keys
from policies.language.document import Document
from policies.language.duration import Age, Duration, age_s, bounded
from policies.language.plain import Flaw, below, read_at
from policies.request import TOKEN

MAX_PROVIDERS: Final = 20
MAX_SKEW_S: Final = 300.0
"""For so long tokens would count that have expired."""
MAX_HEADERS: Final = 20
LEAST_AGE_S: Final = 7200.0
"""Keys are fetched once an hour at least, so that one that is missed once ends nothing."""
MOST_AGE_S: Final = 365 * 86_400.0

# Names of headers that mean something else to those on the way, or to services.
_TAKEN: Final = frozenset(
    (
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "via", "date"),
        *("content-length", "content-type", "content-encoding", "authorization", "cookie", "range", "max-forwards"),
        *("x-http-method-override", "x-method-override", "x-http-method", "x-request-id", "forwarded", "x-real-ip"),
    )
)
_TAKEN_BEFORE: Final = ("x-shoal-", "proxy-", "x-forwarded-", "if-", ":")

Algorithm: TypeAlias = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Said: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]


class Jwks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Public keys, as providers publish them (RFC 7517)."""

    keys: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=50, description="Public keys")]


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who makes tokens, and which of them count."""

    issuer: Annotated[Said, Meta(description="`iss`, to the letter")]
    audiences: Annotated[
        tuple[Said, ...], Meta(min_length=1, max_length=50, description="`aud` has one of these, to the letter")
    ]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1, description="How tokens may be signed")]
    jwks: Annotated[Jwks | None, Meta(description="The issuer's public keys")] = None
    jwks_url: Annotated[str, Meta(max_length=2048, description="Where the issuer publishes them")] = ""
    discover: Annotated[bool, Meta(description="Whether the issuer says where itself (OpenID Connect Discovery)")] = (
        False
    )
    max_age: Annotated[Age, Meta(description="For how long fetched keys count that could not be fetched anew")] = "24h"
    require: Annotated[tuple[Said, ...], Meta(max_length=50, description="Claims that have to be there")] = ()

    @property
    def source(self) -> Source | None:
        """Where its keys are fetched from; None: they stand here."""
        if self.discover:
            return of_issuer(self.issuer)
        return of_keys(self.jwks_url) if self.jwks_url else None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        ways = {"jwks": self.jwks is not None, "jwks_url": bool(self.jwks_url), "discover": self.discover}
        given = [name for name, there in ways.items() if there]
        if len(given) != 1:
            raise Flaw(path, f"exactly one of jwks, jwks_url and discover; here: {' and '.join(given) or 'none'}")
        if self.jwks is not None:
            check_keys(self.jwks.keys, self.algorithms, below(path, "jwks", "keys"))
        max_age_s = read_at(below(path, "max_age"), age_s, self.max_age)
        if not LEAST_AGE_S <= max_age_s <= MOST_AGE_S:
            raise Flaw(below(path, "max_age"), f"{max_age_s:g} s; from 2h to 365d")
        read_at(below(path, "issuer" if self.discover else "jwks_url"), lambda _: self.source, None)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a request has its token; exactly one."""

    header: str = ""
    cookie: str = ""
    query: str = ""


class Authn(Document, frozen=True, kw_only=True):
    """The document."""

    providers: Annotated[
        tuple[Provider, ...], Meta(min_length=1, max_length=MAX_PROVIDERS, description="Who makes tokens")
    ] = ()
    api_keys: Annotated[ApiKeys | None, Meta(description="Keys that programs show instead of a token")] = None
    token: Annotated[Place, Meta(description="Where it is: a header, cookie or query parameter")] = Place(
        header="authorization"
    )
    required: Annotated[bool, Meta(description="Whether requests without a token are refused")] = True
    skew: Annotated[Duration, Meta(description="By how much clocks may differ")] = "30s"
    forward: Annotated[bool, Meta(description="Whether the instance gets the token")] = True
    headers: Annotated[
        dict[str, Said], Meta(max_length=MAX_HEADERS, description="Headers that say claims to the instance")
    ] = msgspec.field(default_factory=dict)
    payload: Annotated[str, Meta(max_length=128, description="A header that says all claims")] = ""

    @property
    def key_place(self) -> Place | None:
        """Where a request has its API key; None: there are none."""
        keys = self.api_keys
        if keys is None:
            return None
        return Place(query=keys.query) if keys.query else Place(header=keys.header or DEFAULT_HEADER)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where a request has what nobody else is to see: its token, or its API key."""
        key = self.key_place
        tokens = (self.token,) if self.providers else ()
        return tokens if key is None else (*tokens, key)

    def check(self) -> None:
        """Issuers that are told apart, with keys that can be used, and one place for the token."""
        if not self.providers and self.api_keys is None:
            raise Flaw("$", "neither providers nor api_keys; give one of them, or both")
        if self.api_keys is not None:
            self.api_keys.check("$.api_keys")
        _check_place(self.token)
        bounded("$.skew", self.skew, 0.0, MAX_SKEW_S)
        self._check_headers()
        issuers: set[str] = set()
        for n, provider in enumerate(self.providers):
            path = below("$", "providers", n)
            if provider.issuer in issuers:
                raise Flaw(below(path, "issuer"), f"{provider.issuer[:60]!r} stands twice; give all its keys in one")
            issuers.add(provider.issuer)
            provider.check(path)

    def _check_headers(self) -> None:
        names: set[str] = set()
        for name in self.headers:
            _check_header(name, below("$.headers", name), self.places, names)
        if self.payload:
            _check_header(self.payload, "$.payload", self.places, names)


def _check_header(name: str, path: str, places: tuple[Place, ...], names: set[str]) -> None:
    """One that says claims, which nobody else may say."""
    lower = name.lower()
    if not TOKEN.match(name) or "_" in name:
        raise Flaw(path, f"{name[:60]!r} is no header such as x-user; many services take an underscore for a hyphen")
    if lower in _TAKEN or lower.startswith(_TAKEN_BEFORE):
        raise Flaw(path, f"{name[:60]!r} says something else; a name of its own, such as x-user")
    if any(lower == place.header.lower() for place in places):
        raise Flaw(
            path, f"{name[:60]!r} has the token or API key, and would be taken out before it is verified; another name"
        )
    if lower in names:
        raise Flaw(path, f"{name[:60]!r} stands twice")
    names.add(lower)


def _check_place(place: Place) -> None:
    given = [name for name in ("header", "cookie", "query") if getattr(place, name)]
    if len(given) != 1:
        raise Flaw("$.token", f"exactly one of header, cookie and query; here: {' and '.join(given) or 'none'}")
    name = getattr(place, given[0])
    if given[0] != "query" and not TOKEN.match(name):
        raise Flaw(below("$.token", given[0]), f"{name[:60]!r} is no {given[0]} name")
