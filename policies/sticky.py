"""Sticky sessions: a client stays on the endpoint that it had first, for as long as that can take requests.

Laws
- A session outlives a change of zones: an endpoint that could still take requests keeps its clients, also when its zone
  is given none any more.
- What a client holds tells nothing of addresses: a cookie carries a hash of the endpoint's name.
- What a client sends is believed only so far as it names an endpoint that could have been picked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from policies.document import Fault
from policies.duration import Duration, seconds
from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.locality import Candidates, choose
from policies.request import RequestView, cookie
from policies.ring import POINTS, RingHash

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}\Z")
"""A name of a header or a cookie (RFC 9110 section 5.6.2), within reason."""
_PATH: Final = re.compile(r"/[\x21-\x3a\x3c-\x7e]{0,1023}\Z")


class StickySession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By a cookie that the mesh sets, or by a header that clients send anyway."""

    cookie: Annotated[str, Meta(description="Name of the cookie that the mesh sets")] = "shoal-session"
    ttl: Annotated[Duration, Meta(description="Max-Age; 0 is until the browser closes")] = 0
    path: Annotated[str, Meta(description="Below which path the client sends it")] = "/"
    same_site: Annotated[Literal["lax", "strict", "none"], Meta(description="SameSite; none asks for secure")] = "lax"
    secure: Annotated[bool, Meta(description="Only over HTTPS, as the client sees it")] = False
    header: Annotated[str, Meta(description="No cookie: this header's value names the session")] = ""

    def check(self) -> None:
        """Everything but the length of `ttl`. Raises Fault."""
        if self.header:
            self._check_header()
        if not TOKEN.match(self.cookie):
            raise Fault("$.sticky.cookie", f"{self.cookie[:40]!r} is no cookie name")
        if not _PATH.match(self.path):
            raise Fault("$.sticky.path", f'{self.path[:40]!r} is no cookie path; write one such as "/" or "/shop"')
        if 0 < seconds(self.ttl) < 1:
            raise Fault("$.sticky.ttl", "less than a second; at least 1s, or 0 for until the browser closes")
        if not self.secure and (self.same_site == "none" or self.cookie.startswith(("__Secure-", "__Host-"))):
            what = "same_site none" if self.same_site == "none" else f"the cookie name {self.cookie!r}"
            raise Fault("$.sticky.secure", f"browsers drop the cookie: {what} needs secure: true")

    def _check_header(self) -> None:
        if not TOKEN.match(self.header):
            raise Fault("$.sticky.header", f"{self.header[:40]!r} is no header name")
        for name in ("cookie", "ttl", "path", "same_site", "secure"):
            if getattr(self, name) != getattr(_DEFAULT, name):
                raise Fault(f"$.sticky.{name}", "for sessions by cookie; with $.sticky.header no cookie is set")


_DEFAULT: Final = StickySession()


class Sessions(Protocol):
    """How clients are recognised."""

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The endpoint that the client has, if it can take requests."""
        ...

    def cookie(self, endpoint: Endpoint) -> str | None:
        """The Set-Cookie value that keeps a client on an endpoint."""
        ...


def compile(rule: StickySession, found: Candidates) -> Sessions:
    """Sessions over the endpoints that may take requests."""
    return HeaderSessions(rule, found) if rule.header else CookieSessions(rule, found.usable)


class CookieSessions:
    """The client brings back what it was given."""

    __slots__ = ("_attributes", "_by_token", "_name", "_usable")

    def __init__(self, rule: StickySession, usable: Sequence[Endpoint]) -> None:
        self._name = rule.cookie
        age_s = int(seconds(rule.ttl))
        self._attributes = (
            f"; Path={rule.path}"
            + (f"; Max-Age={age_s}" if age_s else "")
            + "; HttpOnly"
            + ("; Secure" if rule.secure else "")
            + f"; SameSite={rule.same_site.capitalize()}"
        )
        self._usable = usable
        self._by_token: dict[str, Endpoint] | None = None

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The one that the cookie stands for."""
        token = cookie(request, self._name)
        if not token:
            return None
        if self._by_token is None:
            self._by_token = {_token(e): e for e in self._usable}
        return self._by_token.get(token)

    def cookie(self, endpoint: Endpoint) -> str | None:
        """Name, token and attributes."""
        return f"{self._name}={_token(endpoint)}{self._attributes}"


class HeaderSessions:
    """The value of a header that the client sends anyway chooses, by consistent hashing: nothing is given to it, and
    nothing has to be kept. When an endpoint joins, the sessions that fall to it move."""

    __slots__ = ("_header", "_rings", "_tiers")

    def __init__(self, rule: StickySession, found: Candidates) -> None:
        self._header = rule.header.lower()
        self._tiers = found.tiers
        self._rings = [RingHash(tier.endpoints, 0, 2 * POINTS, 512 * POINTS) for tier in found.tiers]

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The one that the header's value falls to."""
        value = request.header(self._header)
        if not value or not self._rings:
            return None
        key = hash64(value)
        return self._rings[choose(self._tiers, point(key))].owner(key)

    def cookie(self, endpoint: Endpoint) -> str | None:
        """None."""
        return None


def point(key: int) -> float:
    """A key's place among the tiers, from 0 to 1, of bits that say little about its place on a ring or in a table."""
    return (key & 0xFFFFFFFF) / 0x1_0000_0000


def _token(endpoint: Endpoint) -> str:
    return f"{hash64(f'{endpoint.service}/{endpoint.id}'):016x}"
