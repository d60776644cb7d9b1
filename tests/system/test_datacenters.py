"""Two datacenters: each with an etcd, a trust domain and agents of its own, and one door between them."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.identity.bundles import bundle_document
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until
from tests.system.test_identity import PETS, Operator, held, put
from tests.system.test_mtls import counted, whose

GATE = "127.0.0.3"
EXPORT = {"to": ["us.shoal"], "gateways": ["gate-1"]}
NOTHING_HERE = b"nothing of this name is here for whoever calls"


class Centers(NamedTuple):
    """Both."""

    us: Mesh
    eu: Mesh
    shop: AgentProcess
    """Of us.shoal, with an instance of ours."""
    gate: AgentProcess
    """The gateway of eu.shoal."""
    web: AgentProcess
    """Its host with an instance."""
    operators: tuple[Operator, Operator]

    def imports(self) -> None:
        """Here."""
        place = [f"{GATE}:{self.gate.inbound}"]
        document = {"trust_domain": "eu.shoal", "remote_service": PETS, "gateways": place}
        self.us.put("policies/import/pets.eu", document)


@pytest.fixture
def centers(tmp_path: Path) -> Iterator[Centers]:
    """Two meshes that believe each other's roots, and have no door yet."""
    for name in ("us", "eu"):
        (tmp_path / name).mkdir()
    with running_mesh(tmp_path / "us") as us, running_mesh(tmp_path / "eu") as eu:
        shop, gate = us.agent("shop-1"), eu.agent("gate-1", GATE)
        web = eu.agent("web-1", "127.0.0.4")
        us.instance(shop, "us")
        eu.instance(web, "eu")
        ours, theirs = Operator(us, "us.shoal"), Operator(eu, "eu.shoal")
        put(us, "hosts", "shop-1")
        for host in ("gate-1", "web-1"):
            put(eu, "hosts", host)
        put(eu, "grants", PETS, b'{"hosts": ["gate-1", "web-1"]}')
        put(us, "trust", "eu.shoal", bundle_document(theirs.authority.bundle))
        put(eu, "trust", "us.shoal", bundle_document(ours.authority.bundle))
        ours.make_issuer("shop-1")
        theirs.make_issuer("gate-1")
        until("certificates", lambda: "agent" in held(shop) and f"svc/{PETS}" in held(web) and "agent" in held(gate))
        yield Centers(us, eu, shop, gate, web, (ours, theirs))


def opened(centers: Centers) -> None:
    """A door, until it lets requests through."""
    centers.eu.put(f"policies/export/{PETS}", EXPORT)
    centers.imports()
    until("the gateway's certificate", lambda: f"svc/{PETS}" in held(centers.gate))
    until("the door", lambda: centers.shop.ask("pets.eu").status == 200)


def test_a_fallback_to_the_other_one_its_loss_and_its_return(centers: Centers) -> None:
    """While ours is whole, broken, full, and while theirs has no etcd, no agents, and both again."""
    us, eu, shop, gate, web, _ = centers
    opened(centers)
    assert centers.shop.ask("pets.eu").version == "eu" and shop.ask().version == "us"
    assert counted(gate, "shoal_exported_requests") >= 1
    breaker = {
        "trip": {"consecutive": 1},
        "recovery": {"open": "1s", "max_open": "1s"},
        "fallback": {"service": "pets.eu"},
    }
    us.put(f"policies/breaker/{PETS}", breaker)
    us.services[0].kill()
    until("the fallback", lambda: shop.ask().version == "eu")
    us.etcdctl("del", f"/shoal/default/policies/breaker/{PETS}")
    port, _ = us.service("us", "127.0.0.1")
    shop.register(PETS, port, version="us")
    until("ours again", lambda: shop.ask().version == "us")

    us.put(f"policies/shed/{PETS}", {"concurrency": 1, "instead": [{"service": "pets.eu"}]})
    with Traffic(shop, threads=6) as traffic:
        before = counted(gate, "shoal_exported_requests")
        until("some go there", lambda: counted(gate, "shoal_exported_requests") > before)
        traffic.more(300)
        eu.etcd.stop()
        traffic.more(300)
    assert traffic.failures == []
    with Traffic(shop, "pets.eu") as theirs:
        theirs.more(200)
    assert theirs.failures == [], "their etcd is away, and nobody notices"

    for agent in (gate, web):
        agent.stop(signal.SIGKILL)
    answer = until("their loss", lambda: (found := shop.ask("pets.eu")).status == 503 and found)
    assert GATE.encode() in answer.body
    assert shop.ask().status == 200, "ours goes on"
    eu.etcd.start()
    for agent in (gate, web):
        agent.start()
    until("their return", lambda: shop.ask("pets.eu").status == 200)


