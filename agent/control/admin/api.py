"""The admin API over HTTP: what anybody on this host may see, on a TCP port; everything, on the agent's own socket, and
for people of the mesh by their role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from agent.control.admin import page as ui
from agent.control.admin.door import Answer, Door, Handler, guarded, refusal
from agent.control.admin.external_metrics import ExternalMetrics
from agent.control.admin.live.socket import Live
from agent.control.admin.metrics.page import MetricsPage
from agent.control.admin.state import state
from agent.control.admin.v1 import me
from agent.control.admin.v1.api import V1
from agent.control.admin.v1.parts import targets
from agent.control.admin.v1.problem import ROOT, problem
from agent.control.host.rights import Right
from agent.control.parts import Parts
from agent.visible import visible


def application(parts: Parts, page: MetricsPage, api: V1, live: Live, more: Iterable[Door] = ()) -> Starlette:
    """The ASGI application, for the admin port, the agent's own socket and the people's port. `more`: doors besides."""
    here = parts.here
    doors = [*Api(parts, page).doors(), *ui.doors(), *api.doors()]
    doors += [*ExternalMetrics(here.store, here.keys).doors(), *more]
    return _of_doors(parts, doors, WebSocketRoute(f"{ROOT}/live", live.serve))


def before_login(parts: Parts, login: Iterable[Door]) -> Starlette:
    """What there is at the people's port for who is nobody yet: the page, which says so, and the way to log in."""
    return _of_doors(parts, [*ui.doors(), *login, me.operation(parts.settings, parts.here.rights).door()])


def _of_doors(parts: Parts, doors: Iterable[Door], *more: WebSocketRoute) -> Starlette:
    here = parts.here
    path = str(parts.settings.socket_path) if here.listeners.local is not None else ""
    there: dict[str, dict[str, Handler]] = {}
    for door in doors:
        there.setdefault(door.path, {})[door.method] = guarded(door, here.rights, path, parts.audit.note)
    routes = [Route(path, partial(_by_method, handlers), methods=list(handlers)) for path, handlers in there.items()]
    return Starlette(routes=[*routes, *more], exception_handlers={HTTPException: _no_such_thing})


async def _by_method(handlers: Mapping[str, Handler], request: Request) -> Response:
    """One route a path, which says all its methods where another one is asked for. HEAD is GET without a body."""
    return await handlers["GET" if request.method == "HEAD" else request.method](request)


def metrics_application(parts: Parts, page: MetricsPage) -> Starlette:
    """What is to be had on the metrics port: by whatever name it is asked for, since it shows nothing else. Who scrapes
    hears there whom else to scrape."""

    async def metrics(request: Request) -> Response:
        return await _metrics(page, request)

    async def ready(_: Request) -> Response:
        no = parts.not_ready()
        return PlainTextResponse("not ready\n" if no else "ready\n", 503 if no else 200)

    found = targets.operation(parts).door()
    return Starlette(
        routes=[Route("/metrics", metrics), Route("/readyz", ready), Route(found.path, found.handler)],
        exception_handlers={HTTPException: _no_such_thing},
    )


async def _metrics(page: MetricsPage, request: Request) -> Response:
    text, media_type = await page.get(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": media_type})


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if request.url.path.startswith(f"{ROOT}/"):
        headers = error.headers if isinstance(error, HTTPException) else None
        what = f"no {request.method} {request.url.path[:300]} here; {ROOT}/openapi.json says what there is"
        return problem(status, what, headers=headers)
    return refusal(status, f"no {request.method} {request.url.path} here; see docs/agent-settings.md for what there is")


class Api:
    """The handlers of what is no part of the API on purpose: others say what it is called, or people look at it."""

    def __init__(self, parts: Parts, page: MetricsPage) -> None:
        self._parts = parts
        self._page = page

    def doors(self) -> list[Door]:
        """For whoever can connect."""
        return [
            Door("GET", "/healthz", self.health, Right.LOOK),
            Door("GET", "/readyz", self.ready, Right.LOOK),
            Door("GET", "/metrics", self.metrics, Right.LOOK),
            Door("GET", "/state", self.state, Right.LOOK),
        ]

    async def health(self, _: Request) -> Response:
        """The agent lives."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Every worker serves a table; from etcd, or from disk while etcd is away."""
        why = self._parts.not_ready()
        return PlainTextResponse(f"{visible(why)}\n" if why else "ready\n", 503 if why else 200)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus, in the format that it asks for."""
        return await _metrics(self._page, request)

    async def state(self, request: Request) -> Response:
        """What this agent knows and runs. `?service=` for one service; `?services=0` leaves them out."""
        service = request.query_params.get("service")
        asks = request.query_params.get("services", "1") != "0"
        workers = await self._parts.fleet.ask("state", {"service": service} if service else {}) if asks else []
        fleet = self._parts.fleet
        failed = [each for told in await fleet.ask("handshakes") for each in told]
        return Answer(state(self._parts, workers, await fleet.metrics(), failed, await fleet.ask("opas")))
