"""The demo's callers: threads with keep-alive connections that ask for a service by name, and count what they get."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from typing import NamedTuple

CALLERS = 6
PAUSE_S = 0.02
TIMEOUT_S = 8.0


class Answer(NamedTuple):
    """What one request got. `version`, `instance` and `pid` are the service's own word about itself."""

    at: float
    version: str = ""
    instance: str = ""
    pid: int = 0
    problem: str = ""


class Traffic:
    """Real requests, from `start` to `stop`. A request fails if it got anything but a 200."""

    def __init__(self, address: str, port: int, service: str, path: str = "/cats", callers: int = CALLERS) -> None:
        self._address = (address, port)
        self._service = service
        self._path = path
        self._answers: list[Answer] = []
        self._running = True
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._running = False
        for thread in self._threads:
            if thread.is_alive():
                thread.join(TIMEOUT_S + 1)

    def since(self, start: float, end: float = float("inf")) -> list[Answer]:
        """What came between two readings of time.monotonic()."""
        return [answer for answer in self._answers[:] if start <= answer.at < end]

    def failures(self) -> list[Answer]:
        return [answer for answer in self._answers[:] if answer.problem]

    @property
    def total(self) -> int:
        return len(self._answers)

    def _call(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        while self._running:
            self._answers.append(ask(connection, self._service, self._path))
            time.sleep(PAUSE_S)
        connection.close()


def ask(connection: http.client.HTTPConnection, service: str, path: str = "/cats") -> Answer:
    """One request by name, on a connection to the agent."""
    try:
        connection.request("GET", path, headers={"host": service})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Answer(time.monotonic(), problem=f"{type(error).__name__}: {error}")
    if response.status != 200:
        reason = response.getheader("x-shoal-reason") or body[:80].decode("utf-8", "replace")
        return Answer(time.monotonic(), problem=f"{response.status} {reason}")
    told = json.loads(body)
    return Answer(time.monotonic(), told["version"], told["instance"], told["pid"])


def shares(answers: list[Answer]) -> dict[str, float]:
    """Fraction of the good answers for each version."""
    counted = Counter(answer.version for answer in answers if not answer.problem)
    return {version: count / counted.total() for version, count in sorted(counted.items())}
