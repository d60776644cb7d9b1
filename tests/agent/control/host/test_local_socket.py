"""The agent's own socket: where it stands, who may have it, and how much one user gets of it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agent.control.admin.api import peer_of
from agent.control.host import local_socket
from agent.settings.document import Settings
from agent.settings.file import SettingsError, parse
from tests.support.local import ask
from tests.support.users import ALICE, as_user, needs_root


def settings(path: Path, more: str = "") -> Settings:
    return parse(f'[local]\nsocket = "{path}"\n{more}', "agent.toml")


async def who(request: Request) -> PlainTextResponse:
    peer = peer_of(request)
    assert peer is not None
    return PlainTextResponse(f"{peer.uid} {sorted(peer.gids)}")


APPLICATION = Starlette(routes=[Route("/who", who)])


def test_it_stands_with_its_mode_and_goes(runtime_directory: Path) -> None:
    """Whatever the umask is; and nothing of it is left at the end."""
    before = os.umask(0o077)
    try:
        made = local_socket.opened(settings(runtime_directory / "a", 'mode = "0660"\ngroup = "0"'), None)
    finally:
        os.umask(before)
    assert made is not None
    found = (runtime_directory / "a").stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o660
    made.close()
    assert list(runtime_directory.iterdir()) == []


def test_one_that_lives_is_not_taken(runtime_directory: Path) -> None:
    """The second agent is told; the first goes on."""
    first = local_socket.opened(settings(runtime_directory / "a"), None)
    with pytest.raises(OSError, match="another agent has"):
        local_socket.opened(settings(runtime_directory / "a"), None)
    assert local_socket.is_taken(runtime_directory / "a")
    assert first is not None
    first.close()


def test_what_a_crash_left_is_replaced(runtime_directory: Path) -> None:
    """A socket that nobody listens at, and a half-made one beside it."""
    for name in ("a", ".a.new"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(runtime_directory / name))
    made = local_socket.opened(settings(runtime_directory / "a"), None)
    assert made is not None and local_socket.is_taken(runtime_directory / "a")
    made.close()


def test_one_of_a_successor_is_left_alone(runtime_directory: Path) -> None:
    """Who ends takes away what is his, and not what stands there by now."""
    first = local_socket.opened(settings(runtime_directory / "a"), None)
    assert first is not None
    first.sock.close()
    second = local_socket.opened(settings(runtime_directory / "a"), None)
    assert second is not None
    first.close()
    assert local_socket.is_taken(runtime_directory / "a")
    second.close()


def test_where_it_cannot_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that the settings name is an error; one that they do not is gone without, with a warning."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        local_socket.opened(settings(tmp_path / "file" / "a"), None)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "file"))
    assert local_socket.opened(parse("", "agent.toml"), None) is None
    with pytest.raises(SettingsError, match="no group 'none-such'"):
        local_socket.opened(settings(tmp_path / "a", 'group = "none-such"'), None)


async def asked(path: Path) -> str:
    return (await trio.to_thread.run_sync(ask, path, "GET", "/who")).body.decode()


async def test_the_kernel_says_who_asks(runtime_directory: Path, nursery: trio.Nursery) -> None:
    """User and groups, of which no header says anything."""
    made = local_socket.opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(local_socket.serve, APPLICATION, made)
    assert await asked(made.path) == f"{os.geteuid()} {sorted({os.getegid(), *os.getgroups()})}"
    nursery.cancel_scope.cancel()
    made.close()


def curious(path: Path) -> str:
    return ask(path, "GET", "/who").body.decode()


@needs_root
async def test_other_users_are_told_apart(runtime_directory: Path, nursery: trio.Nursery) -> None:
    """With the groups that the process has, and not those that a list of users says."""
    runtime_directory.chmod(0o755)
    made = local_socket.opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(local_socket.serve, APPLICATION, made)
    found = await trio.to_thread.run_sync(lambda: as_user(ALICE, curious, made.path, groups=(7, 8)))
    assert found == f"{ALICE} [7, 8, {ALICE}]"
    nursery.cancel_scope.cancel()
    made.close()


async def test_one_user_has_so_many_connections(
    runtime_directory: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond them a connection is closed without a word; once others end there is room again."""
    monkeypatch.setattr(local_socket, "MAX_CONNECTIONS_EACH", 3)
    made = local_socket.opened(settings(runtime_directory / "a"), None)
    assert made is not None
    nursery.start_soon(local_socket.serve, APPLICATION, made)
    held = [await trio.open_unix_socket(made.path) for _ in range(3)]
    for stream in held:
        await stream.send_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
    with trio.fail_after(10):
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
