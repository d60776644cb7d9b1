"""Asking an agent through its own socket, as `curl --unix-socket` does."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket that has a path."""

    def __init__(self, path: Path | str, timeout_s: float = 10.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Told:
    """An answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(path: Path | str, method: str, target: str, value: Any = None) -> Told:
    """One request on a connection of its own; `value` is sent as JSON."""
    connection = UnixConnection(path)
    try:
        body = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        try:
            connection.request(method, target, body, {} if body is None else {"content-type": "application/json"})
        except BrokenPipeError:
            pass  # it has answered before it had read everything, such as to a path that is none
        answer = connection.getresponse()
        return Told(answer.status, answer.read())
    finally:
        connection.close()
