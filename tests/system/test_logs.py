"""`shoal logs`: requests of three hosts at once, whatever happens to hosts, agents and readers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.control.test_main import reload
from tests.support.local import ask
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.reading import Reading

PETS = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


class Reader(Reading):
    """`shoal logs … -f`, by way of an agent."""

    def __init__(self, agent: AgentProcess, *words: str) -> None:
        super().__init__(agent, "logs", *words, "-f")

    def of(self, host: str, direction: str = "outbound") -> list[str]:
        """The paths of one agent's records, as they came."""
        return [each["target"] for each in list(self.lines) if each["agent"] == host and each["direction"] == direction]


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    made: list[Reader] = []
    yield made
    for reader in made:
        reader.end()


def filters(agent: AgentProcess) -> int:
    return int(agent.state()["followed"]["filters"])


def test_three_hosts_are_followed_at_once(mesh: Mesh, readers: list[Reader]) -> None:
    """In order by host, each request once; a filter that matches nothing waits and says so; a host that is killed is
    named, and so is that it begins anew; a reload of the agent that is asked costs nothing of others; a reader that is
    killed is forgotten."""
    alpha, beta = (
        mesh.agent("alpha", "127.0.0.1", extra="workers = 1"),
        mesh.agent("beta", "127.0.0.2", extra="workers = 2"),
    )
    gamma = mesh.agent("gamma", "127.0.0.3", extra="workers = 1", lease_ttl="20s")
    agents = [alpha, beta, gamma]
    mesh.instance(alpha)
    mesh.shoal("wait")
    assert [filters(agent) for agent in agents] == [0, 0, 0]
    everything = Reader(alpha, PETS, "--side", "out")
    nothing = Reader(beta, PETS, "--status", "418", "--slower", "200ms")
    readers += [everything, nothing]
    for reader in readers:
        until("they follow", lambda reader=reader: reader.noted("on alpha, beta, gamma; Ctrl-C ends it"))
    assert nothing.noted(f"following requests to {PETS}, status 418, slower than 0.2 on")

    def asks(agent: AgentProcess, start: int, count: int) -> list[str]:
        paths = [f"/{agent.host}/{n}" for n in range(start, start + count)]
        for path in paths:
            assert agent.ask(PETS, path).status == 200
        return paths

    for agent in agents:
        sent = asks(agent, 0, 25)
        until(f"those of {agent.host}", lambda agent=agent: len(everything.of(agent.host)) >= 25)
        found = everything.of(agent.host)
        assert sorted(found) == sorted(sent)
        assert agent is beta or found == sent, "of one worker, in order"
    assert nothing.lines == [] and {each["status"] for each in everything.lines} == {200}

    gamma.stop(signal.SIGKILL)
    until("it is named", lambda: everything.noted("gamma is missing: "))
    sent = asks(beta, 25, 10)
    until("those of beta", lambda: set(sent) <= set(everything.of("beta")))
    gamma.start()
    until("it is back", lambda: any(note.startswith("gamma: it ") for note in list(everything.notes)))
    sent = asks(gamma, 25, 5)
    until("those of gamma", lambda: everything.of("gamma")[25:] == sent)

    reload(alpha, 'drain_timeout = "3s"', 'drain_timeout = "4s"')
    sent = asks(beta, 35, 10)
    until("those of beta, still", lambda: set(sent) <= set(everything.of("beta")))
    assert len(everything.of("beta")) == len(set(everything.of("beta"))) == 45

    for reader in readers:
        reader.process.kill()
    until("they are forgotten", lambda: [filters(agent) for agent in agents] == [0, 0, 0])


def test_a_slow_reader_hurts_nobody_and_learns_what_it_missed(mesh: Mesh, readers: list[Reader]) -> None:
    """Who stops reading, while others go on: nothing is lost uncounted. And the last ones, of what was recorded; not on
    the admin port, and not for everybody."""
    agent = mesh.agent(extra=f'workers = 1\naccess_log = "{mesh.folder}/access.log"')
    mesh.instance(agent)
    slow, quick = Reader(agent, PETS), Reader(agent, PETS)
    readers += [slow, quick]
    for reader in readers:
        until("they follow", lambda reader=reader: reader.noted("Ctrl-C ends it"))
    assert filters(agent) == 1, "who asks for the same shares a stream"
    slow.process.send_signal(signal.SIGSTOP)
    path = "/" + "x" * 4000
    for _ in range(1200):
        assert agent.ask(PETS, path).status == 200
    until("all of them", lambda: len(quick.lines) >= 1200)
    slow.process.send_signal(signal.SIGCONT)

    def missed() -> int:
        notes = [note for note in list(slow.notes) if note.endswith("more that there was no room for")]
        return sum(int(note.split(": ")[1].split()[0]) for note in notes)

    until("it learns of all", lambda: len(slow.lines) + missed() == 1200)
    assert missed() > 0 and not any("more that" in note for note in quick.notes)
    last = json.loads(mesh.shoal("--admin", str(agent.socket), "-o", "json", "logs", PETS, "-n", "3").stdout)
    assert [each["target"] for each in last["requests"]] == [path] * 3 and last["unrecorded"] == []
    over_tcp = mesh.shoal("--admin", f"http://127.0.0.1:{agent.admin}", "logs", PETS, check=False)
    assert over_tcp.returncode == 1 and "asked for through the agent's own socket" in over_tcp.stderr
    refused = ask(agent.socket, "GET", "/api/v1/requests?path=/a%3Fb", None)
    assert refused.status == 400 and refused.json["path"] == "$.path"
