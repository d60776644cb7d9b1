# mypyc: interpreted, because it wraps a library; what was verified a moment ago costs a look-up
"""`authn`: whose token a request has, and whether it counts.

Laws
- A token counts that its issuer has signed with a key of the document, by an algorithm of the document, for one of the
  audiences, and that has not expired. Each other is invalid, which is not the same as absent.
- It is read strictly, once: one spelling of its base64, no name twice, no extension that is critical.
- What was verified is remembered, until it expires and for a minute at most, and no longer than the document that said
  so. Only what was verified is: whoever sends rubbish fills nothing.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any, Final

from policies.kind import ANYWHERE, Scope
from policies.kinds.authn.document import Authn, Place, Provider
from policies.kinds.authn.keys import Key
from policies.kinds.authn.values import said
from policies.language.duration import seconds
from policies.request import RequestView, cookie, query_parameter

MAX_TOKEN: Final = 8192
MAX_KEPT: Final = 4096
KEPT_S: Final = 60.0
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")

Claims = dict[str, str]


VALID: Final = "valid"
ABSENT: Final = "absent"
VERDICTS: Final = (
    *(VALID, ABSENT, "malformed", "issuer", "algorithm", "key", "signature", "expired", "not-yet", "audience"),
    *("claim", "ended"),
)
"""What requests are counted under: of an invalid token, what is wrong with it first; `ended`: it counted, and does not
any more, by another document."""


class Invalid(Exception):
    """A token that does not count; why is for who operates."""

    def __init__(self, reason: str, verdict: str = "malformed") -> None:
        """`verdict`: one of VERDICTS."""
        super().__init__(reason)
        self.verdict = verdict


class Compiled:
    """One document, ready to be asked."""

    __slots__ = ("_kept", "_place", "_providers", "_skew_s", "required")

    def __init__(self, document: Authn) -> None:
        self.required = document.required
        self._place: Place = document.token
        self._skew_s = seconds(document.skew)
        self._providers = {each.issuer: (each, _keys(each)) for each in document.providers}
        self._kept: dict[str, tuple[Claims, float]] = {}

    def claims(self, request: RequestView, now_s: float) -> Claims | None:
        """Those of a request's token, as texts; None: it has none. `now_s`: since 1970. Raises Invalid."""
        token = _token(self._place, request)
        if token is None:
            return None
        known = self._kept.get(token)
        if known is not None and now_s < known[1]:
            return known[0]
        if len(token) > MAX_TOKEN:
            raise Invalid(f"more than {MAX_TOKEN} characters")
        claims, until_s = self._verify(token, now_s)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[token] = claims, min(until_s, now_s + KEPT_S)
        return claims

    def _verify(self, token: str, now_s: float) -> tuple[Claims, float]:
        """With when it ends."""
        if not _SHAPE.match(token):
            raise Invalid("not three parts in base64url")
        parts = [_decoded(part) for part in token.split(".")]
        header, claims = _object(parts[0]), _object(parts[1])
        issuer = claims.get("iss")
        found = self._providers.get(issuer) if isinstance(issuer, str) else None
        if found is None:
            raise Invalid("of no issuer that is trusted", "issuer")
        provider, keys = found
        _check_signature(token, header, keys)
        until_s = _check_times(claims, now_s, self._skew_s)
        _check_audience(claims.get("aud"), provider)
        for name in provider.require:
            if claims.get(name) is None:
                raise Invalid(f"without {name}", "claim")
        return {name: said(value) for name, value in claims.items()}, until_s


def compile(document: Authn, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    return Compiled(document)


def _keys(provider: Provider) -> list[Key]:
    return [Key(jwk, provider.algorithms) for jwk in provider.jwks.keys]


def _token(place: Place, request: RequestView) -> str | None:
    """As it stands where it should be; None where there is none. An empty one is one."""
    if place.cookie:
        return cookie(request, place.cookie)
    if place.query:
        return query_parameter(request, place.query)
    name = place.header.lower()
    value = request.header(name)
    if value is None or name != "authorization":
        return value
    scheme, _, token = value.partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else _second(value)


def _second(value: str) -> str | None:
    """Of another scheme there is no token; one that is spelt oddly, or stands behind others, is no valid one."""
    words = value.lower()
    return value if words.startswith("bearer") or ", bearer" in words else None


def _decoded(part: str) -> bytes:
    try:
        found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Invalid("no base64url") from None
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != part:
        raise Invalid("base64url of which there are several spellings")
    return found


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(
            text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
        )
    except (ValueError, RecursionError):
        raise Invalid("no JSON") from None
    if not isinstance(found, dict):
        raise Invalid("no object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid("a name stands twice")
    return found


def _no_number(text: str) -> Any:
    raise Invalid(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise Invalid(f"{text[:20]} is no number of JSON")
    return found


def _check_signature(token: str, header: dict[str, Any], keys: list[Key]) -> None:
    if "crit" in header or "b64" in header:
        raise Invalid("an extension that is not known here")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise Invalid("alg and kid are texts")
    wanted = "EdDSA" if algorithm == "Ed25519" else algorithm
    able = [key for key in keys if wanted in key.algorithms]
    if not able:
        raise Invalid("signed by no algorithm that is trusted", "algorithm")
    if kid is not None:
        able = [key for key in able if key.kid == kid] or [key for key in able if not key.kid]
    if not able:
        raise Invalid("signed by no key that is trusted", "key")
    if len(able) > 1:
        raise Invalid("it does not say by which key it is signed", "key")
    refused = able[0].refuses(token, algorithm)
    if refused:
        raise Invalid(refused, "signature")


def _check_times(claims: dict[str, Any], now_s: float, skew_s: float) -> float:
    """When it ends."""
    until_s = _number(claims, "exp")
    if until_s is None:
        raise Invalid("without exp", "claim")
    if now_s >= until_s + skew_s:
        raise Invalid("it has expired", "expired")
    for name in ("nbf", "iat"):
        since_s = _number(claims, name)
        if since_s is not None and since_s > now_s + skew_s:
            raise Invalid(f"{name} is in the future", "not-yet")
    return until_s + skew_s


def _number(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        found = math.nan
    if not math.isfinite(found):
        raise Invalid(f"{name} is no time")
    return found


def _check_audience(said: Any, provider: Provider) -> None:
    those = said if isinstance(said, list) else [said]
    if not any(isinstance(each, str) and each in provider.audiences for each in those):
        raise Invalid("for another audience", "audience")
