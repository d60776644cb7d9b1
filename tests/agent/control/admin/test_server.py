"""HTTP on the agent's own socket: who asks, and how much one user gets of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agent.control.admin import server
from agent.control.admin.door import peer_of
from agent.control.host.local_socket import opened
from agent.settings.document import Settings
from agent.settings.file import parse
from tests.support.local import ask
from tests.support.users import ALICE, as_user, needs_root


def settings(path: Path) -> Settings:
    return parse(f'[local]\nsocket = "{path}"\n', "agent.toml")


async def who(request: Request) -> PlainTextResponse:
    peer = peer_of(request)
    assert peer is not None
    return PlainTextResponse(f"{peer.uid} {sorted(peer.gids)}")


APPLICATION = Starlette(routes=[Route("/who", who)])


async def asked(path: Path) -> str:
    return (await trio.to_thread.run_sync(ask, path, "GET", "/who")).body.decode()


async def test_the_kernel_says_who_asks(runtime_directory: Path, nursery: trio.Nursery) -> None:
    """User and groups, of which no header says anything."""
    made = opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(server.serve_local, APPLICATION, made)
    assert await asked(made.path) == f"{os.geteuid()} {sorted({os.getegid(), *os.getgroups()})}"
    nursery.cancel_scope.cancel()
    made.close()


def curious(path: Path) -> str:
    return ask(path, "GET", "/who").body.decode()


@needs_root
async def test_other_users_are_told_apart(runtime_directory: Path, nursery: trio.Nursery) -> None:
    """With the groups that the process has, and not those that a list of users says."""
    runtime_directory.chmod(0o755)
    made = opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(server.serve_local, APPLICATION, made)
    found = await trio.to_thread.run_sync(lambda: as_user(ALICE, curious, made.path, groups=(7, 8)))
    assert found == f"{ALICE} [7, 8, {ALICE}]"
    nursery.cancel_scope.cancel()
    made.close()


async def test_one_user_has_so_many_connections(
    runtime_directory: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond them a connection is closed without a word; once others end there is room again."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS_EACH", 3)
    made = opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(server.serve_local, APPLICATION, made)
    held = [await trio.open_unix_socket(made.path) for _ in range(3)]
    for stream in held:
        await stream.send_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
    with trio.fail_after(60):
        async with await trio.open_unix_socket(made.path) as beyond:
            assert await beyond.receive_some(10) == b""
        for stream in held:
            await stream.aclose()
        while True:
            try:
                assert str(os.geteuid()) in await asked(made.path)
                break
            except OSError:
                await trio.sleep(0.01)
    nursery.cancel_scope.cancel()
    made.close()
