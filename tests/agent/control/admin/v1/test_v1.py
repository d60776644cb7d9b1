"""The API of version 1, at real agents: what one shows and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.local import UnixConnection
from tests.support.mesh import Mesh, until

from .conftest import PETS, ask, get, put


def test_the_mesh_at_a_glance(mesh: Mesh) -> None:
    """The same from each agent, but for who tells."""
    told = [get(agent, "/mesh") for agent in mesh.agents]
    assert [each["host"] for each in told] == ["alpha", "beta", "gamma"]
    for each in told:
        assert (each["name"], each["agents"], each["instances"], each["refused"]) == ("default", 3, 3, 1)
        assert each["etcd_connected"] and each["age_s"] == 0 and each["revision"] > 1


def test_a_service_with_its_policies_at_every_level(mesh: Mesh) -> None:
    """The most specific of a kind; of guards all levels; what is only watched apart."""
    told = get(mesh.agents[2], f"/services/{PETS}")
    assert (told["name"], told["instances"], told["versions"]) == (PETS, 2, {"v1": 1, "v2": 1})
    assert [(each["agent"], each["state"]) for each in told["members"]] == [("alpha", "healthy"), ("beta", "healthy")]
    force = [(each["kind"], each["pattern"], each["document"].get("request")) for each in told["in_force"]]
    assert force == [("authz", PETS, None), ("authz", "*", None), ("timeout", PETS, "5s")]
    assert [(each["kind"], each["mode"], each["document"]["attempts"]) for each in told["watched"]] == [
        ("retry", "audit", 4)
    ]
    refs = {(each["kind"], each["pattern"]): (each["revision"], each["mode"]) for each in told["policies"]}
    assert refs["retry", PETS][1] == "audit" and refs["timeout", PETS][0] == told["in_force"][2]["revision"]


def test_lists_come_in_pages(mesh: Mesh) -> None:
    """Each once, in order, whatever the size of a page; the last one says that it is."""
    agent = mesh.agents[0]
    for path, name in (("/services", "name"), ("/instances", "id"), ("/policies", "pattern")):
        whole = get(agent, path)
        assert whole["next"] == "" and whole["total"] == len(whole["items"]) >= 2, path
        found, after = [], ""
        while True:
            page = get(agent, path, limit=1, after=after)
            found += page["items"]
            after = page["next"]
            if not after:
                break
        assert found == whole["items"], name


def test_lists_are_filtered(mesh: Mesh) -> None:
    """By what each of them has."""
    agent = mesh.agents[0]
    assert [each["name"] for each in get(agent, "/services", within="*.production")["items"]] == [
        PETS,
        "shop.production",
    ]
    assert get(agent, "/services", within="*.staging")["items"] == []
    assert {each["agent"] for each in get(agent, "/instances", service=PETS, state="healthy")["items"]} == {
        "alpha",
        "beta",
    }
    assert [each["service"] for each in get(agent, "/instances", agent="beta")["items"]] == [PETS]
    assert [each["pattern"] for each in get(agent, "/policies", kind="timeout")["items"]] == ["*", PETS]
    assert [each["kind"] for each in get(agent, "/policies", mode="audit")["items"]] == ["retry"]


def test_one_policy_and_its_tag(mesh: Mesh) -> None:
    """Who has what it says already is told so, and nothing more; when it changes, it is sent."""
    agent = mesh.agents[1]
    told = ask(agent, "/policies/timeout/*")
    assert told.json["document"] == {"request": "9s"} and told.json["mode"] == "enforce"
    tag = told.headers["etag"]
    same = ask(agent, "/policies/timeout/*", If_None_Match=f'"other", {tag}')
    assert (same.status, same.body) == (304, b"")
    put(mesh, "policies/timeout/*", {"request": "8s"})
    until("the change", lambda: ask(agent, "/policies/timeout/*", If_None_Match=tag).status == 200)
    assert get(agent, "/policies/timeout/*")["document"] == {"request": "8s"}
    put(mesh, "policies/timeout/*", {"request": "9s"})
    until("the change back", lambda: ask(agent, "/policies/timeout/*").headers["etag"] != tag)


# Explain.


def test_explain(mesh: Mesh) -> None:
    """As `shoal explain`, with the other agent's part."""
    body = {"url": f"http://{PETS}/", "caller": "shop.production", "headers": [{"name": "x-tier", "value": "free"}]}
    told = ask(mesh.agents[2], "/explain", "POST", body)
    assert told.status == 200, told.body
    assert told.json["endpoint"]["service"] == PETS and told.json["status"] is None
    assert {each["host"] for each in told.json["decisions"]} & {"alpha", "beta"}


