"""Who may write policies runs no code on any host, and learns no secret: real agents, and documents that mean ill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.receiver import Receiver

SERVICE = "pets.production"
SECRET = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what another user must not read")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


def health(mesh: Mesh, service: str = SERVICE) -> dict[str, Any]:
    text = mesh.etcdctl("get", "--prefix", "--print-value-only", f"/shoal/default/health/{service}/")
    found: dict[str, Any] = json.loads(text)
    return found


def started(mesh: Mesh, extra: str = "") -> tuple[AgentProcess, int]:
    """An agent with one instance that brings no check of its own."""
    agent = mesh.agent(extra=f"workers = 1\n{extra}")
    port, _ = mesh.service()
    agent.register(SERVICE, port)
    until("healthy", lambda: mesh.healthy(agent, SERVICE, port))
    return agent, port


def command(script: str) -> dict[str, Any]:
    return {"command": {"argv": ["/bin/sh", "-c", script]}, "interval": "200ms", "fall": 1, "rise": 1}


def test_a_command_for_every_host_runs_on_none(mesh: Mesh, tmp_path: Path) -> None:
    """Nothing ran, nobody is down, and on-call is told on the instance, in the state and in a metric."""
    agent, port = started(mesh)
    note = tmp_path / "ran"
    mesh.put("policies/health/*", command(f"touch {note}; cat /etc/shadow; exit 1"))
    until("said", lambda: "checks.commands" in health(mesh)["reason"])
    assert health(mesh)["healthy"] and mesh.healthy(agent, SERVICE, port) and agent.ask().status == 200
    (told,) = agent.state()["checks_refused"]
    assert told["service"] == SERVICE and "$.command" in told["reason"]
    assert "shoal_checks_refused 1.0" in agent.text("/metrics")
    assert "only its port is checked" in mesh.shoal("instances", SERVICE, "--output", "json").stdout
    assert not note.exists()
    mesh.put("policies/health/*", {"http": {"path": "/health"}, "interval": "200ms"})
    until("in force", lambda: agent.state()["checks_refused"] == [])


@as_root
def test_a_command_that_is_allowed_has_little_and_tells_little(mesh: Mesh, tmp_path: Path) -> None:
    """As nobody: it cannot read what root can, and of what it says nothing comes to etcd."""
    agent, port = started(mesh, '[checks]\ncommands = true\n[programs]\nuser = "65534"\n')
    mesh.put("policies/health/*", command("cat /etc/shadow && exit 7; id -u; echo w0rds; exit 8"))
    until("asked", lambda: "/bin/sh ended with 8" in health(mesh)["reason"])
    assert not mesh.healthy(agent, SERVICE, port)
    log = agent.log.read_text()
    assert "65534 w0rds" in log and "root:" not in log
    whole = mesh.etcdctl("get", "--prefix", "/shoal/")
    assert whole.count("w0rds") == whole.count("echo w0rds"), "only the document has it"


def test_no_document_reaches_the_admin_port(mesh: Mesh) -> None:
    """A check with DELETE, an instance that is the admin port, an agent that says it is there: nobody is asked."""
    agent, port = started(mesh)
    path = f"/api/v1/instances/{SERVICE}/alpha-{port}"
    mesh.put("policies/health/*", {"http": {"port": agent.admin, "method": "DELETE", "path": path}, "interval": "50ms"})
    until("said", lambda: f"{agent.admin} is not the instance's own port" in health(mesh)["reason"])
    for id, more in (("a", {}), ("b", {"agent": "alpha"}), ("c", {"address": "::ffff:127.0.0.1"})):
        mesh.put(f"instances/evil/{id}", {"address": "127.0.0.1", "port": agent.admin, **more})
    mesh.put("instances/evil/d", {"address": "127.0.0.1", "port": agent.inbound})
    lie = json.dumps({"address": "127.0.0.1", "inbound_port": agent.admin})
    mesh.etcdctl("put", "/shoal/default/agents/liar", lie)
    record = json.dumps({"address": "127.0.0.1", "port": 9, "agent": "liar"})
    mesh.etcdctl("put", "/shoal/default/instances/evil/e", record)
    until("all of them known", lambda: len(agent.state()["malformed"]) == 5)
    assert agent.ask("evil", "/state").status == 503
    listed = {entry["key"].rpartition("/")[2] for entry in agent.state()["malformed"]}
    assert listed == {"a", "b", "c", "d", "e"}
    assert agent.state()["services"]["evil"]["endpoints"] == []
    assert agent.ask().status == 200


def test_no_document_has_a_secret(mesh: Mesh, tmp_path: Path) -> None:
    """It is not sent to a host that a document names; to one that the settings name it is, and no echo tells it."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "token").write_text(SECRET)
    (secrets / "other").write_text(SECRET[::-1])
    evil = Receiver()
    with echoing() as (good, seen):
        try:
            settings = (
                f'[hooks]\nallow = ["127.0.0.0/8"]\nsecrets_dir = "{secrets}"\n[hooks.secrets]\ntoken = ["127.0.0.1"]\n'
            )
            agent, port = started(mesh, settings)
            name = {"events": ["instance.gone"], "attempts": 2, "timeout": "5s"}
            mesh.put(
                "policies/webhook/*",
                {
                    "hooks": {
                        "evil": {**name, "target": {"url": evil.url()}, "secret": {"file": "other"}},
                        "good": {**name, "target": {"url": f"http://127.0.0.1:{good}/"}, "secret": {"file": "token"}},
                    }
                },
            )
            mesh.shoal("--admin", str(agent.socket), "deregister", SERVICE, f"alpha-{port}")
            undelivered = ("get", "--prefix", "/shoal/default/undelivered/")
            until("both given up", lambda: all(name in mesh.etcdctl(*undelivered) for name in ('/good"', '/evil"')), 60)
            told = mesh.etcdctl(*undelivered)
            assert "other = [" in told.replace("\\", "") and "left out" in told
            assert SECRET in seen[0] and evil.received == []
            whole = mesh.etcdctl("get", "--prefix", "/shoal/") + agent.text("/state") + agent.log.read_text()
            assert not any(SECRET[n : n + 8] in whole or SECRET[::-1][n : n + 8] in whole for n in range(30))
        finally:
            evil.close()


class echoing:
    """A receiver that refuses, and repeats what it was sent."""

    def __enter__(self) -> tuple[int, list[str]]:
        seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                seen.append(str(self.headers))
                body = json.dumps({"error": "denied", "you said": self.headers["authorization"]}).encode()
                self.send_response(401)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self._server.server_address[1], seen

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
