"""The doors of the admin API: who may ask for what, and how it is answered.

Laws
- Each door says which right it takes (`rights.Right`). What takes one is not there on the TCP port: nobody can tell who
  asks there, not even whether a browser, a health check or a proxy was talked into asking.
- A browser must not be talked into using it: what a page asks that is not the agent's own is refused (`browsers`).
- A person has what his role gives; what he asks to be changed is logged with his name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlencode

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.browsers import why_not
from agent.control.host.rights import Right, Rights
from agent.control.identity.around import Note, unnoted
from agent.identity.users import User
from agent.identity.verdict import Visitor
from agent.visible import visible_json
from policies.language.names import parse_service
from policies.language.plain import Flaw

MAX_BODY_BYTES: Final = 256 * 1024
PEER: Final = "shoal.peer"
"""Where a request's scope has who asks."""
READS_ON_S: Final = 60.0
"""Who asks for the same again within so long reads on."""
MOST_READERS: Final = 256
MAX_WANTED: Final = 1000
"""Of what somebody who taps asks for, in characters."""
_REQUESTS: Final = (Right.READ, Right.TAP)
"""What is in requests."""
_SECRETS: Final = (Right.TAP, Right.OUTPUT)
"""What may have any secret in it."""
_READING: Final = (*_REQUESTS, Right.OUTPUT)
"""What is asked again and again by who reads on."""
_OF_PLACE: Final = ("next", "wait_s")
"""Of a query: how far he has read, and for how long he waits."""
STILL: Final = "shoal.still"
"""Where it has what says why somebody who came over the network would be refused by now; empty: he would not."""
VISITOR: Final = "shoal.visitor"
"""Where it has which person asks, over the network."""
BY_COOKIE: Final = "shoal.by_cookie"
"""Where it has that it is a browser's login that says so."""
STRANGER: Final = "shoal.stranger"
"""Where it has why nobody is known who asks over the network, for what is to be had there before a login."""
Handler = Callable[[Request], Awaitable[Response]]
log = structlog.get_logger()


class Answer(Response):
    """JSON by msgspec: whatever bytes stood in etcd, it is valid UTF-8, and nothing in it speaks to a terminal."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        text = msgspec.json.format(msgspec.json.encode(_clean(content)), indent=1).decode()
        return visible_json(text).encode() + b"\n"


def _clean(value: Any) -> Any:
    """Text that UTF-8 cannot carry, made readable."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


def refusal(status: int, reason: str, path: str = "$") -> Response:
    """An error with what would be right."""
    return Answer({"status": status, "path": path, "reason": reason}, status)


def peer_of(request: Request) -> User | None:
    """Who asks: the kernel's word on a connection of the socket; None on the TCP port."""
    peer: User | None = request.scope.get(PEER)
    return peer


def visitor_of(request: Request) -> Visitor | None:
    """Which person asks over the network; None: somebody on this host."""
    visitor: Visitor | None = request.scope.get(VISITOR)
    return visitor


class Refuse(Protocol):
    """How somebody is told no: with what status, and why."""

    def __call__(self, status: int, reason: str, path: str = "$", /) -> Response:
        """The answer. `path`: where in what was asked."""


class Door(NamedTuple):
    """One thing that may be asked for."""

    method: str
    path: str
    handler: Handler
    right: Right
    refuse: Refuse = refusal
    is_page: bool = False
    """Whether it is the page itself, to which people are led from elsewhere."""


def may_operate(rights: Rights, request: Request) -> bool:
    """Whether who asks operates this agent: by the socket and its user, or a person of that role."""
    peer, visitor = peer_of(request), visitor_of(request)
    if visitor is not None:
        return visitor.operates
    return peer is not None and rights.may_operate(peer)


def may_tap(rights: Rights, request: Request) -> bool:
    """Whether who asks may see what has secrets in it, whoever they are of."""
    peer, visitor = peer_of(request), visitor_of(request)
    if visitor is not None:
        return visitor.taps
    return peer is not None and rights.may_tap(peer)


