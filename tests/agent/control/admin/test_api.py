"""The admin API of a whole agent: control in this process, a real worker, a real etcd."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from agent.control.admin.v1 import before
from agent.control.admin.v1.problem import ROOT as API
from agent.control.host.sockets import Handover
from agent.control.main import Control, Stop
from agent.settings.file import parse
from agent.ui import INDEX, built
from registry.etcd.server import EtcdProcess
from tests.support.proxy import Client, always_ok, listening

SETTINGS = """
mesh = "{mesh}"
host = "here"
workers = 1
state_dir = "{folder}"
spread_timeout = "0s"
drain_timeout = "0s"
[etcd]
endpoints = ["{url}"]
[outbound]
listen = "127.0.0.1:0"
[inbound]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""


class Answer:
    """Of one request."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(place: int | Path, method: str, target: str, body: bytes = b"", **fields: str) -> Answer:
    """One request on a connection of its own, to a port or a socket."""
    headers = {
        "host": f"127.0.0.1:{place}" if isinstance(place, int) else "localhost",
        "content-length": str(len(body)),
        "connection": "close",
        **({"content-type": "application/json"} if body else {}),
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=target, headers=list(headers.items()))
    status, answer, told = 0, b"", {}
    with trio.fail_after(60):
        opening = trio.open_tcp_stream("127.0.0.1", place) if isinstance(place, int) else trio.open_unix_socket(place)
        async with await opening as stream:
            parts = [http.send(request), http.send(h11.Data(data=body)), http.send(h11.EndOfMessage())]
            await stream.send_all(b"".join(part or b"" for part in parts))
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    told = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    answer += event.data
    return Answer(status, answer, told)


class Running:
    """An agent, and an upstream that always answers."""

    def __init__(self, control: Control, upstream_port: int) -> None:
        self.control = control
        self.upstream_port = upstream_port
        self.admin_port = control.parts.here.listeners.admin.getsockname()[1]
        self.socket = control.parts.settings.socket_path
        self.outbound_port = control.parts.here.listeners.outbound[0].getsockname()[1]

    by_port = False
    """Whether `ask` uses the admin port; else the socket."""

    async def ask(self, method: str, target: str, value: Any = None, **fields: str) -> Answer:
        body = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        return await ask(self.admin_port if self.by_port else self.socket, method, target, body, **fields)

    async def until(self, target: str, question: Any) -> Answer:
        with trio.fail_after(60):
            while not question(answer := await self.ask("GET", target)):
                await trio.sleep(0.02)
        return answer

    async def register(self, **more: Any) -> Any:
        body = {"service": "pets", "id": "a", "address": "127.0.0.1", "port": self.upstream_port, **more}
        answer = await self.ask("POST", f"{API}/instances", body)
        assert answer.status == 200, answer.body
        return answer.json

    async def healthy(self) -> None:
        def known(answer: Answer) -> bool:
            endpoints = answer.json["services"].get("pets", {"endpoints": []})["endpoints"]
            return any(endpoint["healthy"] for endpoint in endpoints)

        await self.until("/state", known)


@pytest.fixture
async def agent(etcd: EtcdProcess, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    mesh = f"m{abs(hash(request.node.name)) % 10**9}"
    async with running(etcd, mesh, tmp_path) as started:
        yield started


@asynccontextmanager
async def running(etcd: EtcdProcess, mesh: str, folder: Path) -> AsyncIterator[Running]:
    sock, port = listening()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await always_ok(Client(stream))
            except (AssertionError, trio.BrokenResourceError):
                pass  # the proxy has closed

    async def end() -> None:
        assert (await control.run()).code == 0
        nursery.cancel_scope.cancel()

    control = Control(parse(SETTINGS.format(mesh=mesh, folder=folder, url=etcd.url), "x"), Handover(), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
        nursery.start_soon(end)
        started = Running(control, port)
        await started.until("/readyz", lambda answer: answer.status == 200)
        yield started
        control._end(Stop())


async def test_a_registered_service_calls_with_its_credentials(agent: Running) -> None:
    """The proxy URL of the answer works at once: the workers know the token, and a wrong one is refused."""
    registered = await agent.register()
    assert (registered["service"], registered["id"]) == ("pets", "a")
    await agent.healthy()
    url = urlsplit(registered["proxy"])
    assert (url.port, url.password) == (agent.outbound_port, registered["token"])
    for password, status in ((registered["token"], 200), ("wrong", 407)):
        credentials = base64.b64encode(f"pets:{password}".encode()).decode()
        answer = await ask(
            agent.outbound_port, "GET", "http://pets/", host="pets", proxy_authorization=f"Basic {credentials}"
        )
        assert answer.status == status


async def test_registering_and_leaving(agent: Running) -> None:
    """What /state shows of an instance, from its registration to its end; what is unknown is 404."""
    await agent.register(version="v2", metadata={"tier": "free"})
    await agent.healthy()
    state = (await agent.ask("GET", "/state?service=pets")).json
    (endpoint,) = state["services"]["pets"]["endpoints"]
    assert (endpoint["id"], endpoint["version"], endpoint["agent"]) == ("a@here", "v2", "here")
    assert state["local"][0]["metadata"] == {"tier": "free"}
    gone = await agent.ask("DELETE", f"{API}/instances/pets/a")
    assert gone.json["revision"] > 0
    await agent.until("/state", lambda answer: not answer.json["services"]["pets"]["endpoints"])
    assert (await agent.ask("DELETE", f"{API}/instances/pets/a")).status == 404
    assert (await agent.ask("DELETE", f"{API}/instances/pets..x/a")).status == 400


async def test_health_that_an_instance_tells(agent: Running) -> None:
    """TTL push: its word is in force in the workers; wrong bodies and unknown instances are told."""
    await agent.register(health={"ttl": "1h", "fall": 1})
    assert (await agent.ask("PUT", f"{API}/instances/pets/a/health", {"healthy": True})).status == 200
    await agent.healthy()
    said = await agent.ask("PUT", f"{API}/instances/pets/a/health", {"healthy": False, "reason": "full"})
    assert said.json == {"healthy": False}
    await agent.until("/state", lambda answer: not answer.json["services"]["pets"]["endpoints"][0]["healthy"])
    assert (await agent.ask("PUT", f"{API}/instances/pets/b/health", {"healthy": True})).status == 404
    wrong = await agent.ask("PUT", f"{API}/instances/pets/a/health", {"healthy": "yes"})
    assert (wrong.status, wrong.json["path"]) == (400, "$.healthy")
    long = {"healthy": False, "reason": "trace " * 9000}
    assert (await agent.ask("PUT", f"{API}/instances/pets/a/health", long)).status == 200, "it is a word all the same"


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{", 400, "$"),
        (b"\xff", 400, "$"),
        ({"service": "pets", "port": 70000}, 400, "$.port"),
        ({"service": "pets", "port": 80, "prot": 80}, 400, "$"),
        ({"service": "pets", "port": 80, "renew_within": "soon"}, 400, "$.renew_within"),
        ({"service": "pets..x", "port": 80}, 400, "$.service"),
        (b" " * 300_000, 413, "$"),
    ],
)
async def test_a_wrong_registration_is_refused(agent: Running, body: Any, status: int, path: str) -> None:
    """JSON with the path and the reason."""
    answer = await agent.ask("POST", f"{API}/instances", body)
    assert (answer.status, answer.json["path"]) == (status, path)
    assert answer.json["detail"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"host": "127.0.0.1:15000"}, 200),
        ({"host": "localhost:15000"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:15000"}, 200),
        ({"host": "rebound.example:15000"}, 403),
        ({"host": "localhost.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:1", "origin": "http://localhost:1", "sec_fetch_site": "same-origin"}, 200),
        ({"host": "localhost:1", "origin": "http://localhost:2"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
async def test_a_page_of_others_is_refused(agent: Running, fields: dict[str, str], status: int) -> None:
    """Neither another site's page nor a name that was made to point here is served."""
    assert (await agent.ask("GET", "/healthz", **fields)).status == status
    agent.by_port = True
    assert (await agent.ask("GET", "/healthz", **fields)).status == status


