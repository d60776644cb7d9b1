"""Law 3 on real parts: a typo changes nothing for anybody, and a restart opens no door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import AgentProcess, Answer, Mesh, running_mesh, until

SERVICE = "pets.production"
KEY = "policies/ratelimit/pets.production"
NONE = {"limits": [{"name": "nothing", "rate": "1/h", "burst": 1}]}
TYPO = {"limitz": 5}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def put(mesh: Mesh, document: object) -> None:
    """Without waiting: a refused document makes `shoal wait` fail."""
    mesh.etcdctl("put", f"/shoal/default/{KEY}", json.dumps(document))


def refused(agent: AgentProcess) -> dict[str, object]:
    """What an agent says of the refused policy."""
    found: dict[str, object] = until("refused", lambda: agent.state()["refused"])[0]
    return found


def second(agent: AgentProcess) -> Answer:
    """The second of two requests: the first one may be within the limit."""
    agent.ask()
    return agent.ask()


def recorded(mesh: Mesh) -> str:
    return mesh.etcdctl("get", "--print-value-only", f"/shoal/default/last_good/ratelimit/{SERVICE}")


def start(agent: AgentProcess) -> AgentProcess:
    """Until it knows the mesh's instances."""
    agent.start()
    until("it knows pets", lambda: SERVICE in agent.state()["services"])
    return agent


def test_old_and_new_agents_enforce_the_same(mesh: Mesh) -> None:
    """A typo in place of nothing, and in place of a limit; seen happen, and found at the start."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    put(mesh, TYPO)
    assert refused(alpha)["last_good"] == 0
    beta = start(mesh.agent("beta", "127.0.0.2", start=False))
    assert refused(beta)["last_good"] == 0
    assert [second(agent).status for agent in (alpha, beta)] == [200, 200]
    mesh.put(KEY, NONE)
    until("written down", lambda: "nothing" in recorded(mesh))
    put(mesh, TYPO)
    gamma = start(mesh.agent("gamma", "127.0.0.3", start=False))
    for agent in (alpha, beta, gamma):
        assert refused(agent)["last_good"]
        assert second(agent).status == 429


def test_a_typo_while_no_agent_lived(mesh: Mesh) -> None:
    """What was good stands in etcd; and where it does not, etcd's history has it."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(KEY, NONE)
    until("written down", lambda: "nothing" in recorded(mesh))
    alpha.stop()
    put(mesh, TYPO)
    fresh = mesh.agent("beta", "127.0.0.2")
    mesh.instance(fresh)
    assert second(fresh).status == 429
    fresh.stop()
    mesh.etcdctl("del", f"/shoal/default/last_good/ratelimit/{SERVICE}")
    other = mesh.agent("gamma", "127.0.0.3")
    mesh.instance(other)
    assert second(other).status == 429
    until("written down again", lambda: "nothing" in recorded(mesh))


def test_who_cannot_know_refuses_across_restarts(mesh: Mesh) -> None:
    """Nothing written down, history compacted: 503 with the key, with etcd away as well, until it is mended."""
    put(mesh, NONE)
    put(mesh, TYPO)
    mesh.etcdctl("put", "/shoal/default/policies/retry/pets.production", '{"attempts": 4}')
    mesh.etcdctl("put", "/shoal/default/policies/retry/pets.production", '{"attemptz": 4}')
    revision = json.loads(mesh.etcdctl("get", "x", "-w", "json"))["header"]["revision"]
    mesh.etcdctl("compact", str(revision))
    alpha = mesh.agent()
    mesh.instance(alpha)

    def shut() -> bool:
        answer = alpha.ask()
        told = json.loads(answer.body)
        assert answer.status == 503 and told["policy"] == "ratelimit", answer
        assert "policies/ratelimit/pets.production is refused" in told["reason"]
        return True

    assert shut()
    assert {each["kind"]: each["closed"] for each in alpha.state()["refused"]} == {"ratelimit": True, "retry": False}
    assert "shoal_policies_unknown 2.0" in alpha.text("/metrics")
    status = mesh.shoal("status", check=False)
    assert status.returncode == 1 and "not known" in status.stdout
    told = mesh.shoal("--admin", str(alpha.socket), "explain", "GET", f"http://{SERVICE}/").stdout
    assert "policies/ratelimit/pets.production is refused" in told
    saved = alpha.state_dir / "table"
    until("on disk", lambda: b"limitz" in saved.read_bytes())
    mesh.etcd.stop()
    alpha.stop()
    alpha.start()
    assert shut()
    mesh.etcd.start()
    until("etcd is back", lambda: alpha.state()["etcd"]["connected"])
    assert shut()
    mesh.put(KEY, {"limits": [{"name": "many", "rate": "1000/s"}]})
    assert alpha.ask().status == 200
