"""What an operator meets at the command line, with real agents and a real etcd."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
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


def test_the_answer_is_json_also_when_it_is_no(mesh: Mesh) -> None:
    """Of what there is not, of what lags, and where etcd is away; exit code and words are those that people get."""
    away = f"127.0.0.1:{free_port()}"
    for words, code in (
        (["policy", "get", "route", "nosuch"], 1),
        (["chain", "nosuch"], 1),
        (["wait", "999999999", "--timeout", "0"], 1),
        (["instances", "nosuch"], 1),
        (["instances", "--etcd", away], 3),
        (["ready", "--timeout", "0"], 3),
    ):
        told = shoal(mesh, *words, "-o", "json")
        assert told.returncode == code, words
        answer = json.loads(told.stdout)
        if isinstance(answer, dict) and "error" in answer:
            assert answer["exit_code"] == code and f"shoal: {answer['error']}" in told.stderr
    told = shoal(mesh, "chain", "pets.productoin")
    assert (told.returncode, told.stdout) == (1, "")
    assert "there is no service pets.productoin (did you mean 'pets.production'?)" in told.stderr


def test_there_is_a_history_without_a_webhook(mesh: Mesh) -> None:
    """Agents, instances, refusals, by their time; and what the agent here remembers."""
    agent = mesh.agents[-1]
    put(mesh, "/shoal/default/policies/route/pets.production", "{}")
    put(mesh, "/shoal/default/policies/breaker/gone.production", '{"trip": {"consecutive": 1}}')
    put(mesh, "/shoal/default/policies/retry/gone.production", '{"attempts": 1}')
    put(mesh, "/shoal/default/instances/gone.production/x", f'{{"address": "127.0.0.1", "port": {free_port()}}}')
    until("its breaker opens", lambda: agent.ask("gone.production") and agent.state()["happened"])
    rows = json.loads(shoal(mesh, "-o", "json", "events", admin=agent.socket).stdout)
    assert {("stands", "agent.joined"), ("stands", "instance.healthy"), ("here", "breaker.open")} <= {
        (row["state"], row["type"]) for row in rows
    }
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    rows = json.loads(shoal(mesh, "-o", "json", "events", "--service", "gone.production", admin=agent.socket).stdout)
    assert {row["service"] for row in rows} == {"gone.production"}


def test_a_bundle_has_what_a_report_needs_and_no_secrets(mesh: Mesh, tmp_path: Path) -> None:
    """Also of a document that is refused, and of one that nobody can read; and nothing is written over."""
    agent = mesh.agents[-1]
    hook = {"url": "https://hooks.slack.com/services/T0/B0/hunter2", "events": ["service.down"],
            "headers": {"authorization": "Bearer hunter2"}}  # fmt: skip
    put(mesh, "/shoal/default/policies/webhook/pets.production", json.dumps({"hooks": {"chat": hook}}))
    put(mesh, "/shoal/default/policies/webhook/cats.production", "{hooks: token: hunter2")
    path = tmp_path / "b.tar.gz"
    told = shoal(mesh, "bundle", "-f", str(path), admin=agent.socket)
    assert (told.returncode, told.stdout) == (0, f"{path}\n")
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        parts = {Path(member.name).name: archive.extractfile(member) for member in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in parts.items() if file is not None}
    assert not [name for name, text in texts.items() if "hunter2" in text]
    assert "hooks.slack.com" in texts["keys.json"] and "/shoal/default/agents/looks" in texts["keys.json"]
    assert json.loads(texts["state.json"])["host"] == "looks"
    assert "shoal_build_info" in texts["metrics.txt"] and json.loads(texts["check.json"])
    assert shoal(mesh, "bundle", "-f", str(path), admin=agent.socket).returncode == 2
    told = shoal(mesh, "--etcd", f"127.0.0.1:{free_port()}", "-o", "json", "bundle", "-f", str(tmp_path / "away"))
    assert told.returncode == 0 and json.loads(told.stdout)["parts"] == list(texts)
