"""Who is let in to a dashboard, and who is not, whatever he has got hold of."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest
import trio
from starlette.requests import Request
from starlette.responses import Response

from agent.cli.commands.dashboard import serving
from agent.cli.commands.dashboard.entrance import users
from tests.support.users import ALICE, as_user, needs_root

from .conftest import Board

DOORS = ("/api/v1/services", "/api/v1/me", "/dashboard/policies/route/pets.production", "/nothing")


async def test_a_secret_opens_it_once(board: Board) -> None:
    """It becomes a cookie that no script sees and no other page has sent, and stands in no address any more."""
    wrong = await board.browser.get(board.serving.address + "x")
    assert wrong.status_code == 403 and "set-cookie" not in wrong.headers
    ahead = await board.browser.get(board.serving.address, headers={"sec-purpose": "prefetch;prerender"})
    assert ahead.status_code == 403, "nobody looked"
    assert (await board.browser.head(board.serving.address)).status_code == 403
    answer = await board.browser.get(board.serving.address)
    assert (answer.status_code, answer.headers["location"], answer.headers["cache-control"]) == (
        303,
        "/ui/",
        "no-store",
    )
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told and "samesite=strict" in told and "path=/" in told and "domain" not in told
    assert answer.headers["referrer-policy"] == "no-referrer"
    async with httpx.AsyncClient(base_url=board.base, trust_env=False) as other:
        again = await other.get(board.serving.address)
        assert again.status_code == 403 and "counts once" in again.json()["detail"]
        assert not other.cookies
    assert (await board.browser.get(board.serving.address)).status_code == 303, "who is in already is led to the page"


async def test_without_its_cookie_nothing_of_the_mesh_is_told(board: Board) -> None:
    """Not by any method, nor with another's or half of one. The page's files are the same everywhere."""
    for cookie in ("", f"shoal-dashboard-{board.serving.address.split(':')[2][:5]}=x", "a=b", "\xff=\xff", "x" * 4000):
        for door in DOORS:
            for method in ("GET", "PUT", "POST", "DELETE", "OPTIONS"):
                answer = await board.browser.request(method, door, headers={"cookie": cookie.encode("latin-1")})
                assert answer.status_code == 403 and "counts once" in answer.json()["detail"], (cookie, door, method)
    page = await board.browser.get("/ui/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert (await board.browser.get("/")).headers["location"] == "/ui/"
    assert (await board.browser.get("/ui/assets/..%2f..%2f__init__.py")).status_code == 404
    assert board.agent.asked == []


@pytest.mark.parametrize(
    "more",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:1"},
        {"host": "rebound.example"},
        {"host": "localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
async def test_other_pages_get_nothing_with_the_cookie(board: Board, more: dict[str, str]) -> None:
    """A page of another port of this host has it sent by some browsers: it says another origin."""
    await board.opened()
    for method in ("GET", "POST", "DELETE"):
        assert (await board.browser.request(method, "/api/v1/services", headers=more)).status_code == 403
    assert board.agent.asked == []
    own = {"origin": board.base, "sec-fetch-site": "same-origin"}
    assert (await board.browser.get("/api/v1/services", headers=own)).status_code == 200


def _as_another(address: str, base: str, cookie: str) -> list[str]:
    """By sockets: a process of another user may read no file of ours."""
    host, port = base.removeprefix("http://").split(":")
    found = []
    for path, more in ((address.removeprefix(base), ""), ("/api/v1/services", f"cookie: {cookie}\r\n"), ("/ui/", "")):
        with socket.create_connection((host, int(port)), 30) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n{more}connection: close\r\n\r\n".encode())
            told = b""
            while piece := sock.recv(65536):
                told += piece
        found.append(told.decode("latin-1"))
    return found


@needs_root
async def test_another_user_of_this_machine_gets_nothing(board: Board) -> None:
    """With the secret before anybody has used it, with the cookie, and of the page: the kernel says who he is. What he
    tried does not use the secret up."""
    for cookie in ("", "later"):
        if cookie:
            await board.opened()
            cookie = board.cookie
        for told in await trio.to_thread.run_sync(
            lambda cookie=cookie: as_user(ALICE, _as_another, board.serving.address, board.base, cookie)
        ):
            assert told.startswith("HTTP/1.1 403") and "another user" in told and "set-cookie" not in told.lower()
    assert board.agent.asked == []


def test_whose_processes_are_the_person_s() -> None:
    """By `sudo` also his who said it; of nobody else is that believed."""
    assert users({}, 1000) == {1000} and users({"SUDO_UID": "7"}, 1000) == {1000}
    assert users({}, 0) == {0} and users({"SUDO_UID": "1000"}, 0) == {0, 1000}
    assert users({"SUDO_UID": "x"}, 0) == {0} and users({"SUDO_UID": "-1"}, 0) == {0}


async def test_a_browser_is_started_with_a_file_that_only_the_person_reads(
    board: Board, nursery: trio.Nursery, runtime_directory: Path
) -> None:
    """What a process is started with every user sees. The file goes when it has done its work."""
    seen: list[tuple[Path, int, str]] = []

    def show(path: Path) -> bool:
        seen.append((path, path.stat().st_mode & 0o777, path.read_text()))
        return True

    async with trio.open_nursery() as inner:
        inner.start_soon(board.serving._show, show)
        with trio.fail_after(30):
            while not seen:
                await trio.sleep(0.01)
        inner.cancel_scope.cancel()
    ((path, mode, text),) = seen
    assert mode == 0o600 and board.serving.address in text and path.parent == runtime_directory
    assert "/open/" not in str(path) and not path.exists()
    assert os.listdir(runtime_directory).count(path.name) == 0


async def test_connections_are_bounded(board: Board) -> None:
    """Whoever has them, on this machine: who idles makes way; with all of them busy, one more is told so, and
    afterwards there is room."""
    await board.opened()
    host, port = board.base.removeprefix("http://").split(":")
    release = trio.Event()

    async def held(_: Request) -> Response:
        await release.wait()
        return Response()

    board.agent.answer = held
    idle = [await trio.open_tcp_stream(host, int(port)) for _ in range(serving.MOST + 8)]
    assert (await board.browser.get("/ui/")).status_code == 200
    asked = f"GET /api/v1/x HTTP/1.1\r\nhost: {host}:{port}\r\ncookie: {board.cookie}\r\n\r\n".encode()
    busy: list[trio.SocketStream] = []
    async with httpx.AsyncClient(base_url=board.base, trust_env=False, timeout=60) as another:
        with trio.fail_after(60):
            # One after the other: who has connected and not asked yet may have to make way for the next.
            while len(busy) < serving.MOST:
                busy.append(await trio.open_tcp_stream(host, int(port)))
                await busy[-1].send_all(asked)
                while len(board.agent.asked) < len(busy):
                    await trio.sleep(0.001)
            full = await another.get("/ui/")
            assert (full.status_code, full.text) == (503, "too many connections; again\n")
            release.set()
            for stream in busy:
                assert (await stream.receive_some(12))[9:] == b"200"
            assert (await another.get("/ui/")).status_code == 200
    for stream in (*idle, *busy):
        await stream.aclose()
