"""Browsers log in: by the provider of `[people.oidc]`, at the people's port.

    /ui/login ─▶ the provider ─▶ /ui/login/done ─▶ /ui/, with the ID token in a cookie

Laws
- The login is the ID token, judged anew at each request as a token of a program is (`tokens`): nothing is remembered
  here. It ends when the token does, when its key is withdrawn, or when the settings give its claims no role.
- The cookie is of this name alone, over TLS, out of the reach of scripts, and sent by pages of this agent only
  (`__Host-`, HttpOnly, SameSite=Strict).
- A code counts for the browser that began that login: its state, nonce and verifier stand in a cookie of that browser,
  for TRY_S, once. So nobody can be logged in as somebody else, and no code is used a second time from here.
- A login that is under way is ended by its own state only, which no other page knows; and what another page sends a
  browser to begins none: there are MOST_TRIES at a time, and the oldest makes way.
- Where one is sent afterwards is the page, whatever anybody says.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any, Final, NamedTuple

import trio
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.browsers import called
from agent.control.admin.door import Door
from agent.control.admin.page import PAGE, to
from agent.control.admin.tokens import TokenPeople, Unknown, claims_of
from agent.control.host.rights import Right
from agent.control.issuers.code_flow import DONE, Attempt, CodeFlow, NotDone, attempt
from agent.identity.verdict import Refused
from agent.settings.document import Oidc
from agent.ui.answers import ALWAYS

LOGIN: Final = "/ui/login"
LOGOUT: Final = "/ui/logout"
HELD: Final = "__Host-shoal-login"
"""The cookie with a token."""
MOST_TRIES: Final = 4
"""Logins under way in one browser: of so many tabs."""
TRIED: Final = tuple(f"__Host-shoal-try-{number}" for number in range(MOST_TRIES))
"""And those of logins that were begun."""
TRY_S: Final = 600
MAX_TOKEN: Final = 3800
"""Of a cookie browsers keep 4096 bytes, with its name and what is said of it."""
KEYS_TRIES: Final = 50
KEYS_EVERY_S: Final = 0.1
"""How often, and how long apart, a login looks whether keys have come that are being fetched."""
_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_TEXT: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>Shoal</title><h1>No login</h1><p>{reason}</p><p><a href={login}>Log in</a></p></html>\n"
)


class Given(NamedTuple):
    """What a browser has sent of cookies, of one name."""

    values: tuple[str, ...]

    @property
    def one(self) -> str:
        """The one that there is; empty: none, or several, of which nobody knows which."""
        return self.values[0] if len(self.values) == 1 else ""


def cookies(fields: Iterable[tuple[bytes, bytes]], name: str) -> Given:
    """Of a request's head, as ASGI has it."""
    found = []
    for field, value in fields:
        if field == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                called, _, said = pair.strip(" ").partition("=")
                found += [said] if called == name else []
    return Given(tuple(found))


class Begun(NamedTuple):
    """A login that is under way, as its cookie has it."""

    attempt: Attempt
    at_ms: int
    """When it was begun, in Unix time (ms)."""


