"""Bad weather on real parts: agents that lose etcd, and etcd that loses what it knew."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until

SERVICE = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def two(mesh: Mesh) -> tuple[AgentProcess, AgentProcess, int]:
    """A caller's host, and another with the only instance of a service, which both serve."""
    alpha, beta = mesh.agent(lease_ttl="10s"), mesh.agent("beta", "127.0.0.2")
    port = mesh.instance(beta)
    until("known to alpha", lambda: mesh.healthy(alpha, SERVICE, port))
    return alpha, beta, port


def suspects(agent: AgentProcess) -> list[str]:
    return [suspect["id"] for suspect in agent.state()["suspects"]]


def test_an_agent_that_loses_etcd_takes_no_service_away(mesh: Mesh) -> None:
    """Its control is stopped until its lease has run out: callers elsewhere and beside it lose no request, also when it
    comes back."""
    alpha, beta, port = two(mesh)
    assert beta.process is not None
    with Traffic(alpha) as away, Traffic(beta) as beside:
        beta.process.send_signal(signal.SIGSTOP)
        try:
            until("its lease has run out", lambda: suspects(alpha))
            away.more(200)
            assert suspects(alpha) == [f"beta-{port}"]
            assert "shoal_suspects 1.0" in alpha.text("/metrics")
        finally:
            beta.process.send_signal(signal.SIGCONT)
        until("back", lambda: not suspects(alpha) and mesh.healthy(alpha, SERVICE, port))
        away.more(100)
        beside.more(100)
    assert (away.failures, beside.failures) == ([], [])


def test_a_revoked_lease_takes_no_service_away(mesh: Mesh) -> None:
    """As etcd itself would: agent and instance go in one revision, and come back on another lease."""
    alpha, beta, port = two(mesh)
    with Traffic(alpha) as away, Traffic(beta) as beside:
        for _ in range(3):
            lease = beta.state()["etcd"]["lease"]
            mesh.etcdctl("lease", "revoke", lease)
            until("another lease", lambda gone=lease: beta.state()["etcd"]["lease"] not in ("", gone))
            away.more(100)
        until("back", lambda: not suspects(alpha) and mesh.healthy(alpha, SERVICE, port))
        beside.more(50)
    assert (away.failures, beside.failures) == ([], [])


def test_a_dead_agents_instances_are_reached_without_it(mesh: Mesh) -> None:
    """kill -9 of all its processes: what it owned still runs, and is dialled directly once the lease has run out."""
    alpha, beta, _ = two(mesh)
    assert beta.process is not None
    os.killpg(beta.process.pid, signal.SIGKILL)
    beta.process.wait()
    until("suspected", lambda: suspects(alpha))
    until("reached", lambda: alpha.ask().status == 200)
    mesh.services[0].kill()
    until("gone", lambda: alpha.ask().status in (404, 503) and not suspects(alpha))


def test_a_deleted_instance_is_gone_at_once(mesh: Mesh) -> None:
    """By hand, of somebody who lives: no suspect."""
    alpha = mesh.agent()
    port, _ = mesh.service()
    mesh.put(f"instances/{SERVICE}/one", {"address": "127.0.0.1", "port": port})
    assert alpha.ask().status == 200
    mesh.etcdctl("del", f"/shoal/default/instances/{SERVICE}/one")
    until("gone", lambda: alpha.ask().status != 200)
    assert suspects(alpha) == []
