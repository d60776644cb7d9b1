"""What an operator meets at the command line, with real agents and a real etcd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from registry.etcd.server import free_port
from registry.etcd.store import EtcdSettings, EtcdStore
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
    told = shoal(mesh, "check")
    assert told.returncode == 1 and "error    no-agent  default: no agent is alive in this mesh" in told.stdout
    told = shoal(mesh, "--etcd", f"127.0.0.1:{free_port()}", "check")
    assert told.returncode == 3


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


def put(mesh: Mesh, key: str, value: str) -> None:
    """As `etcdctl put` does."""

    async def once() -> None:
        async with EtcdStore.open(EtcdSettings(endpoints=(mesh.etcd.url,))) as store:
            await store.put(key, value.encode())

    trio.run(once)


def test_what_is_valid_but_wrong_is_said(mesh: Mesh, tmp_path: Path) -> None:
    """By `wait` of what was put, by `put` before it puts, and by `check` of everything, keys that nobody reads too."""
    agent = mesh.agent("looks")
    port, _ = mesh.service("v1")
    agent.register("pets.production", port, version="v1")
    until("registered", lambda: agent.ask().version == "v1")
    ours = ["--ignore", "etcd-release", "--ignore", "interpreted", "--ignore", "descriptors"]
    told = shoal(mesh, "check", *ours, admin=agent.socket)
    assert (told.returncode, told.stderr.rpartition(": ")[2]) == (0, "nothing is wrong\n"), told.stdout
    put(mesh, "/shoal/default/policies/route/pets.production", '{"active": "v9"}')
    told = shoal(mesh, "wait")
    assert told.returncode == 0
    assert (
        "no instance of pets.production has version v9 (there is v1): what goes there is answered with 503"
        in told.stderr
    )
    assert agent.ask().status == 503, "as it was said"
    for key in ("/shoal/default/policy/route/pets", "/shoal/defualt/policies/retry/pets", "shoal/default/x"):
        put(mesh, key, "{}")
    (tmp_path / "p.yaml").write_text("kind: timeout\nservice: pets.prodution\nrequest: 2s\n")
    told = shoal(mesh, "policy", "put", str(tmp_path / "p.yaml"))
    warned, done = told.stderr.splitlines()
    assert warned.startswith(
        "warning: timeout/pets.prodution: there is no service pets.prodution (did you mean 'pets.p"
    )
    assert done == "created timeout/pets.prodution"
    told = shoal(mesh, "-o", "json", "check", *ours, admin=agent.socket)
    assert told.returncode == 1
    assert {(found["id"], found["where"]) for found in json.loads(told.stdout) if found["severity"] != "info"} == {
        ("no-such-version", "route/pets.production $.active"),
        ("matches-nothing", "timeout/pets.prodution"),
        ("unknown-key", "/shoal/default/policy/route/pets"),
        ("unknown-key", "shoal/default/x"),
        ("empty-mesh", "/shoal/defualt/"),
    }
    assert all(found["next"] for found in json.loads(told.stdout))


def test_a_key_that_names_nothing_is_refused_and_can_be_taken_away(mesh: Mesh) -> None:
    """By an agent, in etcd, by `wait` and `status`; `policy rm` knows it by its spelling."""
    agent = mesh.agents[-1]
    put(mesh, "/shoal/default/policies/retry/pets.*", "{}")
    told = shoal(mesh, "wait")
    assert told.returncode == 1 and "is refused: retry/pets.*: key: '*' in 'pets.*' is not a DNS label" in told.stderr
    until("refused", lambda: any(found["service"] == "pets.*" for found in agent.state()["refused"]))
    until("told", lambda: "refused   retry/pets.*: key:" in shoal(mesh, "status").stdout)
    assert shoal(mesh, "policy", "rm", "retry", "pets.*").returncode == 0
    until("cleared", lambda: "pets.*" not in shoal(mesh, "status").stdout)
