"""Shadows and shedding on real parts: agents, etcd, services, and `shoal diff`."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.local import ask as asked
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

SERVICE = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


class Build:
    """One build of a service, in a thread: the same answers but for noise, and for what this build does otherwise."""

    def __init__(self, **otherwise: Any) -> None:
        self.asked = 0
        self.roles: Counter[str] = Counter()
        self.most = 0
        numbers = count()
        build = self
        active = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_GET(self) -> None:
                nonlocal active
                with lock:
                    active += 1
                    build.most = max(build.most, active)
                    build.asked += self.path != "/health"
                    build.roles[self.headers.get("x-shoal-shadow", "")] += 1
                if otherwise.get("slow_s") and self.path != "/health":
                    time.sleep(otherwise["slow_s"])
                told = {
                    "path": self.path,
                    "price": 100 + len(self.path),
                    "served_at": time.time(),
                    "trace": f"{id(build)}-{next(numbers)}",
                    "tags": ["a", "b"],
                    **{name: value for name, value in otherwise.items() if name != "slow_s"},
                }
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                with lock:
                    active -= 1

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def serve(mesh: Mesh, agent: AgentProcess, build: Build, version: str, service: str = SERVICE) -> None:
    agent.register(service, build.port, version=version, health={"http": {"path": "/health"}, "interval": "200ms"})
    until(f"{version} healthy", lambda: mesh.healthy(agent, service, build.port))


def ask(agent: AgentProcess, times: int, threads: int = 4, **headers: str) -> Counter[int]:
    """Statuses, over keep-alive connections."""
    found: Counter[int] = Counter()
    lock = threading.Lock()

    def run() -> None:
        connection = http.client.HTTPConnection(agent.address, agent.outbound, timeout=10)
        mine: Counter[int] = Counter()
        for n in range(times // threads):
            connection.request("GET", f"/cats/{n % 7}", headers={"Host": SERVICE, **headers})
            response = connection.getresponse()
            response.read()
            mine[response.status] += 1
        connection.close()
        with lock:
            found.update(mine)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def diff(mesh: Mesh, agents: list[AgentProcess], expected: int, least: int) -> dict[str, Any]:
    """What `shoal diff` says, once so many requests were compared: copies may be dropped, so the asking goes on."""

    def enough() -> dict[str, Any] | None:
        for agent in agents:
            assert ask(agent, 400).keys() == {200}
        done = mesh.shoal("--output", "json", "diff", SERVICE, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        if found["total"] < least or found["agents"] != ["alpha", "beta"]:
            return None
        assert done.returncode == expected, done.stdout
        return found

    result: dict[str, Any] = until("enough compared", enough, 240)
    return result


@pytest.mark.parametrize(("different", "least"), [({}, 10_000), ({"price": 99}, 300)], ids=["equal", "one field"])
def test_exactly_what_differs_is_reported(mesh: Mesh, different: dict[str, Any], least: int) -> None:
    """Two builds, with noise from times and ids; from two agents, added up by the command, and by any agent. Copies are
    recorded as copies."""
    agents = [
        mesh.agent("alpha", "127.0.0.1", extra=f'access_log = "{mesh.folder}/alpha.log"'),
        mesh.agent("beta", "127.0.0.2"),
    ]
    builds = [Build(), Build(), Build(**different)]
    for build, version in zip(builds, ("v1", "v1", "v2"), strict=True):
        serve(mesh, agents[0], build, version)
    mesh.put(f"policies/route/{SERVICE}", {"rules": [{"split": [{"version": "v1"}]}]})
    mesh.put(f"policies/shadow/{SERVICE}", {"compare": {"primary": "v1", "candidate": {"version": "v2"}}})
    try:
        found = diff(mesh, agents, 1 if different else 0, least)
        regressions = [row["field"] for row in found["fields"] if row["regression"]]
        assert regressions == (["$.price"] if different else [])
        assert builds[2].roles.keys() <= {"", "candidate"} and builds[2].roles["candidate"] >= least
        api = asked(agents[1].socket, "GET", f"/api/v1/shadow/{SERVICE}?scope=mesh").json
        assert api["agents"] == ["alpha", "beta"] and api["total"] >= found["total"]
        assert [row["field"] for row in api["fields"] if row["regression"]] == regressions
        kept = asked(agents[0].socket, "GET", "/api/v1/requests?last=1000").json["hosts"]["alpha"]["items"]
        copies = [row for row in kept if "shadow: a copy, for candidate" in row["verdicts"]]
        assert copies, (len(kept), Counter((row["direction"], *row["verdicts"]) for row in kept))
        assert {row["direction"] for row in copies} == {"inbound"}
        metrics = agents[0].text("/metrics")
        assert f'shoal_shadow_total{{outcome="answered",service="{SERVICE}"}}' in metrics
    finally:
        for build in builds:
            build.close()


def test_overload_is_shed_and_the_rest_is_served(mesh: Mesh) -> None:
    """A slow instance on another host; the backup takes what is too much; nobody gets an error, nothing piles up."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    beta = mesh.agent("beta", "127.0.0.2", extra="workers = 1\n")
    slow, backup = Build(slow_s=0.05), Build(backup=True)
    try:
        beta.register(SERVICE, slow.port, address="127.0.0.1", health={"http": {"path": "/health"}})
        until("healthy", lambda: mesh.healthy(alpha, SERVICE, slow.port))
        serve(mesh, alpha, backup, "v1", "backup.production")
        mesh.put(f"policies/shed/{SERVICE}", {"concurrency": 4, "instead": [{"service": "backup.production"}]})
        assert ask(alpha, 640, threads=32) == {200: 640}
        assert slow.asked + backup.asked == 640 and backup.asked > 300
        assert slow.most <= 6, "four requests, and health checks"
        explained = mesh.shoal("--admin", f"http://127.0.0.1:{alpha.admin}", "explain", "GET", f"http://{SERVICE}/")
        assert "admit on beta" in explained.stdout and "let in" in explained.stdout
        assert f'shoal_shed_total{{outcome="elsewhere",service="{SERVICE}"}}' in alpha.text("/metrics")
        assert f'shoal_shed_total{{outcome="refused",service="{SERVICE}"}}' in beta.text("/metrics")
        mesh.put(f"policies/shed/{SERVICE}", {"concurrency": 4})
        statuses = ask(alpha, 320, threads=32)
        assert statuses.keys() == {200, 503}
        endpoints = alpha.state()["services"][SERVICE]["endpoints"]
        assert [e["failures"] for e in endpoints] == [0], "nobody is blamed"
    finally:
        slow.close()
        backup.close()
