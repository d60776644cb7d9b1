"""People over two hosts, with real agents: canaries, limits, stickiness and copies by claim; what instances are told of
them; and doors that stay closed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mesh import Answer, Mesh, running_mesh, until
from tests.support.tokens import provider, token

LAMPS = "lamps.production"
AUTHN: dict[str, Any] = {"providers": [provider()], "forward": False, "headers": {"x-user": "sub"}}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def jwt(other: bool = False, **claims: Any) -> str:
    made = token({"iss": "https://login", "aud": "lamps", "exp": time.time() + 3600, **claims}, other=other)
    return f"Bearer {made}"


def seen(answer: Answer) -> tuple[str, str]:
    """Which version has answered, and whom it has seen; never a token."""
    assert answer.status == 200, answer.body
    told = json.loads(answer.body)
    assert "authorization" not in told["headers"]
    return told["version"], told["headers"].get("x-user", "")


def test_people_over_two_hosts(mesh: Mesh) -> None:
    """A canary for the free tier, a limit for each user, a side for each user, and copies by claim."""
    near, far = mesh.agent("near", "127.0.0.1"), mesh.agent("far", "127.0.0.2")
    for version in ("v1", "v2"):
        mesh.instance(far, version, LAMPS)
    mesh.instance(far, "v1", "dogs.production")
    until("known", lambda: len(near.state()["services"][LAMPS]["endpoints"]) == 2)
    mesh.put(f"policies/authn/{LAMPS}", AUTHN)

    assert near.ask(LAMPS).status == 401 and far.ask(LAMPS).status == 401
    assert near.ask(LAMPS, Authorization=jwt(other=True, sub="ann")).status == 401
    assert "shoal_authn_total{" not in far.text("/metrics") or 'verdict="signature"' not in far.text("/metrics")
    counted = f'shoal_authn_total{{document="{LAMPS}",service="{LAMPS}",verdict="signature"}} 1.0'
    until("counted at the caller's", lambda: counted in near.text("/metrics"))

    v1 = {"split": [{"version": "v1"}]}
    canary = {"match": {"claims": {"tier": "free"}}, "split": [{"version": "v2"}]}
    mesh.put(f"policies/route/{LAMPS}", {"rules": [canary, v1]})
    for tier, version in (("free", "v2"), ("paid", "v1")):
        for agent in (near, far):
            answer = agent.ask(LAMPS, Authorization=jwt(sub="ann", tier=tier), X_User="root")
            assert seen(answer) == (version, "ann")

    sticky = {"split": [{"version": "v1"}, {"version": "v2"}], "sticky": {"claim": "sub"}}
    mesh.put(f"policies/route/{LAMPS}", {"rules": [sticky]})
    sides = {
        user: {seen(agent.ask(LAMPS, Authorization=jwt(sub=user)))[0] for agent in (near, far, near)}
        for user in [f"user-{n}" for n in range(12)]
    }
    assert all(len(side) == 1 for side in sides.values()) and len({min(side) for side in sides.values()}) == 2

    mesh.put(f"policies/ratelimit/{LAMPS}", {"limits": [{"name": "user", "rate": "1/h", "key": {"claim": "sub"}}]})
    asked = [near.ask(LAMPS, Authorization=jwt(sub=user)).status for user in ("eve", "bob", "eve")]
    assert asked.count(429) >= 1 and asked[:2] == [200, 200]
    mesh.shoal("policy", "rm", "ratelimit", LAMPS, "--wait")

    copies = {"copies": [{"to": "dogs.production", "match": {"claims": {"tier": "free"}}, "percent": 100}]}
    mesh.put(f"policies/shadow/{LAMPS}", copies)
    for tier in ("paid", "free"):
        seen(near.ask(LAMPS, Authorization=jwt(sub="ann", tier=tier)))
    copied = f'shoal_shadow_total{{outcome="answered",service="{LAMPS}"}} 1.0'
    until("copied", lambda: copied in near.text("/metrics"))

    groups = 'groups=["staff","dev"]'
    words = (
        "--admin",
        str(near.socket),
        "explain",
        "--claim",
        "sub=user-1",
        "--claim",
        groups,
        "GET",
        f"http://{LAMPS}/",
    )
    told = mesh.shoal(*words).stdout
    assert told.count(f"authn/{LAMPS} @") == 2 and "admit on far" in told and "sub=user-1" in told
    assert told.count('groups=["staff","dev"]') == 2, "a list is one to the other host, too"

    asked = {"url": f"http://{LAMPS}/", "claims": {"sub": "user-1"}}
    plain = httpx.post(f"http://{near.address}:{near.admin}/api/v1/explain", json=asked, trust_env=False).text
    assert "taken for one with a token" in plain and "user-1" not in plain, "anybody may ask there"

    # Taken out: no claim holds any more, and what asks for one is found.
    mesh.shoal("policy", "rm", "authn", LAMPS, "--wait")
    mesh.put(f"policies/route/{LAMPS}", {"rules": [canary, v1]})
    answer = near.ask(LAMPS, Authorization=jwt(sub="ann", tier="free"))
    assert json.loads(answer.body)["version"] == "v1"
    assert "no-claims" in mesh.shoal("check", check=False).stdout


def test_a_restart_without_etcd_knows_people(mesh: Mesh) -> None:
    """By what is on the disk: who may not pass does not, at the caller's agent as beside the instance."""
    near, far = mesh.agent("near", "127.0.0.1"), mesh.agent("far", "127.0.0.2")
    mesh.instance(far, "v1", LAMPS)
    mesh.instance(far, "v2", LAMPS)
    until("known", lambda: len(near.state()["services"][LAMPS]["endpoints"]) == 2)
    mesh.put(f"policies/authn/{LAMPS}", AUTHN)
    rules = [{"match": {"claims": {"tier": "free"}}, "split": [{"version": "v2"}]}, {"split": [{"version": "v1"}]}]
    mesh.put(f"policies/route/{LAMPS}", {"rules": rules})
    for agent in (near, far):
        until("on disk", lambda agent=agent: b"x-user" in (agent.state_dir / "table").read_bytes())
    mesh.etcd.stop()
    near.stop()
    near.start()
    assert near.ask(LAMPS).status == 401
    assert near.ask(LAMPS, Authorization=jwt(other=True, sub="ann", tier="free")).status == 401
    assert seen(near.ask(LAMPS, Authorization=jwt(sub="ann", tier="free"), X_User="root")) == ("v2", "ann")
