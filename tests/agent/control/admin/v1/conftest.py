"""Three real agents, and how they are asked."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

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
