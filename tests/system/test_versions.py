"""An agent of the version before beside one of this: hosts are upgraded one by one, and some are taken back.

The version before is a commit of this repository's history, run from its sources. A tree without that history, as a
source archive is, cannot run this, and says so.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local import ask
from tests.support.mesh import DIRECT, ROOT, AgentProcess, Mesh, Traffic, running_mesh, until

BEFORE = "4ebcfaf"
"""Frames were dicts, agents asked each other for shares only, and nobody told what his version knows."""
MISSING = f"the commit {BEFORE} is not in this tree: a clone with its whole history is needed (git fetch --unshallow)"
ROOMS = ("agent", "policies", "registry")
PETS = "pets.production"
LIMIT = {"limits": [{"name": "all", "rate": "100000/s", "scope": "mesh"}]}


class Before(AgentProcess):
    """An agent of the version before: it has no socket yet, and takes registrations on its admin port."""

    def __init__(self, mesh: Mesh, host: str, tree: Path, **more: Any) -> None:
        super().__init__(mesh, host, "127.0.0.1", **more)
        self.tree = tree
        self.path.write_text(self.path.read_text().partition("[local]")[0])

    def register(self, service: str, port: int, **more: Any) -> dict[str, Any]:
        body = json.dumps({"service": service, "port": port, **more}).encode()
        asked = urllib.request.Request(f"http://{self.address}:{self.admin}/instances", body, method="POST")
        with DIRECT.open(asked, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the version before."""
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True, timeout=60).returncode:
        whole = subprocess.run(
            [*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, timeout=60
        )
        (pytest.fail if whole.stdout.strip() == "false" else pytest.skip)(MISSING)
    folder = tmp_path_factory.mktemp("before")
    packed = subprocess.run([*git, "archive", BEFORE, *ROOMS], capture_output=True, check=True, timeout=60).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as mesh:
        yield mesh


def started(mesh: Mesh, host: str, tree: Path | None, **more: Any) -> AgentProcess:
    """An agent, of the version before where that one's tree is given."""
    made = AgentProcess(mesh, host, "127.0.0.1", **more) if tree is None else Before(mesh, host, tree, **more)
    mesh.agents.append(made)
    made.start()
    return made


def answered_by(agent: AgentProcess, count: int = 20) -> set[str]:
    """Which versions of the service answer through an agent."""
    answers = [agent.ask() for _ in range(count)]
    assert [answer.status for answer in answers] == [200] * count
    return {answer.version for answer in answers}


def fine(*agents: AgentProcess) -> None:
    """Nobody failed at anything."""
    for agent in agents:
        log = agent.log.read_text()
        assert "Traceback" not in log and "a worker died" not in log and "does not make sense" not in log, log[-3000:]


@pytest.mark.parametrize("older_first", [True, False], ids=["older first", "newer first"])
def test_two_versions_beside_each_other(mesh: Mesh, tree: Path, older_first: bool) -> None:
    """Under load through both, in both orders of start: each routes to the other's instance, each enforces what is put,
    and no request fails, nor by a limit of the whole mesh, of which the two speak."""
    trees = [tree, None] if older_first else [None, tree]
    first = started(mesh, "first", trees[0], lease_ttl="20s")
    mesh.instance(first, "v1")
    with Traffic(first) as through_first:
        through_first.more(50)
        second = started(mesh, "second", trees[1], lease_ttl="20s")
        mesh.instance(second, "v2")
        for agent in (first, second):
            until("both are known", lambda agent=agent: len(agent.state()["services"][PETS]["endpoints"]) == 2)
        with Traffic(second) as through_second:
            for agent in (first, second):
                assert answered_by(agent) == {"v1", "v2"}
            mesh.put(f"policies/ratelimit/{PETS}", LIMIT)
            for version in ("v1", "v2"):
                mesh.put(f"policies/route/{PETS}", {"rules": [{"split": [{"version": version}]}]})
                for agent in (first, second):
                    assert answered_by(agent) == {version}
            mesh.etcdctl("del", f"/shoal/default/policies/route/{PETS}")
            mesh.shoal("wait")
            through_second.more(100)
        through_first.more(100)
    assert through_first.failures == [] and through_second.failures == []
    fine(first, second)


@pytest.mark.parametrize("upgraded", [True, False], ids=["upgraded", "taken back"])
def test_a_host_changes_its_version(mesh: Mesh, tree: Path, upgraded: bool) -> None:
    """With its state, beside one that stays: callers elsewhere notice nothing, and its instance is back afterwards,
    with the policies that were put meanwhile."""
    stays = started(mesh, "stays", tree if upgraded else None, lease_ttl="20s")
    mesh.instance(stays, "v1")
    before = started(mesh, "moves", tree if upgraded else None, lease_ttl="20s")
    port = mesh.instance(before, "v2")
    until("both are known", lambda: len(stays.state()["services"][PETS]["endpoints"]) == 2)
    with Traffic(stays) as traffic:
        traffic.more(50)
        assert before.stop() == 0
        mesh.put(f"policies/timeout/{PETS}", {"request": "7s"})
        traffic.more(50)
        after = started(mesh, "moves", None if upgraded else tree, lease_ttl="20s", state_dir=before.state_dir)
        after.register(PETS, port, version="v2", health={"http": {"path": "/health"}, "interval": "500ms"})
        until("its instance is back", lambda: mesh.healthy(after, PETS, port) and mesh.healthy(stays, PETS, port))
        mesh.shoal("wait")
        for agent in (stays, after):
            assert answered_by(agent) == {"v1", "v2"}
            assert "timeout" in agent.state()["services"][PETS]["policies"]
        traffic.more(50)
    assert traffic.failures == []
    fine(stays, after)


def test_what_is_only_watched_beside_the_version_before(mesh: Mesh, tree: Path, tmp_path: Path) -> None:
    """It watches nothing, says that it does not know the key, and enforces what is in force, before and after; a file
    in audit mode takes nothing out of force there either, where such a document would displace the mesh's."""
    old, new = (started(mesh, host, its, lease_ttl="20s") for host, its in (("old", tree), ("new", None)))
    mesh.instance(old, "v1")
    until("known", lambda: new.state()["services"][PETS]["endpoints"])
    mesh.put("policies/ratelimit/*", {"limits": [{"name": "mesh", "rate": "1/h", "burst": 3}]})
    document = tmp_path / "wide.yaml"
    document.write_text(
        f"kind: ratelimit\nservice: {PETS}\nmode: audit\nlimits: [{{name: wide, rate: 1000/s, burst: 1000}}]\n"
    )
    put = mesh.shoal("policy", "put", "--wait", str(document))
    assert f"created audits/ratelimit/{PETS}, which is only watched" in put.stderr
    for agent in (old, new):
        assert [agent.ask().status for _ in range(4)] == [200, 200, 200, 429]
    assert any("/audits/" in each["key"] for each in old.state()["malformed"])
    judged = {(each["done"], each["would"]): each["requests"] for each in new.state()["judged"]}
    assert judged == {("passed", "passed"): 3, ("refused by mesh", "passed"): 1}
    mesh.shoal("policy", "rm", "--audit", "--wait", "ratelimit", PETS)
    assert [agent.ask().status for agent in (old, new)] == [429, 429]
    assert not any("/audits/" in each["key"] for each in old.state()["malformed"])
    fine(old, new)


def test_commands_name_hosts_of_the_version_before(mesh: Mesh, tree: Path, tmp_path: Path) -> None:
    """It says nothing of what it knows, which is said once; what is put is in force all the same. What it does not
    answer is told in its words."""
    old = started(mesh, "old", tree)
    new = started(mesh, "new", None)
    until("what it knows", lambda: "versions/new" in mesh.etcdctl("get", "--prefix", "/shoal/default/versions/"))
    document = tmp_path / "timeout.json"
    document.write_text(json.dumps({"kind": "timeout", "service": PETS, "request": "5s"}))
    done = mesh.shoal("policy", "put", "--wait", str(document))
    assert "\nwarning: old (0.1.0) says nothing of what its version knows" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("is in force on 2 agents")
    done = mesh.shoal("status")
    assert "version   old (0.1.0) says nothing of what its version knows" in done.stdout
    for agent in (old, new):
        assert not any("versions/" in each["key"] for each in agent.state()["malformed"]), (
            "it is behind what is watched"
        )
    mesh.instance(old)
    until("known", lambda: new.state()["services"][PETS]["endpoints"])
    told = ask(new.socket, "POST", "/api/v1/explain", {"url": f"{PETS}/"}).json
    assert told["endpoint"]["via"] == "old"
    assert told["decisions"][-1]["reason"].startswith(
        "the agent on old was not heard: it answers 404: nothing is known"
    )
    told = json.loads(new.text("/api/v1/agents?scope=mesh&deadline_s=20"))
    assert {host: each["why"] for host, each in told["missing"].items()} == {"old": "older"}
    assert [(each["host"], each["ready"]) for each in told["items"]] == [("new", True), ("old", None)]
    there = ("--admin", f"http://{old.address}:{old.admin}")
    assert mesh.shoal(*there, "ready").stdout == "ready\n", "it has no API, and is asked as before"
    assert f"-> {PETS}/" in mesh.shoal(*there, "explain", "GET", f"http://{PETS}/").stdout


def test_no_mesh_moves_its_keys_without_all_of_its_agents(mesh: Mesh, tree: Path) -> None:
    """One of the version before is named, and nothing is said; gone, it is no hindrance, and one that comes back later
    is told of."""
    new, old = started(mesh, "new", None), started(mesh, "old", tree)
    mesh.instance(new)
    until("what it knows", lambda: "versions/new" in mesh.etcdctl("get", "--prefix", "/shoal/default/versions/"))
    done = mesh.shoal("mesh", "migrate", check=False)
    assert done.returncode == 1 and "old (0.1.0) cannot write under hosts/" in done.stderr
    assert "new" not in done.stderr and '"own' not in mesh.etcdctl("get", "/shoal/default/confirmed/hosts")
    old.stop()
    mesh.shoal("mesh", "migrate")
    old.start()
    until("it is there", lambda: "agents/old" in mesh.etcdctl("get", "--prefix", "/shoal/default/agents/"))
    assert "keys      old: its version" in mesh.shoal("status", check=False).stdout
    until("an answer", lambda: new.ask().status == 200)
    fine(new, old)


def test_kinds_that_the_version_before_does_not_know(mesh: Mesh, tree: Path) -> None:
    """Doors between meshes, put while it serves: its requests go on, a name that is imported is none to it, and it
    neither takes the documents of this version's agents out of force nor fails at them."""
    older, newer = started(mesh, "older", tree, lease_ttl="20s"), started(mesh, "newer", None, lease_ttl="20s")
    mesh.instance(older, "v1")
    mesh.instance(newer, "v2")
    gateways = [f"127.0.0.1:{newer.inbound}"]
    document = {"trust_domain": "eu.shoal", "remote_service": PETS, "gateways": gateways}
    with Traffic(older) as through_older, Traffic(newer) as through_newer:
        for key, value in (
            (f"export/{PETS}", {"to": ["us.shoal"], "gateways": ["newer"]}),
            ("import/pets.eu", document),
        ):
            mesh.etcdctl("put", f"/shoal/default/policies/{key}", json.dumps(value))
        until("it is imported", lambda: newer.ask("pets.eu").status == 503)
        through_older.more(100)
        through_newer.more(100)
        assert older.ask("pets.eu").status == 404
        assert newer.ask("pets.eu").headers["x-shoal-policy"] == "tls"
        assert answered_by(older) == answered_by(newer) == {"v1", "v2"}
    assert through_older.failures == through_newer.failures == []
    fine(older, newer)
