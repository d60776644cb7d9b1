"""A host that died: whoever looks at the mesh is told so, since when, and what is still sent there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local import ask
from tests.support.mesh import ROOT, SHOAL, Mesh, running_mesh, until

SERVICE = "shop.production"
WORDS = (
    r"lost since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z: its lease ran out without a word; somebody still answers there; "
    r"1 of its instances kept as suspects"
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One agent, and a service that nobody calls."""
    with running_mesh(tmp_path_factory.mktemp("quiet")) as running:
        running.agent("alpha").register(SERVICE, 9)
        running.shoal("wait")
        yield running


def test_a_host_that_died_is_named_wherever_one_looks(mesh: Mesh) -> None:
    """Its agent is killed, its program and what it listens with live on: the mesh goes on, and says why."""
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", "127.0.0.2", lease_ttl="3s")
    mesh.instance(beta, service=SERVICE)
    mesh.put(f"policies/scale/{SERVICE}", {"max": 3, "target": {"in_flight": 10}})
    until("known", lambda: alpha.ask(SERVICE).status == 200)
    at = ("--admin", str(alpha.socket))
    until("nothing is wrong so far", lambda: mesh.shoal("status", *at, check=False).returncode == 0)

    assert beta.process is not None
    os.kill(beta.process.pid, signal.SIGSTOP)  # its workers serve, and no lease is renewed
    until("the lease ran out", lambda: alpha.state()["lost"])
    assert alpha.ask(SERVICE).status == 200

    status = mesh.shoal("status", *at, check=False)
    assert status.returncode == 1
    assert re.search(r"^beta .* 1 +lost *$", status.stdout, re.M), status.stdout
    assert re.search(f"^lost      beta: {WORDS}", status.stdout, re.M), status.stdout
    told = json.loads(mesh.shoal("-o", "json", "status", *at, check=False).stdout)
    assert [each["suspects"] for each in told["lost"]] == [1]

    found = json.loads(mesh.shoal("-o", "json", "check", *at, check=False).stdout)
    (lost,) = [each for each in found if each["id"] == "agent-lost"]
    assert (lost["where"], lost["hosts"]) == ("beta", ["alpha"]) and re.match(WORDS, lost["what"])
    of_service = [(each["id"], each["severity"]) for each in found if SERVICE in each["where"]]
    assert of_service == [("nobody-healthy", "warning")], "there is such a service, and requests are sent to it"
    alerts = ask(alpha.socket, "GET", "/api/v1/alerts").json["items"]
    assert {each["id"] for each in alerts} >= {"agent-lost", "nobody-healthy"}

    events = json.loads(mesh.shoal("-o", "json", "events", *at).stdout)
    assert [each["subject"] for each in events if each["type"] == "agent.lost"] == ["agents/beta"]
    assert re.search(rf"^{SERVICE} +0/0, 1 suspect ", mesh.shoal("services", *at).stdout, re.M)
    assert " suspect " in mesh.shoal("instances", SERVICE, *at).stdout
    explained = mesh.shoal("explain", "GET", f"http://{SERVICE}/", *at).stdout
    assert "a suspect: its record vanished without a word" in explained.splitlines()[-1]

    os.kill(beta.process.pid, signal.SIGCONT)
    until("it is back", lambda: not alpha.state()["lost"])
    assert "lost" not in mesh.shoal("status", *at, check=False).stdout


def test_a_host_without_its_agent_is_not_well(mesh: Mesh) -> None:
    """The check of a host whose agent has crashed; where none was ever meant to be, nothing is wrong."""
    beta = mesh.agent("beta")
    until("well", lambda: mesh.shoal("status", "--admin", str(beta.socket), check=False).returncode == 0)
    beta.stop(signal.SIGKILL)
    dead = mesh.shoal("status", "--admin", str(beta.socket), check=False)
    assert dead.returncode == 1 and f"no agent answers at {beta.socket}" in dead.stdout
    found = mesh.shoal("check", "--admin", str(beta.socket), check=False)
    assert "error    no-local-agent" in found.stdout
    nowhere = mesh.shoal("status", "--admin", "http://", check=False)
    assert nowhere.returncode == 2 and "is no path of a socket" in nowhere.stderr
    began = time.monotonic()
    assert mesh.shoal("ready", "--admin", "http://", check=False).returncode == 2
    assert time.monotonic() - began < 50, "no agent will ever be there, and nobody is waited for"


@pytest.mark.parametrize(
    "words", [["top", "--once"], ["logs"], ["logs", "--program"], ["events", "--service"]], ids=" ".join
)
def test_of_a_service_that_is_none_nothing_is_no_answer(quiet: Mesh, words: list[str]) -> None:
    """Who mistypes a name at night would read that all is quiet."""
    at = ("--admin", str(quiet.agents[0].socket))
    done = quiet.shoal(*words, "shop.prodction", *at, check=False)
    assert done.returncode == 1 and not done.stdout
    assert "there is no service shop.prodction (did you mean 'shop.production'?)" in done.stderr
    assert quiet.shoal(*words, SERVICE, *at, check=False).returncode == 0
    if words != ["events", "--service"]:
        assert quiet.shoal(*words, "*.prodction", *at, check=False).returncode == 0


def test_a_program_that_was_killed_is_no_deployment(mesh: Mesh) -> None:
    """`shoal run` says what became of it, and whoever watches is told so of its health and its end."""
    alpha = mesh.agent("alpha")
    common = ["--etcd", mesh.etcd.url, "--admin", str(alpha.socket)]
    words = [
        "run",
        "--service",
        SERVICE,
        "--id",
        "one",
        "--",
        sys.executable,
        "-m",
        "http.server",
        "{port}",
        "-b",
        "{host}",
    ]
    seen, said = mesh.folder / "watch", mesh.folder / "run"
    with open(seen, "wb") as out, open(said, "wb") as error:
        watching = subprocess.Popen([*SHOAL, *common, "watch", SERVICE], stdout=out, cwd=ROOT, stderr=out)
        until("it watches", lambda: "watching the mesh" in seen.read_text())
        running = subprocess.Popen([*SHOAL, *common, *words], stderr=error, cwd=ROOT)
        try:
            until("healthy", lambda: f"{SERVICE}/one is healthy" in seen.read_text())
            (child,) = _children(running.pid)
            os.kill(child, signal.SIGKILL)
            assert running.wait(60) == 128 + signal.SIGKILL
            until("it went", lambda: f"{SERVICE}/one went" in seen.read_text())
        finally:
            for process in (running, watching):
                process.kill()
                process.wait()
    how = "killed by signal 9 (SIGKILL)"
    assert f"shoal run: {SERVICE}/one: the program was {how}; it is taken out of the mesh" in said.read_text()
    lines = [line.split("  ", 2)[-1].strip() for line in seen.read_text().splitlines() if f"{SERVICE}/one" in line]
    told = [re.sub(r"^(instance|health) +", "", line) for line in lines]
    assert told[0].startswith(f"{SERVICE}/one came: ") and told[1] == f"{SERVICE}/one is not checked yet", told
    assert f"{SERVICE}/one is unhealthy: its program was {how}" in told
    assert f"{SERVICE}/one went, from alpha; it was unhealthy: its program was {how}" in told, told


def _children(pid: int) -> list[int]:
    """Each stands under the thread that has made it."""
    return [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]
