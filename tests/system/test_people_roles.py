"""People who ask an agent over the network: by their role, as it stands now. A real etcd and a real agent."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from agent.control.admin.people import MAX_PEOPLE
from agent.identity.spiffe import agent_id, person_id, service_id
from registry.etcd.server import free_port
from tests.agent.control.test_main import reload
from tests.support.identity import TRUST_DOMAIN
from tests.support.mesh import AgentProcess, running_mesh, until
from tests.support.websocket import Closed, Page
from tests.system.test_identity import Operator, held, put
from tests.system.test_people import PETS, Desk, crafted

REPLAY = "/api/v1/events/none/replay"
"""What takes the role operate, and answers 404 to who has it."""


TAPS = "/api/v1/taps?service=pets.production"
"""What takes the role tap."""
API = ("/api/v1/mesh", "/api/v1/agent", "/api/v1/findings?scope=mesh", "/api/v1/openapi.json")


class Office(Desk):
    """A mesh whose agent people may ask."""

    port = 0

    def person(self, name: str, folder: Path, role: str = "view", **times: float) -> Path:
        """Somebody who has logged in with a role."""
        put(self.mesh, "people", name, msgspec.json.encode({"role": role} if role != "view" else {}))
        return crafted(self, folder / f"{name}.pem", person_id(TRUST_DOMAIN, name), f"person:{name}", **times)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with running_mesh(tmp_path_factory.mktemp("office")) as mesh:
        port = free_port()
        agent = mesh.agent(extra=f'people.listen = "127.0.0.1:{port}"')
        operator = Operator(mesh)
        put(mesh, "hosts", "alpha")
        operator.make_issuer("alpha")
        until("certificates", lambda: held(agent) == {"agent", "issuer"})
        office = Office(mesh, agent, operator, tmp_path_factory.mktemp("homes"))
        office.port = port
        yield office


def connected(office: Office, shown: Path | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Any:
    """A connection of who shows a certificate, which stays open between requests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if shown is not None:
        context.load_cert_chain(shown)
    connection = http.client.HTTPConnection("127.0.0.1", office.port, timeout=30)
    connection.connect()
    connection.sock = context.wrap_socket(connection.sock)
    return connection


def answer(connection: Any, method: str = "GET", path: str = "/state", **headers: str) -> tuple[int, str]:
    connection.request(method, path, None, {"Host": "alpha", **headers})
    got = connection.getresponse()
    return got.status, got.read().decode()


def asked(office: Office, shown: Path | None, method: str = "GET", path: str = "/state", **headers: str) -> Any:
    connection = connected(office, shown)
    try:
        return answer(connection, method, path, **headers)
    finally:
        connection.close()


def logged(agent: AgentProcess) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", agent.log.read_text())


def test_who_views_and_who_operates(office: Office, tmp_path: Path) -> None:
    """To view is what the admin port shows; all else is refused in words that say what it takes; who operates has what
    the agent's socket has, and what he asks is logged with his name."""
    ada = office.person("ada", tmp_path)
    oscar = office.person("oscar", tmp_path, "operate")
    until("ada", lambda: asked(office, ada)[0] == 200)
    for path in ("/healthz", "/readyz", "/metrics", *API):
        assert asked(office, ada, path=path)[0] == 200, path
    for method, path in (
        ("POST", REPLAY),
        ("POST", "/api/v1/instances"),
        ("DELETE", f"/api/v1/instances/{PETS}/x"),
        ("POST", "/api/v1/hooks/test"),
    ):
        status, told = asked(office, ada, method, path)
        assert status == 403 and "ada has the role view, and this takes operate" in told, (method, path, told)
        assert "shoal person set ada --role operate" in told
    status, told = asked(office, ada, path=TAPS)
    assert status == 403 and "ada has the role view, and this takes tap: `shoal person set ada --role tap`" in told
    tom = office.person("tom", tmp_path, "tap")
    until("tom", lambda: asked(office, tom, path=TAPS)[0] == 200)
    assert "tom has the role tap, and this takes operate" in asked(office, tom, "POST", REPLAY)[1]
    until("oscar", lambda: asked(office, oscar, "POST", REPLAY)[0] == 404)
    connection = connected(office, oscar)
    headers = {"Host": "alpha", "content-type": "application/json"}
    connection.request("POST", "/api/v1/instances", json.dumps({"service": PETS, "port": 8080}), headers)
    got = connection.getresponse()
    registered = msgspec.json.decode(got.read())
    assert got.status == 200, registered
    assert answer(connection, "DELETE", f"/api/v1/instances/{PETS}/{registered['id']}")[0] == 200
    connection.close()
    log = logged(office.agent)
    assert (
        "a person asked for a change" in log and "oscar" in log and "POST /api/v1/instances" in log and "DELETE" in log
    )


