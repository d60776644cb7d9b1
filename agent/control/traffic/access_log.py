"""The access log: one JSON object a line, written here, off the request path and off control's loop.

A disk or a pipe that does not keep up costs lines, which are counted; never the agent, and never a request.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import deque
from typing import Final

import structlog
import trio

from agent.visible import visible_json

log = structlog.get_logger()
WAITING_BYTES: Final = 32 * 1024 * 1024
"""Of lines that may wait to be written."""
FINISH_S: Final = 1.0


class AccessLog:
    """Appends to a file, or to standard output (`-`)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._given = trio.Event()
        self._ending = False
        self._moved = False
        self._patience = trio.CancelScope(shield=True)
        self.lost = 0
        """Lines that could not be written."""

    def write(self, lines: bytes, count: int) -> None:
        """Have whole lines appended; `count` is how many they are."""
        if self._waiting_bytes >= WAITING_BYTES:
            self._lose(count, "it is not written as fast as requests come")
            return
        self._waiting.append((_shown(lines), count))
        self._waiting_bytes += len(lines)
        self._given.set()

    def reopen(self) -> None:
        """The file was moved away: lines from now on go into another one of its name, and none is lost."""
        self._moved = True
        self._given.set()

    async def run(self) -> None:
        """Write until cancelled, and then what is still there."""
        self._open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                await trio.sleep_forever()
            finally:
                self._ending = True
                self._patience.deadline = trio.current_time() + FINISH_S
                self._given.set()

    def _open(self) -> None:
        if self._path == "-":
            self._fd = sys.stdout.fileno()
            return
        try:
            before, self._fd = self._fd, _opened(self._path)
        except OSError as error:
            log.error("cannot open the access log", path=self._path, error=error.strerror)
            return
        if before >= 0:
            os.close(before)
            log.info("the access log is opened anew", path=self._path)

    async def _write(self) -> None:
        """All that waits and all that comes. A stuck write is left behind, with the file that it may still write to."""
        with self._patience:
            while True:
                while self._waiting or self._moved:
                    if self._moved:
                        self._moved = False
                        self._open()
                        continue
                    lines, count = self._waiting.popleft()
                    self._waiting_bytes -= len(lines)
                    reason = await trio.to_thread.run_sync(_append, self._fd, lines, abandon_on_cancel=True)
                    if reason:
                        self._lose(count, reason)
                if self._ending:
                    break
                self._given = trio.Event()
                await self._given.wait()
            if self._path != "-" and self._fd >= 0:
                os.close(self._fd)

    def _lose(self, lines: int, reason: str) -> None:
        if not self.lost:
            log.error("lines of the access log are lost", path=self._path, reason=reason)
        self.lost += lines


def _shown(lines: bytes) -> bytes:
    """The same JSON, with nothing in it that a terminal obeys: a target is whatever a caller sent."""
    if lines.isascii() and b"\x7f" not in lines:
        return lines
    return visible_json(lines.decode("utf-8", "replace")).encode()


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


def _append(fd: int, data: bytes) -> str:
    """In a thread: all of it. Returns why not, when it cannot be."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError as error:
        return error.strerror or str(error)
    return ""
