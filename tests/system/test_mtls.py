"""The mesh becomes TLS while it serves, and stays so: real agents, a real etcd, requests without pause."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from agent.identity.bundles import Bundle, bundle_document
from agent.identity.certificates import (
    INTERMEDIATE_S,
    ROOT_S,
    Issuer,
    make_intermediate,
    make_root,
    read_request,
    to_pem,
)
from agent.identity.revocations import Revocations, Revoked
from registry.identity_records import IssuerRecord, Request
from registry.records import decode, encode
from tests.support.identity import TRUST_DOMAIN, key, terms
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until
from tests.system.test_identity import KEYS, PETS, Operator, found, held, put

TLS = "policies/tls/*"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def counted(agent: AgentProcess, name: str) -> float:
    """A counter, over its labels."""
    lines = agent.text("/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(_total)?(\{{|\s)", line))


def in_plain_text(agent: AgentProcess) -> int:
    """What a request gets that comes from another host's address without TLS."""
    connection = http.client.HTTPConnection(agent.address, agent.inbound, timeout=10, source_address=("127.0.0.1", 0))
    try:
        connection.request("GET", "/", headers={"Host": PETS})
        return connection.getresponse().status
    finally:
        connection.close()


def level(mesh: Mesh, mode: str) -> None:
    """Of the whole mesh."""
    mesh.put(TLS, {"mtls": mode})


def reload(agent: AgentProcess) -> None:
    """SIGHUP, until others serve."""
    before = agent.state()["workers"]
    agent.tell(signal.SIGHUP)
    until("other workers", lambda: agent.ready() and agent.state()["workers"] != before)


def whose(pem: bytes) -> str:
    """The URI in a certificate."""
    found = x509.load_pem_x509_certificates(pem)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return str(found.value.get_values_for_type(x509.UniformResourceIdentifier)[0])


def secured(mesh: Mesh) -> tuple[AgentProcess, AgentProcess, Operator]:
    """A caller's agent and one with an instance, both with certificates."""
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    operator = Operator(mesh)
    for host in ("alpha", "beta"):
        put(mesh, "hosts", host)
    put(mesh, "grants", PETS, b'{"hosts": ["beta"]}')
    operator.make_issuer("alpha")
    until("certificates", lambda: held(alpha) == {"agent", "issuer"} and held(beta) == {"agent", f"svc/{PETS}"})
    return alpha, beta, operator


def test_from_plain_text_to_strict_and_back_under_load(mesh: Mesh) -> None:
    """No request fails at any step; in strict nothing is taken in plain text, in permissive it is counted."""
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    with Traffic(alpha) as traffic:
        traffic.more(50)
        level(mesh, "permissive")
        traffic.more(50)
        until("it is counted", lambda: counted(alpha, "shoal_plaintext_requests") > 0)
        operator = Operator(mesh)
        for host in ("alpha", "beta"):
            put(mesh, "hosts", host)
        put(mesh, "grants", PETS, b'{"hosts": ["beta"]}')
        operator.make_issuer("alpha")
        until("handshakes", lambda: counted(beta, "shoal_tls_handshakes") > 0)

        def no_more_plain() -> bool:
            before = counted(alpha, "shoal_plaintext_requests")
            traffic.more(50)
            return counted(alpha, "shoal_plaintext_requests") == before

        until("nothing is in plain text", no_more_plain)
        said = until(
            "who sent it", lambda: json.loads(mesh.shoal("-o", "json", "ca", "status", check=False).stdout)["plain"]
        )
        assert [(row["from"], row["to"], row["services"]) for row in said] == [("alpha", "beta", [PETS])]
        level(mesh, "strict")
        traffic.more(300)
        assert in_plain_text(beta) == 403
        for agent in (beta, alpha):
            reload(agent)
            traffic.more(100)
        for mode in ("permissive", "off"):  # one at a time: agents do not change at the same moment
            level(mesh, mode)
            traffic.more(100)
    assert traffic.failures == []


