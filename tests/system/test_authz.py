"""Who may do what between two hosts, with real agents: every door, restarts without etcd, and broken documents."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import Mesh, running_mesh, until
from tests.system.test_guards import credentials, hosts, said, straight

LAMPS = "secret.staging"
KEY = f"policies/authz/{LAMPS}"
MESH = "policies/authz/*"
SHOP = {"rules": [{"name": "the shop", "allow": ["shop.production"], "match": {"path": {"prefix": "/lamps"}}}]}
DENIED = (403, "authz", "not allowed")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def test_who_may_do_what(mesh: Mesh) -> None:
    """Over two hops, and straight to the instance's agent; explained, counted, warned of, drawn."""
    near, far = hosts(mesh)
    shop, web = credentials(near, "shop.production", 7001), credentials(near, "web.production", 7002)
    assert near.ask(LAMPS, **web).status == 200
    mesh.put(KEY, SHOP)
    for path, caller, passes in (
        ("/lamps/7", shop, True),
        ("/lamps/7", web, False),
        ("/lamps/7", {}, False),
        ("/lamps/../admin", shop, False),
        ("/", shop, False),
    ):
        answer = near.ask(LAMPS, path=path, **caller)
        assert (answer.status == 200) if passes else said(answer) == DENIED, (path, caller)
        assert b"the shop" not in answer.body or passes
    assert said(straight(far, "127.0.0.9", X_Shoal_Caller="shop.production")) == DENIED
    admin = str(near.socket)
    told = mesh.shoal("--admin", admin, "explain", "--as", "web.production", "GET", f"http://{LAMPS}/").stdout
    assert f"authz/{LAMPS} @" in told and f"policies/authz/{LAMPS}: no rule allows it" in told
    counted = f'shoal_authz_total{{document="{LAMPS}",rule="the shop",service="{LAMPS}",verdict="allowed"}} 1.0'
    until("counted", lambda: counted in far.text("/metrics") and "shoal_authz_total{" not in near.text("/metrics"))
    graph = mesh.shoal("authz", "graph", LAMPS).stdout
    assert f"authz/{LAMPS}: the shop" in graph

    # Each level has to allow it; a bad document leaves what was good.
    mesh.put(MESH, {"rules": [{"deny": "anybody", "match": {"path": {"prefix": "/lamps/secret"}}}], "default": "allow"})
    assert said(near.ask(LAMPS, path="/lamps/secret", **shop)) == DENIED
    assert near.ask(LAMPS, path="/lamps/7", **shop).status == 200
    mesh.etcdctl("put", f"/shoal/default/{KEY}", '{"rules": [{"alow": "anybody"}]}')
    until("refused", lambda: far.state()["refused"])
    assert said(near.ask(LAMPS, path="/lamps/7", **web)) == DENIED
    assert near.ask(LAMPS, path="/lamps/7", **shop).status == 200

    # A fresh agent beside the broken document enforces the same, and so does one that starts without etcd.
    fresh = mesh.agent("fresh", "127.0.0.3")
    mesh.instance(fresh, service=LAMPS)
    own = credentials(fresh, "shop.production", 7003)
    until("both", lambda: len(fresh.state()["services"][LAMPS]["endpoints"]) == 2)
    for _ in range(4):
        assert said(fresh.ask(LAMPS, path="/lamps/7")) == DENIED
        assert fresh.ask(LAMPS, path="/lamps/7", **own).status == 200


