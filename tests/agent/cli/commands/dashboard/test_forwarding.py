"""What a page asks goes to the agent as the person's, and comes back; and what an agent does wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio_websocket
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agent.cli.commands.dashboard import forwarding
from agent.cli.options import Options

from .conftest import Board


async def test_what_is_asked_goes_over_as_it_is(board: Board) -> None:
    """Path, query and body to the letter; and nothing of the browser but what is asked for."""
    await board.opened()
    own = {"origin": board.base, "sec-fetch-site": "same-origin", "user-agent": "Browser/1", "x-evil": "1"}
    more = {**own, "content-type": "application/json", "accept": "application/json", "authorization": "Bearer x"}
    answer = await board.browser.post("/api/v1/a%2fb/..%2e/c?x=%20&x=2&y", content=b'{"a": 1}', headers=more)
    assert answer.status_code == 200 and answer.headers["etag"] == '"1"'
    assert "set-cookie" not in answer.headers and answer.headers["x-content-type-options"] == "nosniff"
    ((method, url, headers, body),) = board.agent.asked
    assert (method, body) == ("POST", b'{"a": 1}') and url.endswith("/c?x=%20&x=2&y")
    assert answer.json() == {"path": "/api/v1/a%2fb/..%2e/c"}
    assert set(headers) == {"host", "user-agent", "content-type", "accept", "content-length", "connection"}
    assert headers["host"] == "localhost" and headers["user-agent"] == "shoal-dashboard"


async def test_answers_are_told_as_they_are(board: Board) -> None:
    """Statuses, no content, none at all to HEAD."""
    await board.opened()

    async def answer(request: Request) -> Response:
        status = int(request.query_params["status"])
        return Response(b"" if status in (204, 304) else b"{}", status, media_type="application/problem+json")

    board.agent.answer = answer
    for status in (200, 204, 304, 400, 403, 404, 500, 503):
        got = await board.browser.get(f"/api/v1/x?status={status}")
        assert (got.status_code, got.content) == (status, b"" if status in (204, 304) else b"{}")
    assert got.headers["content-type"].startswith("application/problem+json")
    assert (await board.browser.head("/api/v1/x?status=200")).content == b""
    assert (await board.browser.get("/apis/external.metrics.k8s.io/v1beta1")).status_code == 404
    assert (await board.browser.get("/state")).status_code == 404, "only the API is asked"
    assert (await board.browser.get("/api/v1x")).status_code == 404


async def test_an_agent_that_is_away_is_said_so_and_comes_back(board: Board, nursery: trio.Nursery) -> None:
    """By itself: each request asks anew."""
    await board.opened()
    board.agent.stop()
    for path in ("/api/v1/services", "/api/v1/me"):
        away = await board.browser.get(path)
        assert away.status_code == 502 and away.headers["content-type"] == "application/problem+json"
        assert "no agent answers at" in away.json()["detail"] and away.json()["path"] == "$"
    board.agent.start(nursery)
    await board.agent.there()
    assert (await board.browser.get("/api/v1/services")).status_code == 200


@pytest.mark.parametrize("what", ["large", "cut off", "slow", "garbage"])
async def test_bounds(
    board: Board, monkeypatch: pytest.MonkeyPatch, what: str, nursery: trio.Nursery, runtime_directory: Path
) -> None:
    """Of an answer, of the time that it takes, and of what a page may send."""
    await board.opened()
    monkeypatch.setattr(forwarding, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(forwarding, "MAX_REQUEST_BYTES", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100
            await trio.lowlevel.checkpoint()
        if what == "slow":
            await trio.sleep_forever()

    async def answer(request: Request) -> Response:
        return StreamingResponse(pieces())

    async def raw(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
                if what == "cut off"
                else b"\0\1\2 garbage\r\n\r\n"
            )
            await stream.send_all(head)

    board.agent.answer = answer
    if what == "slow":
        monkeypatch.setattr(forwarding, "MAX_ANSWER_BYTES", 10**9)
        monkeypatch.setattr(forwarding, "WITHIN_S", 0.2)
    if what in ("cut off", "garbage"):
        board.agent.stop()
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(runtime_directory / "agent"))
        sock.listen(5)
        nursery.start_soon(trio.serve_listeners, raw, [trio.SocketListener(sock)])
    got = await board.browser.get("/api/v1/x")
    said = {"large": "more than 1000 bytes", "slow": "in time"}.get(what, "the agent's answer ended")
    assert got.status_code == 502 and said in got.json()["detail"]
    assert (await board.browser.post("/api/v1/x", content=b"x" * 1001)).status_code == 413


@asynccontextmanager
async def live(board: Board, **more: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A channel, as the page opens one."""
    host, port = board.base.removeprefix("http://").split(":")
    headers = {"cookie": board.cookie, "origin": board.base, **more}
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    stream = await trio.open_tcp_stream(host, int(port))
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60):
                yield await trio_websocket.wrap_client_stream(
                    nursery, stream, f"{host}:{port}", "/api/v1/live", extra_headers=fields
                )
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


