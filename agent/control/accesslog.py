"""The access log: one JSON object a line, formatted here, off the request path."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import structlog

from agent.frames import RECORD_FIELDS

log = structlog.get_logger()


class AccessLog:
    """Appends to a file, or to standard output (`-`). A disk that is full costs lines, not the agent."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self.lost = 0
        self.open()

    def open(self) -> None:
        """Open the file, again after a rotation."""
        if self._path == "-":
            self._fd = sys.stdout.fileno()
            return
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            log.error("cannot open the access log", path=self._path, error=error.strerror)

    def write(self, rows: list[list[Any]]) -> None:
        """Append rows."""
        encode = msgspec.json.encode
        lines = [encode(dict(zip(RECORD_FIELDS, row, strict=True))) for row in rows]
        try:
            os.write(self._fd, b"\n".join(lines) + b"\n")
        except OSError as error:
            if not self.lost:
                log.error("cannot write the access log; lines are lost", error=error.strerror)
            self.lost += len(rows)