def guarded(door: Door, rights: Rights, socket_path: str, note: Note = unnoted) -> Handler:
    """Its handler, for those who may. `socket_path`: where others are sent; empty: there is no socket. `note`: records
    what is asked to be changed."""
    handler, refuse = door.handler, door.refuse
    readers = _Readers()

    def refused(request: Request) -> Response | None:
        peer, visitor = peer_of(request), visitor_of(request)
        if door.right is Right.LOOK or (visitor is not None and door.right is Right.READ):
            return None
        if visitor is not None and visitor.taps and door.right in _SECRETS:
            return None
        if visitor is not None and not visitor.operates:
            name, role = visitor.person, "tap" if door.right in _SECRETS else "operate"
            more = visitor.more.replace("{role}", role) or f"`shoal person set {name} --role {role}`"
            return refuse(403, f"{name} has the role {visitor.role}, and this takes {role}: {more}")
        if peer is None:
            there = f"curl --unix-socket {socket_path}" if socket_path else "not to be had: it has no socket"
            return refuse(403, f"this is asked for through the agent's own socket: `shoal` finds it; {there}")
        if door.right is Right.OPERATE and not rights.may_operate(peer):
            return refuse(403, f"{peer} may not operate this agent; local.operate in agent.toml says who may")
        if door.right in _REQUESTS and not rights.may_tap(peer):
            return refuse(403, f"{peer} may not see requests; local.operate and local.tap in agent.toml say who may")
        if door.right is Right.SERVE and (service := request.path_params.get("service")):
            no = may_not_be(rights, peer, service)
            return refuse(*no, "$.service") if no else None
        return None

    async def answered(request: Request) -> Response:
        if why := why_not(request, is_page=door.is_page):
            return refuse(403, why)
        try:
            if no := refused(request):
                await _drained(request)
                return _noted(door, request, no, note, readers)
            return _noted(door, request, await handler(request), note, readers)
        except Exception as error:
            log.exception("the admin API failed", path=request.url.path)
            return refuse(500, f"an internal error, see the agent's log: {type(error).__name__}: {error}")

    async def judged(request: Request) -> Response:
        return closed(await answered(request))

    return judged


def closed(answer: Response) -> Response:
    """It, for programs and the own page: other pages get nothing of it to hold, and nobody guesses what it is."""
    answer.headers.setdefault("cross-origin-resource-policy", "same-origin")
    answer.headers.setdefault("x-content-type-options", "nosniff")
    return answer


class _Readers:
    """Who goes on reading: it is told once, and again where he reads something else, or after a while. That he says
    himself that he goes on proves nothing: anybody can say so when he begins."""

    def __init__(self) -> None:
        self._read: dict[str, float] = {}
        """By who and what: when he did last."""

    def goes_on(self, by: str, request: Request, status: int) -> bool:
        """Whether it was told already."""
        now = time.monotonic()
        asked = sorted((name, text) for name, text in request.query_params.multi_items() if name not in _OF_PLACE)
        what = f"{by} {status} {request.url.path} {asked}"
        last = self._read.pop(what, -math.inf)
        if len(self._read) >= MOST_READERS:
            del self._read[next(iter(self._read))]  # who has not read for longest
        self._read[what] = now
        return now - last < READS_ON_S


def _noted(door: Door, request: Request, answer: Response, note: Note, readers: _Readers) -> Response:
    visitor = visitor_of(request)
    reads = door.right in _READING
    if door.right is Right.OPERATE or reads or (visitor is not None and door.right is Right.SERVE):
        asked, peer = f"{request.method} {request.url.path}", peer_of(request)
        by = visitor.person if visitor is not None else str(peer) if peer is not None else "nobody who is known"
        how = "people's port" if visitor is not None else "socket" if peer is not None else "admin port"
        goes_on = reads and readers.goes_on(f"{by} {how}", request, answer.status_code)
        if goes_on and request.query_params.get("next"):
            return answer
        if door.right in _SECRETS:
            asked = f"{asked}{_wanted(request)}"
        note("operator.asked", {"asked": asked, "status": answer.status_code, "by_way_of": how}, {"person": by})
    if visitor is not None and door.right in (Right.SERVE, Right.OPERATE):
        asked, status = f"{request.method} {request.url.path}", answer.status_code
        log.info("a person asked for a change", person=visitor.person, asked=asked, status=status)
    return answer


def _wanted(request: Request) -> str:
    """Of which service, by which filter, and what of it: who looks into requests says what for."""
    said = [(name, text) for name, text in request.query_params.multi_items() if text and name not in _OF_PLACE]
    return f"?{urlencode(said)}"[:MAX_WANTED] if said else ""


async def _drained(request: Request) -> None:
    """A body that nobody wants is taken all the same: who is still sending it would not hear the answer."""
    try:
        await _body(request)
    except Flaw:
        pass  # too long: the connection is closed behind the answer


def may_not_be(rights: Rights, peer: User, service: str) -> tuple[int, str] | None:
    """With what status, and why, somebody may not be a service; None for one who may."""
    try:
        service = parse_service(service)
    except ValueError as error:
        return 400, str(error)
    if rights.may_be(peer, service):
        return None
    return 403, f"{peer} may not be {service}; [local.services] in agent.toml says who may"


class TooMuch(Flaw):
    """A body is too long."""


async def read_json(request: Request) -> Any:
    """The body. Raises Flaw for what is too long or no JSON."""
    body = await _body(request)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Flaw("$", f"not JSON: {error}") from None


async def _body(request: Request) -> bytes:
    body = b""
    async with aclosing(request.stream()) as stream:
        async for piece in stream:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise TooMuch("$", f"more than {MAX_BODY_BYTES} bytes")
    return body
