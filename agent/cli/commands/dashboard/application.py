"""What is asked of it: the page, the API of the agent behind it, and documents in etcd.

Laws
- Nothing is written to another mesh than the one that the page shows, which its agent says. Once it has, that counts
  while it is away: a person whose agent is dead may have to put a document because of it.
- Where no agent was ever heard, etcd is asked: it is known of which mesh the agents are, where agents have written in
  this one, and live in no other. Else it is not known, and `shoal policy put` is for who knows better.
"""

from __future__ import annotations

import json
from typing import Any, Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from agent.cli.commands.dashboard.answers import problem, to, told
from agent.cli.commands.dashboard.entrance import PAGE
from agent.cli.commands.dashboard.forwarding import API, LIVE, Away, Forwarding
from agent.cli.commands.dashboard.writing import Documents
from agent.cli.failure import Failure
from agent.ui import ASSETS, INDEX, built
from agent.ui.answers import answer

ME: Final = f"{API}me"
HEARD_S: Final = 10.0
"""For an agent to say of which mesh it is: one that hangs keeps nobody waiting who puts a document because of it."""
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "DELETE"]


class Dashboard:
    """Of one agent and one mesh."""

    def __init__(self, forwarding: Forwarding, documents: Documents, mesh: str) -> None:
        self._forwarding = forwarding
        self._documents = documents
        self._mesh = mesh
        self._shown = ""
        """The mesh that the agent has said last, which is the one that the page shows; empty: it was never heard."""

    def application(self) -> Starlette:
        """The ASGI application."""
        document = "/dashboard/policies/{kind}/{pattern}"
        return Starlette(
            routes=[
                Route("/", self._front),
                Route(PAGE, self._page),
                Route(f"{PAGE}{ASSETS}/{{name}}", self._page),
                Route(ME, self._me),
                WebSocketRoute(LIVE, self._forwarding.websocket),
                Route(f"{API}{{rest:path}}", self._forwarding.http, methods=_METHODS),
                Route(document, self._documents.get, methods=["GET"]),
                Route(document, self._put, methods=["PUT"]),
                Route(document, self._remove, methods=["DELETE"]),
            ],
            exception_handlers={HTTPException: _no_such_thing, Exception: _failed},
        )

    async def _front(self, _: Request) -> Response:
        return to(PAGE)

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("name")
        file = (await trio.to_thread.run_sync(built)).get(f"{ASSETS}/{name}" if name else INDEX)
        if file is None:
            return problem(404, "there is no such file of the page")
        said = answer(file, dict(request.headers), secure=False)
        return Response(said.body, said.status, said.headers)

    async def _me(self, _: Request) -> Response:
        """By the agent's word, and what may be written by etcd's."""
        try:
            status, me = await self._agent_s_word()
        except Away as away:
            return problem(502, str(away))
        if status != 200:
            return told(me, status)
        other = self._other()
        may, how = (False, other) if other else await self._documents.may_write()
        return told({**me, "may": {**me.get("may", {}), "write": may}, "write": how})

    async def _agent_s_word(self) -> tuple[int, Any]:
        """Raises Away."""
        got = await self._forwarding.ask("GET", ME.encode(), {})
        try:
            me = json.loads(got.body)
        except ValueError:
            me = None
        if not isinstance(me, dict) or (got.status == 200 and not isinstance(me.get("mesh"), str)):
            raise Away("what answers there is no agent of Shoal")
        if got.status == 200:
            self._shown = me["mesh"]
        return got.status, me

    def _other(self) -> str:
        """Why nothing is written by way of a page that shows another mesh; empty: it shows this one."""
        shown = self._shown
        if shown == self._mesh:
            return ""
        return f"the agent is of the mesh {shown}, and this is for {self._mesh}: `shoal dashboard --mesh {shown}`"

    async def _put(self, request: Request) -> Response:
        return await self._same_mesh() or await self._documents.put(request)

    async def _remove(self, request: Request) -> Response:
        return await self._same_mesh() or await self._documents.remove(request)

    async def _same_mesh(self) -> Response | None:
        """A refusal where the page shows another mesh, or nobody knows which."""
        why = "the agent does not answer in time"
        with trio.move_on_after(HEARD_S):
            try:
                status, me = await self._agent_s_word()
                why = "" if status == 200 else f"the agent answers {status}: {me.get('detail', '')}"[:300]
            except Away as away:
                why = str(away)
        if self._shown:
            other = self._other()
            return problem(409 if why else 400, other) if other else None
        unknown = await self._documents.of_no_other_mesh()
        return problem(503, f"{why}; {unknown}") if unknown else None


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, f"no {request.method} {request.url.path[:300]} here")


async def _failed(_: Request, error: Exception) -> Response:
    said = error.message if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    return problem(500, said)
