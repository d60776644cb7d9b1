"""Records of a real agent on their way out: to a file, to receivers that are there, come back, or never were."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.server import free_port
from tests.agent.control.test_main import reload
from tests.support.mesh import Mesh, Traffic, running_mesh, until


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


class Receiver:
    """Syslog over TCP, at a port that stays the same when it comes back."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received = b""
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._ends.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as server:
            server.settimeout(0.1)
            connections: list[socket.socket] = []
            while not self._ends.is_set():
                try:
                    connections.append(server.accept()[0])
                    connections[-1].settimeout(0.05)
                except TimeoutError:
                    pass
                for connection in connections:
                    try:
                        self.received += connection.recv(1 << 20)
                    except TimeoutError:
                        pass
            for connection in connections:
                connection.close()

    def stop(self) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of every message that came whole."""
        found, rest = [], self.received
        while rest:
            size, _, rest = rest.partition(b" ")
            found.append(json.loads(rest[: int(size)].partition(b" - ")[2]))
            rest = rest[int(size) :]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def sinks(receiver: Receiver, folder: Path) -> str:
    return (
        f'[[records.sinks]]\nname = "siem"\nto = "syslog+tcp://127.0.0.1:{receiver.port}"\n'
        'kinds = ["access", "events"]\n'
        f'[[records.sinks]]\nname = "away"\nto = "otlp+http://127.0.0.1:{free_port()}"\nkinds = ["access"]\n'
        f'[[records.sinks]]\nname = "here"\nto = "{folder}/events.log"\nkinds = ["events"]\n'
    )


def test_receivers_that_come_and_go_cost_no_request(mesh: Mesh, receiver: Receiver, tmp_path: Path) -> None:
    """What waits for one that is away comes when it is back, in order; one that never was costs nothing but records,
    which are told; a reload takes the settings as they are then."""
    agent = mesh.agent(extra="workers = 1", local=sinks(receiver, tmp_path))
    mesh.instance(agent)
    with Traffic(agent) as traffic:
        traffic.more(60)
        receiver.start()
        until("what has waited", lambda: len(receiver.records) >= 60)
        traffic.more(60)
    assert traffic.failures == []
    asked = traffic.done
    until("all of them", lambda: sum("request_id" in each for each in receiver.records) >= asked)
    told = [each for each in receiver.records if "request_id" in each]
    assert len({each["request_id"] for each in told}) == len(told), "none comes twice from one that was away"
    assert "instance.healthy" in {each["type"].removeprefix("io.shoal.") for each in receiver.records if "type" in each}
    events = [json.loads(line) for line in (tmp_path / "events.log").read_text().splitlines()]
    assert {each["type"] for each in events} >= {"io.shoal.agent.joined", "io.shoal.instance.healthy"}
    text = agent.text("/metrics")
    assert 'shoal_records_total{kind="events",sink="here"}' in text
    assert 'shoal_records_lost_total{kind="access",sink="siem"} 0.0' in text
    found = [each for each in json.loads(agent.text("/api/v1/findings"))["items"] if each["id"] == "records"]
    assert [each["where"] for each in found] == ["alpha away"] and "Connection refused" in found[0]["what"]
    assert "records   away: " in mesh.shoal("--admin", str(agent.socket), "status", check=False).stdout
    reload(agent, 'name = "siem"', 'name = "other"')
    before = len(receiver.records)
    until("the other", lambda: agent.ask().status == 200 and len(receiver.records) > before)
    text = agent.text("/metrics")
    assert 'shoal_records_total{kind="access",sink="other"}' in text


def test_settings_that_are_wrong_change_nothing_at_a_reload(mesh: Mesh, receiver: Receiver, tmp_path: Path) -> None:
    """The sinks of before go on."""
    receiver.start()
    agent = mesh.agent(extra="workers = 1", local=sinks(receiver, tmp_path))
    mesh.instance(agent)
    agent.path.write_text(agent.path.read_text().replace("syslog+tcp://", "syslog+carrier-pigeon://"))
    agent.tell(signal.SIGHUP)
    until("told", lambda: "the settings are not reloaded" in agent.log.read_text())
    before = len(receiver.records)
    until("it goes on", lambda: agent.ask().status == 200 and len(receiver.records) > before)


def test_an_agent_that_is_killed_leaves_whole_records(mesh: Mesh, receiver: Receiver, tmp_path: Path) -> None:
    """What was sent can be read, to the last one that came whole; the next agent goes on behind it."""
    receiver.start()
    agent = mesh.agent(extra="workers = 1", local=sinks(receiver, tmp_path))
    mesh.instance(agent)
    with Traffic(agent) as traffic:
        traffic.more(50)
        assert agent.process is not None
        os.killpg(agent.process.pid, signal.SIGKILL)
        agent.process.wait()
    for line in (tmp_path / "events.log").read_text().splitlines():
        assert json.loads(line)["specversion"] == "1.0"
    lines = len((tmp_path / "events.log").read_text().splitlines())
    agent.start()
    until("it goes on", lambda: len((tmp_path / "events.log").read_text().splitlines()) > lines)
