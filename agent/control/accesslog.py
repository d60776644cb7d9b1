"""The access log: one JSON object a line, formatted and written here, off the request path and off control's loop.

A disk or a pipe that does not keep up costs lines, which are counted; never the agent, and never a request.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import msgspec
import structlog
import trio

from agent.frames import RECORD_FIELDS

log = structlog.get_logger()
BATCHES: Final = 1024
"""How many batches of a worker's rows may wait to be written."""


class AccessLog:
    """Appends to a file, or to standard output (`-`)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._give, self._take = trio.open_memory_channel[list[list[Any]]](BATCHES)
        self.lost = 0
        """Lines that could not be written."""

    def write(self, rows: list[list[Any]]) -> None:
        """Have rows appended."""
        try:
            self._give.send_nowait(rows)
        except trio.WouldBlock:
            self._lose(len(rows), "it is not written as fast as requests come")

    async def run(self) -> None:
        """Write until cancelled, and then what is still there."""
        self._open()
        try:
            async for rows in self._take:
                await trio.to_thread.run_sync(self._append, [*rows, *self._waiting()])
        finally:
            self._finish()

    def _finish(self) -> None:
        self._append(self._waiting())
        if self._path != "-" and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _waiting(self) -> list[list[Any]]:
        waiting: list[list[Any]] = []
        while True:
            try:
                waiting += self._take.receive_nowait()
            except trio.WouldBlock:
                return waiting

    def _open(self) -> None:
        if self._path == "-":
            self._fd = sys.stdout.fileno()
            return
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            log.error("cannot open the access log", path=self._path, error=error.strerror)

    def _append(self, rows: list[list[Any]]) -> None:
        """In a thread: all of it, or count what is lost."""
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
