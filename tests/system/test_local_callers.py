"""Attacks by name: programs of this host that want to be `payments.production`, and are another user's.

What only payments may call is behind `isolation`, so that an answer of 200 says that somebody was believed.
"""

from __future__ import annotations

import base64
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry.etcd.server import free_port
from tests.support.local import Told, UnixConnection, ask
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.users import ALICE, BOB, NOBODY, as_user, needs_root

pytestmark = needs_root
PAYMENTS, VAULT = "payments.production", "vault.production"
STAFF = 77


class House(NamedTuple):
    """One host: its agent, and where requests may be sent."""

    mesh: Mesh
    agent: AgentProcess
    requests: Path
    """The socket for requests, of everybody."""
    port: int
    """A listener of payments' own."""
    own: Path
    """And another."""

    def refused(self) -> int:
        """How often somebody was told that he is not who he says he is."""
        lines = self.agent.text("/metrics").splitlines()
        found = [line for line in lines if line.startswith("shoal_refused_total{") and 'policy="caller"' in line]
        return int(sum(float(line.rpartition(" ")[2]) for line in found))

    def reached(self) -> int:
        """How many requests the vault has seen."""
        endpoints = self.agent.state()["services"][VAULT]["endpoints"]
        return sum(int(each["requests"]) for each in endpoints)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running_mesh(tmp_path_factory.mktemp("house"), new=False) as mesh:
        requests, own, port = mesh.sockets / "requests", mesh.sockets / "payments", free_port()
        agent = mesh.agent(
            outbound=f'socket = "{requests}"',
            local=f'[local.services]\n"{PAYMENTS}" = ["{BOB}", "@{STAFF}"]\n"*.staging" = ["{ALICE}"]\n'
            f'"shop.production" = ["{ALICE}"]\n'
            f'[[callers]]\nservice = "{PAYMENTS}"\nlisten = "127.0.0.1:{port}"\n'
            f'[[callers]]\nservice = "{PAYMENTS}"\nlisten = "{own}"\n',
        )
        mesh.instance(agent, service=VAULT)
        mesh.put(f"policies/isolation/{VAULT}", {"allow": [PAYMENTS]})
        yield House(mesh, agent, requests, port, own)


def basic(name: str, token: str = "") -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


