"""Section `events`: from a failed health check to the first byte at a webhook's receiver.

Three agents, one of which owns an instance that changes its mind; another one may be the one that tells. The instance
notes when it answered the check that made the difference, the receiver when the event came. Each waits for the other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from registry.keys import Keys
from scripts.benchmark import mesh, traffic
from scripts.benchmark.agents import running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import percentiles
from scripts.benchmark.processes import Failed, wait_until
from scripts.benchmark.run import Run

AGENTS = 3
SETTINGS = '\n[hooks]\nallow = ["127.0.0.1"]\n'
PATIENCE_S = 10.0


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    transitions: int
    latencies_us: dict[int, int]


class Stage:
    """The instance and the receiver, in one server."""

    def __init__(self) -> None:
        self.healthy = True
        self.turned_at = 0.0
        """When a check was first answered in the new mood."""
        self.told_at = 0.0
        self.wanted = ""
        self.told = threading.Event()
        stage = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_GET(self) -> None:
                healthy = stage.healthy
                if not stage.turned_at:
                    stage.turned_at = time.perf_counter()
                self._answer(200 if healthy else 503)

            def do_POST(self) -> None:
                at = time.perf_counter()
                body = self.rfile.read(int(self.headers["content-length"]))
                self._answer(204)
                if stage.wanted and stage.wanted in body.decode():
                    stage.told_at = at
                    stage.told.set()

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def turn(self, healthy: bool) -> float:
        """Change the instance's mood; the seconds until somebody was told."""
        self.told.clear()
        self.wanted = "instance.healthy" if healthy else "instance.unhealthy"
        self.healthy, self.turned_at = healthy, 0.0
        if not self.told.wait(PATIENCE_S):
            raise Failed(f"nobody was told within {PATIENCE_S:g} s that the instance is {self.wanted}")
        return self.told_at - self.turned_at

    def close(self) -> None:
        """End it."""
        self._server.shutdown()


@contextmanager
def _stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


def measure(run: Run) -> Result:
    """Some hundred transitions, one after the other."""
    count = 400 if not run.quick else 60
    keys = Keys()
    found: Counter[int] = Counter()
    with _stage() as stage, serving_etcd(run.workdir) as url, ExitStack() as stack:
        hook = {"target": {"url": f"http://127.0.0.1:{stage.port}/"}, "max_per_hour": 0}
        health: dict[str, Any] = {"http": {"path": "/"}, "interval": "100ms", "rise": 1, "fall": 1}
        mesh.put_all(
            url,
            {
                keys.policy("webhook", traffic.HOST): mesh.as_json({"hooks": {"all": hook}}),
                keys.policy("health", traffic.HOST): mesh.as_json(health),
            },
        )
        instance = f'\n[[instances]]\nservice = "{traffic.HOST}"\nport = {stage.port}\n'
        agents = [
            stack.enter_context(
                running_agent(run.workdir, f"events-{n}", url, more=SETTINGS + (instance if n == 0 else ""))
            )
            for n in range(AGENTS)
        ]
        wait_until("a claim", lambda: bool(agents[0].state()["events"]["claims"]), agents[0].program)
        for n in range(count + 2):
            latency_s = stage.turn(bool(n % 2))
            if n >= 2:
                found[int(latency_s * 1e6)] += 1
        run.say(f"events: {count} transitions")
    return Result(count, dict(found))


def goals(result: Result) -> list[Goal]:
    """None was promised."""
    return []


def show(result: Result, console: Console) -> None:
    """The table."""
    p50, p90, p99 = percentiles(Counter(result.latencies_us), (0.5, 0.9, 0.99))
    table = Table(title=f"From a failed check to the receiver's first byte, {result.transitions} transitions, ms")
    for heading in ("p50", "p90", "p99", "max"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{value / 1000:.1f}" for value in (p50, p90, p99, max(result.latencies_us))))
    console.print(table)
