"""One look at what an issuer publishes. What comes back is keys, word that nothing has changed, or a reason.

Laws
- Where a document says to look is judged as all that documents make agents call (agent.control.outgoing); so is where
  an issuer's own description says that its keys are. Plain HTTP is spoken to addresses that the settings name only.
- A description counts whose issuer is, to the letter, the one that was asked for (OpenID Connect Discovery 1.0,
  section 4.3): nobody can speak for another.
- What is no set of keys, is cut off, or leads elsewhere changes nothing. Of a set those keys count that verify tokens;
  who publishes none of these says that no token counts.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from agent.control.outgoing.client import Answer, Client, Failure
from policies.kinds.authn.keys import publishes
from policies.kinds.authn.source import Source
from policies.language.url import check_url

MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
"""Published at a time."""
WITHIN_S: Final = 10.0
FLOOR_S: Final = 60.0
CEILING_S: Final = 3600.0
USUAL_S: Final = 600.0
"""For which what an issuer publishes is taken for fresh, where it does not say."""
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=\"?(\d{1,9})", re.IGNORECASE)
_NEVER: Final = re.compile(r"(?:^|[,\s])no-(?:store|cache)\b", re.IGNORECASE)


class Found(NamedTuple):
    """What is published."""

    jwks: tuple[dict[str, str], ...] | None
    """None: the same as before."""
    url: str
    """Of the keys themselves."""
    etag: str
    fresh_s: float
    passed_over: int = 0
    """Keys that verify no token."""


class _Failed(Exception):
    """Why not."""


async def fetch(client: Client, source: Source, known: tuple[str, str] = ("", "")) -> Found | str:
    """What stands there now; or, in words, why nobody knows. `known`: from which URL, and by which ETag."""
    try:
        url = source.url
        if source.issuer:
            url = _described(await _get(client, source.url, {}), source)
        etag = known[1] if known[0] == url else ""
        answer = await _get(client, url, {"if-none-match": etag} if etag else {})
        fresh_s = lifetime_s(answer.headers)
        if answer.status == 304 and etag:
            return Found(None, url, etag, fresh_s)
        jwks, passed_over = _keys(answer, url)
        return Found(jwks, url, answer.headers.get("etag", "")[:200], fresh_s, passed_over)
    except _Failed as failed:
        return str(failed)


async def describe(client: Client, source: Source) -> dict[str, Any] | str:
    """What an issuer says of itself; or, in words, why nobody knows."""
    try:
        return _of_itself(await _get(client, source.url, {}), source)
    except _Failed as failed:
        return str(failed)


def lifetime_s(headers: dict[str, str]) -> float:
    """For how long an answer is fresh (RFC 9111), within bounds of ours."""
    said = headers.get("cache-control", "")
    if _NEVER.search(said):
        return FLOOR_S
    found = _MAX_AGE.search(said)
    if found is None:
        return USUAL_S
    age = headers.get("age", "0")
    return min(CEILING_S, max(FLOOR_S, float(found[1]) - (float(age) if age.isdecimal() and len(age) < 10 else 0.0)))


async def _get(client: Client, url: str, more: dict[str, str]) -> Answer:
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "accept": "application/json", "user-agent": "shoal", **more}
    named = parts.scheme != "https"
    answer = await client.ask("GET", url, headers, within_s=WITHIN_S, most_bytes=MAX_BYTES, named=named)
    if isinstance(answer, Failure):
        raise _Failed(f"{url}: {answer.reason}")
    if 300 <= answer.status < 400 and answer.status != 304:
        where = answer.headers.get("location", "elsewhere")[:200]
        raise _Failed(f"{url}: it answers {answer.status}, to {where}, and redirects are not followed")
    if answer.status not in (200, 304):
        raise _Failed(f"{url}: it answers {answer.status}")
    if not answer.whole:
        raise _Failed(f"{url}: more than {MAX_BYTES} bytes")
    return answer


def _described(answer: Answer, source: Source) -> str:
    """Where its keys are. Raises _Failed."""
    url = _of_itself(answer, source).get("jwks_uri")
    if not isinstance(url, str):
        raise _Failed(f"{source.url}: without jwks_uri")
    try:
        check_url(url, "keys are public")
    except ValueError as error:
        raise _Failed(f"{source.url}: jwks_uri: {error}") from None
    if source.url.startswith("https:") and not url.startswith("https:"):
        raise _Failed(f"{source.url}: jwks_uri: {url[:200]} is not https, and the description is")
    return url


def _of_itself(answer: Answer, source: Source) -> dict[str, Any]:
    """Raises _Failed."""
    said = _object(answer, source.url)
    if said.get("issuer") != source.issuer:
        named = str(said.get("issuer"))[:200]
        raise _Failed(f"{source.url}: it describes the issuer {named!r}, and not {source.issuer!r}")
    return said


def _keys(answer: Answer, url: str) -> tuple[tuple[dict[str, str], ...], int]:
    """Those that verify, and how many others. Raises _Failed."""
    if answer.status != 200:
        raise _Failed(f"{url}: it answers {answer.status} to who has nothing of it")
    published = _object(answer, url).get("keys")
    if not isinstance(published, list):
        raise _Failed(f"{url}: no set of keys (RFC 7517): without a list `keys`")
    if len(published) > MAX_KEYS:
        raise _Failed(f"{url}: {len(published)} keys; at most {MAX_KEYS}")
    found = [kept for jwk in published if (kept := publishes(jwk)) is not None]
    return tuple(found), len(published) - len(found)


def _object(answer: Answer, url: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Failed(f"{url}: no object of JSON: {str(error)[:200]}") from None
