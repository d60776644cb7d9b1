"""Requests that are stored instead of served, on real parts: every 202 is found again, exactly as it was."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from agent.topics.record import Stored, read_record
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.pulsar import PulsarDouble
from tests.support.real_pulsar import JARS, PulsarStandalone
from tests.support.redis import RedisProcess

SERVICE = "orders.production"
SETTINGS = 'workers = 1\n[hooks]\nallow = ["127.0.0.0/8"]\n'


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


class Topic(Protocol):
    """A broker of either kind, with one topic."""

    @property
    def where(self) -> str: ...
    def records(self) -> list[bytes]: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...
    def close(self) -> None: ...


class RedisTopic(RedisProcess):
    @property
    def where(self) -> str:
        return self.url("orders")

    def records(self) -> list[bytes]:
        return self.entries("orders")


class PulsarTopic(PulsarDouble):
    @property
    def where(self) -> str:
        return self.url()


@pytest.fixture(params=["redis", "pulsar", *(["real-pulsar"] if JARS else [])])
def topic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Topic]:
    made: Topic
    if request.param == "real-pulsar":
        made = PulsarStandalone(tmp_path)
    else:
        made = RedisTopic(tmp_path) if request.param == "redis" else PulsarTopic()
    try:
        yield made
    finally:
        made.close()


class Shop:
    """A service that takes one order at a time, and, as long as `stuck`, does not come to an end with it."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.orders: list[tuple[str, str, dict[str, str], bytes]] = []
        self.busy = threading.Event()
        self.status = 200
        shop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_GET(self) -> None:
                if self.path == "/stuck":
                    shop.busy.set()
                    shop.free.wait()
                self._answer(200)

            def _order(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                shop.orders.append((self.command, self.path, {n.lower(): v for n, v in self.headers.items()}, body))
                self._answer(shop.status)

            do_POST = do_PUT = _order

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    try:
        yield made
    finally:
        made.close()


def overloaded(mesh: Mesh, agent: AgentProcess, shop: Shop, where: str, **more: Any) -> None:
    """The shop has one order under way, which is all it takes; the rest goes to the topic."""
    agent.register(SERVICE, shop.port, health={"http": {"path": "/health"}})
    until("healthy", lambda: mesh.healthy(agent, SERVICE, shop.port))
    mesh.put(f"policies/shed/{SERVICE}", {"concurrency": 1, "instead": [{"topic": {"url": where, **more}}]})
    stick(agent, shop)


def stick(agent: AgentProcess, shop: Shop) -> None:
    """Fill the shop. Whoever comes while another order is under way is refused, and asks again."""
    shop.free.clear()
    shop.busy.clear()

    def ask() -> None:
        while not shop.busy.is_set():
            try:
                agent.ask(SERVICE, "/stuck")
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)  # the agent is not there yet, or was killed meanwhile

    threading.Thread(target=ask, daemon=True).start()
    assert shop.busy.wait(20)


