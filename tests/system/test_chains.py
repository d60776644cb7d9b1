"""Chains of services on real parts: retries that do not multiply, and `shoal chain`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import Mesh, running_mesh, until

EAGER = {"attempts": 3, "on": ["connect-failure", "reset", "gateway-error", "5xx"], "backoff": {"base": "1ms"}}
REQUESTS = 300


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def test_a_retry_storm_does_not_happen(mesh: Mesh) -> None:
    """a calls b calls c calls d, which is dead; everybody tries three times: c gets hardly more requests than a."""
    alpha = mesh.agent()
    mesh.put("policies/retry/*", EAGER)
    mesh.put("policies/health/d.production", {"initially": True, "http": {}, "fall": 100, "interval": "5s"})
    for name in "abc":
        mesh.caller(alpha, f"{name}.production")
    alpha.register("d.production", free_port())
    until("d known", lambda: alpha.state()["services"]["d.production"]["endpoints"][0]["healthy"])
    statuses = {
        alpha.ask("a.production", "/via/b.production/c.production/d.production").status for _ in range(REQUESTS)
    }
    assert statuses == {503}

    def arrived(name: str) -> int:
        (endpoint,) = alpha.state()["services"][f"{name}.production"]["endpoints"]
        return int(endpoint["requests"])

    assert arrived("a") <= 1.1 * REQUESTS
    assert REQUESTS <= arrived("c") <= 1.1 * REQUESTS


def test_an_unrelated_failure_switches_no_retries_off(mesh: Mesh) -> None:
    """b's own calls to c all fail, for nobody's sake; its failures of other requests are tried again as ever."""
    alpha = mesh.agent()
    mesh.put("policies/retry/b.production", EAGER)
    mesh.put("policies/health/c.production", {"initially": True, "http": {}, "fall": 100, "interval": "5s"})
    mesh.caller(alpha, "b.production")
    alpha.register("c.production", free_port())
    until("c known", lambda: alpha.state()["services"]["c.production"]["endpoints"][0]["healthy"])
    statuses = []
    for n in range(REQUESTS):
        if n % 5 == 0:
            called = json.loads(alpha.ask("b.production", "/call?url=http://c.production/").body)["called"]
            assert called["status"] == 503
        statuses.append(alpha.ask("b.production", "/fail?rate=0.3").status)
    assert statuses.count(200) >= 0.9 * REQUESTS, "each has three tries, of which one in three fails"


def test_a_chain_is_shown_with_what_is_wrong(mesh: Mesh) -> None:
    """From the calls that the agent has seen; and warned of before a put."""
    alpha = mesh.agent()
    for name in "ab":
        mesh.caller(alpha, f"{name}.production")
    mesh.instance(alpha, service="c.production")
    assert alpha.ask("a.production", "/via/b.production/c.production").status == 200
    until("seen", lambda: "c.production" in mesh.etcdctl("get", "--prefix", "/shoal/default/seen/"))
    told = mesh.shoal("chain", "a.production")
    assert told.stdout.startswith("a.production")
    assert "└─ b.production" in told.stdout and "   └─ c.production" in told.stdout
    slow = mesh.folder / "slow.yaml"
    slow.write_text("kind: timeout\nservice: c.production\nrequest: 60s\n")
    warned = mesh.shoal("policy", "check", "--chain", str(slow), check=False)
    assert warned.returncode == 1
    assert "may take 60 s" in warned.stderr
    assert mesh.shoal("policy", "check", str(slow)).returncode == 0
    closed = mesh.folder / "closed.yaml"
    closed.write_text("kind: authz\nservice: c.production\nrules: [{allow: [nosuch.production]}]\n")
    denied = mesh.shoal("policy", "check", "--chain", str(closed), check=False)
    assert denied.returncode == 1
    assert "denies all of what was seen to be called: b.production → c.production" in denied.stderr
    mesh.shoal("policy", "put", "--wait", str(slow))
    again = mesh.shoal("--output", "json", "chain", "a.production", check=False)
    assert again.returncode == 1
    (finding,) = json.loads(again.stdout)["findings"]
    assert finding["path"] == ["a.production", "b.production", "c.production"]
