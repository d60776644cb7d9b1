"""People who log in: what their certificate opens, and what it does not. A real etcd and a real agent that issues."""

from __future__ import annotations

import http.client
import os
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.identity.bundles import Bundle, bundle_document
from agent.identity.certificates import ROOT_S, Issuer, make_root, make_svid, to_pem
from agent.identity.revocations import Revocations
from agent.identity.spiffe import agent_id, person_id, service_id
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import verify
from agent.questions import Sign
from tests.support.identity import TRUST_DOMAIN, key, terms
from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until
from tests.system.test_identity import Operator, found, held, put

PETS = "pets.production"


def token_in(text: str) -> str:
    """The one that a command has printed."""
    return next(word for word in text.split() if word.startswith("shoal1."))


class Desk:
    """A mesh that issues, and somebody's machine."""

    def __init__(self, mesh: Mesh, agent: AgentProcess, operator: Operator, home: Path) -> None:
        self.mesh, self.agent, self.operator, self.home = mesh, agent, operator, home

    def shoal(self, *words: str, code: int = 0, home: str = "ada") -> str:
        """A command on that machine: what it prints."""
        environment = {**os.environ, "XDG_STATE_HOME": str(self.home / home), "PYTHONPATH": str(ROOT)}
        command = [*SHOAL, "--etcd", self.mesh.etcd.url, "--admin", "http://127.0.0.1:1", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def invited(self, name: str) -> str:
        """A token for somebody."""
        return token_in(self.shoal("person", "add", name, home="operator"))

    def held(self, home: str = "ada") -> Path:
        return self.home / home / "shoal" / "login" / "default" / "login.pem"

    def ask(self, shown: Path, sni: str, host: str, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
        """One request at the agent's inbound listener, by who shows a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(shown)
        connection = http.client.HTTPConnection(self.agent.address, self.agent.inbound, timeout=20)
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=sni)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def made(folder: Path) -> Iterator[Desk]:
    with running_mesh(folder / "desk") as mesh:
        agent = mesh.agent()
        operator = Operator(mesh)
        put(mesh, "hosts", "alpha")
        put(mesh, "grants", PETS, b'{"hosts": ["alpha"]}')
        operator.make_issuer("alpha")
        mesh.instance(agent)
        until("certificates", lambda: held(agent) == {"agent", "issuer", f"svc/{PETS}"})
        yield Desk(mesh, agent, operator, folder / "homes")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with made(tmp_path_factory.mktemp("people")) as desk:
        yield desk


def who(desk: Desk, path: Path) -> Identity | Refused:
    chain = x509.load_pem_x509_certificates(path.read_bytes())
    shown = [each.public_bytes(Encoding.DER) for each in chain]
    return verify(shown, desk.operator.authority.bundles, Revocations(), time.time())


def test_a_person_logs_in_and_renews(desk: Desk) -> None:
    """With a token, once; then by the login itself, with another key. The key is the person's alone, and made here."""
    token = desk.invited("ada")
    assert "ada is logged in to default.shoal" in desk.shoal("login", token)
    identity = who(desk, desk.held())
    assert isinstance(identity, Identity) and str(identity.id) == "spiffe://default.shoal/person/ada"
    assert identity.host == "person:ada", "as whom etcd knows her: no host, and no root"
    assert identity.ends_s < time.time() + 12 * 3600 + 60
    assert stat.S_IMODE(desk.held().stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.held().parent.stat().st_mode) == 0o700
    before = desk.held().read_bytes()
    desk.shoal("login")
    after = who(desk, desk.held())
    assert desk.held().read_bytes() != before and isinstance(after, Identity) and after.id == identity.id
    assert "redeemed already" in desk.shoal("login", token, code=1, home="thief")
    assert "ada" in desk.shoal("person", "list")
    assert "no person" in desk.shoal("login", token_in(desk.shoal("host", "add", "gamma")), code=2)
    assert "shoal login" in desk.shoal("join", desk.invited("ada"), code=2)


def crafted(desk: Desk, path: Path, identity: object, common: str, **times: float) -> Path:
    """A chain and key in a file, of the mesh's own issuer: what a lost issuer could sign, or one that has ended."""
    private = key(str(identity))
    begins = terms(times.get("now_s", time.time()), times.get("lifetime_s", 3600.0))
    leaf = make_svid(desk.operator.authority.issuer, private.public_key(), identity, common, begins)  # type: ignore[arg-type]
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + to_pem([leaf, desk.operator.authority.issuer.certificate]))
    return path


def test_a_person_is_no_service_and_no_agent(desk: Desk, tmp_path: Path) -> None:
    """At the inbound listener: who is called by a person is called by nobody, and no question of agents is answered,
    whatever the words of the request say."""
    shown = crafted(desk, tmp_path / "eve.pem", person_id(TRUST_DOMAIN, "eve"), "person:eve")
    service = crafted(desk, tmp_path / "svc.pem", service_id(TRUST_DOMAIN, "shop.production"), "alpha")
    desk.mesh.put(f"policies/isolation/{PETS}", {"allow": ["*"], "anonymous": False})
    try:
        assert desk.ask(service, PETS, PETS)[0] == 200, "who is a service of the mesh is let in"
        assert desk.ask(shown, PETS, PETS)[0] in (404, 421)
        for path in ("/shares", "/keys", "/explain", "/join"):
            assert desk.ask(shown, "agent.shoal", "agent.shoal", path, b"x")[0] == 403, path
    finally:
        desk.mesh.etcdctl("del", f"/shoal/default/policies/isolation/{PETS}")
        desk.mesh.shoal("wait")
    status, _ = desk.ask(shown, PETS, PETS)
    assert status == 200, "where nobody may call, a person may, as nobody"


def test_nobody_renews_as_another(desk: Desk, tmp_path: Path) -> None:
    """A person gets a certificate in the own name, whatever is asked for; a service none, an agent no person's."""
    desk.invited("ada")
    shown = crafted(desk, tmp_path / "ada.pem", person_id(TRUST_DOMAIN, "ada"), "person:ada")
    stranger = crafted(desk, tmp_path / "eve.pem", person_id(TRUST_DOMAIN, "eve"), "person:eve")
    csr = "no request"
    for name in ("agent", f"svc/{PETS}", "issuer", "person"):
        body = msgspec.msgpack.encode(Sign(name, csr))
        status, answer = desk.ask(shown, "agent.shoal", "agent.shoal", "/sign", body)
        assert status == 200 and b"no signing request" in answer
        assert b"eve may not log in" in desk.ask(stranger, "agent.shoal", "agent.shoal", "/sign", body)[1]
    for identity in (service_id(TRUST_DOMAIN, PETS), agent_id(TRUST_DOMAIN, "nobody")):
        other = crafted(desk, tmp_path / "other.pem", identity, "alpha")
        status, answer = desk.ask(
            other, "agent.shoal", "agent.shoal", "/sign", msgspec.msgpack.encode(Sign("person", csr))
        )
        assert status == 403 or b"no DNS label" in answer or b"refused" in answer, answer


def test_an_expired_login_is_none(desk: Desk, tmp_path: Path) -> None:
    """Neither at an agent nor here; what has ended renews nothing."""
    desk.shoal("login", desk.invited("bob"), home="bob")
    login = desk.held("bob").parent / "login.json"
    said = msgspec.json.decode(login.read_bytes())
    login.write_bytes(msgspec.json.encode({**said, "until": time.time() - 1}))
    assert "has ended" in desk.shoal("login", code=1, home="bob")
    ended = crafted(
        desk,
        desk.held("bob"),
        person_id(TRUST_DOMAIN, "bob"),
        "person:bob",
        now_s=time.time() - 7200,
        lifetime_s=3600.0,
    )
    login.write_bytes(msgspec.json.encode(said))
    with pytest.raises((OSError, http.client.HTTPException)):
        desk.ask(ended, "agent.shoal", "agent.shoal", "/sign", b"")
    assert "refused by the other side: certificate expired" in desk.shoal("login", code=1, home="bob")
    assert "is deleted" in desk.shoal("logout", home="bob") and not desk.held("bob").exists()


def test_a_revoked_login_ends_at_once(desk: Desk) -> None:
    """On a live connection too; nothing is renewed by it, and no token that was made before is good."""
    waiting = desk.invited("carol")
    desk.shoal("login", waiting, home="carol")
    unused = desk.invited("carol")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(desk.held("carol"))
    connection = http.client.HTTPConnection(desk.agent.address, desk.agent.inbound, timeout=30)
    connection.connect()
    with context.wrap_socket(connection.sock, server_hostname=PETS) as live:
        live.sendall(f"GET / HTTP/1.1\r\nHost: {PETS}\r\n\r\n".encode())
        assert live.recv(65536).startswith(b"HTTP/1.1 200")
        desk.shoal("ca", "revoke", "person", "carol", "--reason", "lost", home="operator")
        live.settimeout(60)
        while data := live.recv(65536):
            assert data
    told = desk.shoal("login", code=1, home="carol")
    assert "/person/carol is revoked: person carol (lost)" in told and "no issuer answers" not in told
    assert "redeemed already, taken back" in desk.shoal("login", unused, code=1, home="carol")
    assert "carol" not in desk.shoal("person", "list")
    assert found(desk.mesh, "/shoal/default/identity/people/carol") == ""


def test_a_root_that_is_replaced_leaves_nobody_behind_who_renews_meanwhile(tmp_path: Path) -> None:
    """A renewal brings the bundle as it is by then; who sleeps until the old root is gone needs a token again."""
    with made(tmp_path) as desk:
        for home in ("ada", "sleeper"):
            desk.shoal("login", desk.invited(home), home=home)
        old = desk.operator.authority.root
        private = key("root of tomorrow")
        new = Issuer(make_root(private, TRUST_DOMAIN, terms(time.time(), ROOT_S)), private)
        both = Bundle(TRUST_DOMAIN, (old.certificate, new.certificate), 2)
        put(desk.mesh, "bundle", "", bundle_document(both))
        until("both believed", lambda: len(believed(desk)) == 2)
        desk.operator.authority.root = new
        desk.operator.make_issuer("alpha")
        desk.shoal("ca", "rotate", "leaf", home="operator")
        desk.shoal("login")
        put(desk.mesh, "bundle", "", bundle_document(Bundle(TRUST_DOMAIN, (new.certificate,), 3)))
        until("the old one gone", lambda: len(believed(desk)) == 1)
        assert isinstance(who(desk, desk.held()), Refused), "by the root of yesterday"
        assert "`shoal person add sleeper`" in desk.shoal("login", home="sleeper", code=3)


def believed(desk: Desk) -> list[object]:
    """The roots that ada believes after a renewal."""
    desk.shoal("login")
    found = msgspec.json.decode((desk.held().parent / "login.json").read_bytes())
    return list(msgspec.json.decode(found["bundle"])["keys"])