class Login:
    """At one agent."""

    def __init__(self, oidc: Oidc, people: TokenPeople, flow: CodeFlow, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._oidc = oidc
        self._people = people
        self._flow = flow

    def doors(self) -> list[Door]:
        """For whoever can connect to the people's port."""
        return [
            Door("GET", LOGIN, self.begin, Right.LOOK, is_page=True),
            Door("GET", DONE, self.done, Right.LOOK, is_page=True),
            Door("POST", LOGOUT, self.forget, Right.LOOK),
        ]

    async def begin(self, request: Request) -> Response:
        """To the provider."""
        if not called(request).secure:
            return _no("browsers log in at people.listen, by https", 404)
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _no("another page has led here; a login is begun by a person", 403)
        made = attempt()
        try:
            place = await self._flow.begin(made)
        except NotDone as no:
            return _no(no.reason, no.status)
        answer = to(place)
        begun = ".".join((*made, str(int(self._clock() * 1000))))
        _keep(answer, _room(_tried(request)), begun, strict=False, age_s=TRY_S)  # the provider leads back here: Lax
        return answer

    async def done(self, request: Request) -> Response:
        """Back from there, with a code or a word why not."""
        state = request.query_params.get("state", "").encode()
        tried = _tried(request)
        name = next((each for each, begun in tried.items() if _is_of(state, begun.attempt)), "")
        if not name or self._clock() * 1000 - tried[name].at_ms > TRY_S * 1000:
            return _no("this login was not begun in this browser, or is over; begin again", 403)
        try:
            token = await self._judged(request, tried[name].attempt)
        except NotDone as no:
            answer = _no(no.reason, no.status)
            if no.status == 503:  # there was no turn for it: the same again may do
                return answer
        else:
            answer = to(PAGE)
            _keep(answer, HELD, token, strict=True)
        _forget(answer, name)
        return answer

    async def forget(self, _: Request) -> Response:
        """The login is no more, in this browser."""
        answer = Response(status_code=204, headers={**ALWAYS, "cache-control": "no-store"})
        for name in (HELD, *TRIED):
            _forget(answer, name)
        return answer

    async def _judged(self, request: Request, begun: Attempt) -> str:
        """The token of a login that counts. Raises NotDone."""
        said = request.query_params
        if said.get("iss", self._oidc.issuer) != self._oidc.issuer:  # RFC 9207
            raise NotDone("another provider has answered", 403)
        if "error" in said:
            raise NotDone(f"the provider says no: {said['error'][:100]}", 403)
        token = await self._flow.finish(begun, said.get("code", ""))
        if len(token) > MAX_TOKEN:
            raise NotDone(
                f"the token has {len(token)} bytes, and a cookie has room for {MAX_TOKEN}: have fewer claims in it"
            )
        await self._check(token, begun)
        return token

    async def _check(self, token: str, begun: Attempt) -> None:
        """Raises NotDone."""
        found = self._people.visitor(f"Bearer {token}")
        for _ in range(KEYS_TRIES):  # the keys are being fetched
            if not isinstance(found, Unknown):
                break
            await trio.sleep(KEYS_EVERY_S)
            found = self._people.visitor(f"Bearer {token}")
        if isinstance(found, Refused):
            raise NotDone(found.reason, 503 if isinstance(found, Unknown) else 403)
        claims = claims_of(token)
        if not _same(claims.get("nonce"), begun.nonce):
            raise NotDone("the token was made for another login", 403)
        if not _for(claims, self._oidc.client_id):
            raise NotDone(f"the token was not made for {self._oidc.client_id}", 403)


def _for(claims: Mapping[str, Any], client: str) -> bool:
    """OpenID Connect Core 1.0, section 3.1.3.7."""
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    party = claims.get("azp", client if len(audiences) == 1 else None)
    return client in audiences and party == client


def _same(said: Any, nonce: str) -> bool:
    return isinstance(said, str) and secrets.compare_digest(said.encode(), nonce.encode())


def _tried(request: Request) -> dict[str, Begun]:
    """Logins that are under way in a browser, by cookie."""
    found = {name: _begun(cookies(request.headers.raw, name).one) for name in TRIED}
    return {name: begun for name, begun in found.items() if begun is not None}


def _is_of(state: bytes, attempt: Attempt) -> bool:
    return secrets.compare_digest(state, attempt.state.encode())


def _room(tried: Mapping[str, Begun]) -> str:
    """The cookie for one more."""
    free = next((name for name in TRIED if name not in tried), "")
    return free or min(tried, key=lambda name: tried[name].at_ms)


def _begun(text: str) -> Begun | None:
    *parts, at = text.split(".")
    known = len(parts) == 3 and all(len(part) >= 32 for part in parts) and re.fullmatch("[0-9]{1,16}", at)
    return Begun(Attempt(*parts), int(at)) if known else None


def _keep(answer: Response, name: str, value: str, *, strict: bool, age_s: int | None = None) -> None:
    how = "strict" if strict else "lax"
    answer.set_cookie(name, value, max_age=age_s, path="/", secure=True, httponly=True, samesite=how)  # type: ignore[arg-type]


def _forget(answer: Response, name: str) -> None:
    answer.delete_cookie(name, path="/", secure=True, httponly=True, samesite="strict")


def _no(reason: str, status: int) -> Response:
    """For a person: he sees it in his browser."""
    headers = {**ALWAYS, "content-security-policy": _POLICY, "cache-control": "no-store"}
    text = _TEXT.format(reason=escape(reason), login=LOGIN)
    return Response(text, status, headers, "text/html; charset=utf-8")