def test_a_door_is_closed_by_either_side(centers: Centers) -> None:
    """Without an import the name is unknown; without an export, for another caller, or without the bundle, nothing is
    there; and each is over as soon as it is put back."""
    _, eu, shop, gate, _, (ours, _) = centers
    assert shop.ask("pets.eu").status == 404
    centers.imports()
    assert shop.ask("pets.eu").status == 503, "the gateway has no certificate of what is not exported"
    opened(centers)
    for document in (None, {**EXPORT, "to": ["spiffe://us.shoal/svc/shop.production"]}, {**EXPORT, "to": []}):
        if document is None:
            eu.etcdctl("del", f"/shoal/default/policies/export/{PETS}")
            eu.shoal("wait")
        else:
            eu.put(f"policies/export/{PETS}", document)
        answer = until("it is closed", lambda: (found := shop.ask("pets.eu")).status == 421 and found)
        assert NOTHING_HERE in answer.body and answer.headers["x-shoal-policy"] == "export"
    noted = [failure["reason"] for failure in gate.state()["handshakes_failed"]]
    assert any("spiffe://us.shoal/agent/shop-1" in reason and PETS in reason for reason in noted)
    eu.put(f"policies/export/{PETS}", EXPORT)
    until("it is open again", lambda: shop.ask("pets.eu").status == 200)

    eu.etcdctl("del", "/shoal/default/identity/trust/us.shoal")
    answer = until("the bundle is gone", lambda: (found := shop.ask("pets.eu")).status == 503 and found)
    assert b"identity refused by the other side" in answer.body
    assert counted(gate, "shoal_tls_connections_ended") >= 1
    put(eu, "trust", "us.shoal", bundle_document(ours.authority.bundle))
    until("it is back", lambda: shop.ask("pets.eu").status == 200)


def stolen(agent: AgentProcess) -> list[Path]:
    """Every certificate of a host, with its key: what its root has."""
    return [path for path in (agent.state_dir / "identity").glob("*.pem") if b"CERTIFICATE" in path.read_bytes()]


def said_to(target: AgentProcess, credential: Path, sni: str, host: str, path: str) -> bytes:
    """All that is answered to who shows a credential; whom he is believed to be the other side says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(credential)
    words = f"x-shoal-caller: {PETS}\r\nx-shoal-explain: 1\r\nx-shoal-endpoint: {PETS}/a\r\n"
    heard = b""
    try:
        with (
            socket.create_connection((target.address, target.inbound), 20) as sock,
            context.wrap_socket(sock, server_hostname=sni) as tls,
        ):
            tls.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{words}Content-Length: 0\r\n".encode())
            tls.sendall(b"Connection: close\r\n\r\n")
            while data := tls.recv(65536):
                heard += data
    except OSError:
        pass  # refused in the handshake
    return heard


@pytest.mark.parametrize("believed", [True, False])
def test_with_every_credential_of_a_host_nothing_of_the_other_mesh_is_seen(centers: Centers, believed: bool) -> None:
    """Neither listed, nor resolved, nor reached: agents there refuse, with and without the bundle of its mesh."""
    us, eu, shop, gate, web, _ = centers
    if not believed:
        eu.etcdctl("del", "/shoal/default/identity/trust/us.shoal")
        until("it is not believed", lambda: gate.state()["identity"]["federated"] == {})
    credentials = stolen(shop)
    assert {whose(each.read_bytes()) for each in credentials} >= {"spiffe://us.shoal/agent/shop-1"}
    asked = [("agent.shoal", "agent.shoal", path) for path in ("/explain", "/sign", "/join", "/shares", "/keys", "/x")]
    asked += [(sni, host, "/") for sni in (PETS, "agent.shoal", "nobody.eu") for host in (PETS, "nobody.eu")]
    for target in (gate, web):
        for credential in credentials:
            for sni, host, path in asked:
                heard = said_to(target, credential, sni, host, path)
                assert not heard or heard.startswith(b"HTTP/1.1 421"), (sni, host, path, heard)
                assert not heard or NOTHING_HERE in heard
                assert not any(word in heard for word in (b"web-1", b"127.0.0.4", b"x-version", b"pets"))
    assert shop.ask("secret.production").status == 404, "names of there are none here"
    assert shop.ask().version == "us", "and one of ours is ours"
    listed = us.shoal("services").stdout + us.shoal("status").stdout
    assert "web-1" not in listed and "gate-1" not in listed
    assert counted(web, "shoal_exported_requests") == counted(gate, "shoal_exported_requests") == 0
