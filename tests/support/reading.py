"""A `shoal` that goes on telling, as `shoal logs -f` and `shoal tap` do, by way of an agent."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

from tests.support.mesh import ROOT, SHOAL, AgentProcess


class Reading:
    """Its lines of JSON, and its notes, as they come; until `end`."""

    def __init__(self, agent: AgentProcess, *words: str) -> None:
        self.process = subprocess.Popen(
            [*SHOAL, "--admin", str(agent.socket), "-o", "json", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[Any] = []
        self.notes: list[str] = []
        takers = ((self.process.stdout, self._take), (self.process.stderr, self.notes.append))
        self._threads = [threading.Thread(target=self._read, args=each) for each in takers]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any, take: Any) -> None:
        for line in stream:
            take(line.rstrip("\n"))

    def _take(self, line: str) -> None:
        self.lines.append(json.loads(line))

    def noted(self, words: str) -> bool:
        return any(words in note for note in list(self.notes))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
