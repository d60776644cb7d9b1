"""The access log: one JSON object a line, formatted and written here, off the request path and off control's loop.

A disk or a pipe that does not keep up costs lines, which are counted; never the agent, and never a request.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import Any, Final

import msgspec
import structlog
import trio

from agent.frames import RECORD_FIELDS

log = structlog.get_logger()
WAITING: Final = 100_000
"""Rows that may wait to be written."""
FINISH_S: Final = 1.0


class AccessLog:
    """Appends to a file, or to standard output (`-`)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._rows: deque[list[Any]] = deque()
        self._given = trio.Event()
        self.lost = 0
        """Lines that could not be written."""

    def write(self, rows: list[list[Any]]) -> None:
        """Have rows appended."""
        if len(self._rows) >= WAITING:
            self._lose(len(rows), "it is not written as fast as requests come")
            return
        self._rows.extend(rows)
        self._given.set()

    async def run(self) -> None:
        """Write until cancelled, and then what is still there."""
        self._open()
        try:
            while True:
                await self._given.wait()
                self._given = trio.Event()
                await trio.to_thread.run_sync(self._append, abandon_on_cancel=True)
        finally:
            with trio.move_on_after(FINISH_S, shield=True):
                await trio.to_thread.run_sync(self._finish, abandon_on_cancel=True)

    def _finish(self) -> None:
        self._append()
        if self._path != "-" and self._fd >= 0:
            os.close(self._fd)

    def _open(self) -> None:
        if self._path == "-":
            self._fd = sys.stdout.fileno()
            return
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            log.error("cannot open the access log", path=self._path, error=error.strerror)

    def _append(self) -> None:
        """In a thread: all that waits, or count what is lost."""
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        lines = memoryview(b"".join(map(_line, rows)))
        try:
            while lines:
                lines = lines[os.write(self._fd, lines) :]
        except OSError as error:
            self._lose(len(rows), error.strerror or str(error))

    def _lose(self, lines: int, reason: str) -> None:
        if not self.lost:
            log.error("lines of the access log are lost", path=self._path, reason=reason)
        self.lost += lines


def _line(row: list[Any]) -> bytes:
    values = (value.decode("latin-1") if isinstance(value, bytes) else value for value in row)
    return msgspec.json.encode(dict(zip(RECORD_FIELDS, values, strict=False))) + b"\n"