def order(agent: AgentProcess, body: bytes, path: str = "/orders?x=%20y", **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 when there was none."""
    try:
        connection = http.client.HTTPConnection(agent.address, agent.outbound, timeout=10)
        connection.request("POST", path, body, {"Host": SERVICE, "Content-Type": "text/x-order", **headers})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
    except (OSError, http.client.HTTPException):
        return 0, {}
    return response.status, json.loads(answer) if answer else {}


def found(topic: Topic) -> dict[str, Stored]:
    """What is in the topic, by id. Twice is allowed, differing is not."""
    by_id: dict[str, Stored] = {}
    for record in topic.records():
        stored = read_record(record)
        assert isinstance(stored, Stored)
        assert by_id.setdefault(stored.id, stored) == stored
    return by_id


def test_what_is_too_much_is_stored_and_sent_later(mesh: Mesh, topic: Topic, shop: Shop) -> None:
    agent = mesh.agent("alpha", "127.0.0.1", extra=SETTINGS)
    overloaded(mesh, agent, shop, topic.where, without=["Cookie"])
    bodies = [b"one", b"\x00\xff two", b"", "drei €".encode()]
    accepted = {}
    for body in bodies:
        status, answer = order(agent, body, Cookie="secret=1", Authorization="Bearer me")
        assert status == 202 and answer["service"] == SERVICE and answer["topic"] == topic.where, answer
        accepted[answer["id"]] = body
    assert agent.ask(SERVICE, "/read").status == 503, "a GET is not stored"
    until("all in the topic", lambda: found(topic).keys() == accepted.keys())
    for id, stored in found(topic).items():
        assert stored.content == accepted[id] and stored.target == "/orders?x=%20y" and stored.method == "POST"
        headers = dict(stored.headers)
        assert headers["content-type"] == "text/x-order" and headers["authorization"] == "Bearer me"
        assert "cookie" not in headers
    metrics = agent.text("/metrics")
    assert f'shoal_topic_requests_total{{outcome="delivered",topic="{topic.where}"}} 4.0' in metrics
    assert f'shoal_shed_total{{outcome="stored",service="{SERVICE}"}} 4.0' in metrics

    looked = mesh.shoal("--output", "json", "replay", topic.where, "--dry-run")
    assert looked.stdout.count('"method": "POST"') == 4 and not shop.orders

    proxy = f"http://{agent.address}:{agent.outbound}"
    shop.free.set()
    stick(agent, shop)  # anew: the order under way has a time-out, and a real broker takes its time
    left = mesh.shoal("replay", SERVICE, "--attempts", "1", "--proxy", proxy, check=False)
    assert left.returncode == 1 and "4 left in the topic" in left.stdout + left.stderr
    assert "503 by the mesh" in left.stdout and found(topic).keys() == accepted.keys(), "not stored again"

    shop.free.set()
    sent = mesh.shoal("replay", SERVICE, "--rate", "100", "--proxy", proxy)
    assert "4 sent" in sent.stdout + sent.stderr
    assert sorted(body for _, _, _, body in shop.orders) == sorted(bodies)
    for method, path, headers, body in shop.orders:
        assert (method, path) == ("POST", "/orders?x=%20y") and accepted[headers["x-shoal-replay"]] == body
        assert headers["host"] == SERVICE and headers["authorization"] == "Bearer me"
    until("all acknowledged", lambda: not found(topic))  # Pulsar says nothing of that
    assert "0 sent" in (again := mesh.shoal("replay", topic.where, "--proxy", proxy)).stdout + again.stderr


def test_no_202_is_lost_when_the_broker_and_the_agent_are_killed(mesh: Mesh, topic: Topic, shop: Shop) -> None:
    """Both die, and come back, again and again, while orders come."""
    agent = mesh.agent("alpha", "127.0.0.1", extra=SETTINGS)
    overloaded(mesh, agent, shop, topic.where)
    accepted: dict[str, bytes] = {}
    going = threading.Event()
    going.set()
    lock = threading.Lock()

    def run(name: int) -> None:
        number = 0
        while going.is_set():
            number += 1
            body = f"{name}-{number}-".encode() + os.urandom(200)
            status, answer = order(agent, body)
            if status == 202:
                with lock:
                    accepted[answer["id"]] = body
            else:
                time.sleep(0.02)

    def more(count: int) -> None:
        wanted = len(accepted) + count
        until("more were accepted", lambda: len(accepted) >= wanted)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    try:
        more(100)
        topic.kill()
        more(100)
        status = ("--admin", f"http://127.0.0.1:{agent.admin}", "status")
        until("told of", lambda: f"topic     {topic.where}: " in mesh.shoal(*status, check=False).stdout)
        agent.stop(9)
        shop.free.set()
        agent.start()
        stick(agent, shop)
        more(100)
        topic.start()
        more(100)
        agent.stop(9)
        shop.free.set()
        agent.start()
        stick(agent, shop)
        more(50)
    finally:
        going.clear()
        for thread in threads:
            thread.join()
    until("every 202 in the topic", lambda: accepted.keys() <= found(topic).keys())
    stored = found(topic)
    assert all(stored[id].content == body for id, body in accepted.items())


def test_a_topic_outlives_its_policy(mesh: Mesh, shop: Shop, tmp_path: Path) -> None:
    """Stored while the broker is away; the policy goes, the agent restarts, the broker comes: it is delivered."""
    broker = PulsarTopic(token="let me in")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "pulsar").write_text("wrong\n")
    settings = SETTINGS + f'secrets_dir = "{secrets}"\n[hooks.secrets]\npulsar = ["127.0.0.1"]\n'
    agent = mesh.agent("alpha", "127.0.0.1", extra=settings)
    try:
        overloaded(mesh, agent, shop, broker.where, secret={"file": "pulsar"})
        status, answer = order(agent, b"one")
        assert status == 202
        until("refused by the broker", lambda: "401" in agent.state()["topics"][0]["problem"])
        mesh.etcdctl("del", f"/shoal/default/policies/shed/{SERVICE}")
        shop.free.set()
        assert agent.stop() == 0
        (secrets / "pulsar").write_text("let me in\n")
        agent.start()
        until("delivered", lambda: found(broker).keys() == {answer["id"]})
        assert agent.state()["topics"][0]["waiting"] == 0 and not broker.lost
    finally:
        broker.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One that is full soon."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def filled(agent: AgentProcess, accepted: dict[str, bytes], most: int) -> str:
    """Store until no more is; the reason that is told then."""
    for number in range(most):
        body = f"{number} ".encode() + b"x" * 20_000
        status, answer = order(agent, body)
        if status != 202:
            assert status == 503, answer
            return str(answer["reason"])
        accepted[answer["id"]] = body
    raise AssertionError(f"{most} were stored")


def test_a_full_disk_is_no_202(mesh: Mesh, shop: Shop, small_disk: Path) -> None:
    """Refused, with the reason; what was accepted before is delivered once the broker is there, and room comes back."""
    broker = PulsarTopic()
    broker.kill()
    agent = mesh.agent("alpha", "127.0.0.1", extra=SETTINGS, state_dir=small_disk)
    accepted: dict[str, bytes] = {}
    try:
        overloaded(mesh, agent, shop, broker.where)
        assert "No space left on device" in filled(agent, accepted, 60)
        assert agent.ready, "and the agent lives"
        broker.start()
        until("delivered", lambda: found(broker).keys() == accepted.keys())
        until("room again", lambda: order(agent, b"more")[0] == 202)
        assert all(found(broker)[id].content == body for id, body in accepted.items())
    finally:
        broker.close()


def test_disk_is_bounded(mesh: Mesh, shop: Shop) -> None:
    broker = PulsarTopic()
    broker.kill()
    agent = mesh.agent("alpha", "127.0.0.1", extra=SETTINGS + "[topics]\nmax_bytes = 200000\n")
    accepted: dict[str, bytes] = {}
    try:
        overloaded(mesh, agent, shop, broker.where)
        assert "200000 bytes are stored, which is all that may be" in filled(agent, accepted, 20)
        assert len(accepted) >= 9
        broker.start()
        until("delivered", lambda: found(broker).keys() == accepted.keys())
    finally:
        broker.close()


def test_only_where_the_settings_allow(mesh: Mesh, shop: Shop) -> None:
    """Whoever may only write policies does not reach the inside of the network by a topic's URL."""
    broker = PulsarTopic()
    agent = mesh.agent("alpha", "127.0.0.1", extra="workers = 1\n")
    try:
        overloaded(mesh, agent, shop, broker.where)
        assert order(agent, b"one")[0] == 202, "it is kept on disk"
        until("told", lambda: "hooks.allow" in agent.state()["topics"][0]["problem"])
        assert not broker.handshakes
    finally:
        broker.close()
