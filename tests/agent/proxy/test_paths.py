"""Rules judge the path that the service will act on, whatever its spelling: out, in, over two hops, and explained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import watched

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ADMIN = {"match": {"path": {"prefix": "/admin"}}}
SPELLINGS = [
    "/x/../admin",
    "//admin",
    "/%61dmin",
    "/%61%64%6D%69%6e",
    "/admin;v=1",
    "/\\admin",
    "/x/..;/admin",
    "/x/..%2fadmin",
    "/./admin",
    "/../admin",
    "http://pets.production//admin",
]
OUTBOUND: dict[str, dict[str, Any]] = {
    "route": {"rules": [{**ADMIN, "respond": {"status": 418}}]},
    "ratelimit": {"limits": [{"name": "none", "rate": "1/h", "burst": 1, "status": 418, **ADMIN}]},
    "fault": {"expires": "2099-01-01T00:00:00Z", "rules": [{"name": "f", **ADMIN, "abort": {"status": 418}}]},
}


def head(target: str, more: str = "", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: pets.production\r\n{more}\r\n".encode()


def status(client: Wire) -> int:
    heard, client.heard = client.heard, b""
    return int(heard[9:12])


@pytest.mark.parametrize("target", SPELLINGS)
@pytest.mark.parametrize("kind", OUTBOUND)
def test_every_spelling_meets_the_rule(kind: str, target: str) -> None:
    """Of each kind that has rules, at the caller's."""
    with Playbook() as play:
        play.put("one", **{kind: OUTBOUND[kind]})
        if kind == "ratelimit":
            client = play.client()
            assert client >> head("/admin")
        client = play.client()
        assert client >> head(target)
        assert status(client) == 418


@pytest.mark.parametrize("target", SPELLINGS)
def test_what_was_judged_is_what_is_sent(target: str) -> None:
    """The service gets the place that rules saw, with its parameters and its query."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> head(target + "?q=%61//")
        sent = "/admin;v=1" if ";v" in target else "/admin"
        assert play.upstream("one") << f"GET {sent}?q=%61// HTTP/1.1\r\n...\r\n\r\n".encode()


@pytest.mark.parametrize("target", SPELLINGS)
def test_a_shadow_sees_the_place(target: str) -> None:
    """And copies that."""
    with Playbook() as play:
        play.put("copied", service="copies.production")
        play.put("one", shadow={"copies": [{"to": "copies.production", **ADMIN}]})
        client = play.client()
        assert client >> head(target)
        up = play.upstream("one")
        assert up << b"GET /admin...\r\n\r\n"
        assert up >> OK
        play.passes(1)
        assert play.upstream("copied") << b"GET /admin...\r\n\r\n"


def filled(play: Playbook, inbound: bool, target: str, **more: Any) -> int:
    """The status of a request for a target, 0 while it is served, where bulk has no place any more and others have."""
    shed = {"concurrency": 20, "priorities": [{**ADMIN, "priority": "bulk"}]}
    play.put(play.instance("one", agent="here"), shed=shed, **more)
    for _ in range(10):
        assert play.client(inbound=inbound) >> head("/other")
        play.upstream("one")
    client = play.client(inbound=inbound)
    assert client >> head(target)
    return status(client) if client.heard else 0


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("target", SPELLINGS)
def test_shed_sees_the_place(target: str, inbound: bool) -> None:
    """At the instance's, of callers on its host and of those without an agent."""
    with Playbook(host="here") as play:
        assert filled(play, inbound, target) == 503
    with Playbook(host="here") as play:
        assert filled(play, inbound, "/x/admin") == 0


def test_a_service_may_keep_every_spelling() -> None:
    """Rules and service see it as sent, while the mesh's default stands for others."""
    with Playbook() as play:
        play.put("one", path={"action": "keep"}, route=OUTBOUND["route"])
        for target in SPELLINGS[:-1]:
            client = play.client()
            assert client >> head(target)
            up = play.upstream("one")
            assert up << f"GET {target} HTTP/1.1\r\n...\r\n\r\n".encode()


