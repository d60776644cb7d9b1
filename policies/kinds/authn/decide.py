# mypyc: interpreted, because it wraps a library; what was verified a moment ago costs a look-up
"""`authn`: whose token a request has, and whether it counts.

Laws
- A token counts that its issuer has signed with a key of the document, by an algorithm of the document, for one of the
  audiences, and that has not expired. Each other is invalid, which is not the same as absent.
- It is read strictly, once: one spelling of its base64, no name twice, no extension that is critical.
- What was verified is remembered, until it expires and for a minute at most, and no longer than the document that said
  so, and the keys that its issuer publishes. What did not count is remembered apart (`refused`): whoever sends rubbish
  forgets nothing that is good.
- Keys that were fetched count for `max_age` after their issuer said last that they are its keys. Later nobody can say
  whether a token counts: a key that was stolen and withdrawn would count for ever, for who can keep an agent from
  hearing of it.
- Whoever shows a token and an API key is neither, and so is who shows two of them: two answers to who calls are none.
  Of parameters or cookies of one name some services read the first, and some the last.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any, Final, NamedTuple

from policies.claim import said
from policies.kind import ANYWHERE, Scope
from policies.kinds.authn.api_keys import Held, claims_of, id_of, is_the_same, looks_like_one
from policies.kinds.authn.document import Authn, Place, Provider
from policies.kinds.authn.invalid import ABSENT, VALID, VERDICTS, Invalid, InvalidKey, Missed, Unjudged
from policies.kinds.authn.keyring import Keyring, Published
from policies.kinds.authn.keys import Key, usable
from policies.kinds.authn.refused import Refused, digest_of
from policies.language.duration import age_s, seconds
from policies.request import RequestView, cookie, query_parameter, several_cookies, several_parameters

MAX_TOKEN: Final = 8192
MAX_KEPT: Final = 4096
KEPT_S: Final = 60.0
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")

__all__ = ["ABSENT", "VALID", "VERDICTS", "Claims", "Compiled", "Invalid", "InvalidKey", "Unjudged", "compile"]

Claims = dict[str, str]


class _Kept(NamedTuple):
    """What was verified."""

    claims: Claims
    until_s: float
    source: str
    published: Published | None
    """By which keys; of a source whose keys are others by now it does not count."""


class _Issuer:
    """One, with its keys as they are."""

    __slots__ = ("_keys", "_max_age_s", "_published", "provider", "source")

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        source = provider.source
        self.source = "" if source is None else source.name
        """Where its keys are fetched from; empty: they stand in the document."""
        self._published: Published | None = None
        self._max_age_s = age_s(provider.max_age)
        jwks = provider.jwks
        self._keys = [] if jwks is None else [Key(jwk, provider.algorithms) for jwk in jwks.keys]

    def until_s(self, keyring: Keyring) -> float:
        """Until when its keys count (Unix time, s), if nothing more is heard of them."""
        return keyring.said_s(self.source) + self._max_age_s if self.source else math.inf

    def keys(self, published: Published | None, keyring: Keyring, now_s: float) -> list[Key]:
        """Raises Unjudged."""
        if self.source and published is not self._published:
            self._keys = [] if published is None else usable(published.jwks, self.provider.algorithms)
            self._published = published
        if self.source and published is None:
            raise Unjudged(f"the keys of {self.provider.issuer} were never got, from {self.source}", "unjudged")
        if now_s >= self.until_s(keyring):
            why = f"the keys of {self.provider.issuer} could not be got for longer than max_age, from {self.source}"
            raise Unjudged(why, "unjudged")
        return self._keys


class Compiled:
    """One document, ready to be asked."""

    __slots__ = (
        "_api_keys",
        "_issuers",
        "_kept",
        "_key_place",
        "_keyring",
        "_place",
        "_refused",
        "_skew_s",
        "required",
    )

    def __init__(self, document: Authn, keyring: Keyring) -> None:
        self.required = document.required
        self._keyring = keyring
        self._place = _lower(document.token)
        self._skew_s = seconds(document.skew)
        self._issuers = {each.issuer: _Issuer(each) for each in document.providers}
        self._kept: dict[bytes, _Kept] = {}
        self._refused = Refused(keyring)
        self._api_keys: dict[str, Held] = {}
        key_place = document.key_place
        self._key_place = _lower(key_place) if key_place is not None else None
        if document.api_keys is not None:
            self._api_keys = {each.id: Held(each, claims_of(each, said)) for each in document.api_keys.keys}

    @property
    def wanted(self) -> str:
        """What it wants to be shown, in words."""
        both = bool(self._issuers) and self._key_place is not None
        return "token or API key" if both else "token" if self._issuers else "API key"

    @property
    def scheme(self) -> str:
        """By which whoever calls may prove who he is, as a challenge has it."""
        return "Bearer" if self._issuers else "ApiKey"

    @property
    def sources(self) -> list[str]:
        """Where keys of its issuers are fetched from."""
        return [each.source for each in self._issuers.values() if each.source]

    def claims(self, request: RequestView, now_s: float) -> Claims | None:
        """Those of a request's token or API key, as texts; None: it has neither. `now_s`: since 1970. Raises
        Invalid."""
        token, key = self._shown(request)
        if key is not None:
            if token is not None:
                raise Invalid("a token and an API key: who calls shows one of them", "two")
            return self._held(key, now_s)
        if token is None:
            return None
        if len(token) > MAX_TOKEN:
            raise Invalid(f"more than {MAX_TOKEN} characters")
        digest = digest_of(token)
        known = self._kept.get(digest)
        if known is not None and now_s < known.until_s and self._keyring.of(known.source) is known.published:
            return known.claims
        self._refused.judge(digest, now_s)
        try:
            kept = self._verify(token, now_s)
        except Invalid as why:
            self._refused.note(digest, why, now_s)
            raise
        self._kept.pop(digest, None)
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[digest] = kept
        return kept.claims

    def _shown(self, request: RequestView) -> tuple[str | None, str | None]:
        """A token and an API key, each None where it is not there."""
        token = _token(self._place, request) if self._issuers else None
        if self._key_place is None:
            return token, None
        key = _token(self._key_place, request)
        if not self._issuers or self._key_place != self._place or token is None:
            return token, key
        return (None, token) if looks_like_one(token) else (token, None)

    def _held(self, key: str, now_s: float) -> Claims:
        name = id_of(key)
        held = self._api_keys.get(name)
        if not name:
            raise InvalidKey("no API key of ours")
        same = is_the_same(held, key)  # also where there is none of that id: as long
        if held is None:
            raise InvalidKey(f"no API key that counts has the id {name}: it was taken out, or never was in")
        if not same:
            raise InvalidKey(f"the API key {name} is another: what is shown has its id, and not its text")
        if now_s >= held.until_s:
            raise InvalidKey(f"the API key {name} has ended")
        return held.claims

    def _verify(self, token: str, now_s: float) -> _Kept:
        if not _SHAPE.match(token):
            raise Invalid("not three parts in base64url")
        parts = [_decoded(part) for part in token.split(".")]
        header, claims = _object(parts[0]), _object(parts[1])
        named = claims.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise Invalid("of no issuer that is trusted", "issuer")
        published = self._keyring.of(issuer.source)
        try:
            _check_signature(token, header, issuer.keys(published, self._keyring, now_s))
            until_s = _check_times(claims, now_s, self._skew_s)
            _check_audience(claims.get("aud"), issuer.provider)
            _check_claims(claims, issuer.provider)
        except Invalid as why:
            why.source = issuer.source
            if issuer.source and isinstance(why, Missed | Unjudged):
                self._keyring.miss(issuer.source, now_s)
            raise
        texts = {name: said(value) for name, value in claims.items()}
        until_s = min(until_s, now_s + KEPT_S, issuer.until_s(self._keyring))
        return _Kept(texts, until_s, issuer.source, published)


def compile(document: Authn, scope: Scope = ANYWHERE, keyring: Keyring | None = None) -> Compiled:
    """Ready to be asked. `keyring`: keys that are fetched, as they are at any time; None: there are none."""
    return Compiled(document, Keyring() if keyring is None else keyring)


def _lower(place: Place) -> Place:
    return Place(header=place.header.lower()) if place.header else place


def _token(place: Place, request: RequestView) -> str | None:
    """As it stands where it should be; None where there is none. An empty one is one. Raises Invalid for several."""
    if place.cookie:
        if place.cookie in several_cookies(request.header("cookie") or ""):
            raise Invalid(f"several cookies {place.cookie}", "two")
        return cookie(request, place.cookie)
    if place.query:
        if place.query in several_parameters(request.query):
            raise Invalid(f"several parameters {place.query}", "two")
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
    known = kid is not None and any(key.kid == kid for key in keys)
    wrong: type[Invalid] = Invalid if known else Missed
    able = [key for key in keys if wanted in key.algorithms]
    if not able:
        raise wrong("signed by no algorithm that is trusted", "algorithm")
    if kid is not None:
        able = [key for key in able if key.kid == kid] or [key for key in able if not key.kid]
    if not able:
        raise wrong("signed by no key that is trusted", "key")
    if len(able) > 1:
        raise Invalid("it does not say by which key it is signed", "key")
    refused = able[0].refuses(token, algorithm)
    if refused:
        raise wrong(refused, "signature")


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


def _check_claims(claims: dict[str, Any], provider: Provider) -> None:
    for name in provider.require:
        if claims.get(name) is None:
            raise Invalid(f"without {name}", "claim")


def _check_audience(said: Any, provider: Provider) -> None:
    those = said if isinstance(said, list) else [said]
    if not any(isinstance(each, str) and each in provider.audiences for each in those):
        raise Invalid("for another audience", "audience")
