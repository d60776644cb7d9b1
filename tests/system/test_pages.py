"""Every example of docs/policies over one hop and over two, where the instance is behind another agent: all the same.

Two meshes in one etcd have the same services and policies. In the first, instances stand beside the agent that is
asked; in the second, beside another one.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.policies.test_pages import KEY, PUTS
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

KINDS = ("path", "balance", "breaker", "fault", "outlier", "ratelimit", "retry", "route", "shadow", "shed", "timeout")
EXAMPLES = [(kind, command) for kind, command in PUTS if kind in KINDS]
NAMED = re.compile(r'"?(?:service|to)"?: "?([a-z][a-z-]*\.[a-z]+)')
NOT_COMPARED = {"date", "x-request-id", "traceparent", "tracestate", "via", "x-shoal-deadline", "ratelimit"}
"""Of an answer, and of a request as the instance sees it: another each time, or one each hop."""
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/", {}),
    ("POST", "/pets", {"content-type": "text/plain"}),
    ("DELETE", "/pets/7", {}),
    ("GET", "/pets/7/photo", {}),
    ("GET", "/v1/cats/12?a=b%20c&a=", {}),
    ("GET", "/v2/prices", {}),
    ("GET", "/x/..//pets;color=red/%37?a=%61", {}),
    ("GET", "/pets%2f7", {}),
    ("GET", "/robots.txt", {}),
    ("GET", "/old-shop/a?b=c", {}),
    ("GET", "/old-shop/a", {"cookie": "stay=1"}),
    ("GET", "/search?q=1&image=3", {"x-user": "ann"}),
    ("GET", "/", {"x-preview": "green"}),
    ("GET", "/", {"x-experiment": "1", "x-device-id": "9", "cookie": "user=bob; sid=4"}),
    ("PUT", "/checkout", {"x-user": "eve", "x-load": "0.1"}),
]


def concrete(pattern: str) -> str:
    """A service that a pattern is for."""
    return pattern.replace("*", "pets" if "." in pattern else "pets.production")


def services() -> list[str]:
    keys = [KEY.match(shlex.split(command)[2]) for _, command in EXAMPLES]
    return sorted(
        {concrete(key[2]) for key in keys if key} | set(NAMED.findall(" ".join(text for _, text in EXAMPLES)))
    )


class Echo(BaseHTTPRequestHandler):
    """Every instance of every service: which one it is, its own address tells."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        headers = sorted((name.lower(), value) for name, value in self.headers.items())
        body = json.dumps(
            {
                "at": self.connection.getsockname()[0],
                "request": [self.command, self.path, sent],
                "headers": [each for each in headers if each[0] not in NOT_COMPARED],
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer


class Pair:
    """The two meshes."""

    def __init__(self, mesh: Mesh, port: int) -> None:
        self._mesh = mesh
        self.beside = mesh.agent("beside", "127.0.0.1", extra='mesh = "one"\nworkers = 1')
        self.near = mesh.agent("near", "127.0.0.2", extra='mesh = "two"\nworkers = 1')
        far = mesh.agent("far", "127.0.0.3", extra='mesh = "two"\nworkers = 1')
        self.names = services()
        for owner, second in ((self.beside, 10), (far, 20)):
            for number, service in enumerate(self.names, 1):
                for version in (1, 2):
                    place = {"address": f"127.{second}.{number}.{version}", "port": port}
                    more = {"id": f"v{version}", "version": f"v{version}", "metadata": {"disk": "ssd"}}
                    owner.register(service, **place, **more)
        for caller in (self.beside, self.near):
            until("all are healthy", lambda caller=caller: self._healthy(caller))

    def _healthy(self, caller: AgentProcess) -> bool:
        known = caller.state()["services"]
        return all([e["healthy"] for e in known[name]["endpoints"]] == [True, True] for name in self.names)

    def put(self, key: str, document: str) -> None:
        """`etcdctl put` in both meshes, and wait until every agent has it."""
        for name in ("one", "two"):
            key_there = f"/shoal/{name}/policies/{key}"
            self._mesh.etcdctl("put", key_there, document)
            revision = json.loads(self._mesh.etcdctl("get", key_there, "-w", "json"))["kvs"][0]["mod_revision"]
            until("in force", lambda name=name, revision=revision: self._oldest_ack(name) >= revision)

    def _oldest_ack(self, name: str) -> int:
        acks = self._mesh.etcdctl("get", "--prefix", "--print-value-only", f"/shoal/{name}/acks/")
        return min(json.loads(line)["revision"] for line in acks.splitlines() if line)

    def clear(self) -> None:
        """Whoever has the next one has this, too."""
        for name in ("one", "two"):
            self._mesh.etcdctl("del", "--prefix", f"/shoal/{name}/policies/")

    def asked(self, caller: AgentProcess, service: str, method: str, path: str, headers: dict[str, str]) -> Any:
        """What comes back, as far as it is the same each time; and the version that answered."""
        connection = HTTPConnection(caller.address, caller.outbound, timeout=30)
        try:
            body = b"x" * 100 if method in ("POST", "PUT") else None
            connection.request(method, path, body, {"Host": service, **headers})
            response = connection.getresponse()
            got = response.read().decode()
        finally:
            connection.close()
        told = sorted((name.lower(), value) for name, value in response.getheaders())
        kept = [(name, value if name != "set-cookie" else value.partition("=")[0]) for name, value in told]
        version, got = "", re.sub(r'"request_id":"[^"]*"', "", got)
        if got.startswith('{"at"'):
            found = json.loads(got)
            _, _, number, version = found.pop("at").split(".")
            got = [self.names[int(number) - 1], found]
            kept = [each for each in kept if each[0] != "content-length"]
        return [response.status, [each for each in kept if each[0] not in NOT_COMPARED], got], version


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    server = ThreadingHTTPServer(("0.0.0.0", 0), Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with running_mesh(tmp_path_factory.mktemp("pages")) as mesh:
            yield Pair(mesh, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("kind", "command"), EXAMPLES, ids=lambda value: re.sub(r"\s+", " ", value)[-60:])
def test_an_example_is_the_same_over_two_hops(pair: Pair, kind: str, command: str) -> None:
    """Every request gets the same answer, and arrives at the instance the same: path, host, headers and body."""
    _, _, key, document = shlex.split(command)
    service = concrete(key.rpartition("/")[2])
    by_chance = kind == "fault" and "percent" in document
    pinned = "active" in document or "groups" in document
    pair.put(key.removeprefix("/shoal/default/policies/"), document)
    try:
        asked = REQUESTS[6:10] if kind == "ratelimit" else REQUESTS  # as many as the smallest burst lets through
        for method, path, headers in asked:
            one, version = pair.asked(pair.beside, service, method, path, headers)
            two, other = pair.asked(pair.near, service, method, path, headers)
            assert by_chance or two == one, (method, path, headers)
            assert not pinned or version == other
    finally:
        pair.clear()
