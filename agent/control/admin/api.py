"""The admin API over HTTP: what anybody on this host may see, on a TCP port; everything, on the agent's own socket.

Laws
- Each path says which right it takes (`rights.Right`), in one list. What takes one is not there on the TCP port: nobody
  can tell who asks there, not even whether a browser, a health check or a proxy was talked into asking.
- A browser on this host must not be talked into using it: requests with an Origin, or with a Host that is neither an IP
  address nor localhost, are refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hypercorn.trio
import msgspec
import structlog
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.control.admin import metrics
from agent.control.admin.state import figures, state
from agent.control.host.rights import Peer, Right, Rights
from agent.control.traffic.explain import explain
from agent.visible import visible, visible_json
from policies.language.names import parse_service
from policies.language.plain import Flaw

if TYPE_CHECKING:
    from agent.control.main import Control

log = structlog.get_logger()
MAX_BODY_BYTES = 256 * 1024
PEER: Final = "shoal.peer"
"""Where a request's scope has who asks."""
Handler = Callable[[Request], Awaitable[Response]]


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


def peer_of(request: Request) -> Peer | None:
    """Who asks: the kernel's word on a connection of the socket; None on the TCP port."""
    peer: Peer | None = request.scope.get(PEER)
    return peer


class Door(NamedTuple):
    """One thing that may be asked for."""

    method: str
    path: str
    handler: Handler
    right: Right


def _guarded(door: Door, rights: Rights, socket_path: str) -> Handler:
    handler = door.handler

    def refused(request: Request) -> Response | None:
        peer = peer_of(request)
        if door.right is Right.LOOK:
            return None
        if peer is None:
            there = f"curl --unix-socket {socket_path}" if socket_path else "not to be had: it has no socket"
            return refusal(403, f"this is asked for through the agent's own socket: `shoal` finds it; {there}")
        if door.right is Right.OPERATE and not rights.may_operate(peer):
            return refusal(403, f"{peer} may not operate this agent; local.operate in agent.toml says who may")
        if door.right is Right.SERVE and (service := request.path_params.get("service")):
            return may_not_be(rights, peer, service)
        return None

    async def guarded(request: Request) -> Response:
        if "origin" in request.headers or not _is_local_name(request.headers.get("host", "")):
            return refusal(403, "the admin API is for programs on this host, not for pages in a browser")
        try:
            if no := refused(request):
                await _drained(request)
                return no
            return await handler(request)
        except Exception as error:
            log.exception("the admin API failed", path=request.url.path)
            return refusal(500, f"a mistake of Shoal's, see its log: {type(error).__name__}: {error}")

    return guarded


async def _drained(request: Request) -> None:
    """A body that nobody wants is taken all the same: who is still sending it would not hear the answer."""
    try:
        await _body(request)
    except Flaw:
        pass  # too long: the connection is closed behind the answer


def may_not_be(rights: Rights, peer: Peer, service: str) -> Response | None:
    """An answer to somebody who may not be a service; None for one who may."""
    try:
        service = parse_service(service)
    except ValueError as error:
        return refusal(400, str(error), "$.service")
    if rights.may_be(peer, service):
        return None
    return refusal(403, f"{peer} may not be {service}; [local.services] in agent.toml says who may", "$.service")


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refusal(status, f"no {request.method} {request.url.path} here; see docs/agent-settings.md for what there is")


def _is_local_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Api:
    """The handlers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def application(self) -> Starlette:
        """The ASGI application, for both listeners."""
        doors = [
            Door("GET", "/healthz", self.health, Right.LOOK),
            Door("GET", "/readyz", self.ready, Right.LOOK),
            Door("GET", "/metrics", self.metrics, Right.LOOK),
            Door("GET", "/state", self.state, Right.LOOK),
            Door("GET", "/explain", self.explain, Right.LOOK),
            *self._control.registrations.doors(),
            *self._control.comparing.doors(),
            *self._control.telling.doors(),
        ]
        control = self._control
        path = str(control.settings.socket_path) if control.local is not None else ""
        return Starlette(
            routes=[Route(door.path, _guarded(door, control.rights, path), methods=[door.method]) for door in doors],
            exception_handlers={HTTPException: _no_such_thing},
        )

    async def health(self, _: Request) -> Response:
        """The agent lives."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Every worker serves a table; from etcd, or from disk while etcd is away."""
        why = self._control.not_ready()
        return PlainTextResponse(f"{visible(why)}\n" if why else "ready\n", 503 if why else 200)

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        workers = await self._control.fleet.ask("metrics")
        control = self._control
        page = metrics.render(workers, figures(control), control.delivery.outcomes, control.storing.as_state())
        return Response(page, media_type="text/plain; version=0.0.4")

    async def state(self, request: Request) -> Response:
        """What this agent knows and runs. `?service=` for one service; `?services=0` leaves them out."""
        service = request.query_params.get("service")
        asks = request.query_params.get("services", "1") != "0"
        workers = await self._control.fleet.ask("state", {"service": service} if service else {}) if asks else []
        return Answer(state(self._control, workers))

    async def explain(self, request: Request) -> Response:
        """Every decision that a request would meet."""
        query = request.query_params
        headers = [
            [name.strip(), value.strip()] for name, _, value in (h.partition(":") for h in query.getlist("header"))
        ]
        args = {
            "method": query.get("method", "GET"),
            "url": query.get("url", ""),
            "caller": query.get("as", ""),
            "headers": headers,
        }
        told = await explain(self._control.fleet, self._control.table, args)
        if told is None:
            return refusal(503, "no worker is ready to be asked; see /readyz")
        return Answer(told)


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
                raise Flaw("$", f"more than {MAX_BODY_BYTES} bytes")
    return body


def configured() -> Config:
    """Hypercorn's settings, for either listener."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 1
    config.shutdown_timeout = 1
    config.keep_alive_timeout = 30
    config.h11_max_incomplete_size = 64 * 1024
    return config


async def serve(application: Starlette, fd: int, shutdown: Callable[..., Awaitable[None]]) -> None:
    """Serve on an inherited listening socket until `shutdown` returns."""
    config = configured()
    config.bind = [f"fd://{fd}"]
    await hypercorn.trio.serve(application, config, shutdown_trigger=shutdown)  # type: ignore[arg-type]
