"""Figures of a mesh of three agents: each request counted once, whoever is asked; advice that outlives its agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until

PETS = "pets.production"
ASKED = 60


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def figures(agent: AgentProcess, **query: object) -> Any:
    words = {"scope": "mesh", "service": PETS, "last_s": 300, **query}
    return json.loads(agent.text("/api/v1/figures?" + "&".join(f"{name}={value}" for name, value in words.items())))


def shoal(mesh: Mesh, agent: AgentProcess, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return mesh.shoal("--admin", f"http://{agent.address}:{agent.admin}", *words, check=check)


def one(mesh: Mesh, *key: str) -> dict[str, Any]:
    told = mesh.etcdctl("get", "--print-value-only", *key)
    return json.loads(told) if told.strip() else {}


def test_each_request_is_counted_once_and_advice_goes_on(mesh: Mesh) -> None:
    """Over two hops as over one; by service, edge and instance; a host that was killed is named, its claim taken."""
    agents = [mesh.agent(host, f"127.0.0.{n + 1}", extra="workers = 2") for n, host in enumerate(("a", "b", "c"))]
    first, second, _ = agents
    mesh.instance(first, "v1")
    mesh.instance(second, "v2")
    mesh.put(f"policies/scale/{PETS}", {"min": 2, "max": 3, "target": {"rate": 0.2}, "cooldown": {"down": "10m"}})
    for agent in agents:
        until("two instances", lambda agent=agent: len(agent.state()["services"][PETS]["endpoints"]) == 2)
    for number in range(ASKED):
        first.ask(PETS, path="/missing" if number % 10 == 0 else "/")

    def counted() -> bool:
        return bool(sum(item["requests"] for item in figures(second)["items"]) >= ASKED)

    until("a window that has them", counted, 60)
    by_service = figures(agents[2])
    (row,) = by_service["items"]
    assert row["requests"] == ASKED and by_service["asked"] == 3 and not by_service["missing"]
    assert 0 < row["p50_s"] <= row["p99_s"] and sum(row["statuses"].values()) == ASKED
    edges = figures(second, by="edge")["items"]
    assert sum(each["requests"] for each in edges) == ASKED
    versions = {each["version"]: each["requests"] for each in figures(second, by="version")["items"]}
    assert set(versions) >= {"v1", "v2"} and sum(versions.values()) == ASKED
    instances = figures(second, by="instance")["items"]
    assert len(instances) == 2 and sum(each["requests"] for each in instances) == ASKED, json.dumps(instances)

    shown = shoal(mesh, second, "top", "--once", PETS)
    assert PETS in shown.stdout and "3 of 3 agents" in shown.stderr
    assert json.loads(shoal(mesh, second, "-o", "json", "top", PETS, "--edges", "--last", "300").stdout)["asked"] == 3
    assert shoal(mesh, second, "top", "--edges", "--instances", check=False).returncode == 2

    advised = until("advice", lambda: one(mesh, f"/shoal/default/scale/{PETS}"), 60)

    def is_more() -> bool:
        first.ask(PETS)  # what came before the policy was seen is old
        return bool(one(mesh, f"/shoal/default/scale/{PETS}")["replicas"] > 2)

    until("more", is_more, 60)
    told = json.loads(shoal(mesh, agents[2], "-o", "json", "scale", PETS).stdout)
    assert told[0]["service"] == PETS and told[0]["instances"] == 2 and "rate" in told[0]["reason"]
    assert json.loads(first.text(f"/api/v1/scale/{PETS}"))["replicas"] == told[0]["replicas"]

    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/any/shoal_scale_replicas"
    (item,) = json.loads(first.text(f"{path}?labelSelector=service%3D{PETS}"))["items"]
    assert item["value"] == str(told[0]["replicas"]) and item["metricLabels"] == {"service": PETS}

    by_name = {agent.host: agent for agent in agents}
    claimant = one(mesh, f"/shoal/default/scaling/{PETS}")["agent"]
    assert claimant == advised["agent"]
    by_name.pop(claimant).stop(signal.SIGKILL)
    asked, other = by_name.values()
    missing = figures(asked, deadline_s=2)["missing"]
    assert list(missing) == [claimant] and missing[claimant]["why"] in ("unreachable", "late")

    def claims() -> bool:
        return one(mesh, f"/shoal/default/scaling/{PETS}").get("agent") in (asked.host, other.host)

    until("the next one claims", claims, 60)
    before = one(mesh, f"/shoal/default/scale/{PETS}")["replicas"]

    def advice() -> Any:
        told = json.loads(shoal(mesh, asked, "-o", "json", "scale", PETS, check=False).stdout or "[]")
        return [each for each in told if "host" in each]  # what only stands in etcd has none

    row = until("it advises", advice, 60)
    assert row[0]["replicas"] == before and row[0]["host"] in by_name


def test_advice_that_nobody_gives_now_is_told_as_it_stands(mesh: Mesh) -> None:
    """Whoever put it is gone: what stands in etcd, by whom and since when. Where it is not known whether there is
    advice, that is no answer that there is none."""
    agent = mesh.agent("a", "127.0.0.1")
    none = shoal(mesh, agent, "scale", PETS, check=False)
    assert none.returncode == 1 and "nothing is scaled" in none.stderr
    # Without a policy it would be swept away. Of a service without instances nobody advises.
    mesh.put(f"policies/scale/{PETS}", {"min": 2, "max": 9, "target": {"rate": 4}})
    until("the policy is in force", lambda: agent.state()["table"]["policies"] == 1)
    at = "2026-11-27T22:12:51Z"
    advice = {"replicas": 4, "least": 2, "most": 9, "reason": "rate 4", "policy": f"scale/{PETS}", "agent": "b"}
    mesh.put(f"scale/{PETS}", {**advice, "revision": 7, "before": 3, "at": at})
    told = shoal(mesh, agent, "scale", PETS).stdout
    assert "2-9" in told and f"rate 4; as b put it at {at}: no agent advises now" in told
    (row,) = json.loads(shoal(mesh, agent, "-o", "json", "scale").stdout)
    assert (row["service"], row["replicas"], row["agent"]) == (PETS, 4, "b")
    dead = json.dumps({"address": "127.0.0.1", "inbound_port": 1, "version": "0.1.0"})
    mesh.etcdctl("put", "/shoal/default/agents/b", dead)
    until("b is known", lambda: "b" in agent.state()["agents"])
    unknown = shoal(mesh, agent, "scale", "web.production", check=False)
    assert unknown.returncode == 4 and "missing: b: " in unknown.stderr and "nothing is scaled" not in unknown.stderr


def test_a_service_grows_and_shrinks_by_advice(mesh: Mesh) -> None:
    """`shoal run --replicas auto` has as many copies as are advised; its end is that of all of them."""
    agent = mesh.agent("a", "127.0.0.1")
    places = {"SHOAL_ADMIN": str(agent.socket), "SHOAL_ETCD": mesh.etcd.url}
    program = [sys.executable, str(ROOT / "tests/support/service.py"), "--version", "v1"]
    running = subprocess.Popen(
        [*SHOAL, "run", "--service", PETS, "--health", "/health", "--replicas", "auto", "--", *program],
        cwd=ROOT,
        env={**os.environ, **places},
        stderr=subprocess.PIPE,
    )

    def healthy() -> int:
        known = json.loads(agent.text(f"/api/v1/instances?service={PETS}"))
        return sum(each["state"] == "healthy" for each in known["items"])

    try:
        until("one copy", lambda: healthy() == 1)
        mesh.put(f"policies/scale/{PETS}", {"min": 3, "max": 5, "target": {"rate": 1000}})
        until("three copies", lambda: healthy() == 3)
        mesh.put(f"policies/scale/{PETS}", {"min": 1, "max": 2, "target": {"rate": 1000}})
        until("two copies", lambda: healthy() == 2)
        assert agent.ask(PETS).status == 200
    finally:
        running.terminate()
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert json.loads(agent.text(f"/api/v1/instances?service={PETS}"))["items"] == []
