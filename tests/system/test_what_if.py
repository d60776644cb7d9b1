"""Documents in a file, and what they would do to a request, over two hosts: told before they are put, and so after."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

PETS = "pets.production"
FILES = {
    "authz.yaml": (
        f"kind: authz\nservice: {PETS}\nrules: [{{allow: [shop.production], match: {{path: {{prefix: /cats}}}}}}]\n"
    ),
    "both.yaml": (
        f"kind: route\nservice: {PETS}\nrules: [{{split: [{{version: v2}}]}}]\n---\n"
        f"kind: ratelimit\nservice: {PETS}\nmode: audit\nlimits: [{{name: all, rate: 5/s}}]\n"
    ),
    "bad.yaml": f"kind: retry\nservice: {PETS}\nattempts: 0\n",
}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def plain(told: Any) -> Any:
    """Without what a document has another one of each time it is put."""
    if isinstance(told, dict):
        return {name: plain(value) for name, value in told.items() if name != "revision"}
    if isinstance(told, list):
        return [plain(each) for each in told]
    return re.sub(r"(table |revision |@)\d+", r"\1N", told) if isinstance(told, str) else told


def test_what_documents_would_do_is_told_before_they_are_put(mesh: Mesh, tmp_path: Path) -> None:
    """By the agent of the caller, and by the one beside the instance; nothing is put; then they are, and it is so."""
    asked, beside = (mesh.agent(host, f"127.0.0.{n + 1}") for n, host in enumerate(("a", "b")))
    for version in ("v1", "v2"):
        mesh.instance(beside, version)
    until("two instances", lambda: len(asked.state()["services"][PETS]["endpoints"]) == 2)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def explained(*words: str, path: str = "/", agent: AgentProcess = asked) -> Any:
        place = ("--admin", f"http://{agent.address}:{agent.admin}", "-o", "json")
        return plain(json.loads(mesh.shoal(*place, "explain", *words, "GET", f"http://{PETS}{path}").stdout))

    before = explained("--as", "shop.production")
    assert before["endpoint"]["via"] == "b", before
    with_authz = {
        path: explained("--as", "shop.production", "--with", str(tmp_path / "authz.yaml"), path=path)
        for path in ("/", "/cats")
    }
    assert with_authz["/"]["status"] == 403 and with_authz["/cats"]["endpoint"]["via"] == "b"
    assert any("denied" in each["decision"] and each.get("host") == "b" for each in with_authz["/"]["decisions"]), (
        with_authz["/"]
    )
    both = explained("--with", str(tmp_path / "both.yaml"))
    assert both["endpoint"]["version"] == "v2"
    assert any(each["policy"] == f"ratelimit/{PETS}" and each["mode"] == "audit" for each in both["decisions"]), both
    wrong = mesh.shoal("explain", "--with", str(tmp_path / "bad.yaml"), "GET", f"http://{PETS}/", check=False)
    assert wrong.returncode and "bad.yaml:$.attempts" in wrong.stderr, wrong.stderr
    assert mesh.etcdctl("get", "--prefix", "--keys-only", "/shoal/default/policies/").strip() == ""

    chain = json.loads(asked.text(f"/api/v1/services/{PETS}/chain"))
    assert chain["chain"]["service"] == PETS and chain["asked"] == 2 and not chain["missing"]
    series = json.loads(asked.text(f"/api/v1/figures/series?scope=mesh&service={PETS}&last_s=60"))
    assert series["asked"] == 2 and not series["missing"]

    mesh.shoal("policy", "put", "--wait", str(tmp_path / "authz.yaml"))
    for path, told in with_authz.items():
        assert explained("--as", "shop.production", path=path) == told
    mesh.shoal("policy", "rm", "authz", PETS)
    mesh.shoal("policy", "put", "--wait", str(tmp_path / "both.yaml"))
    until("it is gone", lambda: explained()["status"] is None)
    assert explained() == both
