"""The authorization code flow of OpenID Connect with PKCE (RFC 6749, RFC 7636, OpenID Connect Core 1.0): where browsers
are sent to log in, and the ID token for the code that they bring back. Who that is, is for others to judge.

Laws
- An issuer is asked as for its keys: addresses are judged, redirects not followed, time and size bounded. Where its
  description is had by https, so are the places that it names.
- A code is worth nothing without the verifier of the login that it was made for, which the browser that began it holds.
- The secret goes to the issuer's token endpoint, and nowhere else: it stands in no URL, no log and no error.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from agent.control.issuers.fetching import describe
from agent.control.outgoing.client import Answer, Client, Failure
from agent.settings.document import Oidc
from policies.kinds.authn.source import of_issuer
from policies.language.url import check_url

DONE: Final = "/ui/login/done"
"""Where the provider sends a browser back to."""
WITHIN_S: Final = 10.0
MAX_BYTES: Final = 256 * 1024
FRESH_S: Final = 600.0
"""For which a description is believed."""
MOST: Final = 4
"""Logins that ask the issuer at a time."""
MAX_CODE: Final = 4096
FAILED_S: Final = 5.0
"""For which one that could not be had is not asked for again."""
T = TypeVar("T")


class Attempt(NamedTuple):
    """A login that was begun; each of it a secret of the browser that did."""

    state: str
    nonce: str
    verifier: str


class Endpoints(NamedTuple):
    """Of an issuer."""

    authorization: str
    token: str
    basic: bool
    """Whether a client names itself by HTTP's own means (client_secret_basic), and not in the form."""


class NotDone(Exception):
    """Why there is no login, in words for the person."""

    def __init__(self, reason: str, status: int = 502) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def attempt() -> Attempt:
    """A new one."""
    return Attempt(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))


class CodeFlow:
    """Of one issuer, for one client."""

    def __init__(self, oidc: Oidc, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._oidc = oidc
        self._client = client
        self._clock = clock
        self._source = of_issuer(oidc.issuer)
        self._known: tuple[float, Endpoints] | None = None
        self._failed = (float("-inf"), "")
        self._asking = 0

    async def begin(self, begun: Attempt) -> str:
        """The URL that a browser is sent to. Raises NotDone."""
        found = await self._bounded(self._endpoints)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": self._redirect,
            "scope": " ".join(self._oidc.scopes),
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{found.authorization}{'&' if '?' in found.authorization else '?'}{urlencode(asked)}"

    async def finish(self, begun: Attempt, code: str) -> str:
        """The ID token that the issuer gives for a code: not judged yet. Raises NotDone."""
        if not code or len(code) > MAX_CODE:
            raise NotDone("the provider has sent no code", 400)
        return await self._bounded(lambda: self._exchanged(begun, code))

    @property
    def _redirect(self) -> str:
        return f"{self._oidc.redirect}{DONE}"

    async def _bounded(self, ask: Callable[[], Awaitable[T]]) -> T:
        if self._asking >= MOST:
            raise NotDone("others log in here at this moment; again", 503)
        self._asking += 1
        try:
            return await ask()
        finally:
            self._asking -= 1

    async def _endpoints(self) -> Endpoints:
        if self._known is not None and self._clock() - self._known[0] < FRESH_S:
            return self._known[1]
        if self._clock() - self._failed[0] < FAILED_S:
            raise NotDone(self._failed[1])
        said = await describe(self._client, self._source)
        if isinstance(said, str):
            self._failed = self._clock(), f"the provider does not say where to log in: {said}"
            raise NotDone(self._failed[1])
        methods = said.get("token_endpoint_auth_methods_supported")
        posts = isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods
        found = Endpoints(
            self._place(said, "authorization_endpoint"), self._place(said, "token_endpoint"), basic=not posts
        )
        self._known = self._clock(), found
        return found

    def _place(self, said: dict[str, Any], name: str) -> str:
        url = said.get(name)
        try:
            if not isinstance(url, str):
                raise ValueError("missing")
            check_url(url)
        except ValueError as error:
            raise NotDone(f"{self._source.url}: {name}: {error}") from None
        if self._source.url.startswith("https:") and not url.startswith("https:"):
            raise NotDone(f"{self._source.url}: {name} is not https, and the description is")
        return url

    async def _exchanged(self, begun: Attempt, code: str) -> str:
        found = await self._endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": begun.verifier,
        }
        parts = urlsplit(found.token)
        headers = {
            "host": parts.netloc,
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            "user-agent": "shoal",
        }
        secret = self._secret()
        if secret and found.basic:
            both = f"{quote(self._oidc.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
        else:
            form |= {"client_id": self._oidc.client_id} | ({"client_secret": secret} if secret else {})
        body = urlencode(form).encode()
        headers["content-length"] = str(len(body))
        named = parts.scheme != "https"
        answer = await self._client.ask(
            "POST", found.token, headers, body, within_s=WITHIN_S, most_bytes=MAX_BYTES, named=named
        )
        if isinstance(answer, Failure):
            raise NotDone(f"the provider gives no token: {answer.reason}")
        return _id_token(answer)

    def _secret(self) -> str:
        """As of now: it may be turned. Raises NotDone."""
        path = self._oidc.client_secret_file
        if not path:
            return ""
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise NotDone(f"people.oidc.client_secret_file of this agent cannot be read: {why}", 500) from None


def _id_token(answer: Answer) -> str:
    try:
        said = msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = {}
    if answer.status != 200:
        error = said.get("error")
        why = f", {error[:100]}" if isinstance(error, str) and error.isprintable() else ""
        raise NotDone(f"the provider gives no token: it answers {answer.status}{why}", 403)
    token = said.get("id_token")
    if not answer.whole or not isinstance(token, str) or not token.isascii() or token.count(".") != 2:
        raise NotDone("the provider gives no ID token (openid in people.oidc.scopes asks for it)")
    return token