async def test_the_page_is_served(agent: Running) -> None:
    """On the port and the socket; a browser is led there, also by links of others."""
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    for agent.by_port in (False, True):
        for target in ("/", "/ui"):
            led = await agent.ask("GET", target, accept="text/html,*/*", **link)
            assert (led.status, led.headers["location"]) == (303, "/ui/")
        assert (await agent.ask("GET", "/")).status == 404
        page = await agent.ask("GET", "/ui/", **link)
        assert page.status == 200 and page.body == built()[INDEX].body
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert (await agent.ask("GET", "/ui/", if_none_match=page.headers["etag"])).status == 304
        assert (await agent.ask("HEAD", "/ui/")).status == 200
        for nothing in ("/ui/assets/nothing.js", "/ui/assets/..%2findex.html", "/ui/index.html", "/ui/assets/"):
            assert (await agent.ask("GET", nothing)).status == 404, nothing


async def test_who_asks_is_told_so(agent: Running) -> None:
    """By the socket a user of this host, whom the kernel names; on the port nobody."""
    answer = await agent.ask("GET", f"{API}/me")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    told = answer.json
    assert told["who"].endswith(f"(uid {os.geteuid()})") and told["by_way_of"] == "socket" and told["role"] == "operate"
    assert told["may"] == {"read": True, "tap": True, "operate": True, "write": False}
    agent.by_port = True
    told = (await agent.ask("GET", f"{API}/me")).json
    assert (told["who"], told["by_way_of"], told["role"], told["host"]) == ("", "admin", "look", "here")
    assert told["may"] == {"read": False, "tap": False, "operate": False, "write": False}
    assert "shoal dashboard" in told["write"]


