"""One id, declared on two hosts; one host's name, on two machines: the first has it, and the second says who does."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

PETS = "pets.production"
BY_HAND = '{"address": "127.0.0.9", "port": 9, "version": "by-hand"}'
KEY = f"/shoal/default/instances/{PETS}/one"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as mesh:
        yield mesh


def declared(port: int) -> str:
    """A table of agent.toml; its health is its own word, so that no check is in the way."""
    return f'\n[[instances]]\nservice = "{PETS}"\nid = "one"\nport = {port}\naddress = "127.0.0.1"\n'


def owner(mesh: Mesh) -> str:
    """Whose the key is; empty while there is none."""
    text = mesh.etcdctl("get", "--print-value-only", KEY)
    return str(json.loads(text).get("agent", "")) if text.strip() else ""


def refused(agent: AgentProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = agent.state()["instances_refused"]
    return found


def kill(agent: AgentProcess) -> None:
    assert agent.process is not None
    agent.process.kill()
    agent.process.wait()


def test_two_agents_that_start_at_the_same_moment(mesh: Mesh) -> None:
    """One has the id; the other says so in its log, in /state, in `shoal status` and in `shoal check`, and comes in by
    itself when the first is killed. The first, started again, is second."""
    port, _ = mesh.service()
    pair = [
        mesh.agent(host, address, start=False, local=declared(port), lease_ttl="4s")
        for host, address in (("alpha", "127.0.0.1"), ("beta", "127.0.0.2"))
    ]
    for agent in pair:
        agent.start(wait=False)
    for agent in pair:
        until("ready", agent.ready)
    second = until("one is refused", lambda: next((agent for agent in pair if refused(agent)), None))
    first = pair[1 - pair.index(second)]
    (told,) = refused(second)
    assert f"already registered by the agent on '{first.host}'" in told["reason"]
    assert owner(mesh) == first.host
    assert refused(first) == []
    assert told["reason"].split(";")[0].split("'")[0] in second.log.read_text()
    assert "shoal_instances_refused 1.0" in second.text("/metrics")
    place = ("--admin", f"http://{second.address}:{second.admin}")
    status = mesh.shoal(*place, "status", check=False)
    assert (status.returncode, f"not in the mesh: {PETS}/one is already registered" in status.stdout) == (1, True)
    check = mesh.shoal(*place, "check", check=False)
    assert f"{PETS}/one: not in the mesh" in " ".join(check.stdout.split())
    kill(first)
    until("the second comes in", lambda: owner(mesh) == second.host and not refused(second))
    first.start()
    until("the first is second now", lambda: refused(first))
    assert owner(mesh) == second.host


def test_a_registration_is_refused_at_once(mesh: Mesh) -> None:
    """409, with the host that has the id; nothing is left of it."""
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", "127.0.0.2")
    port, _ = mesh.service()
    alpha.register(PETS, port, id="one", address="127.0.0.1")
    until("known", lambda: owner(mesh))
    with pytest.raises(
        AssertionError, match=r'"status": 409(.|\\n)*already registered by the agent on .*alpha.*127\.0\.0\.1:'
    ):
        beta.register(PETS, port, id="one", address="127.0.0.2")
    assert beta.state()["local"] == []
    assert owner(mesh) == "alpha"


def test_what_was_put_by_hand_was_first(mesh: Mesh) -> None:
    """The agent's is not put over it; it comes in when that is deleted. What is put over the agent's is put again."""
    port, _ = mesh.service()
    mesh.etcdctl("put", KEY, BY_HAND)
    alpha = mesh.agent("alpha", local=declared(port))
    (told,) = until("refused", lambda: refused(alpha))
    assert "was put by hand, at 127.0.0.9:9" in told["reason"]
    mesh.etcdctl("del", KEY)
    until("in", lambda: owner(mesh) == "alpha")
    mesh.etcdctl("put", KEY, BY_HAND)
    until("put again", lambda: owner(mesh) == "alpha")
    assert refused(alpha) == []


def test_an_agent_that_was_killed_finds_its_own_keys(mesh: Mesh) -> None:
    """They are no other host's: nothing is refused, and they never vanish."""
    port, _ = mesh.service()
    alpha = mesh.agent("alpha", local=declared(port))
    until("in", lambda: owner(mesh) == "alpha")
    for _ in range(2):
        kill(alpha)
        alpha.start()
        assert refused(alpha) == []
        assert owner(mesh) == "alpha"
    assert "not put" not in alpha.log.read_text()


def test_a_host_that_was_renamed(mesh: Mesh) -> None:
    """Killed, and started under another name: its own keys of before are another host's until their lease ends, and
    then it comes in."""
    port, _ = mesh.service()
    alpha = mesh.agent("alpha", local=declared(port), lease_ttl="4s")
    until("in", lambda: owner(mesh) == "alpha")
    kill(alpha)
    alpha.path.write_text(alpha.path.read_text().replace('host = "alpha"', 'host = "gamma"'))
    alpha.start()
    until("in again", lambda: owner(mesh) == "gamma" and not refused(alpha))


def test_an_image_of_a_machine_with_the_agents_state(mesh: Mesh) -> None:
    """The copy has the name, the boot id and the registrations of one that lives: it gives up, and says why; the
    original's keys are what they were, at the same revisions. When the original has gone, it may come in."""
    port, _ = mesh.service()
    alpha = mesh.agent("alpha", local=declared(port), lease_ttl="4s")
    until("in", lambda: owner(mesh) == "alpha")
    copy = mesh.folder / "copy"
    shutil.copytree(alpha.state_dir, copy)
    text = alpha.path.read_text()
    twin = mesh.agent("alpha", "127.0.0.2", start=False, state_dir=copy, lease_ttl="4s", local=declared(port))
    twin_path = mesh.folder / "twin.toml"
    twin_path.write_text(twin.path.read_text())
    twin.path.write_text(text)
    twin.path, twin.log = twin_path, mesh.folder / "twin.log"
    before = mesh.etcdctl("get", "--prefix", "/shoal/default/agents/", "--write-out", "fields")
    twin.start(wait=False)
    assert twin.process is not None
    assert twin.process.wait(60) == 1
    assert "this state directory is a copy of that agent's" in twin.log.read_text()
    assert mesh.etcdctl("get", "--prefix", "/shoal/default/agents/", "--write-out", "fields") == before
    assert alpha.process is not None and alpha.process.poll() is None
    alpha.stop(signal.SIGTERM)
    twin.start()
    until("the copy is in", lambda: owner(mesh) == "alpha" and not refused(twin))
