"""Identity with a real etcd and real agents: from nothing to certificates, over restarts, without etcd, and beside an
agent of the version before."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.bundles import bundle_document, parse_bundle
from agent.identity.certificates import INTERMEDIATE_S, make_intermediate, make_request, read_request, to_pem
from agent.identity.revocations import Revocations
from agent.identity.spiffe import agent_id
from agent.identity.tokens import SECRET_BYTES, Joined, Joining, digest_of, secret_of
from agent.identity.verdict import Identity
from agent.identity.verification import verify
from registry.identity_records import Holds, IssuerRecord, Join, Request
from registry.keys import Keys
from registry.records import decode, encode
from tests.support.identity import TRUST_DOMAIN, Authority, key, terms
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until
from tests.system.test_versions import started, tree

__all__ = ["tree"]
KEYS = Keys()
PETS = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def found(mesh: Mesh, key: str) -> str:
    """What stands there."""
    return mesh.etcdctl("get", "--print-value-only", key)


def put(mesh: Mesh, what: str, whose: str, value: bytes = b"{}") -> None:
    """A key under identity/."""
    mesh.etcdctl("put", KEYS.identity(what, whose), data=value.decode())


class Operator:
    """With a root's key and etcdctl."""

    def __init__(self, mesh: Mesh, trust_domain: str = TRUST_DOMAIN) -> None:
        self.mesh = mesh
        self.authority = Authority(trust_domain, now_s=time.time())
        put(mesh, "bundle", "", bundle_document(self.authority.bundle))

    def make_issuer(self, host: str) -> None:
        put(self.mesh, "issuers", host)
        request = until("its request", lambda: found(self.mesh, KEYS.request(host, "issuer")))
        key = read_request(decode(Request, request.encode()).csr.encode())
        made = terms(time.time(), INTERMEDIATE_S)
        above = make_intermediate(self.authority.root, key, self.authority.trust_domain, host, made)
        put(self.mesh, "issuers", host, encode(IssuerRecord(chain=to_pem([above]).decode())))


def held(agent: AgentProcess) -> set[str]:
    """What an agent says that it holds."""
    return {each["name"] for each in agent.state()["identity"].get("held", [])}


def problems(agent: AgentProcess) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in agent.state()["identity"]["problems"]}


def loaded(agent: AgentProcess) -> bool:
    """Whether its control has loaded the library for certificates."""
    assert agent.process is not None
    return "cryptography" in Path(f"/proc/{agent.process.pid}/maps").read_text()


def test_from_nothing_to_certificates(mesh: Mesh) -> None:
    """Under load, without a failed request: nothing before the bundle, a grant line without a grant, certificates with
    one; a restart while etcd is away shows and believes the same."""
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    assert alpha.state()["identity"] == {} and not loaded(alpha) and not (beta.state_dir / "identity").exists()
    assert "shoal_identity_held " not in alpha.text("/metrics")
    with Traffic(alpha) as traffic:
        operator = Operator(mesh)
        for host in ("alpha", "beta"):
            put(mesh, "hosts", host)
        operator.make_issuer("alpha")
        until("certificates of agents", lambda: held(alpha) == {"agent", "issuer"} and held(beta) == {"agent"})
        grant = f'etcdctl put {KEYS.identity("grants", PETS)} \'{{"hosts": ["beta"]}}\''
        assert grant in until("the grant line", lambda: problems(beta).get(f"svc/{PETS}"))
        assert "shoal_identity_missing 1.0" in beta.text("/metrics")
        put(mesh, "grants", PETS, b'{"hosts": ["beta"]}')
        until("the service's", lambda: held(beta) == {"agent", f"svc/{PETS}"} and not problems(beta))
        traffic.more(200)
    assert traffic.failures == []

    def told() -> Any:
        holds = decode(Holds, found(mesh, KEYS.trust("beta")).encode())
        return set(holds.services) == {PETS} and holds.agent is not None

    until("what it holds is told", told)
    for path in (beta.state_dir / "identity").iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    before = beta.state()["identity"]
    beta.stop()
    mesh.etcd.stop()
    beta.start(wait=False)
    until("what it held", lambda: held(beta) == {"agent", f"svc/{PETS}"})
    after = beta.state()["identity"]
    same = ("trust_domain", "bundle", "roots", "revoked")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert [each["ends"] for each in after["held"]] == [each["ends"] for each in before["held"]]


def test_a_killed_agent_and_a_reload(mesh: Mesh) -> None:
    """Neither loses what is held, and none of it is asked for again."""
    alpha = mesh.agent()
    operator = Operator(mesh)
    put(mesh, "hosts", "alpha")
    operator.make_issuer("alpha")
    until("certificates", lambda: held(alpha) == {"agent", "issuer"})
    request = found(mesh, KEYS.request("alpha", "agent"))
    ends = alpha.state()["identity"]["held"]
    alpha.tell(signal.SIGHUP)
    until("the reload", lambda: held(alpha) == {"agent", "issuer"} and alpha.ready())
    alpha.stop(signal.SIGKILL)
    alpha.start()
    until("certificates", lambda: held(alpha) == {"agent", "issuer"})
    assert [each["ends"] for each in alpha.state()["identity"]["held"]] == [each["ends"] for each in ends]
    assert found(mesh, KEYS.request("alpha", "agent")) == request


