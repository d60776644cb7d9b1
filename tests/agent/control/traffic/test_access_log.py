from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from agent.control.traffic import access_log
from agent.control.traffic.access_log import AccessLog, _opened

LINE = b'{"status": 200}\n'


async def written(log: AccessLog, *batches: int) -> None:
    """Have batches of so many lines written, and the log ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for count in batches:
            log.write(LINE * count, count)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_lines_are_appended(tmp_path: Path) -> None:
    """In order, to what is there."""
    path = tmp_path / "access.log"
    await written(AccessLog(str(path)), 2, 1)
    await written(AccessLog(str(path)), 1)
    assert path.read_bytes() == LINE * 4


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    """Rows that came just before the end are in the file."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        log.write(LINE, 1)
        nursery.cancel_scope.cancel()
    assert len(path.read_text().splitlines()) == 1
    assert log.lost == 0


@pytest.mark.parametrize("path", ["/dev/full", "/no/such/directory/access.log"])
async def test_a_disk_that_takes_nothing_costs_lines(path: str) -> None:
    """They are counted, and nothing else happens."""
    log = AccessLog(path)
    await written(log, 2, 1)
    assert log.lost == 3


async def test_a_log_that_does_not_keep_up_costs_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What waits is bounded; writing never blocks."""
    monkeypatch.setattr(access_log, "WAITING_BYTES", 2 * len(LINE))
    log = AccessLog(str(tmp_path / "access.log"))
    for _ in range(5):
        log.write(LINE, 1)
    assert log.lost == 3
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