def calls(where: Path | int, headers: dict[str, str], target: str = "/", method: str = "GET") -> Told:
    """One request for the vault, on a connection of its own."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", where, timeout=20) if isinstance(where, int) else UnixConnection(where)
    )
    try:
        connection.request(method, target, headers={"Host": VAULT, **headers})
        answer = connection.getresponse()
        return Told(answer.status, answer.read())
    finally:
        connection.close()


def test_a_user_is_known_by_the_kernel(house: House) -> None:
    """Without any credentials: at the socket for requests, and at the listeners of its service; by a group, too."""
    for where in (house.requests, house.own, house.port):
        assert as_user(BOB, calls, where, {}).status == 200, where
        assert as_user(BOB, calls, where, {"Proxy-Authorization": basic(PAYMENTS)}).status == 200, where
    assert as_user(NOBODY, calls, house.requests, {}, groups=(STAFF,)).status == 200
    assert as_user(NOBODY, calls, house.own, {}, groups=(STAFF,)).status == 200
    assert as_user(0, calls, house.requests, {"Proxy-Authorization": basic(PAYMENTS)}).status == 200


def test_who_may_be_several_says_which(house: House) -> None:
    """And is nobody until then; a name that no settings allow it is refused, and none is guessed."""
    house.mesh.put(f"policies/isolation/{VAULT}", {"allow": ["pets.staging", PAYMENTS]})
    try:
        assert as_user(ALICE, calls, house.requests, {}).status == 404
        assert as_user(ALICE, calls, house.requests, {"Proxy-Authorization": basic("pets.staging")}).status == 200
    finally:
        house.mesh.put(f"policies/isolation/{VAULT}", {"allow": [PAYMENTS]})


HEADERS: list[dict[str, str]] = [
    {"X-Shoal-Caller": PAYMENTS},
    {"x_shoal_caller": PAYMENTS},
    {"X-Shoal-Caller": PAYMENTS, "X-Shoal-Endpoint": "a"},
    {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-User": PAYMENTS, "X-Forwarded-Host": PAYMENTS},
    {"Forwarded": f"for=127.0.0.1;by={PAYMENTS}"},
    {"X-Forwarded-Client-Cert": f"URI=spiffe://default.shoal/svc/{PAYMENTS}"},
    {"Authorization": basic(PAYMENTS)},
    {"Via": f"1.1 {PAYMENTS}", "Connection": "X-Shoal-Caller", "X-Shoal-Caller": PAYMENTS},
]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: "+".join(headers))
def test_no_header_names_the_caller(house: House, headers: dict[str, str]) -> None:
    """Neither at the port nor at the socket: for who is nobody there is no vault."""
    before = house.reached()
    for where in (house.agent.outbound, house.requests):
        for uid in (NOBODY, ALICE):
            assert as_user(uid, calls, where, headers).status == 404
    assert house.reached() == before


def test_no_name_and_no_token_of_others(house: House) -> None:
    """Its name with no token, with a token of one's own, and, at the socket, with its very token."""
    body = {"service": "pets.staging", "id": "a", "port": free_port(), "health": {"ttl": "1h"}}
    mine = as_user(ALICE, ask, str(house.agent.socket), "POST", "/api/v1/instances", body).json["token"]
    theirs = as_user(
        BOB, ask, str(house.agent.socket), "POST", "/api/v1/instances", {**body, "service": PAYMENTS, "port": 1}
    )
    before, seen = house.refused(), house.reached()
    for token in ("", mine, "x" * 24):
        told = as_user(ALICE, calls, house.agent.outbound, {"Proxy-Authorization": basic(PAYMENTS, token)})
        assert told.status == 407 and b"not those of a service on this host" in told.body
    for token in ("", mine, theirs.json["token"]):
        told = as_user(ALICE, calls, house.requests, {"Proxy-Authorization": basic(PAYMENTS, token)})
        assert told.status == 403 and f"uid {ALICE} may not call as {PAYMENTS}".encode() in told.body
    for value in ("Bearer x", "Basic", "Basic ====", basic("*"), basic("*.production"), basic("")):
        assert as_user(ALICE, calls, house.requests, {"Proxy-Authorization": value}).status == 407
    assert (house.reached(), house.refused() - before) == (seen, 12)


def test_its_listener_is_for_its_user(house: House) -> None:
    """Whoever else connects is told so, whatever he says; nor does its own user become another there."""
    before, seen = house.refused(), house.reached()
    for where in (house.port, house.own):
        for uid in (ALICE, NOBODY):
            told = as_user(uid, calls, where, {"Proxy-Authorization": basic(PAYMENTS)})
            assert told.status == 403 and b"[local.services]" in told.body, told.body
        told = as_user(BOB, calls, where, {"Proxy-Authorization": basic("shop.production")})
        assert told.status == 407 and PAYMENTS.encode() in told.body
    assert (house.reached(), house.refused() - before) == (seen, 6)


def hit_and_run(port: int, times: int) -> None:
    """Requests of sockets that nobody owns any more when they are looked at: the kernel calls their owner 0."""
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {VAULT}\r\n\r\n".encode())


def test_an_orphan_is_not_roots(house: House) -> None:
    """Who closes at once leaves a socket that has no owner; what it said is nobody's."""
    seen = house.reached()
    workers = [worker["pid"] for worker in house.agent.state()["workers"]]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        as_user(ALICE, hit_and_run, house.port, 20)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    as_user(ALICE, hit_and_run, house.port, 20)
    assert as_user(BOB, calls, house.port, {}).status == 200
    assert house.reached() == seen + 1


