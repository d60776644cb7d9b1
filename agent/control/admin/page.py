"""The page: its files, for whoever may connect. What it shows it asks for by the API, as who looks at it."""

from __future__ import annotations

from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.browsers import called
from agent.control.admin.door import Door, refusal
from agent.control.host.rights import Right
from agent.ui import ASSETS, INDEX, built
from agent.ui.answers import ALWAYS, answer

PAGE: Final = "/ui/"


def doors() -> list[Door]:
    """For whoever can connect."""
    return [
        Door("GET", "/", _front, Right.LOOK, is_page=True),
        Door("GET", "/ui", _to_page, Right.LOOK, is_page=True),
        Door("GET", PAGE, _page, Right.LOOK, is_page=True),
        Door("GET", f"{PAGE}{ASSETS}/{{name}}", _asset, Right.LOOK),
    ]


def to(place: str, **more: str) -> Response:
    """Leads to a place of this agent."""
    return Response(status_code=303, headers={**ALWAYS, "location": place, "cache-control": "no-store", **more})


async def _front(request: Request) -> Response:
    """A browser is led to the page; a program is told what it always was."""
    if "text/html" in request.headers.get("accept", ""):
        return to(PAGE)
    return refusal(404, f"no {request.method} / here; see docs/agent-settings.md for what there is")


async def _to_page(_: Request) -> Response:
    return to(PAGE)


async def _page(request: Request) -> Response:
    return await _file(request, INDEX)


async def _asset(request: Request) -> Response:
    return await _file(request, f"{ASSETS}/{request.path_params['name']}")


async def _file(request: Request, name: str) -> Response:
    file = (await trio.to_thread.run_sync(built)).get(name)
    if file is None:
        what = "this build of the agent has no page" if name == INDEX else f"the page has no {name[:200]}"
        return refusal(404, what)
    told = answer(file, dict(request.headers), secure=called(request).secure)
    return Response(told.body, told.status, told.headers)
