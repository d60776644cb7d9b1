"""The admin API over the network, for people who have logged in: TLS 1.3, and who they are by their certificate,
or by a token where the settings name who makes them.

Laws
- Each request is judged anew, by what is known then: a role that was taken, a revocation, a certificate's end and a
  removed person count from the next request on, also on a connection that is open.
- Nobody gets to the API without a certificate of a person of this trust domain, or a token that counts; the handshake
  fails, or he is told why.
- Handshakes begin one after another, PACE_S apart: whoever connects a lot does not take the control process's time.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog
import trio
from starlette.responses import Response

from agent.control.admin.door import PEER, VISITOR, refusal
from agent.control.admin.guests import BoundedStream, Guest, Guests
from agent.control.admin.server import configured
from agent.control.admin.tokens import TokenPeople, Unknown
from agent.control.identity.identity import AgentIdentity
from agent.identity.users import User
from agent.identity.verdict import Refused, Visitor
from agent.tls.chain import chain_of

MAX_PEOPLE: Final = 64
"""Connections at a time."""
HANDSHAKE_S: Final = 5.0
ALERT_S: Final = 1.0
"""For whoever does not get through it to hear why."""
PACE_S: Final = 0.01
RETRY_AFTER_S: Final = 5
_CHAIN: Final = "shoal.chain"
log = structlog.get_logger()


async def serve_people(
    application: Callable[..., Awaitable[None]],
    identity: AgentIdentity,
    sock: socket.socket,
    tokens: TokenPeople | None = None,
) -> None:
    """Serve on a listening socket until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup()))
    judged = partial(_judged, application, identity, tokens, User(os.geteuid()))
    greet = partial(_greet, identity, tokens is not None, trio.Lock())
    await Guests(judged, configured(), MAX_PEOPLE, greet).serve(listener)


async def _greet(identity: AgentIdentity, tokens: bool, turn: trio.Lock, stream: trio.SocketStream) -> Guest | None:
    """Who shows a certificate of this trust domain; whose it is, each request is asked."""
    async with turn:
        await trio.sleep(PACE_S)
    context = identity.door(tokens=tokens)
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
        return Guest(tls, {_CHAIN: chain_of(inner)})
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


async def _judged(
    application: Callable[..., Awaitable[None]],
    identity: AgentIdentity,
    tokens: TokenPeople | None,
    own: User,
    scope: Any,
    receive: Any,
    send: Any,
) -> None:
    """A request, by who asks it now. Who operates has what the agent's own user has."""
    visitor = _visitor(identity, tokens, scope)
    if not isinstance(visitor, Refused):
        await application({**scope, VISITOR: visitor, PEER: own if visitor.operates else None}, receive, send)
    elif scope["type"] == "http":
        log.warning("somebody is refused at the people's port", reason=visitor.reason)
        status = 503 if isinstance(visitor, Unknown) else 403 if scope[_CHAIN] else 401
        await _refusal(status, visitor.reason)(scope, receive, send)


def _visitor(identity: AgentIdentity, tokens: TokenPeople | None, scope: Any) -> Visitor | Refused:
    """By his certificate, or by his token."""
    if tokens is None:
        return identity.visitor(scope[_CHAIN])
    shown = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"authorization"]
    if len(shown) > 1 or (shown and scope[_CHAIN]):
        return Refused("who asks is said twice: a certificate or a token, and one of it")
    return identity.visitor(scope[_CHAIN]) if scope[_CHAIN] else tokens.visitor(shown[0] if shown else None)


def _refusal(status: int, reason: str) -> Response:
    answer = refusal(status, reason)
    if status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    elif status == 503:
        answer.headers["retry-after"] = str(RETRY_AFTER_S)
    return answer
