from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from agent.control.records.file import FileSink, _append, _opened, _taken_back
from agent.control.records.waiting import Batch

LINE = b'{"status": 200}\n'


def file_sink(path: str, most_bytes: int = 1 << 20) -> FileSink:
    return FileSink(path, "access_log", ("access",), most_bytes)


def write(log: FileSink, lines: bytes, count: int) -> None:
    log.offer(Batch("access", lines, count))


def lost(log: FileSink) -> int:
    return log.waiting.lost.total()


async def written(log: FileSink, *batches: int) -> None:
    """Have batches of so many lines written, and the log ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for count in batches:
            write(log, LINE * count, count)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_lines_are_appended(tmp_path: Path) -> None:
    """In order, to what is there."""
    path = tmp_path / "access.log"
    await written(file_sink(str(path)), 2, 1)
    await written(file_sink(str(path)), 1)
    assert path.read_bytes() == LINE * 4


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    """Rows that came just before the end are in the file."""
    path = tmp_path / "access.log"
    log = file_sink(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        write(log, LINE, 1)
        nursery.cancel_scope.cancel()
    assert len(path.read_text().splitlines()) == 1
    assert lost(log) == 0


@pytest.mark.parametrize("path", ["/dev/full", "/no/such/directory/access.log"])
async def test_a_disk_that_takes_nothing_costs_lines(path: str) -> None:
    """They are counted, and nothing else happens."""
    log = file_sink(path)
    await written(log, 2, 1)
    assert lost(log) == 3


async def test_a_log_that_does_not_keep_up_costs_lines(tmp_path: Path) -> None:
    """What waits is bounded; writing never blocks."""
    log = file_sink(str(tmp_path / "access.log"), 2 * len(LINE))
    for _ in range(5):
        write(log, LINE, 1)
    assert lost(log) == 3
    await written(log)
    assert len((tmp_path / "access.log").read_text().splitlines()) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_what_another_user_put_there_is_not_written_to(tmp_path: Path) -> None:
    """A file, a link and a pipe in a directory that many may write to; a device and one's own link are fine."""
    theirs, link, pipe, own = (tmp_path / name for name in ("theirs", "link", "pipe", "own"))
    theirs.write_text("")
    link.symlink_to(tmp_path / "ours")
    os.mkfifo(pipe)
    own.symlink_to("/dev/null")
    for path in (theirs, link, pipe):
        os.lchown(path, 65534, 65534)
        with pytest.raises(OSError, match="it belongs to the user 65534"):
            _opened(str(path))
    os.close(_opened(str(own)))
    os.close(_opened(str(tmp_path / "new")))


@contextmanager
def a_disk_of(size_bytes: int) -> Iterator[None]:
    """Files get no larger: what goes beyond is written in part, and then not at all, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        with capture_logs():  # what is captured of standard output is a file, too
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [len(LINE) * 2 + 5, len(LINE) * 3 - 1, 3, len(LINE) * 2])
async def test_a_disk_that_fills_up_leaves_no_piece_of_a_line(tmp_path: Path, room: int) -> None:
    """What is there is whole, lost is what is not there, and the next line begins on a line of its own."""
    path = tmp_path / "access.log"
    log = file_sink(str(path))
    with a_disk_of(room):
        await written(log, 5, 1)
    assert path.read_bytes() == LINE * (room // len(LINE))
    assert lost(log) == 6 - room // len(LINE)
    await written(file_sink(str(path)), 1)
    assert path.read_bytes() == LINE * (room // len(LINE) + 1)


async def test_lines_go_on_after_the_disk_has_room_again(tmp_path: Path) -> None:
    """Without a new file, too."""
    path = tmp_path / "access.log"
    log = file_sink(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        with a_disk_of(len(LINE) + 4):
            write(log, LINE * 3, 3)
            with trio.fail_after(60):
                while not lost(log):
                    await trio.sleep(0.001)
        write(log, LINE, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert path.read_bytes() == LINE * 2
    assert lost(log) == 2


def test_a_pipe_that_takes_a_piece(tmp_path: Path) -> None:
    """It cannot be taken back: the next line begins behind a line break, as soon as there is room for that."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    size = os.write(write, b"x" * (1 << 20)) // 4096 * 4096
    os.read(read, 4096)
    line = b'{"status": 1000}\n'
    lines = line * (8192 // len(line))
    told = _append(write, lines, torn=False)
    assert (told.lines, told.torn) == (4096 // len(line), True)
    assert told.reason
    assert _append(write, LINE, torn=True) == (0, True, told.reason), "nothing was written: it is torn still"
    os.read(read, size)
    assert _append(write, LINE, torn=True) == (1, False, "")
    assert os.read(read, 1 << 20).splitlines()[-1] == LINE.strip()
    os.close(read)
    os.close(write)


def test_nothing_is_taken_back_of_what_another_wrote(tmp_path: Path) -> None:
    """Who appends to the same file loses nothing."""
    path = tmp_path / "access.log"
    ours, theirs = _opened(str(path)), _opened(str(path))
    os.write(ours, LINE + LINE[:4])
    os.write(theirs, b"theirs\n")
    assert not _taken_back(ours, 4)
    os.write(ours, LINE[:4])
    assert _taken_back(ours, 4)
    assert path.read_bytes() == LINE + LINE[:4] + b"theirs\n"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("piece", [LINE[:7], LINE + b"{"])
async def test_a_line_that_a_killed_agent_left_unfinished(tmp_path: Path, piece: bytes) -> None:
    """The next one is not glued to it."""
    path = tmp_path / "access.log"
    path.write_bytes(piece)
    await written(file_sink(str(path)), 2)
    assert path.read_bytes() == piece + b"\n" + LINE * 2
