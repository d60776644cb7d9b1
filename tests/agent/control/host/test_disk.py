from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.control.host import disk
from agent.process.own_files import MOST_ASIDE, set_aside

ITEMS = [("/shoal/default/instances/pets/a", b'{"port": 80}', 7), ("/shoal/default/policies/route/*", b"\xff", 0)]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    """Mesh, revision, every key and value; readable by nobody else."""
    path = tmp_path / "new" / "table"
    assert disk.save_table(path, disk.Saved("default", 9, time.time(), ITEMS))
    saved = disk.load_table(path, "default")
    assert saved is not None
    assert (saved.revision, [tuple(item) for item in saved.items]) == (9, ITEMS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_meshs_table_is_left_aside(tmp_path: Path) -> None:
    """A state directory that was used for another mesh says nothing about this one."""
    disk.save_table(tmp_path / "table", disk.Saved("shop", 9, time.time(), ITEMS))
    assert disk.load_table(tmp_path / "table", "default") is None


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"", lambda d: b"x" * 99]
)
def test_a_damaged_table_is_set_aside(tmp_path: Path, damage: object) -> None:
    """Half a file, a flipped byte, an empty file, another file: none of it is believed, nothing breaks, and it is
    kept."""
    path = tmp_path / "table"
    disk.save_table(path, disk.Saved("default", 9, time.time(), ITEMS))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert disk.load_table(path, "default") is None
    assert [each.name for each in tmp_path.iterdir()] == ["table.unreadable-1"]


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    """The first start of an agent."""
    assert disk.load_table(tmp_path / "table", "default") is None
    assert disk.load_object(tmp_path / "instances.json") == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"{", b"\xff", b'{"instances": ["\xff"]}', b"[" * 100_000, b"", b"[]"])
def test_json_that_cannot_be_read_is_set_aside(tmp_path: Path, text: bytes) -> None:
    """As if it were not there; it is kept, and said by its name, each time anew."""
    path = tmp_path / "instances.json"
    for number in (1, 2):
        path.write_bytes(text)
        with capture_logs() as told:
            assert disk.load_object(path) == {}
        assert not path.exists()
        kept = tmp_path / f"instances.json.unreadable-{number}"
        assert kept.read_bytes() == text
        assert (told[0]["path"], told[0]["as_"]) == (str(path), str(kept))


def test_what_is_set_aside_is_bounded(tmp_path: Path) -> None:
    """The first ones are kept, and the last one."""
    for number in range(MOST_ASIDE + 2):
        (tmp_path / "boot").write_text(str(number))
        assert set_aside(tmp_path / "boot", "a test")
    kept = [(tmp_path / f"boot.unreadable-{number}").read_text() for number in range(1, MOST_ASIDE + 1)]
    assert kept == [*map(str, range(MOST_ASIDE - 1)), str(MOST_ASIDE + 1)]


def test_too_many_open_files_are_not_the_files_fault(tmp_path: Path) -> None:
    """It stays where it is, for the next time."""
    path = tmp_path / "instances.json"
    path.write_text('{"instances": []}')
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert disk.load_object(path) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert disk.load_object(path) == {"instances": []}


def test_a_folder_in_the_place_of_a_file_makes_way(tmp_path: Path) -> None:
    """Of the file itself, of the one that is written aside, and of the lock."""
    for name in ("table", "table.new", "lock"):
        (tmp_path / name / "in").mkdir(parents=True)
    assert disk.save_table(tmp_path / "table", disk.Saved("default", 9, time.time(), ITEMS))
    fd = disk.lock(tmp_path)
    assert fd is not None
    os.close(fd)
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"table.unreadable-1", "table.new.unreadable-1", "lock.unreadable-1"}


def test_a_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that takes no more: what was there stays, nothing beside it."""
    path = tmp_path / "table"
    disk.save_table(path, disk.Saved("default", 9, time.time(), ITEMS))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with capture_logs() as told:
            assert not disk.save_table(path, disk.Saved("default", 10, time.time(), ITEMS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    saved = disk.load_table(path, "default")
    assert saved is not None and saved.revision == 9
    assert os.listdir(tmp_path) == ["table"]
    assert told[0]["error"] == "File too large"
    assert disk.save_table(path, disk.Saved("default", 11, time.time(), ITEMS))


def test_no_name_is_followed_elsewhere(tmp_path: Path) -> None:
    """A link in the place of a file, or of the one that is written aside, is replaced or set aside, never used."""
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "table.new").symlink_to("elsewhere")
    assert disk.save_table(tmp_path / "table", disk.Saved("default", 9, time.time(), ITEMS))
    (tmp_path / "link").symlink_to("table")
    os.mkfifo(tmp_path / "pipe")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert disk.load_table(tmp_path / "link", "default") is None
    assert disk.load_object(tmp_path / "pipe") == {}
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "lock").symlink_to("../elsewhere")
    fd = disk.lock(tmp_path / "state")
    assert fd is not None
    os.close(fd)
    assert not (tmp_path / "state" / "lock").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could put a table, tokens or a lock of their own there. Reading it is another thing."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    with pytest.raises(OSError, match=rf"state may be written by others .mode {mode:04o}.; `chmod go-w` it"):
        disk.lock(state)
    state.chmod(mode & 0o755)
    fd = disk.lock(state)
    assert fd is not None
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whoever makes it first under /tmp, itself or a link to it, has no agent in it."""
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(OSError, match="theirs belongs to the user 65534"):
        disk.lock(theirs)
    os.chown(theirs, 0, 0)
    link.symlink_to(theirs)
    os.close(disk.lock(link) or 0)  # one's own link is one's own choice: systemd makes such ones
    os.lchown(link, 65534, 65534)
    with pytest.raises(OSError, match="is reached by a link of the user 65534"):
        disk.lock(link)


def test_the_lock_is_handed_over(tmp_path: Path) -> None:
    """Whoever inherits it holds it on, without a moment for another to have it; for another directory it ends."""
    first = disk.lock(tmp_path / "a")
    assert first is not None
    handed = os.dup(first)
    os.set_inheritable(handed, True)
    os.close(first)
    assert disk.lock(tmp_path / "a", handed) == handed
    assert not os.get_inheritable(handed)
    with pytest.raises(OSError, match="another agent uses"):
        disk.lock(tmp_path / "a")
    other = disk.lock(tmp_path / "b", handed)
    assert other is not None
    again = disk.lock(tmp_path / "a")
    assert again is not None
    os.close(other)
    os.close(again)


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """The agent goes on without a table on disk, and without a lock."""
    (tmp_path / "file").write_text("")
    assert not disk.save_table(tmp_path / "file" / "table", disk.Saved("default", 1, time.time(), ITEMS))
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
