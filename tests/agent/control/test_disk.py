from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.control import disk

ITEMS = [("/shoal/default/instances/pets/a", b'{"port": 80}', 7), ("/shoal/default/policies/route/*", b"\xff", 0)]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    """Mesh, revision, every key and value; readable by nobody else."""
    path = tmp_path / "new" / "table"
    assert disk.save_table(path, "default", 9, ITEMS)
    saved = disk.load_table(path, "default")
    assert saved is not None
    assert (saved.revision, [tuple(item) for item in saved.items]) == (9, ITEMS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_meshs_table_is_left_aside(tmp_path: Path) -> None:
    """A state directory that was used for another mesh says nothing about this one."""
    disk.save_table(tmp_path / "table", "shop", 9, ITEMS)
    assert disk.load_table(tmp_path / "table", "default") is None


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"", lambda d: b"x" * 99]
)
def test_a_damaged_table_is_left_aside(tmp_path: Path, damage: object) -> None:
    """Half a file, a flipped byte, an empty file, another file: none of it is believed, and nothing breaks."""
    path = tmp_path / "table"
    disk.save_table(path, "default", 9, ITEMS)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert disk.load_table(path, "default") is None


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    """The first start of an agent."""
    assert disk.load_table(tmp_path / "table", "default") is None
    assert disk.load_json(tmp_path / "instances.json") is None
    (tmp_path / "instances.json").write_bytes(b"{")
    assert disk.load_json(tmp_path / "instances.json") is None


def test_a_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    """/dev/full stands for a disk that takes nothing: the write fails with a warning, what was there stays."""
    path = tmp_path / "table"
    disk.save_table(path, "default", 9, ITEMS)
    os.symlink("/dev/full", tmp_path / "table.new")
    assert not disk.save_table(path, "default", 10, ITEMS)
    saved = disk.load_table(path, "default")
    assert saved is not None and saved.revision == 9
    assert disk.save_table(path, "default", 11, ITEMS)


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """The agent goes on without a table on disk, and without a lock."""
    (tmp_path / "file").write_text("")
    assert not disk.save_table(tmp_path / "file" / "table", "default", 1, ITEMS)
    assert disk.load_table(tmp_path / "file" / "table", "default") is None
    assert disk.lock(tmp_path / "file") is None


def test_a_state_directory_has_one_agent(tmp_path: Path) -> None:
    """A second one is refused as long as the first lives."""
    first = disk.lock(tmp_path / "state")
    assert first is not None
    with pytest.raises(OSError, match=r"another agent uses .*state; give each its own state_dir"):
        disk.lock(tmp_path / "state")
    os.close(first)
    second = disk.lock(tmp_path / "state")
    assert second is not None
    os.close(second)
