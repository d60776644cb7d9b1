"""`shoal mesh migrate`: agents move what is theirs under their hosts' own keys and back, under load, and whatever ends
amid it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.local import ask
from tests.support.mesh import DIRECT, ROOT, SHOAL, AgentProcess, Mesh, Traffic, running_mesh, until
from tests.support.receiver import Receiver

PETS = "pets.production"
PREFIX = "/shoal/default/"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def two(mesh: Mesh) -> tuple[AgentProcess, AgentProcess]:
    """Agents with two workers each, and an instance each of one service."""
    alpha = mesh.agent(extra="workers = 2", lease_ttl="20s")
    beta = mesh.agent("beta", "127.0.0.2", extra="workers = 2", lease_ttl="20s")
    mesh.instance(alpha, "v1")
    mesh.instance(beta, "v2")
    until("both are known", lambda: len(alpha.state()["services"][PETS]["endpoints"]) == 2)
    return alpha, beta


def keys(mesh: Mesh, prefix: str = "") -> list[str]:
    """Of instances and their health, without the mesh's prefix."""
    found = mesh.etcdctl("get", "--prefix", "--keys-only", PREFIX + prefix).split()
    rooms = ("instances", "health")
    return [key.removeprefix(PREFIX) for key in found if any(f"/{room}/" in key for room in rooms)]


def leases(mesh: Mesh) -> dict[str, int]:
    """The lease of each key of an instance, by its last words."""
    told = json.loads(mesh.etcdctl("get", "--prefix", "-w", "json", PREFIX))
    return {kv["key"]: kv.get("lease", 0) for kv in told["kvs"]}