def test_a_method_that_a_service_takes_for_another_is_judged_as_that(mesh: Mesh) -> None:
    """By a real service that heeds what is asked for, behind WSGI, where a name with underscores is the same; what it
    has done is asked of it. Explained with what it was taken for."""
    done: list[str] = []
    with overriding(done) as port:
        agent = mesh.agent()
        agent.register(LAMPS, port, health={"http": {"path": "/"}, "interval": "500ms"})
        until("healthy", lambda: mesh.healthy(agent, LAMPS, port))
        done.clear()
        asks = {"X_HTTP_Method_Override": "DELETE"}
        assert agent.ask(LAMPS, "/lamps/7", "POST", **asks).status == 200 and done.pop() == "DELETE"
        rules = [{"name": "no deletes", "deny": "anybody", "match": {"method": ["DELETE"]}}, {"allow": "anybody"}]
        mesh.put(KEY, {"rules": rules})
        done.clear()
        assert agent.ask(LAMPS, "/lamps/7", "POST").status == 200 and done == ["POST"]
        for target, headers in (
            ("/lamps/7", asks),
            ("/lamps/7", {"X_HTTP_Method_Override": "delete"}),
            ("/lamps/7?_method=DELETE", {}),
            ("/lamps/7?a=1&%5fmethod=delete", {}),
        ):
            assert said(agent.ask(LAMPS, target, "POST", **headers)) == DENIED, (target, headers)
        raw = f"POST /lamps/7 HTTP/1.1\r\nHost: {LAMPS}\r\nX_HTTP_METHOD_OVERRIDE: DELETE\r\nContent-Length: 0\r\n\r\n"
        with socket.create_connection((agent.address, agent.outbound), 10) as sock:
            sock.sendall(raw.encode())
            assert sock.recv(65536).startswith(b"HTTP/1.1 403")
        assert done == ["POST"]
        told = mesh.shoal(
            "--admin", str(agent.socket), "explain", "-H", "x-http-method-override: DELETE", "POST", f"http://{LAMPS}/"
        ).stdout
        assert "by the rule no deletes: services that heed what it asks for take it for DELETE" in " ".join(
            told.split()
        )


@contextmanager
def overriding(done: list[str]) -> Iterator[int]:
    """A service behind Werkzeug's server, with the usual middleware; `done`: the methods that it has carried out."""
    from urllib.parse import parse_qs

    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        done.append(environ["REQUEST_METHOD"])
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def heeding(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        asked = parse_qs(environ.get("QUERY_STRING", "")).get("_method", [""])[0]
        method = (environ.get("HTTP_X_HTTP_METHOD_OVERRIDE") or asked).upper()
        if environ["REQUEST_METHOD"] == "POST" and method:
            environ["REQUEST_METHOD"] = method
        return application(environ, start)

    server = make_server("127.0.0.1", 0, heeding, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_restart_without_etcd_opens_no_door(mesh: Mesh) -> None:
    """What was in force is on the disk with the table."""
    agent = mesh.agent()
    mesh.instance(agent, service=LAMPS)
    shop = credentials(agent, "shop.production", 7001)
    mesh.put(KEY, SHOP)
    assert said(agent.ask(LAMPS, path="/lamps")) == DENIED and agent.ask(LAMPS, path="/lamps", **shop).status == 200
    table = agent.state_dir / "table"
    until("on disk", lambda: b"the shop" in table.read_bytes())
    mesh.etcd.stop()
    agent.stop()
    agent.start()
    for path, caller in (("/lamps", {}), ("/", shop)):
        assert said(agent.ask(LAMPS, path=path, **caller)) == DENIED
    assert agent.ask(LAMPS, path="/lamps", **shop).status == 200


def test_nobody_knows_what_was_allowed(mesh: Mesh) -> None:
    """Then nothing is, however it was at another level."""
    mesh.etcdctl("put", f"/shoal/default/{KEY}", '{"rules": [{"allow": "anybody"}]}')
    mesh.etcdctl("put", f"/shoal/default/{KEY}", '{"rulez": []}')
    revision = json.loads(mesh.etcdctl("get", "x", "-w", "json"))["header"]["revision"]
    mesh.etcdctl("compact", str(revision))
    near, _ = hosts(mesh)
    mesh.put(MESH, {"rules": [{"allow": "anybody"}]})
    assert said(near.ask(LAMPS))[:2] == (503, "authz")
    mesh.shoal("policy", "rm", "authz", LAMPS, "--wait")
    assert near.ask(LAMPS).status == 200
