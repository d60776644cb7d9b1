"""Webhooks on real parts: agents, etcd and a receiver; whoever is killed whenever, each event arrives, as one event."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.support.mesh import DIRECT, PATIENCE_S, ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until
from tests.support.receiver import Received, Receiver

SERVICE = "pets.production"
ALLOW = '[hooks]\nallow = ["127.0.0.1"]\n'


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def agents(mesh: Mesh, count: int) -> list[AgentProcess]:
    made = [
        mesh.agent(f"host-{n}", f"127.0.0.{n + 1}", start=False, extra=f"workers = 1\n{ALLOW}") for n in range(count)
    ]
    for each in made:
        each.start(wait=False)
    for each in made:
        until(f"{each.host} ready", each.ready)
    return made


def hook(receiver: Receiver, path: str = "/", **more: Any) -> dict[str, Any]:
    return {"target": {"url": receiver.url(path)}, "timeout": "2s", **more}


def turn(port: int, what: str, address: str = "127.0.0.1") -> None:
    DIRECT.open(f"http://{address}:{port}/set/{what}", timeout=5).read()


def left(mesh: Mesh, room: str) -> list[str]:
    return [key for key in mesh.etcdctl("get", "--prefix", "--keys-only", f"/shoal/default/{room}/").split() if key]


def quiet(mesh: Mesh) -> bool:
    return left(mesh, "events") == []


def test_one_transition_is_told_once(mesh: Mesh, receiver: Receiver) -> None:
    """With three agents: the check fails, one of them tells; and tells of the recovery. In order, and nothing else."""
    alpha, *_ = agents(mesh, 3)
    mesh.put(f"policies/webhook/{SERVICE}", {"hooks": {"all": hook(receiver)}})
    port = mesh.instance(alpha)
    mesh.instance(alpha)
    turn(port, "unhealthy")
    until("the event", lambda: receiver.of("instance.unhealthy"))
    turn(port, "healthy")
    until("the recovery", lambda: receiver.received[-1].event["type"] == "io.shoal.instance.healthy")
    until("everything told", lambda: quiet(mesh))
    time.sleep(1)
    told = [(r.event["type"].removeprefix("io.shoal."), r.event["subject"]) for r in receiver.received]
    subject = f"instances/{SERVICE}/host-0-{port}"
    mine = [name for name, about in told if about == subject]
    assert mine[-2:] == ["instance.unhealthy", "instance.healthy"] and mine.count("instance.unhealthy") == 1
    event = receiver.of("instance.unhealthy")[0].event
    assert event["data"]["agent"] == "host-0" and "503" in event["data"]["reason"]
    assert len({r.event["id"] for r in receiver.received}) == len(receiver.received), "nothing was told twice"
    assert len(left(mesh, "told")) >= 2 and left(mesh, "undelivered") == []


def test_receivers_that_behave_badly_hold_up_nobody(mesh: Mesh, receiver: Receiver) -> None:
    """One that hangs, one that streams for ever, 429, 410, 302, one that fails at first, and one that is well."""

    def answer(request: Received, number: int) -> tuple[int, dict[str, str]]:
        if request.path == "/hangs":
            time.sleep(30)
        if request.path == "/streams":
            return 200, {"transfer-encoding": "chunked"}
        if request.path == "/busy":
            return (429, {"retry-after": "1"}) if number == 1 else (200, {})
        if request.path == "/fails":
            return (500, {}) if number < 3 else (200, {})
        if request.path == "/elsewhere":
            return 302, {"location": receiver.url("/well")}
        return (410, {}) if request.path == "/gone" else (204, {})

    receiver.answer = answer
    (alpha,) = agents(mesh, 1)
    kinds = ("hangs", "streams", "busy", "fails", "elsewhere", "gone", "well")
    hooks = {kind: hook(receiver, f"/{kind}", attempts=4, events=["instance.unhealthy"]) for kind in kinds}
    mesh.put(f"policies/webhook/{SERVICE}", {"hooks": hooks})
    port = mesh.instance(alpha)
    began = time.monotonic()
    turn(port, "unhealthy")
    until("the well one", lambda: receiver.of(path="/well"))
    assert receiver.of(path="/well")[0].at - began < 10, "the one that hangs takes longer than that"
    until("everything told or given up", lambda: quiet(mesh), 60)
    assert {path: len(receiver.of(path=f"/{path}")) for path in kinds} == {
        "hangs": 4, "streams": 1, "busy": 2, "fails": 3, "elsewhere": 1, "gone": 1, "well": 1,
    }  # fmt: skip
    ids = {r.event["id"] for r in receiver.received}
    assert len(ids) == 1
    first, second = receiver.of(path="/busy")
    assert second.at - first.at >= 1
    listed = mesh.shoal("--admin", str(alpha.socket), "--output", "json", "events").stdout
    for word in ("undelivered", "redirects are not followed", "410", "no whole answer within 2 s"):
        assert word in listed
    assert "undelivered" in mesh.shoal("status").stdout
    receiver.answer = lambda request, number: (204, {})
    (id,) = ids
    mesh.shoal("--admin", str(alpha.socket), "events", "replay", id)
    until("told at last", lambda: len(receiver.of(path="/gone")) == 2 and quiet(mesh))
    assert left(mesh, "undelivered") == [] and len(receiver.of(path="/well")) == 1


def test_somebody_who_follows_sees_it_come_and_be_told(mesh: Mesh, receiver: Receiver) -> None:
    """One line when it waits, one when it was told; only of the service that was asked for."""
    (alpha,) = agents(mesh, 1)
    mesh.put("policies/webhook/*", {"hooks": {"all": hook(receiver, events=["instance.unhealthy"])}})
    port, other = mesh.instance(alpha), mesh.instance(alpha, service="cats.production")
    words = [*SHOAL, "--etcd", mesh.etcd.url, "events", "--follow", "--service", SERVICE]
    following = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: Queue[str] = Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in following.stdout or ()])
    reader.start()
    try:
        assert "following events of pets.production" in lines.get(timeout=PATIENCE_S)
        turn(other, "unhealthy")
        turn(port, "unhealthy")
        seen = [lines.get(timeout=PATIENCE_S) for _ in range(2)]
        assert "waiting" in seen[0] and "told" in seen[1]
        assert all(f"instances/{SERVICE}/host-0-{port}" in line for line in seen)
    finally:
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 130
        reader.join()
        assert following.stdout is not None
        following.stdout.close()


def test_the_death_of_a_host_is_told_once(mesh: Mesh, receiver: Receiver) -> None:
    """Agent and instances are killed together: one survivor says so of each, and that the service is down."""
    alpha, beta, gamma = agents(mesh, 3)
    mesh.put("policies/webhook/*", {"hooks": {"all": hook(receiver, events=["*"])}})
    ports = [mesh.instance(gamma) for _ in range(2)]
    until("settled", lambda: quiet(mesh))
    receiver.received.clear()
    assert gamma.process is not None
    for service in mesh.services:
        service.kill()
    os.killpg(gamma.process.pid, signal.SIGKILL)
    gamma.process.wait()
    until("all of it", lambda: receiver.of("agent.lost") and len(receiver.of("instance.gone")) == 2)
    until("down", lambda: receiver.of("service.down"))
    until("everything told", lambda: quiet(mesh))
    time.sleep(2)
    gone = sorted(r.event["subject"] for r in receiver.of("instance.gone"))
    assert gone == sorted(f"instances/{SERVICE}/host-2-{port}" for port in ports)
    assert [r.event["subject"] for r in receiver.of("agent.lost")] == ["agents/host-2"]
    assert [r.event["subject"] for r in receiver.of("service.down")] == [f"services/{SERVICE}"]
    gamma.start()
    until("back", lambda: receiver.of("agent.joined"))
    assert alpha.process is not None and beta.process is not None
    gamma.stop()
    until("everything told again", lambda: quiet(mesh))
    assert len(receiver.of("agent.lost")) == 1, "it left in order"


STEPS = ("before it is delivered", "after it was delivered", "whenever", "the one that saw it")


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_whoever_is_killed(mesh: Mesh, receiver: Receiver, step: str) -> None:
    """kill -9 of the agent that tells: another goes on. The same event may come twice, and is the same then."""
    all_agents = agents(mesh, 3)
    mesh.put(f"policies/webhook/{SERVICE}", {"hooks": {"all": hook(receiver, events=["instance.*"], timeout="30s")}})
    port = mesh.instance(all_agents[0])
    until("settled", lambda: quiet(mesh))
    receiver.received.clear()

    def kill_teller() -> None:
        teller = mesh.etcdctl("get", "--print-value-only", f"/shoal/default/claims/{SERVICE}")
        for each in all_agents:
            if f'"{each.host}"' in teller and each.process is not None:
                process, each.process = each.process, None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def answer(request: Received, number: int) -> tuple[int, dict[str, str]]:
        if step == STEPS[3]:
            return (503 if all_agents[0].process is not None else 204), {}
        if number == 1 and step != "whenever":
            kill_teller()
            return (503, {}) if step == STEPS[0] else (204, {})
        return 204, {}

    receiver.answer = answer
    turn(port, "unhealthy")
    if step == "whenever":
        until("in etcd or told", lambda: left(mesh, "events") or receiver.received)
        kill_teller()
    if step == STEPS[3]:
        until("tried", lambda: receiver.of("instance.unhealthy"))
        process, all_agents[0].process = all_agents[0].process, None
        assert process is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        receiver.received.clear()
    until("told", lambda: receiver.of("instance.unhealthy"))
    until("done with", lambda: quiet(mesh))
    told = receiver.of("instance.unhealthy")
    assert 1 <= len(told) <= 2 and len({r.event["id"] for r in told}) == 1


def test_etcd_is_killed_in_the_middle(mesh: Mesh, receiver: Receiver) -> None:
    """The transition happens while etcd is away: it is told when etcd is back, and so is that etcd was away."""
    alpha, _ = agents(mesh, 2)
    mesh.put("policies/webhook/*", {"hooks": {"all": hook(receiver, events=["instance.*", "etcd.*"])}})
    port = mesh.instance(alpha)
    until("settled", lambda: quiet(mesh))
    receiver.received.clear()
    mesh.etcd.kill()
    turn(port, "unhealthy")
    time.sleep(6)
    assert receiver.received == []
    mesh.etcd.start()
    until("told", lambda: receiver.of("instance.unhealthy") and receiver.of("etcd.back"))
    until("done with", lambda: quiet(mesh))
    assert len({r.event["id"] for r in receiver.of("instance.unhealthy")}) == 1


def test_what_a_policy_writer_may_not_do(mesh: Mesh, receiver: Receiver) -> None:
    """Without a word in the agent's settings nothing inside is called, and no program runs; both are said."""
    alpha = mesh.agent()
    hooks = {
        "inside": hook(receiver),
        "program": {"format": "exec", "exec": {"command": ["/bin/touch", str(mesh.folder / "touched")]}},
    }
    mesh.put(f"policies/webhook/{SERVICE}", {"hooks": hooks})
    port = mesh.instance(alpha)
    turn(port, "unhealthy")
    until("given up", lambda: len(left(mesh, "undelivered")) >= 1 and quiet(mesh))
    listed = mesh.shoal("--admin", str(alpha.socket), "--output", "json", "events").stdout
    assert "127.0.0.1 is loopback" in listed and "allow no programs" in listed
    assert receiver.received == [] and not (mesh.folder / "touched").exists()
    tried = mesh.shoal("--admin", str(alpha.socket), "hook", "test", SERVICE, "inside", check=False)
    assert tried.returncode == 1 and "loopback" in tried.stdout + tried.stderr
