"""The admin API on loopback: health, readiness, metrics, state, explain, and the registration of instances.

A browser on this host must not be talked into using it: requests with an Origin, or with a Host that is neither an IP
address nor localhost, are refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import msgspec
import structlog
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agent.control import metrics
from agent.control.state import figures, state
from policies.document import Fault
from policies.names import parse_service

if TYPE_CHECKING:
    from agent.control.main import Control

log = structlog.get_logger()
MAX_BODY_BYTES = 256 * 1024
Handler = Callable[[Request], Awaitable[Response]]


class Answer(Response):
    """JSON by msgspec: whatever bytes stood in etcd, it is valid UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return msgspec.json.format(msgspec.json.encode(_clean(content)), indent=1) + b"\n"


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
    return JSONResponse({"status": status, "path": path, "reason": reason}, status)


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        if "origin" in request.headers or not _is_local_name(request.headers.get("host", "")):
            return refusal(403, "the admin API is for programs on this host, not for pages in a browser")
        try:
            return await handler(request)
        except Exception as error:
            log.exception("the admin API failed", path=request.url.path)
            return refusal(500, f"a mistake of Shoal's, see its log: {type(error).__name__}: {error}")

    return guarded


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
        """The ASGI application."""
        routes = [
            ("/healthz", self.health, "GET"),
            ("/readyz", self.ready, "GET"),
            ("/metrics", self.metrics, "GET"),
            ("/state", self.state, "GET"),
            ("/explain", self.explain, "GET"),
            *self._control.comparing.routes(),
            *self._control.telling.routes(),
            ("/instances", self.register, "POST"),
            ("/instances/{service}/{id}", self.deregister, "DELETE"),
            ("/instances/{service}/{id}/health", self.hear, "PUT"),
        ]
        return Starlette(
            routes=[Route(path, _guarded(handler), methods=[method]) for path, handler, method in routes],
            exception_handlers={HTTPException: _no_such_thing},
        )

    async def health(self, _: Request) -> Response:
        """The agent lives."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Every worker serves a table; from etcd, or from disk while etcd is away."""
        why = self._control.not_ready()
        return PlainTextResponse(f"{why}\n" if why else "ready\n", 503 if why else 200)

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
        answers = await self._control.fleet.ask("explain", args, one=True)
        if not answers:
            return refusal(503, "no worker is ready to be asked; see /readyz")
        return Answer(answers[0])

    async def register(self, request: Request) -> Response:
        """Register an instance of this host; the body is one of agent.toml's [[instances]] as JSON."""
        try:
            body = await read_json(request)
            answer = await self._control.register(body)
        except Fault as fault:
            return refusal(
                409 if "already registered" in fault.reason else 400, f"{fault.path}: {fault.reason}", fault.path
            )
        return Answer(answer)

    async def deregister(self, request: Request) -> Response:
        """Take an instance out, in order."""
        try:
            service = parse_service(request.path_params["service"])
        except ValueError as error:
            return refusal(400, str(error))
        answer = await self._control.deregister((service, request.path_params["id"]))
        if answer is None:
            return refusal(404, f"no instance {service}/{request.path_params['id']} was registered with this agent")
        return Answer(answer)

    async def hear(self, request: Request) -> Response:
        """An instance's own word: {"healthy": true, "reason": "…"}."""
        try:
            body = await read_json(request)
            service = parse_service(request.path_params["service"])
        except Fault as fault:
            return refusal(400, fault.reason, fault.path)
        except ValueError as error:
            return refusal(400, str(error))
        if not isinstance(body, dict) or not isinstance(body.get("healthy"), bool):
            return refusal(400, 'an object such as {"healthy": true, "reason": "warm"}', "$.healthy")
        reason = str(body.get("reason") or "its own word")
        if not self._control.registrar.hear(service, request.path_params["id"], body["healthy"], reason):
            return refusal(404, f"no instance {service}/{request.path_params['id']} was registered with this agent")
        return Answer({"healthy": body["healthy"]})


async def read_json(request: Request) -> Any:
    """The body. Raises Fault for what is too long or no JSON."""
    body = b""
    async with aclosing(request.stream()) as stream:
        async for piece in stream:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise Fault("$", f"more than {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault("$", f"not JSON: {error}") from None


async def serve(control: Control, fd: int, shutdown: Callable[..., Awaitable[None]]) -> None:
    """Serve on an inherited listening socket until `shutdown` returns."""
    config = Config()
    config.bind = [f"fd://{fd}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 1
    config.shutdown_timeout = 1
    config.keep_alive_timeout = 30
    config.h11_max_incomplete_size = 64 * 1024
    await hypercorn.trio.serve(Api(control).application(), config, shutdown_trigger=shutdown)  # type: ignore[arg-type]
