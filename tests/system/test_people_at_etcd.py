"""What a person writes is written as that person: an etcd that asks for certificates, with roles, and `shoal`."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.cli.people.login import Issuer, Login, keep
from agent.identity.bundles import bundle_document
from agent.identity.certificates import to_pem
from agent.identity.spiffe import SpiffeId, agent_id, person_id
from registry.etcd.server import EtcdProcess, find_binary
from tests.registry.etcd.test_tls import Drawer
from tests.support.etcd import running_etcd
from tests.support.identity import TRUST_DOMAIN, Authority, key
from tests.support.mesh import ROOT, SHOAL

POLICY = "policies/retry/pets.production"


class Desk:
    """That etcd, and several people's machines."""

    def __init__(self, etcd: EtcdProcess, drawer: Drawer, authority: Authority, homes: Path) -> None:
        self.etcd, self.drawer, self.authority, self.homes = etcd, drawer, authority, homes

    def login(self, monkeypatch: pytest.MonkeyPatch, name: str, identity: SpiffeId, common: str) -> None:
        """As `shoal login` leaves it: of whomever the mesh's issuer has signed."""
        monkeypatch.setenv("XDG_STATE_HOME", str(self.homes / name))
        pem = key(str(identity)).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = self.authority.svid(identity, common, 3600.0, time.time())
        issuers = [Issuer("alpha", "127.0.0.1", 1)]
        keep(Login(name, "default", TRUST_DOMAIN, time.time() + 3600, issuers, ""), pem + to_pem(chain))

    def shoal(self, name: str, *words: str, code: int = 0) -> str:
        """A command of somebody who is logged in; of root, who has a certificate of etcd's own."""
        options = ["--etcd", self.etcd.url, "--etcd-ca", self.drawer.path("ours.pem")]
        if name == "root":
            options += ["--etcd-cert", self.drawer.path("root.pem"), "--etcd-key", self.drawer.path("root.key")]
        environment = {**os.environ, "XDG_STATE_HOME": str(self.homes / name), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*SHOAL, *options, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def etcdctl(self, *words: str) -> str:
        """As etcd's root."""
        tls = [f"--cacert={self.drawer.path('ours.pem')}", f"--cert={self.drawer.path('root.pem')}"]
        command = [find_binary("etcdctl"), "--endpoints", self.etcd.url, *tls, f"--key={self.drawer.path('root.key')}"]
        return subprocess.run([*command, *words], check=True, capture_output=True, text=True, timeout=20).stdout


def test_a_person_writes_with_a_persons_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator may, a reader may not, and who is in no role reads nothing; an agent's certificate gets nobody a
    person's rights, nor does a person have root's who is called so; a revoked one has none."""
    drawer, authority = Drawer(tmp_path), Authority(now_s=time.time())
    ours = drawer.make("ours")
    drawer.make("server", ours)
    drawer.make("root", ours)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes((tmp_path / "ours.pem").read_bytes() + to_pem([authority.root.certificate]))
    arguments = [*drawer.served("server"), "--client-cert-auth", "--trusted-ca-file", str(trusted)]
    with running_etcd(tmp_path / "etcd", scheme="https", arguments=[*arguments, "--bcrypt-cost", "4"]) as etcd:
        desk = Desk(etcd, drawer, authority, tmp_path / "homes")
        for words in ("user add root --no-password", "user grant-role root root", "auth enable"):
            desk.etcdctl(*words.split())
        desk.etcdctl("put", "/shoal/default/identity/bundle", bundle_document(authority.bundle).decode())
        desk.shoal("root", "mesh", "create", "default", "--apply")
        for who, role in (("ada", "operator"), ("bob", "reader")):
            desk.shoal("root", "mesh", "grant", f"person:{who}", "--as", role, "--apply")
        for name in ("ada", "bob", "carol", "root2"):
            desk.login(monkeypatch, name, person_id(TRUST_DOMAIN, name), f"person:{name}")
        desk.login(monkeypatch, "named-root", person_id(TRUST_DOMAIN, "root"), "person:root")
        desk.login(monkeypatch, "host", agent_id(TRUST_DOMAIN, "ada"), "ada")

        document = tmp_path / "retry.json"
        document.write_text('{"attempts": 3}')
        put = ("policy", "put", "--kind", "retry", str(document), "--service")
        desk.shoal("ada", *put, "pets.production")
        assert "attempts" in desk.etcdctl("get", f"/shoal/default/{POLICY}")
        desk.shoal("bob", "policy", "get")
        assert "permission denied" in desk.shoal("bob", *put, "shop.production", code=3)
        for stranger in ("carol", "named-root", "host"):
            desk.shoal(stranger, *put, "shop.production", code=3)
        desk.shoal("ada", "mesh", "accept")
        assert '"by": "ada"' in desk.etcdctl("get", "/shoal/default/confirmed/policies").replace('":"', '": "')

        assert "nothing was revoked" in desk.shoal("root", "ca", "revoke", "person", "ada", code=1), (
            "nobody has added her"
        )
        desk.shoal("root", "ca", "revoke", "person", "ada", "--force")
        assert "person:ada" not in desk.etcdctl("user", "list")
        desk.shoal("ada", *put, "shop.production", code=3)


def test_a_login_that_has_ended_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before etcd is asked, which would only close the connection; what options name goes before it."""
    desk = Desk(EtcdProcess(tmp_path / "etcd", scheme="https"), Drawer(tmp_path), Authority(), tmp_path / "homes")
    desk.drawer.make("ours")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "homes" / "ada"))
    keep(Login("ada", "default", TRUST_DOMAIN, time.time() - 1, [], ""), b"")
    assert "the login of ada has ended" in desk.shoal("ada", "policy", "get", code=3)
    assert "ended" not in desk.shoal("ada", "--etcd-user", "ada", "policy", "get", code=3)
    assert "ended" not in desk.shoal("ada", "--mesh", "other", "policy", "get", code=3)