@pytest.mark.parametrize("target", SPELLINGS)
def test_or_refuse_them(target: str) -> None:
    """With the policy, the reason and the normal form; inbound too, for whoever has no agent."""
    for inbound in (False, True):
        with Playbook(host="here") as play:
            play.put(play.instance("one", agent="here"), path={"action": "refuse"})
            client = play.client(inbound=inbound)
            assert client >> head(target)
            assert b"x-shoal-policy: path\r\n" in client.heard and b"normal form, /admin" in client.heard
            assert status(client) == 400
            stats = play.worker.table.services["pets.production"].stats
            assert play.idle and (stats.refused_second if inbound else stats.refused) == {"path": 1}


def test_audit_counts_what_would_be_refused_and_the_default_is_in_force() -> None:
    """It is judged by what was sent."""
    with Playbook() as play:
        play.put("one", path={"mode": "audit", "action": "refuse"}, route=OUTBOUND["route"])
        client = play.client()
        assert client >> head("/x/../admin")
        assert status(client) == 418
        assert client >> head("/x")
        assert play.upstream("one") << b"GET /x HTTP/1.1...\r\n\r\n"
        assert watched(play.worker) == {"path": 1}


def test_another_service_has_its_own_word() -> None:
    """Where a route leads to it."""
    with Playbook() as play:
        play.put("other", service="cats.production", path={"action": "refuse"})
        away = {"rules": [{"split": [{"service": "cats.production"}]}]}
        play.put("one", path={"action": "keep"}, route=away)
        client = play.client()
        assert client >> head("//admin")
        assert status(client) == 400 and play.idle
        play.put("other", service="cats.production")
        assert client >> head("//admin")
        assert play.upstream("other") << b"GET /admin HTTP/1.1...\r\n\r\n"


def test_a_rewrite_keeps_parameters() -> None:
    """A prefix is found without them; what is behind it is passed on with them."""
    route = {"rules": [{"match": {"path": {"prefix": "/api"}}, "rewrite": {"path": "/v2"}}]}
    with Playbook() as play:
        play.put("one", route=route)
        for sent, heard in (
            ("/api;k=1/pets;color=red?x", "/v2/pets;color=red?x"),
            ("//api/./pets", "/v2/pets"),
            ("/%61pi", "/v2"),
            ("/api/", "/v2/"),
        ):
            client = play.client()
            assert client >> head(sent)
            assert play.upstream("one") << f"GET {heard} HTTP/1.1...\r\n\r\n".encode()


def test_the_instances_side_judges_what_was_rewritten() -> None:
    """On one host as over two."""
    route = {"rules": [{"match": {"path": {"prefix": "/old"}}, "rewrite": {"path": "/admin"}}]}
    back = {"rules": [{**ADMIN, "rewrite": {"path": "/new"}}]}
    for rules, target, expected in ((route, "/old/x", 503), (back, "/admin/x", 0), (back, "/x", 0)):
        with Playbook(host="here") as play:
            assert filled(play, False, target, route=rules) == expected


def test_an_explanation_tells_the_place() -> None:
    """Only where it is another than what was sent."""
    with Playbook() as play:
        play.put("one", route=OUTBOUND["route"])
        told = explain(play.worker, Explain("http://pets.production/x/../admin"))
        entry = next(each for each in told["decisions"] if each["phase"] == "path")
        assert (entry["decision"], entry["reason"], entry["policy"]) == ("judged as /admin", "sent as /x/../admin", "")
        assert told["status"] == 418
        plain = explain(play.worker, Explain("http://pets.production/.well-known/a%20b"))
        assert not [each for each in plain["decisions"] if each["phase"] == "path"]
        client = play.client()
        assert client >> head("/x/../admin", "X-Shoal-Explain: 1\r\n")
        line = next(each for each in client.heard.split(b"\r\n") if each.startswith(b"x-shoal-explain:"))
        assert json.loads(line.partition(b":")[2])["decisions"] == told["decisions"]
