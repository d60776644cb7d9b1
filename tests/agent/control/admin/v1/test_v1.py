"""The API of version 1, at real agents: what it shows, what it refuses, and how all agents are asked at once."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent.control.admin.v1.openapi import WHO
from agent.control.asking.fanout import Why
from agent.control.host.rights import Right
from tests.support.local import UnixConnection
from tests.support.mesh import ROOT, AgentProcess, Mesh, running_mesh, until

PETS = "pets.production"
DENY = {"default": "allow", "rules": [{"deny": "anybody", "match": {"path": {"prefix": "/hidden"}}}]}


class Told:
    """An answer."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(agent: AgentProcess, path: str, method: str = "GET", body: Any = None, **headers: str) -> Told:
    """One request to the admin port."""
    connection = http.client.HTTPConnection(agent.address, agent.admin, timeout=40)
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if sent is not None:
            named.setdefault("content-type", "application/json")
        connection.request(method, f"/api/v1{path}", sent, named)
        return Told(connection.getresponse())
    finally:
        connection.close()


def get(at: AgentProcess, path: str, **query: Any) -> Any:
    told = ask(at, f"{path}?{urllib.parse.urlencode(query)}" if query else path)
    assert told.status == 200, told.body
    return told.json


def put(mesh: Mesh, key: str, document: Any) -> None:
    mesh.etcdctl("put", f"/shoal/default/{key}", document if isinstance(document, str) else json.dumps(document))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three agents, a service on two of their hosts, policies at each level, and one that is refused."""
    with running_mesh(tmp_path_factory.mktemp("v1")) as running:
        for number, host in enumerate(("alpha", "beta", "gamma")):
            running.agent(host, f"127.0.0.{number + 1}", extra="workers = 1")
        alpha, beta, _ = running.agents
        running.instance(alpha, "v1")
        running.instance(beta, "v2")
        running.caller(alpha, "shop.production")
        put(running, "policies/timeout/*", {"request": "9s"})
        put(running, f"policies/timeout/{PETS}", {"request": "5s"})
        put(running, "policies/authz/*", DENY)
        put(running, f"policies/authz/{PETS}", DENY)
        put(running, "policies/ratelimit/shop.production", {"limitz": 5})
        put(running, f"audits/retry/{PETS}", {"attempts": 4})
        for agent in running.agents:
            until("the policies", lambda agent=agent: len(get(agent, "/policies/refused")["items"]) == 1)
            until("the table", lambda agent=agent: get(agent, "/services/" + PETS)["healthy"] == 2)
            until("watched", lambda agent=agent: get(agent, "/services/" + PETS)["watched"])
        yield running


# The mesh, as an agent knows it.


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


# What each agent says for itself.


def test_all_agents_are_asked(mesh: Mesh) -> None:
    """Each by its own word, with what only it can say."""
    told = get(mesh.agents[0], "/agents")
    assert [each["host"] for each in told["items"]] == ["alpha", "beta", "gamma"]
    assert [each["runs"] is None for each in told["items"]] == [False, True, True]
    told = get(mesh.agents[0], "/agents", scope="mesh", deadline_s=20)
    assert told["asked"] == 3 and told["missing"] == {}
    for each in told["items"]:
        assert each["ready"] and each["etcd_connected"] and each["runs"] > 1 and each["refused"] == 1
    assert [each["instances"] for each in told["items"]] == [2, 1, 0]


def test_another_agent_is_asked(mesh: Mesh) -> None:
    """The same that it says itself; of one that does not live it is 404."""
    alpha, beta, _ = mesh.agents
    there, itself = get(alpha, "/agents/beta", deadline_s=20), get(beta, "/agent")
    assert there["host"] == itself["host"] == "beta"
    assert [each["pid"] for each in there["workers"]] == [each["pid"] for each in itself["workers"]]
    assert there.keys() == itself.keys() == beta.state().keys() - {"agents", "services"}, (
        "commands look for it in either"
    )
    assert there["address"] == "127.0.0.2"
    refused = get(alpha, "/agents/beta/policies/refused", deadline_s=20)
    assert [(each["host"], each["kind"], each["last_good"]) for each in refused["items"]] == [("beta", "ratelimit", 0)]
    for path in ("/agents/nobody", "/agents/nobody/calls"):
        told = ask(alpha, path)
        assert told.status == 404 and "no such agent lives in this mesh" in told.json["detail"]


def test_what_workers_saw_of_the_whole_mesh(mesh: Mesh) -> None:
    """Calls and endpoints of every agent, merged; each with its host."""
    alpha, beta, gamma = mesh.agents
    for agent in (alpha, gamma):
        for _ in range(3):
            assert agent.ask(PETS).status == 200
    found = get(beta, "/calls", scope="mesh", service=PETS, deadline_s=20)
    until(
        "the counts",
        lambda: (
            {
                each["host"]
                for each in get(beta, "/calls", scope="mesh", service=PETS, deadline_s=20)["items"]
                if each["service"] == PETS and each["requests"] >= 3
            }
            >= {"alpha", "gamma"}
        ),
    )
    assert found["asked"] == 3 and found["missing"] == {}
    rows = get(beta, "/endpoints", scope="mesh", service=PETS, deadline_s=20)["items"]
    assert len(rows) == 6 and {each["host"] for each in rows} == {"alpha", "beta", "gamma"}
    assert sum(each["requests"] for each in rows if each["host"] == "gamma") >= 3
    cut = get(beta, "/endpoints", scope="mesh", service=PETS, limit=2, deadline_s=20)
    assert len(cut["items"]) == 2 and cut["total"] == 6


def test_what_is_wrong_in_the_whole_mesh(mesh: Mesh) -> None:
    """The refused document, from each agent; the worst first."""
    told = get(mesh.agents[2], "/findings", scope="mesh", deadline_s=20)["items"]
    refused = [each for each in told if each["id"] == "refused"]
    assert [each["host"] for each in refused] == ["alpha", "beta", "gamma"]
    assert refused[0]["where"] == "ratelimit/shop.production" and "limitz" in refused[0]["what"]
    order = ["error", "warning", "info"]
    assert [each["severity"] for each in told] == sorted((each["severity"] for each in told), key=order.index)


def test_who_does_not_answer_is_named(mesh: Mesh) -> None:
    """An agent that was killed, while its lease still says that it lives; the others are heard."""
    agent = mesh.agent("delta", "127.0.0.4", extra="workers = 1", lease_ttl="60s")
    until("it lives", lambda: get(mesh.agents[0], "/mesh")["agents"] == 4)
    assert agent.process is not None
    os.killpg(agent.process.pid, signal.SIGKILL)
    agent.process.wait()
    told = get(mesh.agents[0], "/findings", scope="mesh", deadline_s=20)
    assert told["asked"] == 4 and list(told["missing"]) == ["delta"]
    assert told["missing"]["delta"]["why"] == "unreachable" and told["missing"]["delta"]["reason"]
    assert {each["host"] for each in told["items"]} >= {"alpha", "beta", "gamma"}
    assert ask(mesh.agents[0], "/agents/delta?deadline_s=20").status == 503
    listed = get(mesh.agents[0], "/agents", scope="mesh", deadline_s=20)
    assert [each["host"] for each in listed["items"]] == ["alpha", "beta", "delta", "gamma"]
    assert [each["runs"] is None for each in listed["items"]] == [False, False, True, False]
    text = mesh.agents[0].text("/metrics")
    assert 'shoal_questions_unanswered_total{why="unreachable"}' in text
    mesh.etcdctl("del", "/shoal/default/agents/delta")


def test_events_of_the_mesh(mesh: Mesh) -> None:
    """What breakers turned to on one host is seen from another one."""
    alpha, _, gamma, *_ = mesh.agents
    put(mesh, "policies/breaker/shop.production", {"trip": {"consecutive": 2}})

    def turned() -> Any:
        alpha.ask("shop.production", "/status/503")
        return get(gamma, "/events", scope="mesh", service="shop.production", deadline_s=20)["items"]

    found = until("an event", turned)
    assert (found[0]["host"], found[0]["state"], found[0]["type"]) == ("alpha", "turned", "breaker.open")
    assert get(gamma, "/events", service="shop.production")["items"] == []


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


# The document.


def test_the_document_is_one_of_openapi(mesh: Mesh) -> None:
    """By the validator of the specification; every operation is there, and says what it gives."""
    told = get(mesh.agents[0], "/openapi.json")
    OpenAPIV31SpecValidator(told).validate()
    assert told["openapi"] == "3.1.0"
    operations = [each for path in told["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names)) and {"getMesh", "listCallsOf", "explain"} <= set(names)
    for each in operations:
        schema = each["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema.get("$ref") or schema["items"]["$ref"]


def test_a_real_agent_does_what_the_document_says(mesh: Mesh, tmp_path: Path) -> None:
    """Whatever schemathesis makes of it: statuses, types, headers, what is to be refused and what is not."""
    (tmp_path / "schemathesis.toml").write_text("")
    url = f"http://127.0.0.1:{mesh.agents[0].admin}/api/v1/openapi.json"
    argv = [sys.executable, "-m", "schemathesis.cli", "run", url, "--checks", "all", "--max-examples", "15"]
    argv += ["--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    argv += ["--phases", "examples,coverage,fuzzing"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, re.sub(r"(.)\1{40,}", r"\1\1…", done.stdout + done.stderr)[-12000:]
    assert until("ready", mesh.agents[0].ready)


# The page.

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_every_command_of_the_page_works(mesh: Mesh) -> None:
    """As it stands there, but for where the agent is; and what is shown there is what comes."""
    agent = mesh.agents[0]
    commands = re.findall(r"^\$ (curl .*)\n((?:[{ }\]].*\n)*)", PAGE, re.MULTILINE)
    assert len(commands) >= 10
    for command, shown in commands:
        here = command.replace("127.0.0.1:15000", f"{agent.address}:{agent.admin}")
        here = here.replace("/run/shoal/agent.sock", str(agent.socket))
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        told = json.loads(done.stdout)
        assert (told.get("status") == 400) == ("limit=5000" in command), (command, told)
        assert not shown or done.stdout == shown


def test_every_resource_is_on_the_page(mesh: Mesh) -> None:
    """And nothing else."""
    document = get(mesh.agents[0], "/openapi.json")
    there = {
        f"{method.upper()} {path.removeprefix('/api/v1')}" for path, of in document["paths"].items() for method in of
    }
    assert {each.replace("\n", " ") for each in re.findall(r"`((?:GET|POST|PUT|DELETE)\s/[^`]*)`", PAGE)} == there


def test_the_document_says_of_every_right_who_has_it() -> None:
    """But of the one that all have."""
    assert WHO.keys() == set(Right) - {Right.LOOK}


def test_every_why_is_on_the_page() -> None:
    """Why an agent is missing."""
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)) == {"why", *get_args(Why)}


def test_questions_to_all_agents_are_bounded(mesh: Mesh) -> None:
    """However many ask at once, each is answered, or told to ask again."""
    found: list[int] = []

    def once() -> None:
        found.append(ask(mesh.agents[0], "/findings?scope=mesh&deadline_s=20").status)

    threads = [threading.Thread(target=once) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 40 and found.count(200) >= 8 and set(found) <= {200, 503}
    assert ask(mesh.agents[0], "/findings?scope=mesh&deadline_s=20").status == 200