def test_every_certificate_is_another_under_load(mesh: Mesh) -> None:
    """Leaves, the intermediate and the root: none of the old ones is left, and no request fails."""
    alpha, beta, operator = secured(mesh)
    level(mesh, "strict")
    with Traffic(alpha) as traffic:
        until("strict", lambda: counted(beta, "shoal_tls_handshakes") > 0)
        traffic.more(100)
        ends = {each["name"]: each["path"] for each in beta.state()["identity"]["held"]}
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        time.sleep(1.1)
        for host in ("alpha", "beta"):
            put(mesh, "hosts", host, f'{{"renew_before": "{soon}"}}'.encode())

        def others() -> bool:
            now = {each["name"]: each["path"] for each in beta.state()["identity"]["held"]}
            return now.keys() == ends.keys() and not set(now.values()) & set(ends.values())

        until("other leaves", others)
        traffic.more(100)

        new_key = key("another root")
        new = Issuer(make_root(new_key, TRUST_DOMAIN, terms(time.time(), ROOT_S)), new_key)
        old = operator.authority.root.certificate
        put(mesh, "bundle", "", bundle_document(Bundle(TRUST_DOMAIN, (old, new.certificate), 2)))
        until("both roots", lambda: all(a.state()["identity"]["bundle"] == 2 for a in (alpha, beta)))
        traffic.more(100)
        request = decode(Request, found(mesh, KEYS.request("alpha", "issuer")).encode())
        above = make_intermediate(
            new, read_request(request.csr.encode()), TRUST_DOMAIN, "alpha", terms(time.time(), INTERMEDIATE_S)
        )
        put(mesh, "issuers", "alpha", encode(IssuerRecord(chain=to_pem([above]).decode())))
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        time.sleep(1.1)
        for host in ("alpha", "beta"):
            put(mesh, "hosts", host, f'{{"renew_before": "{soon}"}}'.encode())

        def of_the_new() -> bool:
            """Each host says which roots its certificates lead to."""
            from cryptography.hazmat.primitives.hashes import SHA256

            wanted = [new.certificate.fingerprint(SHA256()).hex()]
            return all(f'"roots":["{wanted[0]}"]' in found(mesh, KEYS.trust(host)) for host in ("alpha", "beta"))

        until("all lead to the new root", of_the_new)
        traffic.more(100)
        put(mesh, "bundle", "", bundle_document(Bundle(TRUST_DOMAIN, (new.certificate,), 3)))
        until("one root", lambda: all(a.state()["identity"]["bundle"] == 3 for a in (alpha, beta)))
        traffic.more(200)
    assert traffic.failures == []


def test_a_revoked_host_is_cut_off_at_once(mesh: Mesh) -> None:
    """With its live connections: whoever has stolen its files is in the middle of one, and makes no other."""
    alpha, beta, _ = secured(mesh)
    level(mesh, "strict")
    until("strict", lambda: alpha.ask().status == 200)
    kept = [path.read_bytes() for path in (alpha.state_dir / "identity").glob("*.pem")]
    copy = mesh.folder / "stolen.pem"
    copy.write_bytes(next(text for text in kept if whose(text) == "spiffe://default.shoal/agent/alpha"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(copy)

    def connected() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection((beta.address, beta.inbound), 20), server_hostname=PETS)

    said = b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"
    with connected() as live:
        live.sendall(said)
        assert live.recv(65536).startswith(b"HTTP/1.1 200")
        now = datetime.now(UTC)
        entry = Revoked(until=now + timedelta(days=1), host="alpha", before=now, reason="stolen")
        put(mesh, "revocations", "", Revocations([entry]).document())
        assert live.recv(65536) == b""
    assert counted(beta, "shoal_tls_connections_ended") >= 1
    with pytest.raises(OSError), connected() as another:
        another.sendall(said)
        assert another.recv(65536) == b"", "closed without a word is refused, too"
        raise ConnectionResetError
    answer = until("it is refused", lambda: (found := alpha.ask()).status == 503 and found)
    assert b"certificate" in answer.body
