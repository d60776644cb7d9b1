"""Records in a file, or on standard output: written off the request path, and off control's loop.

Laws
- A disk or a pipe that does not keep up costs lines, which are counted; never the agent, and never a request.
- A line is there whole, or is lost: what was written of one that did not fit is taken back, and where that cannot be
  (a pipe; somebody else has written behind it), the next line begins behind a line break.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import structlog
import trio

from agent.control.records.reading import written
from agent.control.records.sink import Sink
from agent.control.records.waiting import Batch, Kind
from agent.requests.format import Format

log = structlog.get_logger()
WAITING_BYTES: Final = 32 * 1024 * 1024
"""Of lines that may wait to be written."""
STANDARD_OUTPUT: Final = "-"


class FileSink(Sink):
    """Appends to a file, or to standard output (`-`)."""

    def __init__(
        self,
        path: str,
        name: str,
        kinds: Collection[Kind],
        most_bytes: int = WAITING_BYTES,
        format: Format | None = None,
    ) -> None:
        super().__init__(name, kinds, most_bytes, format)
        self._path = path
        self._fd = -1
        self._moved = False
        self._torn = False
        """Whether what stands at the end is a piece of a line."""

    def reopen(self) -> None:
        """The file was moved away: lines from now on go into another one of its name, and none is lost."""
        self._moved = True
        self.wake()

    async def begin(self) -> None:
        """The file is there from the start, empty or not."""
        self._open()

    async def settle(self) -> None:
        """What came before the file was moved is written there."""
        if self._moved or (self._fd < 0 and self.waiting):
            self._moved = False
            self._open()

    def _open(self) -> None:
        if self._path == STANDARD_OUTPUT:
            self._fd = sys.stdout.fileno()
            return
        try:
            before, self._fd = self._fd, _opened(self._path)
            self._torn = _ends_within_a_line(self._path)
        except OSError as error:
            self.failed(f"cannot open {self._path}: {error.strerror}")
            return
        if before >= 0:
            os.close(before)
            log.info("a file of records is opened anew", path=self._path)

    async def deliver(self, batches: list[Batch]) -> None:
        """A stuck write is left behind, with the file that it may still write to."""
        if self._fd < 0:
            return
        done = await trio.to_thread.run_sync(
            _append_all, self._fd, batches, self.format, self._torn, abandon_on_cancel=True
        )
        self._torn = done.torn
        left = done.lines
        for batch in batches:
            there = min(left, batch.records)
            left -= there
            self.account(batch.kind, there, batch.records - there)
        if done.reason:
            self.lost_for(done.reason)
        else:
            self.well()

    async def end(self) -> None:
        """Standard output is not ours to close."""
        if self._path != STANDARD_OUTPUT and self._fd >= 0:
            os.close(self._fd)


def _opened(path: str) -> int:
    """For appending. Raises OSError for a file, a pipe or a link that another user put there: in a directory that many
    may write to, they would choose what we write to."""
    _check_whose(os.lstat(path) if os.path.lexists(path) else None)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        _check_whose(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_whose(found: os.stat_result | None) -> None:
    if found is not None and not stat.S_ISCHR(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        raise OSError(errno.EPERM, f"it belongs to the user {found.st_uid}, who could read it or send it elsewhere")


def _ends_within_a_line(path: str) -> bool:
    """Whether a file's last line has no end: whoever wrote it was killed."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False  # it may be written only


class Written(NamedTuple):
    """What became of lines."""

    lines: int
    """So many are there whole."""
    torn: bool
    """Whether there is a piece of one behind them."""
    reason: str
    """Why not all of them are; empty: they are."""


def _append_all(fd: int, batches: Sequence[Batch], format: Format | None, torn: bool) -> Written:
    """In a thread."""
    return _append(fd, b"".join([written(batch, format) for batch in batches]), torn)


def _append(fd: int, lines: bytes, torn: bool) -> Written:
    """`torn`: what stands at the end is a piece of a line."""
    data = b"\n" + lines if torn else lines
    at, reason = 0, ""
    try:
        while at < len(data):
            at += os.write(fd, memoryview(data)[at:])
    except OSError as error:
        reason = error.strerror or str(error)
    if at:
        piece = at - data.rfind(b"\n", 0, at) - 1
        torn = piece > 0 and not _taken_back(fd, piece)
    return Written(data.count(b"\n", len(data) - len(lines), at), torn, reason)


def _taken_back(fd: int, size: int) -> bool:
    """Whether the last bytes that were written could be removed: only where they are the last of a file."""
    try:
        end = os.lseek(fd, 0, os.SEEK_CUR)
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size != end:
            return False
        os.ftruncate(fd, end - size)
    except OSError:
        return False
    return True