@pytest.mark.parametrize(("method", "target", "status"), [("GET", "/nothing", 404), ("POST", "/state", 405)])
async def test_what_is_not_there_is_told_in_json(agent: Running, method: str, target: str, status: int) -> None:
    """As every other error."""
    answer = await agent.ask(method, target)
    assert (answer.status, answer.json["status"]) == (status, status)


async def test_programs_that_began_before_the_agent_are_understood(agent: Running) -> None:
    """Registered, renewed, heard and taken out by the paths of then, with bodies that do not say that they are JSON;
    the words of an error have its place. What nobody is harmed by is not there any more."""
    plain = {"content_type": "application/x-www-form-urlencoded"}
    body = {"service": "pets", "id": "a", "address": "127.0.0.1", "port": agent.upstream_port, "health": {"ttl": "1h"}}
    first = await agent.ask("POST", "/instances", {**body, "renew_within": "30s"}, **plain)
    assert first.json["token"] and first.json["proxy"].startswith("http://pets:")
    assert (await agent.ask("POST", "/instances", body, **plain)).json == {"service": "pets", "id": "a"}
    assert (await agent.ask("PUT", "/instances/pets/a/health", {"healthy": True}, **plain)).json == {"healthy": True}
    await agent.healthy()
    assert (await agent.ask("POST", "/instances/pets/a/token", {}, **plain)).json["token"] != first.json["token"]
    wrong = (await agent.ask("POST", "/instances", {**body, "port": 70000}, **plain)).json
    assert (wrong["status"], wrong["path"]) == (400, "$.port") and wrong["reason"].startswith("$.port: ")
    assert (await agent.ask("POST", f"{API}/instances", body, **plain)).status == 415
    assert (await agent.ask(*BEFORE[1])).json["revision"] > 0
    for method, target in (("GET", "/explain?url=pets/"), ("POST", "/audit/query"), ("GET", "/network")):
        assert (await agent.ask(method, target)).status == 404, target


async def test_services_as_workers_run_them(agent: Running) -> None:
    """The same, typed and in one page with the agent's own state."""
    await agent.register()
    await agent.healthy()
    told = (await agent.ask("GET", f"{API}/agent/services?service=pets")).json["services"]
    page = (await agent.ask("GET", "/state?service=pets")).json["services"]
    assert told.keys() == page.keys() == {"pets"}
    assert told["pets"].keys() == page["pets"].keys()
    assert told["pets"]["endpoints"][0].keys() == page["pets"]["endpoints"][0].keys()
    assert (await agent.ask("GET", f"{API}/agent/services?service=nobody")).json == {"services": {}}


async def test_metrics(agent: Running) -> None:
    """Prometheus' own parser reads the page: requests by status, latencies, and how the agent stands with etcd."""
    await agent.register()
    await agent.healthy()
    for _ in range(3):
        assert (await ask(agent.outbound_port, "GET", "/", host="pets")).status == 200
    assert (await ask(agent.outbound_port, "GET", "/", host="nobody")).status == 404
    page = (await agent.ask("GET", "/metrics")).body.decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    requests = {(s.labels["service"], s.labels["status"]): s.value for s in families["shoal_requests"].samples}
    assert requests == {("pets", "2xx"): 3}
    buckets = families["shoal_request_duration_seconds"].samples
    assert [s.value for s in buckets if s.labels.get("le") == "+Inf"] == [3]
    assert sum(s.value for s in families["shoal_refused_unrouted"].samples) == 1
    assert families["shoal_etcd_connected"].samples[0].value == 1
    assert families["shoal_instances"].samples[0].value == 1


