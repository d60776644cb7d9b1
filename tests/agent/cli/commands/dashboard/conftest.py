"""A `shoal dashboard` in this process, and a browser at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from agent.cli.commands.dashboard.serving import Serving
from agent.cli.options import Options
from registry.etcd.server import EtcdProcess
from tests.support.etcd import running_etcd

ME = {"who": "user ann (uid 1000)", "may": {"read": True, "write": False}, "write": "no", "mesh": "default"}


class StandIn:
    """What answers as an agent does, at a socket, and notes what it is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.me: dict[str, Any] = dict(ME)
        self.answer: Callable[[Request], Awaitable[Response]] = self._told
        self._scope = trio.CancelScope()

    async def _told(self, request: Request) -> Response:
        return JSONResponse({"path": request.scope["raw_path"].decode()}, headers={"etag": '"1"', "set-cookie": "a=b"})

    async def _any(self, request: Request) -> Response:
        self.asked.append((request.method, str(request.url), dict(request.headers), await request.body()))
        return await self.answer(request)

    async def _me(self, _: Request) -> Response:
        return JSONResponse(self.me)

    async def _live(self, websocket: WebSocket) -> None:
        self.asked.append(("WS", str(websocket.url), dict(websocket.headers), b""))
        if self.me.get("refuses"):
            await websocket.close()
            return
        await websocket.accept()
        while (said := await websocket.receive_text()) != "bye":
            await websocket.send_text(f"heard {said}")
        await websocket.close(4001, "as you wish")

    def start(self, nursery: trio.Nursery) -> None:
        self._scope = trio.CancelScope()
        nursery.start_soon(self._serve, self._scope)

    def stop(self) -> None:
        self._scope.cancel()
        self.path.unlink(missing_ok=True)

    async def _serve(self, scope: trio.CancelScope) -> None:
        config = Config()
        config.bind = [f"unix:{self.path}"]
        config.accesslog = config.errorlog = None
        config.graceful_timeout = config.shutdown_timeout = 0.1
        methods = ["GET", "POST", "PUT", "DELETE"]
        routes = [
            Route("/api/v1/me", self._me),
            WebSocketRoute("/api/v1/live", self._live),
            Route("/{rest:path}", self._any, methods=methods),
        ]
        with scope:
            await serve(Starlette(routes=routes), config, mode="asgi")  # type: ignore[arg-type]

    async def there(self) -> None:
        """Until it listens."""
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_unix_socket(self.path)).aclose()
                    return
                except OSError:
                    await trio.sleep(0.01)


class Board:
    """One, and the browser of who has started it."""

    def __init__(self, serving: Serving, agent: StandIn) -> None:
        self.serving = serving
        self.agent = agent
        self.base = serving.address.partition("/open/")[0]
        self.browser = httpx.AsyncClient(base_url=self.base, trust_env=False, timeout=60)

    async def opened(self) -> None:
        """By its secret."""
        answer = await self.browser.get(self.serving.address)
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.browser.cookies.items())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def options(runtime_directory: Path) -> Options:
    """Without an etcd."""
    return Options(etcd=("http://127.0.0.1:1",), place=str(runtime_directory / "agent"), timeout_s=0.5)


@pytest.fixture
async def board(
    options: Options, runtime_directory: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Board]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_directory))
    monkeypatch.setenv("XDG_STATE_HOME", str(runtime_directory))
    agent = StandIn(runtime_directory / "agent")
    agent.start(nursery)
    await agent.there()
    made = Board(Serving(options, 0), agent)
    nursery.start_soon(made.serving.run, None)
    async with made.browser:
        yield made
    nursery.cancel_scope.cancel()
