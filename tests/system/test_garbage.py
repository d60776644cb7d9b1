"""Whatever anybody puts before an agent costs nothing but itself: etcd's rooms, and what users of the host send.

Nobody dies, nothing is logged that Shoal did not expect, requests go on, and memory stays what it was.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Room
from tests.support.local import ask
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until

ROUNDS = 8
EACH = 60
MORE_KIB = 24 * 1024
"""What a process may have grown by meanwhile: caches fill up, and garbage is not kept."""
WORDS = ("address", "port", "agent", "healthy", "event", "id", "done", "revision", "calls", "rules", "hooks", "limits")
DOORS = (
    ("POST", "/instances"),
    ("POST", "/api/v1/instances"),
    ("DELETE", "/api/v1/instances/{}/{}"),
    ("PUT", "/api/v1/instances/{}/{}/health"),
    ("POST", "/api/v1/instances/{}/{}/token"),
    ("GET", "/state?service={}"),
    ("GET", "/api/v1/agent/services?service={}"),
    ("GET", "/api/v1/services/{}"),
    ("GET", "/api/v1/instances?service={}&limit={}"),
    ("GET", "/api/v1/agents/{}/calls?service={}"),
    ("GET", "/api/v1/policies/{}/{}"),
    ("GET", "/api/v1/{}"),
    ("POST", "/api/v1/explain"),
    ("GET", "/api/v1/shadow/{}"),
    ("POST", "/api/v1/shadow/{}/reset"),
    ("POST", "/api/v1/hooks/test"),
    ("POST", "/api/v1/events/{}/replay"),
    ("PATCH", "/{}"),
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Mesh, AgentProcess]]:
    with running_mesh(tmp_path) as mesh:
        agent = mesh.agent()
        mesh.instance(agent)
        yield mesh, agent


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of JSON that no record has in mind."""
    if depth > 3 or rng.random() < 0.5:
        return rng.choice([None, True, -1, 2**62, 1e308, "", "\x1b[2J", "x" * 300, "10.0.0.5", "pets.production"])
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): anything(rng, depth + 1) for _ in range(rng.randrange(5))}


def garbage(rng: random.Random) -> bytes:
    """Bytes, text, JSON of another shape, halves of it, and depths."""
    value = json.dumps(anything(rng)).encode()
    return rng.choice(
        [
            rng.randbytes(rng.randrange(200)),
            value,
            value[: rng.randrange(1 + len(value))],
            b"[" * rng.randrange(3000),
            b"a: &a [*a, *a]\n",
            b'{"a": ' * 500,
        ]
    )


def sizes_kib(agent: AgentProcess) -> dict[int, int]:
    """Resident memory by process: control and its workers."""
    assert agent.process is not None
    pids = [agent.process.pid, *(worker["pid"] for worker in agent.state()["workers"])]
    found = {}
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        found[pid] = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    return found


def unharmed(agent: AgentProcess, before: dict[int, int]) -> None:
    after = sizes_kib(agent)
    assert after.keys() == before.keys(), "a process was replaced"
    assert agent.ready() and agent.ask().status == 200
    log = agent.log.read_text()
    assert "Traceback" not in log and "mistake" not in log, log[-3000:]
    grown = {pid: after[pid] - before[pid] for pid in after}
    assert max(grown.values()) < MORE_KIB, grown


async def test_garbage_in_every_room_of_etcd(served: tuple[Mesh, AgentProcess]) -> None:
    """Keys and values that nobody understands, put and deleted and put again, under load."""
    mesh, agent = served
    rng = random.Random(20)
    names = [
        "",
        "x",
        "pets.production",
        "*",
        "*.production",
        "a/b/c",
        "..",
        "\x1b[2J",
        "x" * 200,
        "pets.production/one",
    ]
    kinds = ["route", "retry", "health", "webhook", "shed", "none-such"]
    async with EtcdStore.open(EtcdSettings(endpoints=(mesh.etcd.url,))) as store:

        async def one_round() -> None:
            put: list[str] = []
            for _ in range(EACH):
                room = rng.choice([*Room, None])
                first = rng.choice(kinds) if room in (Room.POLICIES, Room.REJECTED) else rng.choice(names)
                key = f"/shoal/default/{room.value if room else 'nowhere'}/{first}/{rng.choice(names)}"
                if (key.startswith("/shoal/default/policies/") and "production" in key) or key.endswith("/*"):
                    continue  # one that happens to be sound would be in force
                put.append(key)
                await store.put(key, garbage(rng))
            for key in put:
                await store.delete(key)

        with Traffic(agent, threads=1) as traffic:
            await one_round()
            before = sizes_kib(agent)
            for _ in range(ROUNDS):
                await one_round()
            traffic.more(20)
        assert traffic.failures == []
        await store.put("/shoal/default/policies/timeout/other", b'{"request": "2s"}')
    until("the last put has arrived", lambda: agent.state()["table"]["policies"] == 1)
    unharmed(agent, before)


def test_garbage_at_every_door(served: tuple[Mesh, AgentProcess]) -> None:
    """Bodies and names of every path, on the socket and on the admin port; answers are the mesh's own, in JSON."""
    _, agent = served
    rng = random.Random(21)
    names = ["", "x", "pets.production", "..", "%ff%00", "%2e%2e%2f", "x" * 300, "http:%2f%2f%5b", "%f0%9f%90%9f"]

    def one_round() -> None:
        for _ in range(EACH):
            method, path = rng.choice(DOORS)
            target = path.format(*(rng.choice(names) for _ in range(3)))
            told = ask(agent.socket, method, target, garbage(rng))
            assert told.status < 500 or told.status == 503, (method, target, told.status, told.body)
            if told.body and told.status >= 400:
                json.loads(told.body)
        for place in (agent.socket, (agent.address, agent.admin)):
            family = socket.AF_INET if isinstance(place, tuple) else socket.AF_UNIX
            with socket.socket(family) as raw:
                raw.settimeout(10)
                raw.connect(place if isinstance(place, tuple) else str(place))
                raw.sendall(rng.randbytes(200) + b"\r\n\r\n")

    one_round()
    before = sizes_kib(agent)
    for _ in range(ROUNDS):
        one_round()
    unharmed(agent, before)
