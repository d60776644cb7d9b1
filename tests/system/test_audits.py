"""What is only watched, as its users meet it: beside what is in force, in every command, and through restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

SERVICE = "pets.production"
AUDIT = f"audits/ratelimit/{SERVICE}"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def limit(rate: str, burst: int, name: str = "all") -> dict[str, Any]:
    return {"limits": [{"name": name, "rate": rate, "burst": burst}]}


def statuses(agent: AgentProcess, number: int) -> list[int]:
    return [agent.ask().status for _ in range(number)]


def judged(agent: AgentProcess) -> dict[tuple[str, str], int]:
    return {(found["done"], found["would"]): found["requests"] for found in agent.state()["judged"]}


def test_the_meshs_limit_holds_while_a_services_own_is_watched(mesh: Mesh) -> None:
    """In both spellings: in the room for it, and by what the document says."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put("policies/ratelimit/*", limit("1/h", 2, "mesh"))
    mesh.put(f"policies/ratelimit/{SERVICE}", {"mode": "audit", **limit("1000/s", 100)})
    assert statuses(alpha, 4) == [200, 200, 429, 429]
    mesh.put(AUDIT, limit("1/h", 1, "tight"))
    assert statuses(alpha, 2) == [429, 429]
    assert judged(alpha) == {
        ("passed", "passed"): 2,
        ("refused by mesh", "passed"): 3,
        ("refused by mesh", "refused by tight"): 1,
    }
    told = mesh.shoal("--admin", str(alpha.socket), "status").stdout
    assert f"audit     {SERVICE}: 1 refused by mesh; by ratelimit/{SERVICE} would have been: refused by tight" in told
    shown = json.loads(
        mesh.shoal("--admin", str(alpha.socket), "--output", "json", "explain", "GET", f"http://{SERVICE}/").stdout
    )
    modes = {(each["policy"], each["mode"]) for each in shown["decisions"] if each["policy"].startswith("ratelimit/")}
    assert modes == {("ratelimit/*", "enforce"), (f"ratelimit/{SERVICE}", "audit")} and shown["status"] == 429
    assert "two-audits" in mesh.shoal("--admin", str(alpha.socket), "check", check=False).stdout
    for gone in (AUDIT, f"policies/ratelimit/{SERVICE}"):
        mesh.etcdctl("del", f"/shoal/default/{gone}")
    until("nothing is watched any more, whatever was counted", lambda: judged(alpha) == {})


def test_a_directory_has_what_is_enforced_and_what_is_watched(mesh: Mesh) -> None:
    """Applied again nothing changes; a file that turns to audit mode takes nothing out of force; both are pruned."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    folder = mesh.folder / "policies"
    folder.mkdir()
    kind = {"kind": "ratelimit", "service": SERVICE}
    (folder / "limit.json").write_text(json.dumps({**kind, **limit("1/h", 3)}))
    (folder / "tight.json").write_text(json.dumps({"mode": "audit", **kind, **limit("1/h", 1, "tight")}))
    mesh.put(f"policies/retry/{SERVICE}", {"mode": "audit", "attempts": 1})
    (folder / "retry.json").write_text(json.dumps({"mode": "audit", "kind": "retry", "service": SERVICE}))
    told = mesh.shoal("apply", "--wait", str(folder)).stderr
    assert f"created {AUDIT}, which is only watched; ratelimit/{SERVICE} stays in force" in told
    assert f"removed retry/{SERVICE}" in told and f"created audits/retry/{SERVICE}, which is only watched\n" in told
    assert statuses(alpha, 4) == [200, 200, 200, 429] and judged(alpha)["passed", "refused by tight"] == 2
    assert mesh.shoal("apply", str(folder)).stderr.count("unchanged") == 3

    (folder / "tight.json").unlink()
    (folder / "limit.json").write_text(json.dumps({"mode": "audit", **kind, **limit("1/h", 3)}))
    told = mesh.shoal("apply", "--wait", str(folder)).stderr
    assert f"changed {AUDIT}" in told and "removed" not in told and statuses(alpha, 1) == [429]
    told = mesh.shoal("apply", "--prune", "--wait", str(folder)).stderr
    assert f"removed ratelimit/{SERVICE}" in told and statuses(alpha, 1) == [200]
    (folder / "limit.json").unlink()
    assert f"removed {AUDIT}" in mesh.shoal("apply", "--prune", str(folder)).stderr


def test_a_tighter_one_is_put_got_and_taken_away(mesh: Mesh) -> None:
    """Under the name of the one in force, which stays; and what is refused is said, and refuses nobody."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(f"policies/ratelimit/{SERVICE}", limit("1000/s", 1000))
    file = mesh.folder / "tight.json"
    file.write_text(json.dumps({"kind": "ratelimit", "service": SERVICE, **limit("1/h", 1, "tight")}))
    put = mesh.shoal("policy", "put", "--audit", "--wait", str(file))
    stays = f"ratelimit/{SERVICE} stays in force"
    assert f"created {AUDIT}, which is only watched; {stays}" in put.stderr
    assert statuses(alpha, 3) == [200] * 3 and judged(alpha)["passed", "refused by tight"] == 2
    assert json.loads(mesh.shoal("policy", "get", "--audit", "ratelimit", SERVICE).stdout)["kind"] == "ratelimit"
    assert "watched" in mesh.shoal("policy", "get", "--audit").stdout
    file.write_text(json.dumps({"mode": "audit", "kind": "ratelimit", "service": SERVICE, **limit("1/h", 1, "tight")}))
    assert f"changed {AUDIT}, which is only watched; {stays}" in mesh.shoal("policy", "put", str(file)).stderr
    listed = json.loads(mesh.shoal("--output", "json", "policy", "get").stdout)
    assert [(row["room"], row["state"]) for row in listed] == [("policies", "put"), ("audits", "watched")]

    mesh.etcdctl("put", f"/shoal/default/{AUDIT}", '{"limitz": 5}')
    waited = mesh.shoal("wait", check=False)
    assert waited.returncode == 1 and f"{AUDIT}: $: no field 'limitz' here" in waited.stderr
    status = mesh.shoal("--admin", str(alpha.socket), "status", check=False)
    assert status.returncode == 1 and f"refused   {AUDIT}" in status.stdout
    assert statuses(alpha, 1) == [200] and judged(alpha)["passed", "refused by tight"] == 3, (
        "the good one is watched on"
    )

    assert alpha.stop() == 0
    alpha.start()
    assert statuses(alpha, 2) == [200, 200] and judged(alpha)["passed", "refused by tight"] == 1, "from the disk"
    mesh.shoal("policy", "rm", "--audit", "--wait", "ratelimit", SERVICE)
    assert statuses(alpha, 1) == [200] and judged(alpha) == {}, "what was counted is told no longer"
    assert mesh.shoal("--admin", str(alpha.socket), "status").returncode == 0
    assert mesh.etcdctl("get", "--prefix", "/shoal/default/audits").strip() == ""
