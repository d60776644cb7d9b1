"""An etcd that stands still for longer than leases last, and goes on: nobody has died."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

TTL_S = 3
SERVICE = "shop.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def told(mesh: Mesh, agent: AgentProcess) -> list[tuple[str, str]]:
    events = json.loads(mesh.shoal("-o", "json", "events", "--admin", str(agent.socket)).stdout)
    return [(each["type"], each["subject"]) for each in events]


def test_an_etcd_that_stalls_is_no_death_of_hosts(mesh: Mesh) -> None:
    """All leases run out at once. Requests are answered all the while; afterwards every agent is there again, and no
    event says that a host was lost, or that an instance came."""
    alpha, beta = mesh.agent("alpha", lease_ttl=f"{TTL_S}s"), mesh.agent("beta", "127.0.0.2", lease_ttl=f"{TTL_S}s")
    mesh.instance(beta, service=SERVICE)
    until("known", lambda: alpha.ask(SERVICE).status == 200)
    until("both are known", lambda: set(alpha.state()["agents"]) == {"alpha", "beta"})
    until("told", lambda: "instance.healthy" in {kind for kind, _ in told(mesh, alpha)})
    before = told(mesh, alpha)

    os.kill(mesh.etcd.pid, signal.SIGSTOP)
    try:
        ends = time.monotonic() + 3 * TTL_S
        while time.monotonic() < ends:
            assert alpha.ask(SERVICE).status == 200
            time.sleep(0.1)
    finally:
        os.kill(mesh.etcd.pid, signal.SIGCONT)
    until("etcd answers", lambda: alpha.state()["etcd"]["connected"])
    mesh.shoal("wait", "--timeout", "60")
    time.sleep(2 * TTL_S)  # whoever were lost would be told by now
    assert alpha.ask(SERVICE).status == 200
    assert alpha.state()["lost"] == [] and beta.state()["lost"] == []
    for agent in (alpha, beta):
        news = [each for each in told(mesh, agent) if each not in before]
        assert {kind for kind, _ in news} <= {"etcd.unreachable", "etcd.back"}, news
    assert mesh.shoal("status", "--admin", str(alpha.socket), check=False).returncode == 0