def start(mesh: Mesh, *words: str) -> subprocess.Popen[str]:
    """A command that goes on by itself."""
    return subprocess.Popen(
        [*SHOAL, "--etcd", mesh.etcd.url, "mesh", "migrate", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def register_many(agent: AgentProcess, count: int) -> None:
    """Instances of services of their own; nobody listens there."""
    for number in range(count):
        agent.register(f"s{number}.bulk", 1024 + number)  # below what agents of tests listen on


def said(mesh: Mesh) -> str:
    """Where agents are told to write."""
    state: str = json.loads(mesh.etcdctl("get", "--print-value-only", f"{PREFIX}confirmed/hosts"))["state"]
    return state


def settled(mesh: Mesh, count: int) -> bool:
    """Whether each stands once, with its health, where the mesh says."""
    own = said(mesh) != "common"
    found = keys(mesh)
    return len(found) == 2 * count and all(key.startswith("hosts/") is own for key in found)


def test_there_and_back_under_load(mesh: Mesh) -> None:
    """No request fails, through either agent; on the leases that they have; nothing is told to have come or gone. A
    restarted agent goes on where its mesh is."""
    alpha, beta = two(mesh)
    hook = {"target": {"url": "http://127.0.0.1:9/"}, "events": ["instance.*"]}
    mesh.put("policies/webhook/*", {"hooks": {"all": hook}})
    before = leases(mesh)
    with Traffic(alpha) as through_alpha, Traffic(beta) as through_beta:
        for _ in range(2):
            assert "2 agents write under hosts/: 2 instances" in mesh.shoal("mesh", "migrate").stderr
            assert settled(mesh, 2)
            through_alpha.more(100)
            through_beta.more(100)
            ids = {endpoint["id"].partition("@")[2] for endpoint in alpha.state()["services"][PETS]["endpoints"]}
            assert ids == {"alpha", "beta"}
            assert "2 agents write where they stood before" in mesh.shoal("mesh", "migrate", "--back").stderr
            assert settled(mesh, 2)
            through_alpha.more(100)
    assert through_alpha.failures == [] and through_beta.failures == []
    assert leases(mesh).keys() >= before.keys()
    assert set(leases(mesh).values()) == set(before.values())
    rooms = ("events", "told", "undelivered")
    assert [mesh.etcdctl("get", "--prefix", "--keys-only", f"{PREFIX}{room}/") for room in rooms] == [""] * 3
    mesh.shoal("mesh", "migrate")
    beta.stop()
    beta.start()
    until("it is back, where the mesh is", lambda: settled(mesh, 2))
    assert mesh.shoal("mesh", "migrate").returncode == 0, "said again, it is nothing new"
    assert "keys " not in mesh.shoal("status", check=False).stdout


def test_events_are_told_once_wherever_they_stand(mesh: Mesh, receiver: Receiver) -> None:
    """Health goes to and fro while the mesh moves, there and back: each verdict is told, once, and nothing is left."""
    extra = 'workers = 1\n[hooks]\nallow = ["127.0.0.1"]\n'
    agents = mesh.agent(extra=extra), mesh.agent("beta", "127.0.0.2", extra=extra)
    ports = {agent.host: (agent.address, mesh.instance(agent, agent.host)) for agent in agents}
    until("both are known", lambda: len(agents[0].state()["services"][PETS]["endpoints"]) == 2)
    health = {"target": {"url": receiver.url("/")}, "events": ["instance.unhealthy", "instance.healthy"]}
    mesh.put("policies/webhook/*", {"hooks": {"all": health}})

    def told(host: str, name: str, since: int) -> bool:
        events = [request.event for request in receiver.received[since:]]
        return any(each["type"] == f"io.shoal.instance.{name}" and each["data"]["agent"] == host for each in events)

    for words in ((), ("--back",), ()):
        moving = start(mesh, *words)
        for what in ("unhealthy", "healthy"):
            since = len(receiver.received)
            for host, (address, port) in ports.items():
                DIRECT.open(f"http://{address}:{port}/set/{what}", timeout=5).read()
                until("it is told", partial(told, host, what, since))
        moving.communicate(timeout=60)
        assert moving.returncode == 0
    rooms = ("events/", "hosts/alpha/events/", "hosts/beta/events/")
    left = lambda: "".join(mesh.etcdctl("get", "--prefix", "--keys-only", PREFIX + room) for room in rooms)  # noqa: E731
    until("nothing is left", lambda: not left())
    assert not agents[0].state()["events"]["disbelieved"]
    assert "@beta" in receiver.received[-1].event["subject"]
    ids = [request.event["id"] for request in receiver.received]
    assert len(ids) == len(set(ids))


def test_what_people_put_stays_and_speaks_for_nobody(mesh: Mesh) -> None:
    """A record without an agent is used before and after; one that names an agent is not, once all have moved."""
    alpha, _ = two(mesh)
    port, _process = mesh.service("v3")
    mesh.put("instances/db.production/hand", {"address": "127.0.0.1", "port": port})
    mesh.put("instances/db.production/forged", {"address": "127.0.0.1", "port": port, "agent": "gone"})
    ids = lambda: {each["id"] for each in alpha.state()["services"]["db.production"]["endpoints"]}  # noqa: E731
    until("both", lambda: ids() == {"hand", "forged"})
    mesh.shoal("mesh", "migrate")
    until("one", lambda: ids() == {"hand"})
    told = {each["key"]: each["reason"] for each in alpha.state()["malformed"]}
    assert "stand under hosts/" in told[f"{PREFIX}instances/db.production/forged"]
    mesh.shoal("mesh", "migrate", "--back")
    until("both again", lambda: ids() == {"hand", "forged"})


def test_ids_that_two_hosts_use(mesh: Mesh) -> None:
    """Under their own keys they do not meet; going back is refused by name."""
    alpha, beta = two(mesh)
    mesh.shoal("mesh", "migrate")
    for agent, version in ((alpha, "v1"), (beta, "v2")):
        port, _ = mesh.service(version, agent.address)
        agent.register("cats.production", port, id="a")
    until("both", lambda: len(alpha.state()["services"]["cats.production"]["endpoints"]) == 2)
    refused = mesh.shoal("mesh", "migrate", "--back", check=False)
    assert refused.returncode == 1
    assert "cats.production/a (alpha, beta)" in refused.stderr
    assert settled(mesh, 4)
    assert ask(alpha.socket, "DELETE", "/api/v1/instances/cats.production/a@beta").status == 404, (
        "that is another host's"
    )
    assert ask(alpha.socket, "DELETE", "/api/v1/instances/cats.production/a@alpha").status == 200, (
        "as `shoal instances` has it"
    )
    until("one is left", lambda: settled(mesh, 3))
    mesh.shoal("mesh", "migrate", "--back")
    until("all are back", lambda: settled(mesh, 3))


def test_a_key_that_is_deleted_moves_nobody(mesh: Mesh) -> None:
    """It is put again, and an agent that starts meanwhile finds it."""
    alpha, _ = two(mesh)
    mesh.shoal("mesh", "migrate")
    mesh.etcdctl("del", f"{PREFIX}confirmed/hosts")
    until("it stands again", lambda: mesh.etcdctl("get", "--print-value-only", f"{PREFIX}confirmed/hosts"))
    assert settled(mesh, 2) and alpha.ask().status == 200


def test_an_agent_is_killed_amid_it(mesh: Mesh) -> None:
    """And started again: each of its instances stands once in the end, and the command, said again, is done."""
    alpha, beta = two(mesh)
    register_many(beta, 80)
    until("all are known", lambda: len(alpha.state()["services"]) == 81)
    mesh.shoal("wait")
    with Traffic(alpha) as traffic:
        moving = start(mesh, "--timeout", "2")
        until("some have moved", lambda: keys(mesh, "hosts/beta/"))
        assert beta.process is not None
        beta.process.send_signal(signal.SIGKILL)
        beta.process.wait()
        moving.communicate(timeout=60)
        beta.start()
        traffic.more(100)
        mesh.shoal("mesh", "migrate")
        until("each stands once", lambda: settled(mesh, 82))
        traffic.more(100)
    assert traffic.failures == []


@pytest.mark.parametrize("words", [(), ("--back",)], ids=["there", "back"])
def test_etcd_is_killed_amid_it(mesh: Mesh, words: tuple[str, ...]) -> None:
    """And comes back: the command says that it does not know, agents go on by themselves, and no request fails."""
    alpha, beta = two(mesh)
    register_many(beta, 80)
    if words:
        mesh.shoal("mesh", "migrate")
    mesh.shoal("wait")
    with Traffic(alpha) as traffic:
        moving = start(mesh, *words)
        until("it is said", lambda: "own" in mesh.etcdctl("get", f"{PREFIX}confirmed/hosts") or words)
        mesh.etcd.kill()
        moving.communicate(timeout=60)
        traffic.more(100)
        mesh.etcd.start()
        until("etcd", lambda: mesh.shoal("mesh", "migrate", *words, check=False).returncode == 0)
        until("each stands once", lambda: settled(mesh, 82))
        traffic.more(100)
    assert traffic.failures == []
    assert beta.ask().status == 200


def test_two_at_the_same_time(mesh: Mesh) -> None:
    """The same said twice is said once; of there and back one is told no, and the mesh is where the other said."""
    alpha, beta = two(mesh)
    register_many(beta, 60)
    mesh.shoal("wait")
    with Traffic(alpha) as traffic:
        both = [start(mesh), start(mesh)]
        told = [each.communicate(timeout=60)[1] for each in both]
        assert any(each.returncode == 0 for each in both), told
        until("each stands once", lambda: settled(mesh, 62))
        assert mesh.shoal("mesh", "migrate").returncode == 0
        for _ in range(2):
            against = [start(mesh, "--back"), start(mesh)]
            for each in against:
                each.communicate(timeout=120)
            until("each stands once", lambda: settled(mesh, 62))
    assert traffic.failures == []
    mesh.shoal("wait")


def test_who_is_overtaken_is_told_so_at_once(mesh: Mesh) -> None:
    """Back waits for an agent that cannot answer, until another says forward: what it waits for can come no more."""
    _, beta = two(mesh)
    mesh.shoal("mesh", "migrate")
    assert beta.process is not None
    beta.process.send_signal(signal.SIGSTOP)
    try:
        back = start(mesh, "--back", "--timeout", "86400")
        until("it is said", lambda: said(mesh) == "common")
        assert mesh.shoal("mesh", "migrate").returncode == 0, "beta never left"
        assert "somebody else said otherwise" in back.communicate(timeout=60)[1]
        assert back.returncode != 0
    finally:
        beta.process.send_signal(signal.SIGCONT)
    until("each stands once", lambda: settled(mesh, 2))
