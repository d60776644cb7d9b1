"""Rego with real agents: over two hops, changed, hostile, beside a broken document, and without etcd."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import Mesh, running_mesh, until
from tests.system.test_guards import credentials, hosts, said

LAMPS = "secret.staging"
KEY = f"policies/authz/{LAMPS}"
DENIED = (403, "authz", "not allowed")


def rego(*lines: str, **more: Any) -> dict[str, Any]:
    return {"rego": {"modules": {"lamps.rego": "\n".join(["package shoal", *lines])}, "timeout": "10s", **more}}


SHOP = rego(
    'allow if { input.method == "GET"; input.source.service in data.readers; startswith(input.path, "/lamps/") }',
    data={"readers": ["shop.production"]},
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def test_rego_decides(mesh: Mesh) -> None:
    """Beside the instance; explained by the very evaluation, counted; a document that does not compile changes nothing,
    and what is put by the command is refused with its place."""
    near, far = hosts(mesh)
    shop, web = credentials(near, "shop.production", 7001), credentials(near, "web.production", 7002)
    mesh.put(KEY, SHOP)
    for path, caller, passes in (
        ("/lamps/7", shop, True),
        ("/lamps/7", web, False),
        ("/lamps/7", {}, False),
        ("/lamps/../admin", shop, False),
    ):
        for _ in range(2):
            answer = near.ask(LAMPS, path=path, **caller)
            assert (answer.status == 200) if passes else said(answer) == DENIED, (path, caller)
            assert b"rego" not in answer.body
    admin = str(near.socket)
    told = mesh.shoal("--admin", admin, "explain", "--as", "web.production", "GET", f"http://{LAMPS}/lamps/9").stdout
    assert f"authz/{LAMPS} @" in told and "rego: data.shoal.allow is undefined" in told
    text = far.text("/metrics")
    assert f'shoal_authz_total{{document="{LAMPS}",rule="rego",service="{LAMPS}",verdict="allowed"}} 2.0' in text
    asked = f'shoal_authz_asked_total{{document="{LAMPS}",outcome="%s",service="{LAMPS}",who="rego"}}'
    assert f"{asked % 'asked'} 4.0" in text and f"{asked % 'remembered'} 4.0" in text
    assert "shoal_authz_rego_evaluators_total 1.0" in text

    broken = rego("allow if { input.method == }")
    mesh.etcdctl("put", f"/shoal/default/{KEY}", json.dumps(broken))
    waited = mesh.shoal("wait", check=False)
    assert waited.returncode and '$.rego.modules["lamps.rego"]:2:' in waited.stdout + waited.stderr
    until("refused", lambda: far.state()["refused"])
    assert near.ask(LAMPS, path="/lamps/7", **shop).status == 200
    assert said(near.ask(LAMPS, path="/lamps/7", **web)) == DENIED
    file = mesh.folder / "broken.json"
    file.write_text(json.dumps({"kind": "authz", "service": LAMPS, **broken}))
    put = mesh.shoal("policy", "put", str(file), check=False)
    assert put.returncode and '$.rego.modules["lamps.rego"]:2:' in put.stdout + put.stderr

    mesh.put(KEY, rego('allow if { input.source.service == "web.production" }'))
    assert near.ask(LAMPS, path="/", **web).status == 200
    assert said(near.ask(LAMPS, path="/lamps/7", **shop)) == DENIED


def test_a_hostile_document(mesh: Mesh) -> None:
    """Denies its own service's requests, and nobody else's; the worker lives, and the next document is served."""
    agent = mesh.agent()
    mesh.instance(agent, service=LAMPS)
    mesh.instance(agent, service="pets.production")
    workers = [each["pid"] for each in agent.state()["workers"]]
    mesh.put(KEY, rego("allow if { x := [1 | numbers.range(1, 3000)[_]; numbers.range(1, 3000)[_]]; count(x) > 0 }"))
    for _ in range(3):
        assert said(agent.ask(LAMPS)) == DENIED
        assert agent.ask("pets.production").status == 200
    mesh.put(KEY, rego("allow if { input.path }"))
    assert agent.ask(LAMPS).status == 200
    assert [each["pid"] for each in agent.state()["workers"]] == workers


def test_a_restart_without_etcd(mesh: Mesh) -> None:
    """Asks again by what is on the disk; and an evaluator that is killed is replaced."""
    agent = mesh.agent()
    mesh.instance(agent, service=LAMPS)
    shop = credentials(agent, "shop.production", 7001)
    mesh.put(KEY, SHOP)
    assert said(agent.ask(LAMPS, path="/lamps/1")) == DENIED
    assert agent.ask(LAMPS, path="/lamps/1", **shop).status == 200
    table = agent.state_dir / "table"
    until("on disk", lambda: b"lamps.rego" in table.read_bytes())
    mesh.etcd.stop()
    agent.stop()
    agent.start()
    assert said(agent.ask(LAMPS, path="/lamps/1")) == DENIED
    assert agent.ask(LAMPS, path="/lamps/1", **shop).status == 200
    assert agent.process is not None
    killed = evaluators(agent.process.pid)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert agent.ask(LAMPS, path="/lamps/2", **shop).status == 200
    assert said(agent.ask(LAMPS, path="/lamps/2")) == DENIED

    # One whose worker is killed ends with it.
    left = evaluators(agent.process.pid)
    for each in agent.state()["workers"]:
        os.kill(each["pid"], signal.SIGKILL)
    until("gone", lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in left))
    until("served again", lambda: agent.ask(LAMPS, path="/lamps/3", **shop).status == 200)


def evaluators(agent: int) -> list[int]:
    """Of an agent's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"agent.rego" in (folder / "cmdline").read_bytes() and parent_of(parent_of(int(folder.name))) == agent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def parent_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("PPid:")))


