"""`shoal top` in a terminal: drawn again and again, obeys keys, and leaves the terminal as it was."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
ROW = {"service": "lamps", "caller": "shop", "route": "", "version": "", "instance": "lamps-1", "requests": 60}
SHOWN = {**ROW, "rate": 6.0, "errors": 0.0, "p50_s": 0.003, "in_flight": 0.0, "pending": 0.0}


class Agent:
    """Answers with figures, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                agent.asked.append(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)))
                missing = {"web-9": {"why": "late", "reason": "no \x1b[31manswer"}}
                told = {"items": [SHOWN], "asked": 2, "missing": missing, "covered_s": 60, "missed": 0}
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.place = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.close()


class Terminal:
    """A program in one, of 80 columns."""

    def __init__(self, *words: str) -> None:
        self.own, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agent", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        self.shown = b""

    def until(self, text: bytes) -> None:
        """It shows something from now on."""
        self.shown = b""
        while text not in self.shown:
            ready, _, _ = select.select([self.own], [], [], 60)
            assert ready, (text, self.shown[-500:])
            self.shown += os.read(self.own, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.own, keys)

    def end(self) -> int:
        """Its exit code; the terminal is as it was."""
        while self.process.poll() is None:
            ready, _, _ = select.select([self.own], [], [], 0.1)
            if ready:
                self.shown += os.read(self.own, 65536)
        assert termios.tcgetattr(self._theirs) == self.before
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self.own)
        os.close(self._theirs)
        return self.process.returncode


def test_keys_lead_from_services_to_edges_and_out(agent: Agent) -> None:
    """What others wrote is shown as text; every line fits."""
    terminal = Terminal("--admin", agent.place, "top")
    terminal.until(b"missing: web-9")
    assert b"\x1b[31manswer" not in terminal.shown and b"1 of 2 agents" in terminal.shown
    terminal.press(b"\r")
    terminal.until(b"shop > lamps")
    terminal.press(b"s")
    terminal.until(b"*ERRORS")
    terminal.press(b"\x1b")
    terminal.until(b"FLIGHT")
    terminal.press(b"+")
    terminal.until(b"300 s")
    terminal.press(b"q")
    assert terminal.end() == 0
    asked = [(each["by"], each["service"], each["sort"]) for each in agent.asked]
    assert ("edge", "lamps", "rate") in asked and ("edge", "lamps", "errors") in asked


def test_an_agent_that_goes_is_told(agent: Agent) -> None:
    """What was shown stays."""
    terminal = Terminal("--admin", agent.place, "top", "lamps", "--instances")
    terminal.until(b"lamps-1")
    agent.close()
    terminal.until(b"no agent answers")
    terminal.press(b"q")
    assert terminal.end() == 0