def test_beside_an_agent_of_the_version_before(mesh: Mesh, tree: Path) -> None:
    """It passes over all of it, serves and is served."""
    old = started(mesh, "old", tree)
    alpha = mesh.agent(address="127.0.0.2")
    mesh.instance(alpha)
    operator = Operator(mesh)
    put(mesh, "hosts", "alpha")
    put(mesh, "grants", PETS, b'{"hosts": ["alpha", "old"]}')
    operator.make_issuer("alpha")
    until("certificates", lambda: held(alpha) == {"agent", "issuer", f"svc/{PETS}"})
    until("the way there", lambda: old.ask().status == 200)
    assert alpha.ask().status == 200

    def told() -> Any:
        return msgspec.json.decode(found(mesh, KEYS.trust("alpha")).encode()).get("services", {}).keys() == {PETS}

    until("what it holds is told", told)


# Agents ask each other.


def questions(agent: AgentProcess) -> dict[str, Any]:
    """How an agent's workers were spoken to."""
    found = {
        line.split()[0]: float(line.split()[1])
        for line in agent.text("/metrics").splitlines()
        if line.startswith("shoal_tls_")
    }
    return found


def test_agents_ask_each_other_as_who_they_are(mesh: Mesh) -> None:
    """Explanations and limits of the mesh over TLS, each side judged; and a renewal with etcd away, which a wish for
    another certificate stands for."""
    alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    operator = Operator(mesh)
    put(mesh, "hosts", "alpha")
    put(mesh, "hosts", "beta")
    put(mesh, "grants", PETS, b'{"hosts": ["beta"]}')
    operator.make_issuer("alpha")
    until("certificates", lambda: held(alpha) == {"agent", "issuer"} and held(beta) == {"agent", f"svc/{PETS}"})
    told = until("what they hold is told", lambda: found(mesh, KEYS.trust("beta")) and found(mesh, KEYS.trust("alpha")))
    assert told
    before = questions(beta)["shoal_tls_handshakes_total"]

    def explained() -> bool:
        answer = mesh.shoal("--admin", str(alpha.socket), "explain", "GET", f"http://{PETS}/", check=False)
        return "beta" in answer.stdout and "was not heard" not in answer.stdout

    until("an explanation by the agent beside the instance", explained)
    until("over TLS", lambda: questions(beta)["shoal_tls_handshakes_total"] > before)
    before = questions(beta)["shoal_tls_handshakes_total"]
    told = json.loads(alpha.text("/api/v1/agents?scope=mesh&deadline_s=20"))
    assert (told["asked"], told["missing"]) == (2, {}) and all(each["ready"] for each in told["items"])
    assert [bool(each["certificate_ends"]) for each in told["items"]] == [True, True]
    assert [each["host"] for each in json.loads(alpha.text("/api/v1/agents/beta/findings"))["items"]] in ([], ["beta"])
    mesh.put(f"policies/ratelimit/{PETS}", {"limits": [{"name": "all", "rate": "1000/s", "scope": "mesh"}]})
    with Traffic(alpha) as traffic:
        traffic.more(500)
    assert traffic.failures == []
    assert questions(beta)["shoal_tls_handshakes_failed_total"] == 0
    assert questions(alpha)["shoal_tls_handshakes_failed_total"] == 0

    # etcd goes, and a certificate is lost: the issuer is asked itself, over TLS.
    lost = next(Path(each["path"]) for each in beta.state()["identity"]["held"] if each["name"] == f"svc/{PETS}")
    beta.stop()
    mesh.etcd.stop()
    lost.unlink()
    beta.start(wait=False)
    until("what it held, and another of what was lost", lambda: held(beta) == {"agent", f"svc/{PETS}"})
    assert "a certificate is signed for a peer" in alpha.log.read_text()


def joining(agent: AgentProcess, secret: str, name: str = "join.shoal") -> tuple[int, bytes]:
    """What an issuer answers to who has a token and no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    body = msgspec.msgpack.encode(Joining(secret, make_request(key("gamma")).decode()))
    head = b"POST /join HTTP/1.1\r\nHost: agent.shoal\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with (
        socket.create_connection((agent.address, agent.inbound), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        tls.sendall(head % len(body) + body)
        answer = http.client.HTTPResponse(tls)
        answer.begin()
        return answer.status, answer.read()


def test_a_host_joins_with_a_token(mesh: Mesh) -> None:
    """At an issuer's inbound listener, once; what it gets leads to the root, and is its agent's."""
    alpha = mesh.agent()
    operator = Operator(mesh)
    for host in ("alpha", "gamma"):
        put(mesh, "hosts", host)
    operator.make_issuer("alpha")
    until("certificates", lambda: held(alpha) == {"agent", "issuer"})
    secret = secret_of(os.urandom(SECRET_BYTES))
    until_ = datetime.fromtimestamp(time.time() + 600, UTC)
    put(mesh, "joins", digest_of(secret), encode(Join(host="gamma", until=until_)))

    for name in ("agent.shoal", PETS, "nothing.here"):  # who has nothing to show may ask nothing else
        with pytest.raises((OSError, http.client.HTTPException)):
            joining(alpha, secret, name)
    answer = until("an answer", lambda: joining(alpha, secret))
    assert answer[0] == 200, answer
    joined = msgspec.msgpack.decode(answer[1], type=Joined)
    chain = [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(joined.chain.encode())]
    bundle = parse_bundle("", joined.bundle.encode())
    proven = verify(chain, {TRUST_DOMAIN: bundle}, Revocations(), time.time(), agent_id(TRUST_DOMAIN, "gamma"))
    assert isinstance(proven, Identity), proven
    status, words = joining(alpha, secret)
    assert status == 403 and b"redeemed already" in words
