"""The admin API over the network, for people who have logged in: TLS 1.3, and who they are by their certificate,
or by a token where the settings name who makes them.

Laws
- Each request is judged anew, by what is known then: a role that was taken, a revocation, a certificate's end and a
  removed person count from the next request on, also on a connection that is open.
- Nobody gets to the API without a certificate of a person of this trust domain, or a token that counts; the handshake
  fails, or he is told why. Where browsers log in, another application answers who is nobody yet: it has the page's
  files, the way to log in, and a word of who asks, and nothing else.
- Handshakes begin one after another, PACE_S apart: whoever connects a lot does not take the control process's time.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import structlog
import trio
from starlette.responses import Response

from agent.control.admin.browsers import CALLED
from agent.control.admin.door import BY_COOKIE, PEER, STILL, STRANGER, VISITOR, closed, refusal
from agent.control.admin.login import HELD, cookies
from agent.control.admin.server import configured
from agent.control.admin.tokens import TokenPeople, Unknown
from agent.control.identity.identity import AgentIdentity
from agent.identity.users import User
from agent.identity.verdict import Refused, Visitor
from agent.process.guests import BoundedStream, Guest, Guests
from agent.tls.chain import chain_of
from agent.tls.web_certificate import WebCertificate
from agent.ui.browsers import Called

MAX_PEOPLE: Final = 256
"""Connections at a time."""
HANDSHAKE_S: Final = 5.0
ALERT_S: Final = 1.0
"""For whoever does not get through it to hear why."""
PACE_S: Final = 0.01
RETRY_AFTER_S: Final = 5
POLICY: Final = 1008
"""Why a WebSocket is closed (RFC 6455, section 7.4.1): it is not for who asks."""
_CHAIN: Final = "shoal.chain"
_BEFORE_LOGIN: Final = ("/", "/ui", "/api/v1/me")
"""And all below /ui/: what strangers are answered where browsers log in."""
Asgi = Callable[..., Awaitable[None]]
log = structlog.get_logger()


async def serve_people(
    application: Asgi,
    identity: AgentIdentity,
    sock: socket.socket,
    tokens: TokenPeople | None = None,
    *,
    names: Iterable[str],
    strangers: Asgi | None = None,
    shown: WebCertificate | None = None,
) -> None:
    """Serve on a listening socket until cancelled. `names`: how this agent is called, besides by its address.
    `strangers`: what answers who is nobody yet; None: browsers do not log in here. `shown`: to browsers; None: what all
    are shown."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup()))
    judged = _Judged(application, strangers, identity, tokens)
    called = Called(tuple(name.lower() for name in names), secure=True)
    door = partial(_door, identity, tokens is not None, shown)
    greet = partial(_greet, door, trio.Lock(), called)
    await Guests(judged, configured(), MAX_PEOPLE, greet).serve(listener)


def _door(identity: AgentIdentity, tokens: bool, shown: WebCertificate | None) -> ssl.SSLContext | None:
    context = identity.door(tokens=tokens)
    if context is not None and shown is not None:
        shown.show(context)
    return context


async def _greet(
    door: Callable[[], ssl.SSLContext | None], turn: trio.Lock, called: Called, stream: trio.SocketStream
) -> Guest | None:
    """Who shows a certificate of this trust domain; whose it is, each request is asked."""
    async with turn:
        await trio.sleep(PACE_S)
    context = door()
    if context is None:
        log.warning("a person is turned away: this agent holds no certificate yet")
        return None
    tls: trio.SSLStream[BoundedStream] = trio.SSLStream(
        BoundedStream(stream), context, server_side=True, https_compatible=True
    )
    with trio.move_on_after(HANDSHAKE_S):
        try:
            await tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("a handshake failed at the people's port", reason=str(error.__cause__ or error))
            await _tell_why(stream, tls._outgoing.read())  # trio sends no alert
            return None
        inner = tls._ssl_object  # trio has no other way to the chain
        assert isinstance(inner, ssl.SSLObject)
        return Guest(tls, {_CHAIN: chain_of(inner), CALLED: called})
    return None


async def _tell_why(stream: trio.SocketStream, alert: bytes) -> None:
    """And read on: what is closed with something unread takes the alert with it."""
    with trio.move_on_after(ALERT_S):
        try:
            await stream.send_all(alert)
            await stream.send_eof()
            while await stream.receive_some():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


class _Judged:
    """Each request, by who asks it now. Who operates has what the agent's own user has."""

    def __init__(
        self, application: Asgi, strangers: Asgi | None, identity: AgentIdentity, tokens: TokenPeople | None
    ) -> None:
        self._application = application
        self._strangers = strangers
        self._identity = identity
        self._tokens = tokens
        self._own = User(os.geteuid())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        cookie = cookies(scope.get("headers", ()), HELD).values if self._strangers is not None else ()
        visitor = self._visitor(scope, cookie)
        if not isinstance(visitor, Refused):
            said: dict[str, Any] = {VISITOR: visitor, PEER: self._own if visitor.operates else None}
            said |= {BY_COOKIE: bool(cookie), STILL: partial(self._why_no_more, scope, cookie, visitor)}
            await self._application({**scope, **said}, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY, "reason": visitor.reason[:100]})
        elif self._strangers is not None and (scope["path"] in _BEFORE_LOGIN or scope["path"].startswith("/ui/")):
            await self._strangers({**scope, STRANGER: visitor.reason, BY_COOKIE: bool(cookie)}, receive, send)
        elif scope["type"] == "http":
            log.warning("somebody is refused at the people's port", reason=visitor.reason)
            status = 503 if isinstance(visitor, Unknown) else 403 if scope[_CHAIN] else 401
            await _refusal(status, visitor.reason)(scope, receive, send)

    def _why_no_more(self, scope: Any, cookie: Sequence[str], before: Visitor) -> str:
        """Why somebody has to come anew: he is nobody any more, or another; empty: he has not."""
        visitor = self._visitor(scope, cookie)
        if isinstance(visitor, Refused):
            return visitor.reason
        return "" if visitor == before else "the role is another one by now"

    def _visitor(self, scope: Any, cookie: Sequence[str]) -> Visitor | Refused:
        """By his certificate, or by his token."""
        chain = scope[_CHAIN]
        if self._tokens is None:
            return self._identity.visitor(chain)
        fields = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"authorization"]
        shown = [*fields, *(f"Bearer {token}" for token in cookie)]
        if len(shown) > 1 or (shown and chain):
            return Refused("who asks is said twice: a certificate or a token, and one of it")
        return self._identity.visitor(chain) if chain else self._tokens.visitor(shown[0] if shown else None)


def _refusal(status: int, reason: str) -> Response:
    answer = closed(refusal(status, reason))
    if status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    elif status == 503:
        answer.headers["retry-after"] = str(RETRY_AFTER_S)
    return answer