def test_bundles_count_with_the_document_that_names_them(mesh: Mesh) -> None:
    """Put in one transaction, changed, broken, and gone; with an agent that comes anew. What is missing denies."""
    near, far = hosts(mesh)
    shop, web = credentials(near, "shop.production", 7001), credentials(near, "web.production", 7002)
    main = rego("allow if data.readers[_] == input.source.service", "allow if data.groups.staff", bundles=["groups"])
    groups = {"modules": {"groups.rego": "package groups\nstaff if input.source.service == data.boss"}, "data": {
        "readers": ["shop.production"], "boss": "web.production"}}  # fmt: skip

    def asked(agent: Any, **caller: str) -> int:
        return int(agent.ask(LAMPS, path="/lamps/7", **caller).status)

    # Before its bundle it lets nothing pass, and says so to who operates.
    mesh.etcdctl("put", f"/shoal/default/{KEY}", json.dumps(main))
    until("missing", lambda: asked(near, **shop) == 503)
    told = mesh.shoal("--admin", str(far.socket), "check", check=False).stdout
    assert "policies/rego/groups is not there" in told
    mesh.etcdctl("del", f"/shoal/default/{KEY}")
    until("gone", lambda: asked(near, **shop) == 200)

    directory = mesh.folder / "policies"
    directory.mkdir()
    (directory / "lamps.json").write_text(json.dumps({"kind": "authz", "service": LAMPS, **main}))
    missing = mesh.shoal("apply", str(directory), check=False)
    assert missing.returncode and "$.rego.bundles[0]: policies/rego/groups is not there" in missing.stderr
    assert missing.stderr.count("lamps.json:$.rego.bundles[0]") == 1
    (directory / "groups.json").write_text(json.dumps({"kind": "rego", "service": "groups", **groups}))
    mesh.shoal("apply", str(directory), "--wait")
    assert (asked(near, **shop), asked(near, **web), asked(near)) == (200, 200, 403)
    explained = mesh.shoal("--admin", str(near.socket), "explain", "GET", f"http://{LAMPS}/lamps/9").stdout
    assert "rego (with groups/groups.rego): data.shoal.allow is" in explained
    mesh.put("policies/rego/groups", {**groups, "data": {"readers": [], "boss": "web.production"}})
    assert (asked(near, **shop), asked(near, **web)) == (403, 200)

    # Said beforehand: of a file by what stands in etcd, and of a bundle by what names it.
    alone = mesh.folder / "alone"
    alone.mkdir()
    bad = rego("allow if data.groups.staff", "allow if groups.nothing(1)", bundles=["groups"])
    (alone / "lamps.json").write_text(json.dumps({"kind": "authz", "service": LAMPS, **bad}))
    done = mesh.shoal("policy", "check", str(alone / "lamps.json"), check=False)
    assert done.returncode == 1 and 'lamps.json:$.rego.modules["lamps.rego"]' in done.stderr
    kept = mesh.shoal("policy", "rm", "rego", "groups", check=False)
    assert kept.returncode == 1 and f"rego/groups is named by authz/{LAMPS}: without it" in kept.stderr
    assert mesh.etcdctl("get", "/shoal/default/policies/rego/groups")

    # Broken, it replaces nothing, for an agent that comes anew either.
    broken = {**groups, "modules": {"groups.rego": "package groups\nstaff if nobody.knows(this)"}}
    mesh.etcdctl("put", "/shoal/default/policies/rego/groups", json.dumps(broken))
    waited = mesh.shoal("wait", check=False)
    assert waited.returncode and '$.rego.modules["groups/groups.rego"]' in waited.stdout + waited.stderr
    until("refused", lambda: far.state()["refused"])
    until("written down", lambda: mesh.etcdctl("get", f"/shoal/default/last_good/authz/{LAMPS}"))
    fresh = mesh.agent("fresh", "127.0.0.3")
    mesh.instance(fresh, service=LAMPS)
    own = credentials(fresh, "web.production", 7003)
    until("both", lambda: len(fresh.state()["services"][LAMPS]["endpoints"]) == 2)
    for _ in range(4):
        assert (asked(fresh, **own), asked(fresh)) == (200, 403)

    # Gone, too; and after a restart without etcd.
    gone = mesh.shoal("policy", "rm", "rego", "groups", "--force").stderr
    assert f"warning: rego/groups is named by authz/{LAMPS}" in gone and "removed rego/groups" in gone
    until("refused", lambda: any("is not there" in each["reason"] for each in far.state()["refused"]))
    assert (asked(near, **shop), asked(near, **web)) == (403, 200)
    mesh.etcd.stop()
    far.stop()
    far.start()
    assert (asked(far), asked(far, **credentials_of(far))) == (403, 403)


def credentials_of(agent: Any) -> dict[str, str]:
    """Of nobody: without etcd nobody can register anew."""
    return {"X_Shoal_Caller": "web.production"}
