"""Instances under keys that are a host's own: served over two hops, shown, and moved under load without a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh, Traffic, running_mesh, until

OLD = "/shoal/default/instances/pets.production/a"
OWN = "/shoal/default/hosts/beta/instances/pets.production/a"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


def move(mesh: Mesh, source: str, target: str, record: str) -> None:
    """In one transaction, as a later version's agents will."""
    mesh.etcdctl("txn", data=f"\ndel {source}\nput {target} {json.dumps(record)}\n\n\n")


def test_they_are_served_shown_and_moved(mesh: Mesh) -> None:
    """By the agent of the host in their key, which the record does not name."""
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
    port, _ = mesh.service(address=beta.address)
    record = {"address": beta.address, "port": port}
    mesh.put(OWN.removeprefix("/shoal/default/"), record)
    answer = alpha.ask()
    assert answer.status == 200
    (endpoint,) = alpha.state()["services"]["pets.production"]["endpoints"]
    assert (endpoint["id"], endpoint["agent"]) == ("a@beta", "beta")
    assert "a@beta" in mesh.shoal("instances", "pets.production").stdout

    mesh.put(OWN.replace("beta", "gamma").removeprefix("/shoal/default/"), {**record, "agent": "beta"})
    assert "hosts/gamma/instances" in mesh.shoal("status", check=False).stdout

    old, own = json.dumps({**record, "agent": "beta"}), json.dumps(record)
    with Traffic(alpha) as traffic:
        for _ in range(5):
            move(mesh, OWN, OLD, old)
            traffic.more(50)
            move(mesh, OLD, OWN, own)
            traffic.more(50)
    assert traffic.failures == []
    mesh.shoal("wait")

    alpha.stop()
    mesh.etcd.stop()
    alpha.start(wait=False)  # from its disk
    until("an answer from the table on disk", lambda: alpha.ask().status == 200)