def test_a_role_counts_from_the_next_request_on(office: Office, tmp_path: Path) -> None:
    """Given, taken, the person removed and revoked: each on a connection that is open."""
    eve = office.person("eve", tmp_path)
    connection = connected(office, eve)
    until("eve", lambda: answer(connection)[0] == 200)
    assert answer(connection, "POST", REPLAY)[0] == 403
    put(office.mesh, "people", "eve", b'{"role": "operate"}')
    until("operate", lambda: answer(connection, "POST", REPLAY)[0] == 404)
    put(office.mesh, "people", "eve", b'{"role": "root"}')
    until(
        "it is heard",
        lambda: any("people/eve" in each["key"] for each in json.loads(answer(connection)[1])["malformed"]),
    )
    assert answer(connection, "POST", REPLAY)[0] == 404, "a bad value replaces no good one"
    put(office.mesh, "people", "eve", b"{}")
    until("view", lambda: answer(connection, "POST", REPLAY)[0] == 403)
    office.mesh.etcdctl("del", "/shoal/default/identity/people/eve")
    until("removed", lambda: answer(connection)[0] == 403)
    assert "nobody of this mesh any more" in answer(connection)[1]
    put(office.mesh, "people", "eve", b'{"role": "operate"}')
    until("back", lambda: answer(connection)[0] == 200)
    office.shoal("ca", "revoke", "person", "eve", home="operator")
    put(office.mesh, "people", "eve", b'{"role": "operate"}')
    until("revoked", lambda: answer(connection)[0] == 403 and "revoked" in answer(connection)[1])
    connection.close()


def test_nobody_else_gets_in(office: Office, tmp_path: Path) -> None:
    """Members of the mesh are told that they are no people; whoever shows nothing, something that has ended, another
    domain's or the own signature, or speaks another language does not get through the handshake."""
    put(office.mesh, "people", "ada", b'{"role": "operate"}')
    for name in (agent_id(TRUST_DOMAIN, "alpha"), service_id(TRUST_DOMAIN, PETS)):
        for method, path in (("GET", "/state"), ("POST", REPLAY)):
            status, told = asked(office, crafted(office, tmp_path / "other.pem", name, "alpha"), method, path)
            assert status == 403 and "is no person" in told
    stranger = Office(office.mesh, office.agent, office.operator, tmp_path)
    stranger.operator = object.__new__(Operator)
    stranger.operator.authority = type(office.operator.authority)("other.example", now_s=time.time())
    foreign = crafted(stranger, tmp_path / "foreign.pem", person_id("other.example", "ada"), "person:ada")
    forged = crafted(stranger, tmp_path / "forged.pem", person_id(TRUST_DOMAIN, "ada"), "person:ada")
    ended = office.person("bob", tmp_path, "operate", now_s=time.time() - 7200, lifetime_s=3600.0)
    early = office.person("kim", tmp_path, "operate", now_s=time.time() + 7200)
    alerts = {None: "certificate required", foreign: "unknown ca", forged: "unknown ca", ended: "certificate expired"}
    for shown, alert in {**alerts, early: "bad certificate"}.items():
        with pytest.raises(ssl.SSLError) as refused:
            asked(office, shown)
        assert alert in str(refused.value).lower().replace("_", " ")
    ada = office.person("ada", tmp_path)
    with pytest.raises(OSError):
        connected(office, ada, ssl.TLSVersion.TLSv1_2)
    with socket.create_connection(("127.0.0.1", office.port), 30) as plain:
        plain.sendall(b"GET /state HTTP/1.1\r\nHost: alpha\r\n\r\n")
        said = b""
        try:
            while data := plain.recv(65536):
                said += data
        except ConnectionResetError:
            pass
        assert b"HTTP/1.1 200" not in said and b"{" not in said
    until("others get in as before", lambda: asked(office, ada)[0] == 200)