def leads(token: str, port: int) -> bytes:
    """What the agent says to who wants to be led to a port of its own, with credentials of his own."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        target, proof = f"127.0.0.1:{leads.to}", basic("pets.staging", token)  # type: ignore[attr-defined]
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {proof}\r\n\r\n".encode())
        return sock.recv(4096)


def test_no_agent_is_talked_into_it(house: House) -> None:
    """Its user may do everything: it dials no listener of its own, not out of the mesh, and not as an instance."""
    where = str(house.agent.socket)
    body: dict[str, Any] = {"service": "pets.staging", "id": "led", "port": free_port(), "health": {"ttl": "1h"}}
    token = as_user(ALICE, ask, where, "POST", "/api/v1/instances", body).json["token"]
    leads.to = house.port  # type: ignore[attr-defined]
    assert as_user(ALICE, leads, token, house.agent.outbound).startswith(b"HTTP/1.1 508")
    told = as_user(ALICE, ask, where, "POST", "/api/v1/instances", {**body, "id": "b", "port": house.port})
    assert told.status == 400 and b"callers' listener" in told.body
    checked = {**body, "id": "c", "health": {"http": {"path": "/", "port": house.port}}}
    assert as_user(ALICE, ask, where, "POST", "/api/v1/instances", checked).status == 400


def test_nobody_registers_as_payments(house: House) -> None:
    """By its own name, by the old spelling of it, and by a pattern."""
    for service in (PAYMENTS, "payments/production", "PAYMENTS.production", "*.production"):
        body = {"service": service, "id": "mine", "port": free_port()}
        assert as_user(ALICE, ask, str(house.agent.socket), "POST", "/api/v1/instances", body).status in (400, 403)
    assert not any(each["id"] == "mine" for each in house.agent.state()["local"])


def test_listeners_outlive_a_reload_and_a_kill(house: House) -> None:
    """The same users are the same services at them; nobody is another meanwhile."""
    workers = {worker["pid"] for worker in house.agent.state()["workers"]}
    house.agent.tell(signal.SIGHUP)
    until(
        "reloaded",
        lambda: house.agent.ready() and not workers & {worker["pid"] for worker in house.agent.state()["workers"]},
    )
    for again in range(2):
        for where in (house.requests, house.own, house.port):
            assert as_user(BOB, calls, where, {}).status == 200, where
            assert as_user(ALICE, calls, where, {}).status in (403, 404), where
        if not again:
            house.agent.stop(signal.SIGKILL)
            house.agent.start()
            until("healthy", lambda: as_user(BOB, calls, house.requests, {}).status == 200)


def test_a_whole_head_is_read_before_it_is_refused(house: House) -> None:
    """The refusal is an answer, and no reset: also to who sends a long body with it."""
    told = as_user(ALICE, calls, house.own, {"Content-Length": "4"}, "/", "POST")
    assert told.status == 403


def serve_at(port: int, ready: int) -> None:
    """A program that answers everybody, and says so, until it is killed."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
        os.write(ready, b"x")
        while True:
            one, _ = sock.accept()
            with one:
                one.recv(65536)
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nstolen")


@contextmanager
def listening_as(uid: int, port: int) -> Iterator[None]:
    """That program, of a user's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            serve_at(port, writing)
        finally:
            os._exit(0)
    try:
        os.close(writing)
        assert os.read(reading, 1) == b"x"
        yield
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def strangers(agent: AgentProcess) -> int:
    lines = agent.text("/metrics").splitlines()
    return int(sum(float(line.split()[1]) for line in lines if line.startswith("shoal_upstream_strangers_total")))


def test_nobody_takes_the_port_of_a_stopped_instance(house: House) -> None:
    """Who listens there next is sent nothing, from the first moment on, and fails the check; a user that may be the
    service is, and does not."""
    port = free_port()
    check = {"http": {"path": "/"}, "interval": "200ms"}
    with listening_as(BOB, port):
        body = {"service": PAYMENTS, "id": "raced", "port": port, "health": check}
        assert as_user(BOB, ask, str(house.agent.socket), "POST", "/api/v1/instances", body).status == 200
        until("asked", lambda: house.agent.ask(PAYMENTS).body == b"stolen")  # control knows it before workers do
    before = strangers(house.agent)
    with listening_as(ALICE, port):
        for _ in range(20):
            answer = house.agent.ask(PAYMENTS)
            assert answer.status == 503 and b"stolen" not in answer.body, answer.body
        assert strangers(house.agent) > before

        def told() -> bool:
            found = house.agent.state()["services"][PAYMENTS]["endpoints"]
            return any(each["port"] == port and not each["healthy"] for each in found)

        until("unhealthy", told)
        health = house.mesh.etcdctl("get", "--prefix", f"/shoal/default/health/{PAYMENTS}/raced")
        assert f"uid {ALICE} listens there, who may not be {PAYMENTS}" in health
    with listening_as(BOB, port):
        until("asked again", lambda: house.agent.ask(PAYMENTS).status == 200)
