"""Sticky sessions, as a `balance` document asks for them."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.language.duration import Duration, seconds
from policies.language.plain import Flaw

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}\Z")
"""A name of a header or a cookie (RFC 9110 section 5.6.2), within reason."""
_PATH: Final = re.compile(r"/[\x21-\x3a\x3c-\x7e]{0,1023}\Z")


class StickySession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By a cookie that the mesh sets, by a header that clients send anyway, or by a claim of their token."""

    cookie: Annotated[str, Meta(description="Name of the cookie that the mesh sets")] = "shoal-session"
    ttl: Annotated[Duration, Meta(description="Max-Age; 0 is until the browser closes")] = 0
    path: Annotated[str, Meta(description="Below which path the client sends it")] = "/"
    same_site: Annotated[Literal["lax", "strict", "none"], Meta(description="SameSite; none asks for secure")] = "lax"
    secure: Annotated[bool, Meta(description="Only over HTTPS, as the client sees it")] = False
    header: Annotated[str, Meta(description="No cookie: this header's value names the session")] = ""
    claim: Annotated[str, Meta(max_length=512, description="No cookie: this claim of a verified token does")] = ""

    def check(self) -> None:
        """Everything but the length of `ttl`. Raises Flaw."""
        if self.header and self.claim:
            raise Flaw("$.sticky", "both header and claim; one of them names the session")
        if self.header or self.claim:
            self._check_header()
        if not TOKEN.match(self.cookie):
            raise Flaw("$.sticky.cookie", f"{self.cookie[:40]!r} is no cookie name")
        if not _PATH.match(self.path):
            raise Flaw("$.sticky.path", f'{self.path[:40]!r} is no cookie path; write one such as "/" or "/shop"')
        if 0 < seconds(self.ttl) < 1:
            raise Flaw("$.sticky.ttl", "less than a second; at least 1s, or 0 for until the browser closes")
        if not self.secure and (self.same_site == "none" or self.cookie.startswith(("__Secure-", "__Host-"))):
            what = "same_site none" if self.same_site == "none" else f"the cookie name {self.cookie!r}"
            raise Flaw("$.sticky.secure", f"browsers drop the cookie: {what} needs secure: true")

    def _check_header(self) -> None:
        if self.header and not TOKEN.match(self.header):
            raise Flaw("$.sticky.header", f"{self.header[:40]!r} is no header name")
        by = "$.sticky.header" if self.header else "$.sticky.claim"
        for name in ("cookie", "ttl", "path", "same_site", "secure"):
            if getattr(self, name) != getattr(_DEFAULT, name):
                raise Flaw(f"$.sticky.{name}", f"for sessions by cookie; with {by} no cookie is set")


_DEFAULT: Final = StickySession()