def test_pages_of_others_get_nothing(office: Office, tmp_path: Path) -> None:
    """By the agent's name and its address only, and with no Origin but that."""
    ada = office.person("ada", tmp_path)
    until("ada", lambda: asked(office, ada)[0] == 200)
    for host in ("alpha", "ALPHA:15443", "127.0.0.1", "127.0.0.1:15443", "localhost:1", "[::1]:1"):
        assert asked(office, ada, Host=host)[0] == 200, host
    for host in ("evil.example", "alpha.evil.example", "", "alphaa", "alpha@evil.example"):
        status, told = asked(office, ada, Host=host)
        assert status == 403 and "this agent is called alpha" in told, host
    connection = connected(office, ada)
    for origin, status in (("https://alpha", 200), ("https://alpha:8443", 403), ("http://alpha", 403), ("null", 403)):
        connection.request("GET", "/state", None, {"Host": "alpha", "Origin": origin})
        got = connection.getresponse()
        assert got.status == status and got.read() and got.getheader("access-control-allow-origin") is None, origin
    connection.close()


def test_strangers_who_only_connect_keep_nobody_out(office: Office, tmp_path: Path) -> None:
    """More silent connections than there may be, half of them with half a handshake: the longest makes way."""
    ada = office.person("ada", tmp_path)
    until("ada", lambda: asked(office, ada)[0] == 200)
    silent = [socket.create_connection(("127.0.0.1", office.port), 30) for _ in range(2 * MAX_PEOPLE)]
    try:
        for sock in silent[::2]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        until("ada gets in", lambda: asked(office, ada)[0] == 200)
        assert office.agent.ready()
    finally:
        for sock in silent:
            sock.close()


def test_the_port_comes_moves_and_goes_with_a_reload(office: Office, tmp_path: Path) -> None:
    """And roles, which were known before, hold at once."""
    oscar, first, second = office.person("oscar", tmp_path, "operate"), office.port, free_port()
    until("oscar", lambda: asked(office, oscar, "POST", REPLAY)[0] == 404)
    line = f'people.listen = "127.0.0.1:{first}"'
    try:
        reload(office.agent, f"127.0.0.1:{first}", f"127.0.0.1:{second}")
        office.port = second
        assert asked(office, oscar, "POST", REPLAY)[0] == 404
        assert ("people's", second) in [(it["name"], it["port"]) for it in office.agent.state()["listeners"]]
        reload(office.agent, line.replace(str(first), str(second)), "")
        for port in (first, second):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 30)
    finally:
        office.port = first
        office.agent.path.write_text(f"{line}\n{office.agent.path.read_text()}")
        reload(office.agent, line, line)
    until("oscar again", lambda: asked(office, oscar, "POST", REPLAY)[0] == 404)