# What is refused.


@pytest.mark.parametrize(
    ("path", "where", "words"),
    [
        ("/services?limt=5", "$", "did you mean 'limit'"),
        ("/services?limit=0", "$.limit", "1"),
        ("/services?limit=1001", "$.limit", "1000"),
        ("/services?limit=five", "$.limit", "a whole number"),
        ("/services?limit=1&limit=2", "$.limit", "twice"),
        ("/services?within=Pets", "$.within", ""),
        ("/instances?state=odd", "$.state", "healthy"),
        ("/calls?scope=world", "$.scope", "mesh"),
        ("/calls?deadline_s=1000", "$.deadline_s", "30"),
        ("/mesh?x=1", "$.x", ""),
    ],
)
def test_what_is_not_understood_is_refused(mesh: Mesh, path: str, where: str, words: str) -> None:
    """400, a problem document with the place and what would be right."""
    told = ask(mesh.agents[0], path)
    assert told.status == 400 and told.headers["content-type"] == "application/problem+json"
    problem = told.json
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Bad Request", 400)
    assert problem["path"] == where and words in problem["detail"], problem


def test_bodies_that_are_none(mesh: Mesh) -> None:
    """Each with its status and its place."""
    agent = mesh.agents[0]

    def refused(body: Any, **headers: str) -> tuple[int, str, str]:
        told = ask(agent, "/explain", "POST", body, **headers)
        assert told.headers["content-type"] == "application/problem+json"
        return told.status, told.json["path"], told.json["detail"]

    assert refused({})[:2] == (400, "$")
    assert refused({"url": "a/", "methd": "GET"})[:2] == (400, "$")
    assert refused({"url": "a/", "headers": [{"name": "a b"}]})[:2] == (400, "$.headers[0].name")
    assert refused(b"{")[:2] == (400, "$")
    assert refused(b"[" * 100_000)[0] == 400
    assert refused({"url": "a" * 300_000})[0] == 413
    assert refused({"url": "a/"}, content_type="text/plain")[0] == 415


def test_what_there_is_not(mesh: Mesh) -> None:
    """404 with what is near, 405 with what may be done; never a page of the framework's."""
    agent = mesh.agents[0]
    told = ask(agent, "/services/pest.production")
    assert told.status == 404 and f"did you mean '{PETS}'" in told.json["detail"]
    assert ask(agent, "/policies/route/nobody").status == 404
    told = ask(agent, "/nothing")
    assert told.status == 404 and "openapi.json" in told.json["detail"]
    told = ask(agent, "/services", "DELETE")
    assert told.status == 405 and "GET" in told.headers["allow"]
    allowed = ask(agent, "/instances", "DELETE").headers["allow"]
    assert {each.strip() for each in allowed.split(",")} == {"GET", "HEAD", "POST"}
    assert told.headers["content-type"] == "application/problem+json"


def test_a_page_in_a_browser_is_refused(mesh: Mesh) -> None:
    """By Origin, and by a name that is not the host's, as problem documents."""
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        told = ask(mesh.agents[0], "/mesh", **headers)
        assert told.status == 403 and told.headers["content-type"] == "application/problem+json"


def test_it_is_on_the_agents_own_socket_too(mesh: Mesh) -> None:
    """The same."""
    connection = UnixConnection(mesh.agents[0].socket)
    connection.request("GET", "/api/v1/mesh")
    assert json.loads(connection.getresponse().read())["host"] == "alpha"
    connection.close()


# For Prometheus.


def test_a_prometheus_finds_every_agent(mesh: Mesh) -> None:
    """A list of groups, with labels that are good ones, and nothing around it; at the port that is said."""
    told = get(mesh.agents[0], "/prometheus/targets?port=19090")
    found = {each["labels"]["host"]: each["targets"] for each in told}
    assert {agent.host: found.get(agent.host) for agent in mesh.agents} == {
        agent.host: [f"{agent.address}:19090"] for agent in mesh.agents
    }
    assert {each["labels"]["mesh"] for each in told} == {"default"}
    assert ask(mesh.agents[0], "/prometheus/targets?port=70000").status == 400
