"""What strangers put before an agent and its people: an etcd full of garbage, and an environment that names proxies."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.store import EtcdSettings, EtcdStore
from tests.support.mesh import Mesh, running_mesh, until
from tests.support.receiver import Receiver
from tests.support.tunnel import Tunnel, environment_of

NASTY = "v\x1b[31m\x9b2J\x7f\u202e\u2066\u2028\r\nshoal: all is well"
ESCAPE = {"table": "\\x1b", "json": "\\u001b"}
COMMANDS = (
    "services",
    "instances",
    "instances pets.production",
    "status",
    "events",
    "chain pets.production",
    "diff pets.production",
    "wait --timeout 1",
    "explain GET http://pets.production/",
    "policy get",
    "policy get route pets.production",
    "policy rm webhook pets.production",
    "replay pets.production --dry-run",
    "events replay x",
    "deregister pets.production nobody",
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def obeyed(text: str) -> list[str]:
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


async def litter(mesh: Mesh) -> None:
    """Every room, with records that can be read and hold what is no text, and with what cannot be read at all."""
    instance = {"address": "127.0.0.1", "port": 9, "version": NASTY[:40], "zone": NASTY[:40], "agent": "ghost"}
    health = {"healthy": False, "since": NASTY, "reason": NASTY, "by": NASTY}
    agent = {"address": NASTY, "inbound_port": 1, "zone": NASTY, "version": NASTY, "started": NASTY, "boot": NASTY}
    event = {"event": {"id": "x", "type": NASTY, "time": NASTY, "subject": NASTY, "data": {"reason": NASTY}}}
    rejection = {"revision": 1, "path": NASTY, "reason": NASTY, "at": NASTY, "last_good": 0, "by": NASTY}
    calls = {"calls": {NASTY: [NASTY], "pets.production": [NASTY]}}
    version = {"version": NASTY, "build": NASTY, "kinds": {"route": {"fields": {"$": [NASTY]}, NASTY: NASTY}}}
    values = (
        version,
        instance,
        {**instance, "metadata": {NASTY: NASTY}},
        health,
        agent,
        event,
        rejection,
        calls,
        NASTY,
        {},
    )
    rooms = (
        "instances/pets/production", "health/pets/production", "agents", "acks", "seen", "events", "told",
        "undelivered", "rejected/route", "policies/route", "policies/webhook", "compared/pets.production",
        "versions", NASTY,
    )  # fmt: skip
    async with EtcdStore.open(EtcdSettings(endpoints=(mesh.etcd.url,))) as store:
        for room in rooms:
            for number, value in enumerate(values):
                await store.put(f"/shoal/default/{room}/n{number}", json.dumps(value, ensure_ascii=False).encode())
                await store.put(f"/shoal/default/{room}/{NASTY}{number}", NASTY.encode())
        await store.put("/shoal/default/policies/route/pets.production", f'{{"active": "x", "{NASTY}": 1}}'.encode())


SHOWN = (
    "mesh",
    "services",
    "instances",
    "policies",
    "policies/refused",
    "agents",
    "agent",
    "events",
    "findings",
    "calls",
)


@pytest.mark.parametrize("output", ["table", "json"])
async def test_every_command_shows_it_as_text(mesh: Mesh, output: str) -> None:
    """No command prints what a terminal obeys, nor a line that somebody else began; nor do log and admin API."""
    agent = mesh.agent()
    await litter(mesh)
    until("it is seen", lambda: agent.state()["refused"])
    admin = str(agent.socket)
    shown: list[str] = []
    for line in COMMANDS:
        words = ("--admin", admin, "--output", output, "--etcd-timeout", "3", *line.split())
        told = mesh.shoal(*words, check=False)
        assert told.returncode in (0, 1, 4), f"{line}: {told.stderr}"
        shown += line.split()[:1] * (ESCAPE[output] in told.stdout + told.stderr)
        assert "Traceback" not in told.stderr, told.stderr
        if line != "policy get route pets.production":  # byte for byte, into a pipe
            assert obeyed(told.stdout) == [], line
            assert not any(row.startswith("shoal: all is well") for row in told.stdout.splitlines()), line
        assert obeyed(told.stderr) == [], line
        assert not any(row.startswith("shoal: all is well") for row in told.stderr.splitlines()), line
    assert {"services", "instances", "status", "events"} <= set(shown)  # what was put does come out
    for path in ("/state", *(f"/api/v1/{each}" for each in SHOWN)):
        assert obeyed(agent.text(path)) == [], path
    assert agent.stop() == 0
    assert obeyed(agent.log.read_text()) == []


def test_proxies_of_the_environment_are_asked_for_nothing(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a password for etcd, a check, a webhook, a call and a topic: all goes where settings and documents say."""
    receiver = Receiver()
    hooks = {"hooks": {"chat": {"target": {"url": receiver.url("/")}}}}
    mesh.etcdctl("put", "/shoal/default/policies/webhook/pets.production", json.dumps(hooks))
    for words in ("user add root:secret", "user grant-role root root", "auth enable"):
        mesh.etcdctl(*words.split())
    password = mesh.folder / "password"
    password.write_text("secret")
    agent = mesh.agent(start=False)
    mine = f'[hooks]\nallow = ["127.0.0.1"]\n[etcd]\nuser = "root"\npassword_file = "{password}"'
    agent.path.write_text(agent.path.read_text().replace("[etcd]", mine))
    with Tunnel() as tunnel:
        for name, value in environment_of(tunnel).items():
            if name not in os.environ:
                monkeypatch.setenv(name, value)
        agent.start()
        port = mesh.instance(agent)
        assert mesh.healthy(agent, "pets.production", port)
        assert agent.ask().status == 200
        tried = mesh.shoal("--admin", str(agent.socket), "hook", "test", "pets.production", "chat", check=False)
        assert tried.stdout == "delivered: status 204\n"
        done = mesh.shoal("--etcd-user", "root", "--etcd-password-file", str(password), "services")
        assert "pets.production" in done.stdout
        topic = mesh.shoal("replay", "redis://127.0.0.1:1/0?stream=orders", "--dry-run", check=False)
        assert "refused" in topic.stderr
        assert agent.stop() == 0
        assert tunnel.heard == []
    receiver.close()