def test_the_command_line_asks_by_the_login(office: Office) -> None:
    """`--admin https://…` shows the login to an agent of its trust domain; what fails is said in words."""
    place = f"https://127.0.0.1:{office.port}"
    assert "nobody is logged in" in office.shoal("ready", "--admin", place, code=1, home="zoe")
    office.shoal("login", office.invited("zoe"), home="zoe")
    office.shoal("explain", "GET", f"http://{PETS}/", "--admin", place, home="zoe")
    office.shoal("explain", "GET", f"http://{PETS}/", "--admin", place.replace("127.0.0.1", "localhost"), home="zoe")
    refused = office.shoal("events", "replay", "none", "--admin", place, code=1, home="zoe")
    assert "zoe has the role view" in refused and "shoal person set zoe --role operate" in refused
    office.shoal("person", "add", "zoe", "--role", "operate", home="operator")
    until(
        "operate", lambda: "no event" in office.shoal("events", "replay", "none", "--admin", place, code=1, home="zoe")
    )
    assert json.loads(office.shoal("person", "list", "-o", "json"))[-1]["role"] == "operate"
    office.shoal("person", "add", "zoe", home="operator")
    assert json.loads(office.shoal("person", "list", "-o", "json"))[-1]["role"] == "operate", "asked again: as it is"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        other = f"https://127.0.0.1:{free_port()}"
        assert "no agent answers" in office.shoal("explain", "GET", "http://x/", "--admin", other, code=3, home="zoe")
    inbound = f"https://127.0.0.1:{office.agent.admin}"
    assert "speaks no TLS 1.3" in office.shoal("explain", "GET", "http://x/", "--admin", inbound, code=3, home="zoe")
    crafted(
        office,
        office.held("zoe"),
        person_id(TRUST_DOMAIN, "zoe"),
        "person:zoe",
        now_s=time.time() - 7200,
        lifetime_s=3600.0,
    )
    ended = office.shoal("explain", "GET", "http://x/", "--admin", place, code=3, home="zoe")
    assert "ended the connection" in ended and "certificate expired" in ended
    crafted(office, office.held("zoe"), agent_id(TRUST_DOMAIN, "alpha"), "alpha")
    assert "is no person" in office.shoal("explain", "GET", "http://x/", "--admin", place, code=1, home="zoe")


def test_roles_hold_while_etcd_is_away(office: Office, tmp_path: Path) -> None:
    """The last that were known."""
    ada, oscar = office.person("ada", tmp_path), office.person("oscar", tmp_path, "operate")
    until(
        "both", lambda: (asked(office, ada, "POST", REPLAY)[0], asked(office, oscar, "POST", REPLAY)[0]) == (403, 404)
    )
    office.mesh.etcd.stop()
    try:
        assert asked(office, ada)[0] == 200 and asked(office, ada, "POST", "/api/v1/hooks/test")[0] == 403
        assert asked(office, oscar, "POST", "/api/v1/shadow/pets.production/reset")[0] == 404
    finally:
        office.mesh.etcd.start()


@asynccontextmanager
async def watching(office: Office, shown: Path) -> AsyncIterator[Page]:
    """A page of who shows a certificate. Raises Closed for who gets none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(shown)
    stream = await trio.open_tcp_stream("127.0.0.1", office.port)
    try:
        yield await Page(trio.SSLStream(stream, context, https_compatible=True)).open("alpha")
    finally:
        await trio.aclose_forcefully(stream)


async def ended(page: Page) -> tuple[int, str]:
    """With what code, and why."""
    with pytest.raises(Closed) as closed:
        while True:
            await page.hear()
    return closed.value.code, closed.value.reason


def test_a_page_that_watches_ends_with_who_watches(office: Office, tmp_path: Path) -> None:
    """His role is another one, or he is removed: the connection is closed with its reason; he may come anew as who he
    is by then."""
    liv = office.person("liv", tmp_path)
    until("liv", lambda: asked(office, liv)[0] == 200)

    async def live() -> None:
        async with watching(office, liv) as page:
            assert (await page.watch("/mesh"))["status"] == 200
            put(office.mesh, "people", "liv", b'{"role": "operate"}')
            assert await ended(page) == (1008, "the role is another one by now")
        async with watching(office, liv) as page:
            assert (await page.watch("/mesh"))["status"] == 200
            office.mesh.etcdctl("del", "/shoal/default/identity/people/liv")
            code, reason = await ended(page)
            assert code == 1008 and "liv" in reason
        with pytest.raises(Closed) as refused:
            async with watching(office, liv):
                pass
        assert refused.value.code == 403

    trio.run(live)
