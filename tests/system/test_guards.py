"""Guards between two hosts, with real agents: who is isolated, and what is said before `strict`."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Answer, Mesh, running_mesh, until
from tests.system.test_identity import Operator, held
from tests.system.test_identity import put as put_identity

SECRET = "secret.staging"
KEY = f"policies/isolation/{SECRET}"
NAMESPACE = "policies/isolation/*.staging"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def hosts(mesh: Mesh) -> tuple[AgentProcess, AgentProcess]:
    """One where everybody calls, and one where the secret is."""
    near, far = mesh.agent("near", "127.0.0.1"), mesh.agent("far", "127.0.0.2")
    mesh.instance(far, service=SECRET)
    until("known", lambda: near.state()["services"][SECRET]["endpoints"])
    return near, far


def credentials(agent: AgentProcess, service: str, port: int) -> dict[str, str]:
    """Of a service that an agent has registered."""
    token = agent.register(service, port)["token"]
    return {"Proxy_Authorization": "Basic " + base64.b64encode(f"{service}:{token}".encode()).decode()}


def said(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer.headers.get("x-shoal-policy", ""), answer.headers.get("x-shoal-reason", "")


def straight(agent: AgentProcess, source: str, **headers: str) -> Answer:
    """What somebody gets who goes to the inbound port himself."""
    connection = http.client.HTTPConnection(agent.address, agent.inbound, timeout=10, source_address=(source, 0))
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", "/", headers={"Host": SECRET, **named})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def test_an_isolated_service(mesh: Mesh) -> None:
    """Over two hops: for those who are named it is there, and for the others an unknown name; at every door."""
    near, far = hosts(mesh)
    shop, web = credentials(near, "shop.production", 7001), credentials(near, "web.staging", 7002)
    unknown = near.ask("nobody.staging", **shop)
    mesh.put(NAMESPACE, {"allow": ["*.staging"]})
    for caller in ({}, shop, {"X_Shoal_Caller": "web.staging"}, {**shop, "X_Shoal_Caller": "web.staging"}):
        assert said(near.ask(SECRET, **caller)) == (404, "service", said(unknown)[2].replace("nobody.staging", SECRET))
    assert near.ask(SECRET, **web).status == 200

    # The instance's agent asks again: it believes agents whom they speak for, and nobody else.
    assert said(straight(far, "127.0.0.9", X_Shoal_Caller="web.staging"))[:2] == (404, "service")
    assert said(straight(far, "127.0.0.9", **web))[:2] == (404, "service")
    words = {"X_Shoal_Endpoint": f"{SECRET}/{far.state()['services'][SECRET]['endpoints'][0]['id']}"}
    assert said(straight(far, "127.0.0.1", X_Shoal_Caller="shop.production", **words))[:2] == (404, "service")
    assert straight(far, "127.0.0.1", X_Shoal_Caller="web.staging", **words).status == 200

    # Each level has to allow it, and a bad document leaves what was good.
    mesh.put(KEY, {"allow": ["*"], "anonymous": True})
    assert near.ask(SECRET, **shop).status == 404 and near.ask(SECRET, **web).status == 200
    mesh.put(KEY, {"allow": ["shop.production"]})
    assert near.ask(SECRET, **shop).status == 404 and near.ask(SECRET, **web).status == 404
    mesh.put(KEY, {"allow": ["web.staging"]})
    mesh.etcdctl("put", f"/shoal/default/{NAMESPACE}", '{"allow": "everybody"}')
    until("refused", lambda: near.state()["refused"] and far.state()["refused"])
    assert near.ask(SECRET, **shop).status == 404 and near.ask(SECRET, **web).status == 200

    # Who operates is told.
    told = mesh.shoal(
        "--admin", str(near.socket), "explain", "--as", "shop.production", "GET", f"http://{SECRET}/"
    ).stdout
    assert f"{SECRET} is not there for shop.production, by policies/isolation/{SECRET}" in told
    counted = 'policy="isolation"'
    until("counted", lambda: counted in near.text("/metrics") and counted in far.text("/metrics"))
    assert "isolation(secret.staging,*.staging)" in mesh.shoal("services").stdout

    # One that is only watched beside it hides nothing.
    mesh.put(NAMESPACE, {"allow": ["*"], "anonymous": True})
    mesh.shoal("policy", "rm", "isolation", SECRET, "--wait")
    mesh.put(f"audits/isolation/{SECRET}", {"allow": ["web.staging"]})
    assert near.ask(SECRET, **shop).status == 200
    would = 'would="refused"'
    until("audited", lambda: would in near.text("/metrics"))
    assert would not in far.text("/metrics"), "what both ends ask is counted once"


def test_nobody_knows_whom_it_was_there_for(mesh: Mesh) -> None:
    """Then it is there for nobody, however it was at another level."""
    mesh.etcdctl("put", f"/shoal/default/{KEY}", '{"allow": ["*"]}')
    mesh.etcdctl("put", f"/shoal/default/{KEY}", '{"alow": ["*"]}')
    revision = json.loads(mesh.etcdctl("get", "x", "-w", "json"))["header"]["revision"]
    mesh.etcdctl("compact", str(revision))
    near, _ = hosts(mesh)
    assert said(near.ask(SECRET))[:2] == (503, "isolation")
    mesh.put(NAMESPACE, {"allow": ["*"], "anonymous": True})
    assert near.ask(SECRET).status == 503
    mesh.shoal("policy", "rm", "isolation", SECRET, "--wait")
    assert near.ask(SECRET).status == 200


def test_before_strict(mesh: Mesh, tmp_path: Path) -> None:
    """It is not put while somebody lacks certificates; with --force it is, and plain text gets 403."""
    _, far = hosts(mesh)

    def put(document: dict[str, Any], *options: str) -> tuple[int, str]:
        path = tmp_path / "tls.json"
        path.write_text(json.dumps({"kind": "tls", "service": "*.staging", **document}))
        done = mesh.shoal("policy", "put", str(path), *options, check=False)
        return done.returncode, done.stderr

    code, told = put({"mtls": "strict"})
    assert code == 1 and "nothing was put" in told and "--force" in told
    assert "tls/*.staging: far holds no certificate of its own" in told and "near holds no certificate" in told
    assert mesh.shoal("policy", "get", "tls", "*.staging", check=False).returncode == 1
    assert straight(far, "127.0.0.9").status == 200
    assert put({"mtls": "permissive"})[0] == 0
    code, told = put({"mtls": "strict"}, "--force", "--wait")
    assert code == 0 and "warning: tls/*.staging: far holds no certificate of its own" in told
    assert said(straight(far, "127.0.0.9")) == (
        403,
        "tls",
        "policies/tls/*.staging is strict: hops are TLS, and this request came in plain text",
    )
    assert far.ask(SECRET).status == 200, "a program beside the instance has no hop"


def test_strict_between_two_hosts(mesh: Mesh, tmp_path: Path) -> None:
    """Once everybody holds certificates it is put without a word, and who calls is who is proven to."""
    near, far = hosts(mesh)
    shop, web = credentials(near, "shop.production", 7001), credentials(near, "web.staging", 7002)
    operator = Operator(mesh)
    for host in ("near", "far"):
        put_identity(mesh, "hosts", host)
    put_identity(mesh, "grants", "*", b'{"hosts": ["near", "far"]}')
    operator.make_issuer("near")
    mine = {"agent", "issuer", "svc/shop.production", "svc/web.staging"}
    until("certificates", lambda: held(near) == mine and held(far) == {"agent", f"svc/{SECRET}"})
    path = tmp_path / "tls.json"
    path.write_text('{"kind": "tls", "service": "*", "mtls": "strict"}')
    until("it is told", lambda: mesh.shoal("policy", "put", str(path), "--wait", check=False).returncode == 0)
    assert near.ask(SECRET, **shop).status == near.ask(SECRET, **web).status == near.ask(SECRET).status == 200
    mesh.put(NAMESPACE, {"allow": ["*.staging"]})
    assert near.ask(SECRET, **web).status == 200
    assert near.ask(SECRET, **shop).status == near.ask(SECRET).status == 404
    # Nobody is believed by an address any more.
    assert said(straight(far, "127.0.0.1", X_Shoal_Caller="web.staging"))[:2] == (403, "tls")
    assert said(straight(far, "127.0.0.9", X_Shoal_Caller="web.staging"))[:2] == (404, "service")
    # `*` is every service, and nobody who is none.
    mesh.put(NAMESPACE, {"allow": ["*"]})
    assert near.ask(SECRET, **shop).status == 200 and near.ask(SECRET).status == 404
