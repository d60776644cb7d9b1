"""What the page asks of the API is asked of the agent: as the person, by the connection that `shoal` itself would use.

Laws
- Nothing of what a browser says of itself goes over (cookies, origins, names of hosts), and of an answer only what
  it is: the agent judges the person, and not his browser.
- A request, an answer and a message have bounds. An agent that is away is a 502 that says so; the next request asks
  again, and finds it once it is back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, NamedTuple, cast

import h11
import httpcore
import trio
import trio_websocket
import wsproto.utilities
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from agent.cli.commands.dashboard.answers import body_of, problem
from agent.cli.commands.dashboard.dialling import Dialled, Wire, dial, fields
from agent.cli.failure import Failure
from agent.ui.answers import ALWAYS

API: Final = "/api/v1/"
LIVE: Final = "/api/v1/live"
MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
WITHIN_S: Final = 90.0
"""For a whole answer; the agent has a minute to make one."""
MOST_LIVE: Final = 16
"""WebSockets at a time."""
_OVER: Final = ("accept", "content-type", "if-none-match")
_BACK: Final = ("content-type", "etag", "cache-control", "retry-after", "allow")
BROKEN: Final = (wsproto.utilities.ProtocolError, h11.ProtocolError)
"""What no WebSocket says."""
TRY_AGAIN: Final = 1013


class Answer(NamedTuple):
    """Of the agent."""

    status: int
    headers: dict[str, str]
    body: bytes


class Away(Exception):
    """Nobody answers, in words."""


class Forwarding:
    """To one agent."""

    def __init__(self, place: Callable[[], str], mesh: str) -> None:
        """`place`: where it is now. Raises Failure where it is nowhere."""
        self._place = place
        self._mesh = mesh
        self._live = 0

    async def http(self, request: Request) -> Response:
        """A request of the page."""
        body = await body_of(request, MAX_REQUEST_BYTES)
        if body is None:
            return problem(413, f"more than {MAX_REQUEST_BYTES} bytes")
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        query: bytes = request.scope.get("query_string", b"")
        target = raw.partition(b"?")[0] + (b"?" + query if query else b"")
        over = {name: request.headers[name] for name in _OVER if name in request.headers}
        try:
            answer = await self.ask(request.method, target, over, body)
        except Away as away:
            return problem(502, str(away))
        back: dict[str, str] = {name: answer.headers[name] for name in _BACK if name in answer.headers}
        return Response(answer.body, answer.status, {**ALWAYS, **back})

    async def ask(self, method: str, target: bytes, headers: dict[str, str], body: bytes = b"") -> Answer:
        """One request. Raises Away."""
        try:
            with trio.fail_after(WITHIN_S):
                return await self._asked(await self._dialled(), method, target, headers, body)
        except trio.TooSlowError:
            raise Away("the agent gives no whole answer in time") from None
        except Failure as failure:
            raise Away(failure.message) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise Away(f"the agent's answer ended: {error}"[:300]) from None

    async def _dialled(self) -> Dialled:
        return await dial(self._place(), self._mesh)

    async def _asked(
        self, dialled: Dialled, method: str, target: bytes, headers: dict[str, str], body: bytes
    ) -> Answer:
        said = {"host": dialled.host, "user-agent": "shoal-dashboard", **headers, "connection": "close"}
        said |= dict(dialled.headers)
        if body or method not in ("GET", "HEAD"):
            said["content-length"] = str(len(body))
        url = httpcore.URL(scheme=b"http", host=b"agent", target=target)
        async with httpcore.AsyncHTTP11Connection(url.origin, Wire(dialled.stream)) as connection:
            request = httpcore.Request(method, url, headers=fields(said.items()), content=body)
            answer = await connection.handle_async_request(request)
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            told = bytearray()
            async with aclosing(cast("AsyncGenerator[bytes, None]", answer.aiter_stream())) as pieces:
                async for piece in pieces:
                    told += piece
                    if len(told) > MAX_ANSWER_BYTES:
                        raise Away(f"the agent's answer is more than {MAX_ANSWER_BYTES} bytes")
            return Answer(answer.status, found, bytes(told))

    # Live.

    async def websocket(self, page: WebSocket) -> None:
        """The page's channel, to one of the agent's."""
        if self._live >= MOST_LIVE:
            await page.close()
            return
        self._live += 1
        try:
            await self._joined(page)
        finally:
            self._live -= 1

    async def _joined(self, page: WebSocket) -> None:
        try:
            dialled = await self._dialled()
        except Failure as failure:
            await _denied(page, problem(502, failure.message))
            return
        answer: Response | None = None
        async with _closing(dialled.stream):
            try:
                async with trio.open_nursery() as nursery:
                    agent = await _opened(nursery, dialled)
                    await page.accept()
                    nursery.start_soon(_down, agent, page, nursery.cancel_scope)
                    await _up(page, agent)
                    nursery.cancel_scope.cancel()
            except* trio_websocket.ConnectionRejected as rejected:
                answer = _as_told(rejected.exceptions[0])
            except* (trio_websocket.HandshakeError, trio.TooSlowError, OSError, *BROKEN):
                answer = problem(502, "the agent opens no channel, or speaks otherwise on it")
        if answer is not None and page.application_state is WebSocketState.CONNECTING:
            await _denied(page, answer)


async def _opened(nursery: trio.Nursery, dialled: Dialled) -> trio_websocket.WebSocketConnection:
    """Raises TooSlowError; what else goes wrong ends the nursery."""
    with trio.fail_after(WITHIN_S):
        return await trio_websocket.wrap_client_stream(
            nursery,
            dialled.stream,  # type: ignore[arg-type]  # any stream does
            dialled.host,
            LIVE,
            extra_headers=fields(dialled.headers),
            message_queue_size=1,
            max_message_size=MAX_MESSAGE_BYTES,
        )


@asynccontextmanager
async def _closing(stream: trio.abc.Stream) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await trio.aclose_forcefully(stream)


async def _up(page: WebSocket, agent: trio_websocket.WebSocketConnection) -> None:
    """Until either is gone."""
    try:
        while True:
            await agent.send_message(await page.receive_text())
    except (WebSocketDisconnect, KeyError, trio_websocket.ConnectionClosed):
        pass


async def _down(agent: trio_websocket.WebSocketConnection, page: WebSocket, both: trio.CancelScope) -> None:
    """Until the agent ends it; the page is told why."""
    try:
        while True:
            message: Any = await agent.get_message()
            await page.send_text(message if isinstance(message, str) else message.decode("utf-8", "replace"))
    except trio_websocket.ConnectionClosed as closed:
        reason = closed.reason
        code = reason.code if reason is not None and reason.code in range(1000, 5000) else TRY_AGAIN
        code = TRY_AGAIN if code in (1005, 1006, 1015) else code  # which nobody may send
        await page.close(code, (reason.reason if reason is not None else None) or "the agent is away")
    both.cancel()


def _as_told(rejected: Any) -> Response:
    """As the agent has refused it."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in rejected.headers or ()}
    kind = headers.get("content-type", "text/plain")
    return Response(rejected.body or b"", rejected.status_code, {**ALWAYS, "content-type": kind})


async def _denied(page: WebSocket, answer: Response) -> None:
    if "websocket.http.response" in page.scope.get("extensions", {}):
        await page.send_denial_response(answer)
    else:
        await page.close()
