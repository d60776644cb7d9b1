"""A mesh that nobody has told how it writes: its first agent says so, and it stays so whatever comes of etcd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until

PREFIX = "/shoal/default/"
PETS = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def word(mesh: Mesh) -> dict[str, object]:
    told: dict[str, object] = json.loads(mesh.etcdctl("get", "--print-value-only", f"{PREFIX}confirmed/hosts"))
    return told


def instances(mesh: Mesh) -> list[str]:
    found = mesh.etcdctl("get", "--prefix", "--keys-only", PREFIX).split()
    return sorted(key.removeprefix(PREFIX) for key in found if "instances/" in key)


def together(mesh: Mesh, *hosts: str) -> list[AgentProcess]:
    """Agents that are started at once."""
    made = [mesh.agent(host, f"127.0.0.{n}", start=False) for n, host in enumerate(hosts, 1)]
    for each in made:
        each.start(wait=False)
    for each in made:
        until(f"{each.host} ready", each.ready)
    return made


def test_two_first_agents_at_once_and_an_etcd_that_is_wiped(mesh: Mesh) -> None:
    """The word stands once, and instances under their hosts from the beginning. Wiped under them, etcd has it again, as
    it was, also where a new agent and one that is restarted come in that moment; no request fails."""
    alpha, beta = together(mesh, "alpha", "beta")
    assert word(mesh)["state"] == "own_only" and word(mesh)["rooms"] == ["events", "reports"]
    for agent in (alpha, beta):
        mesh.instance(agent, agent.host)
    until("both", lambda: len(alpha.state()["services"][PETS]["endpoints"]) == 2)
    assert [key.split("/")[:2] for key in instances(mesh)] == [["hosts", "alpha"], ["hosts", "beta"]]
    assert "keys " not in mesh.shoal("status", check=False).stdout
    with Traffic(alpha) as traffic:
        traffic.more(50)
        beta.stop()
        gamma = mesh.agent("gamma", "127.0.0.3", start=False)
        mesh.etcd.kill()
        shutil.rmtree(mesh.etcd.data_dir)
        mesh.etcd.start()
        beta.start(wait=False)
        gamma.start(wait=False)
        for agent in (beta, gamma):
            until(f"{agent.host} ready", agent.ready)
        until("it stands", lambda: word(mesh)["state"] == "own_only")
        until("both", lambda: [key.split("/")[1] for key in instances(mesh)] == ["alpha", "beta"])
        traffic.more(100)
    assert traffic.failures == []
    assert all(key.startswith("hosts/") for key in instances(mesh))
    until("it is so already", lambda: mesh.shoal("mesh", "migrate", check=False).returncode == 0)


def test_an_old_mesh_stays_as_it_is(mesh: Mesh) -> None:
    """Also when its etcd is wiped and its agents are restarted: who has a table on disk is no mesh's first."""
    mesh.etcdctl("put", f"{PREFIX}policies/retry/*", "{}")
    alpha = mesh.agent()
    mesh.instance(alpha)
    assert [key.split("/")[0] for key in instances(mesh)] == ["instances"]
    alpha.stop()
    mesh.etcdctl("del", "--prefix", PREFIX)
    alpha.start()
    until("it is back", lambda: instances(mesh))
    assert [key.split("/")[0] for key in instances(mesh)] == ["instances"]
    assert mesh.etcdctl("get", f"{PREFIX}confirmed/hosts") == ""
