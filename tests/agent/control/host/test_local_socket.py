"""The agent's own socket: where it stands, and who may have it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from agent.control.host import local_socket
from agent.settings.document import Settings
from agent.settings.file import SettingsError, parse


def settings(path: Path, more: str = "") -> Settings:
    return parse(f'[local]\nsocket = "{path}"\n{more}', "agent.toml")


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