async def refused(board: Board, **more: str) -> int:
    """With what status a channel is; 0: it is opened."""
    status = 0
    try:
        async with live(board, **more):
            pass
    except* trio_websocket.ConnectionRejected as rejected:
        (found,) = rejected.exceptions
        assert isinstance(found, trio_websocket.ConnectionRejected)
        status = found.status_code
    return status


async def test_the_channel_goes_over_too(board: Board) -> None:
    """Text both ways, and who ends it says why; nothing of the browser goes with it."""
    await board.opened()
    async with live(board) as channel:
        for word in ("one", "zwei ä", "x" * 100_000):
            await channel.send_message(word)
            assert await channel.get_message() == f"heard {word}"
        (_, _, headers, _) = board.agent.asked[-1]
        assert headers["host"] == "localhost" and "cookie" not in headers and "origin" not in headers
        await channel.send_message("bye")
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await channel.get_message()
        assert (closed.value.reason.code, closed.value.reason.reason) == (4001, "as you wish")


async def test_a_channel_without_an_agent(board: Board, nursery: trio.Nursery) -> None:
    """Refused as the agent refuses it; ended when it dies, with a word to come again; and 502 while it is away."""
    await board.opened()
    board.agent.me["refuses"] = True
    assert await refused(board) == 403
    board.agent.me["refuses"] = False
    async with live(board) as channel:
        board.agent.stop()
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await channel.get_message()
        assert closed.value.reason.code in (1001, 1012, 1013)
    assert await refused(board) == 502
    board.agent.start(nursery)
    await board.agent.there()
    async with live(board) as channel:
        await channel.send_message("x")
        assert await channel.get_message() == "heard x"


@pytest.mark.parametrize(
    "more",
    [
        {"cookie": "a=b"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_channels_of_other_pages_are_refused(board: Board, more: dict[str, str]) -> None:
    """WebSockets are not kept by what browsers keep from reading (CORS)."""
    await board.opened()
    assert await refused(board, **more) == 403 and board.agent.asked == []


async def test_so_many_channels(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that ends makes room."""
    monkeypatch.setattr(forwarding, "MOST_LIVE", 2)
    await board.opened()
    async with live(board):
        async with live(board):
            assert await refused(board) == 403
        with trio.fail_after(60):
            while await refused(board):
                await trio.sleep(0.01)


async def test_a_place_that_is_found_each_time(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is started later may have its socket elsewhere."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_directory))
    options = Options()
    place = forwarding.Forwarding(lambda: options.admin.place, "default")._place
    (runtime_directory / "shoal").mkdir()
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(runtime_directory / "shoal" / "agent.sock"))
    try:
        assert place().endswith("agent.sock")
    finally:
        sock.close()