async def test_explain(agent: Running) -> None:
    """Decisions and the endpoint, from a worker; what is no URL is told, not guessed."""
    await agent.register()
    await agent.healthy()
    request = {"url": "http://pets/x", "headers": [{"name": "x-a", "value": "1"}]}
    told = (await agent.ask("POST", f"{API}/explain", request)).json
    assert told["endpoint"]["id"] == "a@here"
    assert told["decisions"][0]["phase"] == "service"
    assert (await agent.ask("POST", f"{API}/explain", {"url": "nobody/"})).json["status"] == 404
    assert (await agent.ask("POST", f"{API}/explain", {"url": "\N{FISH}/"})).status == 400


async def test_what_stands_in_etcd_is_shown_as_it_is(agent: Running, etcd: EtcdProcess) -> None:
    """Refused policies, keys that nobody understands, and whatever bytes they are made of."""
    prefix = agent.control.parts.here.keys.prefix
    store = agent.control.parts.here.store
    await store.put(f"{prefix}policies/route/pets", b"\xff")
    await store.put(f"{prefix}instances/\udcff/a", b"{}")
    state = (await agent.until("/state", lambda answer: answer.json["refused"] and answer.json["malformed"])).json
    assert (state["refused"][0]["kind"], state["refused"][0]["service"]) == ("route", "pets")
    assert "udcff" in state["malformed"][0]["key"]


SHOWN = (
    *("/healthz", "/readyz", "/metrics", "/state", "/ui/"),
    *(f"{API}/agent", f"{API}/agent/services", f"{API}/network", f"{API}/me"),
)
ONE = "/instances/pets/a"
BEFORE = (("POST", "/instances"), ("DELETE", ONE), ("PUT", f"{ONE}/health"), ("POST", f"{ONE}/token"))
CHANGING = (
    *((method, f"{API}{target}") for method, target in BEFORE),
    ("GET", f"{API}/requests"),
    ("GET", f"{API}/taps"),
    ("GET", f"{API}/output"),
    ("POST", f"{API}{ONE}/output"),
    ("GET", f"{API}/shadow/pets"),
    ("POST", f"{API}/shadow/pets/reset"),
    ("POST", f"{API}/hooks/test"),
    ("POST", f"{API}/events/one/replay"),
    ("POST", f"{API}/audit/query"),
    ("POST", f"{API}/audit/verify"),
    ("POST", f"{API}/audit/erase"),
)


async def test_the_admin_port_only_shows(agent: Running) -> None:
    """Whoever can connect sees how things are; what changes something, or shows a secret, is told where it is."""
    token = (await agent.register(health={"ttl": "1h"}))["token"]
    agent.by_port = True
    for target in SHOWN:
        shown = await agent.ask("GET", target)
        assert shown.status == 200
        assert token not in shown.body.decode()
    for method, target in (*CHANGING, *BEFORE):
        refused = await agent.ask(method, target, {"service": "pets", "port": 1, "healthy": True})
        assert refused.status == 403
        assert str(agent.socket) in refused.json["detail" if target.startswith(API) else "reason"]
    assert list(agent.control.parts.registrar.local) == [("pets", "a")]


async def test_every_door_says_what_it_takes(agent: Running) -> None:
    """A new path is on the list above, or shows nothing that it should not."""
    paths = (await agent.ask("GET", f"{API}/openapi.json")).json["paths"]
    there = {
        (method.upper(), path.replace("{service}", "pets").replace("{id}", "a")): operation
        for path, of_path in paths.items()
        for method, operation in of_path.items()
    }
    guarded = {
        place for place, each in there.items() if each.get("description", "").startswith("Not on the admin port")
    }
    assert guarded == {(method, target.replace("/one/", "/a/")) for method, target in CHANGING}
    assert {place for place in there if place[0] != "GET"} - guarded == {("POST", f"{API}/explain")}
    assert {there[method, f"{API}{target}"]["operationId"] for method, target in BEFORE} == before.BEFORE


async def test_a_token_is_shown_once(agent: Running) -> None:
    """To who registered first; after that there is another one to be had, and the one before works a while longer."""
    first = await agent.register()
    again = await agent.register()
    assert again == {"service": "pets", "id": "a"}
    await agent.healthy()
    made = (await agent.ask("POST", f"{API}/instances/pets/a/token", {})).json
    assert made["token"] not in ("", first["token"])
    for token in (first["token"], made["token"]):
        credentials = base64.b64encode(f"pets:{token}".encode()).decode()
        fields = {"host": "pets", "proxy_authorization": f"Basic {credentials}"}
        assert (await ask(agent.outbound_port, "GET", "http://pets/", **fields)).status == 200
