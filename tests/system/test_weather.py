"""Bad weather on real parts: agents that lose etcd, and etcd that loses what it knew."""

from __future__ import annotations

import json
import os
import shutil
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
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2", lease_ttl="4s")
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
            assert suspects(alpha) == [f"beta-{port}@beta"]
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


def test_a_restart_is_no_unknown_service(mesh: Mesh) -> None:
    """SIGTERM, then a start, as `systemctl restart` does: callers elsewhere and beside it are told to try again, and
    never that there is no such service."""
    alpha, beta, port = two(mesh)
    with Traffic(alpha) as away:
        away.more(50)
        assert beta.stop() == 0
        away.more(200)
        beta.start()
        until("back", lambda: mesh.healthy(alpha, SERVICE, port))
        answer = beta.ask()
        away.more(50)
    assert {failure[:3] for failure in away.failures} <= {"503"}
    assert answer.status == 200
    beta.stop()
    until("gone", lambda: alpha.ask().status == 503)
    answer = alpha.ask()
    assert answer.headers["retry-after"] and answer.headers["server"] == "shoal"


# Policies.

NONE = {"limits": [{"name": "nothing", "rate": "1/h", "burst": 1}]}
LIMIT = f"policies/ratelimit/{SERVICE}"


def limited(agent: AgentProcess) -> bool:
    """Whether the limit of nearly nothing is in force."""
    agent.ask()
    return agent.ask().status == 429


def held(agent: AgentProcess) -> set[str]:
    return {f"{each['kind']}/{each['service']}" for each in agent.state()["held"]}


def wipe(mesh: Mesh) -> None:
    """The same place, and nothing of what was there."""
    mesh.etcd.stop()
    shutil.rmtree(mesh.etcd.data_dir)
    mesh.etcd.start()


def back(*agents: AgentProcess) -> None:
    for agent in agents:
        until("etcd is back", lambda one=agent: one.state()["etcd"]["connected"])


def test_an_empty_etcd_opens_no_door(mesh: Mesh) -> None:
    """For agents that were there, that are restarted, and that start meanwhile; until somebody puts or accepts."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(LIMIT, NONE)
    mesh.put(f"policies/timeout/{SERVICE}", {"connect": "2s"})
    assert limited(alpha)
    wipe(mesh)
    until("held", lambda: held(alpha) == {f"ratelimit/{SERVICE}", f"timeout/{SERVICE}"})
    assert limited(alpha) and "shoal_policies_held 2.0" in alpha.text("/metrics")
    until("written down", lambda: "nothing" in mesh.etcdctl("get", "--prefix", "/shoal/default/held/"))
    status = mesh.shoal("status", check=False)
    assert status.returncode == 1 and f"held      ratelimit/{SERVICE}" in status.stdout
    beta = mesh.agent("beta", "127.0.0.2")
    until("pets are known", lambda: SERVICE in beta.state()["services"])
    assert limited(beta) and len(held(beta)) == 2
    alpha.stop()
    alpha.start()
    until("pets are back", lambda: SERVICE in alpha.state()["services"])
    assert limited(alpha) and len(held(alpha)) == 2
    mesh.put(LIMIT, {"limits": [{"name": "many", "rate": "1000/s"}]})
    assert not limited(alpha) and not limited(beta)
    assert held(alpha) == held(beta) == {f"timeout/{SERVICE}"}
    accepted = mesh.shoal("mesh", "accept")
    assert f"held no more: timeout/{SERVICE}" in accepted.stderr
    mesh.shoal("wait", accepted.stdout.strip())
    assert held(alpha) == held(beta) == set()
    until("settled", lambda: not mesh.etcdctl("get", "--prefix", "--keys-only", "/shoal/default/held/"))
    assert mesh.shoal("status").returncode == 0


def test_a_restored_etcd_brings_nothing_back(mesh: Mesh) -> None:
    """A backup with a looser limit, and an agent that was stopped meanwhile: its disk knows better."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(LIMIT, {"limits": [{"name": "many", "rate": "1000/s"}]})
    mesh.put(f"policies/timeout/{SERVICE}", {"connect": "2s"})
    mesh.etcd.stop()
    backup = mesh.folder / "backup"
    shutil.copytree(mesh.etcd.data_dir, backup)
    mesh.etcd.start()
    back(alpha)
    mesh.put(LIMIT, NONE)
    assert limited(alpha)
    until("on disk", lambda: b"nothing" in (alpha.state_dir / "table").read_bytes())
    alpha.stop()
    mesh.etcd.stop()
    shutil.rmtree(mesh.etcd.data_dir)
    shutil.copytree(backup, mesh.etcd.data_dir)
    mesh.etcd.start()
    alpha.start()
    until("pets are known", lambda: SERVICE in alpha.state()["services"])
    assert limited(alpha) and held(alpha) == {f"ratelimit/{SERVICE}"}
    mesh.shoal("wait", mesh.shoal("mesh", "accept").stdout.strip())
    assert not limited(alpha)


def test_all_policies_deleted_at_once(mesh: Mesh) -> None:
    """`etcdctl del --prefix` is held; one by one is meant; and so is `shoal apply --prune`."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    names = [f"{kind}/{name}" for kind in ("timeout", "retry") for name in ("a.x", "b.x", "c.x")]
    values = {"timeout": {"connect": "2s"}, "retry": {"attempts": 2}}
    mesh.put(LIMIT, NONE)
    for name in names:
        mesh.put(f"policies/{name}", values[name.partition("/")[0]])
    mesh.etcdctl("del", "--prefix", "/shoal/default/policies/")
    until("held", lambda: len(held(alpha)) == 7)
    assert limited(alpha)
    for name in [*names, LIMIT.removeprefix("policies/")]:
        mesh.put(f"policies/{name}", values.get(name.partition("/")[0], NONE))
    assert held(alpha) == set() and limited(alpha)
    folder = mesh.folder / "policies"
    folder.mkdir()
    (folder / "one.yaml").write_text(json.dumps({"kind": "timeout", "service": "a.x", "connect": "2s"}))
    mesh.shoal("apply", str(folder), "--prune", "--wait")
    assert held(alpha) == set() and not limited(alpha)
