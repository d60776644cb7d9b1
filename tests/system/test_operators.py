"""What an operator meets at the command line, with real agents and a real etcd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import ROOT, AgentProcess, Mesh, running_mesh, until


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh")) as made:
        yield made


def shoal(mesh: Mesh, *words: str, admin: Path | str = "/nowhere/agent.sock") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "--etcd", mesh.etcd.url, "--admin", str(admin), *words]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)


def without_etcd(mesh: Mesh, host: str) -> AgentProcess:
    """An agent that never gets into etcd."""
    agent = mesh.agent(host, start=False)
    agent.path.write_text(agent.path.read_text().replace(mesh.etcd.url, f"http://127.0.0.1:{free_port()}"))
    agent.start(wait=False)
    until("its socket", agent.socket.exists)
    return agent


def test_no_agent_at_all_is_said_and_is_no_success(mesh: Mesh) -> None:
    """Nobody would serve a request."""
    told = shoal(mesh, "status")
    assert (told.returncode, told.stderr) == (1, "no agent is alive in this mesh\n")


def test_an_agent_that_never_got_into_etcd(mesh: Mesh) -> None:
    """Is not one that has heard of it just now: in `status` with and without etcd, in /state, and in the metrics."""
    agent = without_etcd(mesh, "lost")
    told = shoal(mesh, "status", admin=agent.socket)
    assert told.returncode == 1
    assert "here      lost: table of revision 0, has never heard of etcd" in told.stdout
    assert "here      not ready: waiting for the first table from etcd" in told.stdout
    told = shoal(mesh, "--etcd", f"127.0.0.1:{free_port()}", "status", admin=agent.socket)
    assert (told.returncode, told.stdout) == (
        3,
        "etcd is away; the agent on lost has never heard of it, and serves nothing\n",
    )
    assert agent.state()["table"]["age_s"] is None
    (age,) = [line for line in agent.text("/metrics").splitlines() if line.startswith("shoal_table_age_seconds ")]
    assert float(age.split()[1]) > 0
    told = shoal(mesh, "ready", "--timeout", "0", admin=agent.socket)
    assert told.returncode == 1
    assert told.stderr.startswith("shoal: not ready after 0 s: waiting for the first table from etcd")
    agent.stop()


def test_who_waits_for_an_agent_is_told_why(mesh: Mesh, tmp_path: Path) -> None:
    """None is there, it starts meanwhile, it serves; and when its process is gone nobody waits for it."""
    told = shoal(mesh, "ready", "--timeout", "1.5")
    assert told.returncode == 3
    assert [line.partition(" (")[0] for line in told.stderr.splitlines()] == [
        "not ready: no agent answers at /nowhere/agent.sock",
        "shoal: not ready after 1.5 s: no agent answers at /nowhere/agent.sock",
    ]
    agent = mesh.agent("ready", start=False)
    starting = threading.Timer(1.0, lambda: agent.start(wait=False))
    starting.start()
    told = shoal(mesh, "ready", admin=agent.socket)
    starting.join()
    assert (told.returncode, told.stdout) == (0, "ready\n")
    assert json.loads(shoal(mesh, "-o", "json", "ready", admin=agent.socket).stdout) == {"ready": True}
    agent.path.write_text("nonsense")
    died = subprocess.Popen([sys.executable, "-m", "agent", "agent", "--config", str(agent.path)], cwd=ROOT,
                            stderr=subprocess.DEVNULL)  # fmt: skip
    told = shoal(mesh, "ready", "--pid", str(died.pid), "--timeout", "100")
    assert told.returncode == 3
    assert (
        told.stderr.splitlines()[-1] == f"shoal: the agent has ended: there is no process {died.pid}. Its log says why"
    )
    died.wait()
    agent.stop()
