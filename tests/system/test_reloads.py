"""A reload is no restart: the lease, and all that stands on it, is the same afterwards, however long it took."""

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


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def executed_anew(agent: AgentProcess) -> bool:
    assert agent.process is not None
    return b"SHOAL_HANDOVER=" in Path(f"/proc/{agent.process.pid}/environ").read_bytes()


def began(mesh: Mesh, agent: AgentProcess) -> int:
    """The revision at which the life of its key began."""
    found = json.loads(mesh.etcdctl("get", f"/shoal/default/agents/{agent.host}", "-w", "json"))
    return int(found["kvs"][0]["create_revision"])


def keepers(agent: AgentProcess) -> list[int]:
    assert agent.process is not None
    number = agent.process.pid
    return [int(pid) for pid in Path(f"/proc/{number}/task/{number}/children").read_text().split() if keeps(int(pid))]


def keeps(pid: int) -> bool:
    """Also one that has ended and nobody has collected."""
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        return b"registry.etcd.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_reload_that_takes_longer_than_a_lease_keeps_it(mesh: Mesh) -> None:
    """As on a busy host: the successor's first seconds take three times as long as the lease. Nothing is put again, and
    who kept the lease is gone once the successor renews it."""
    alpha = mesh.agent(lease_ttl=f"{TTL_S}s")
    mesh.instance(alpha)
    before = until("announced", lambda: began(mesh, alpha))
    assert alpha.process is not None
    alpha.tell(signal.SIGHUP)
    until("executed", lambda: executed_anew(alpha))
    os.kill(alpha.process.pid, signal.SIGSTOP)
    time.sleep(3 * TTL_S)
    os.kill(alpha.process.pid, signal.SIGCONT)
    until("ready", alpha.ready)
    until("the keeper has ended", lambda: not keepers(alpha))
    assert began(mesh, alpha) == before
    assert "the lease is gone" not in alpha.log.read_text()


def test_who_keeps_the_lease_ends_with_the_agent(mesh: Mesh) -> None:
    """An agent that is killed before it is up again has nobody who goes on in its name."""
    alpha = mesh.agent()
    assert alpha.process is not None
    alpha.tell(signal.SIGHUP)
    until("executed", lambda: executed_anew(alpha))
    os.kill(alpha.process.pid, signal.SIGSTOP)
    found = keepers(alpha)
    os.kill(alpha.process.pid, signal.SIGKILL)
    alpha.process.wait()
    assert len(found) == 1
    until("ended", lambda: not Path(f"/proc/{found[0]}").exists())


def test_a_reload_keeps_what_was_counted(mesh: Mesh) -> None:
    """The hour of figures, which who looks at a service asks for; what is counted afterwards is added."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    until("known", lambda: alpha.ask().status == 200)

    def counted() -> int:
        return sum(each["requests"] for each in json.loads(alpha.text("/api/v1/figures?last_s=3600"))["items"])

    for _ in range(20):
        alpha.ask()
    before = until("a window that has them", lambda: counted() >= 21 and counted(), 60)
    alpha.tell(signal.SIGHUP)
    until("executed", lambda: executed_anew(alpha))
    until("ready", alpha.ready)
    assert counted() >= before
    for _ in range(10):
        alpha.ask()
    until("a window that has these too", lambda: counted() >= before + 10, 60)
