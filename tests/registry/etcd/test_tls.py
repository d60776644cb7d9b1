"""A real etcd behind TLS that wants client certificates; what is said when a certificate is not the right one."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry.etcd.server import EtcdProcess, find_binary, free_port
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.store import NotTrusted, Refused, Unavailable
from tests.support.etcd import running_etcd

Signer = tuple[ec.EllipticCurvePrivateKey, x509.Name]
CLIENT = {"cacert": "ours.pem", "cert": "agent.pem", "key": "agent.key"}
YEAR = datetime.timedelta(days=365)


class Drawer:
    """Certificates in a folder: `<name>.pem` and `<name>.key`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def make(self, name: str, signer: Signer | None = None, address: str = "127.0.0.1", years: int = 1) -> Signer:
        """One signed by somebody, or an authority that signs itself; `years` below 0: it has run out."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by_key, issuer = signer or (key, subject)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 3 * YEAR)
            .not_valid_after(now + years * YEAR)
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        )
        if signer is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        pem = serialization.Encoding.PEM
        certificate = builder.sign(by_key, hashes.SHA256())
        (self._folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        (self._folder / f"{name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return key, subject

    def served(self, name: str) -> list[str]:
        return ["--cert-file", self.path(f"{name}.pem"), "--key-file", self.path(f"{name}.key")]

    def store(self, *urls: str, ca: str = "ours", client: str = "agent", timeout_s: float = 5) -> EtcdStore:
        """A store that trusts one authority and shows one certificate; "" for none."""
        return EtcdStore(
            EtcdSettings(
                endpoints=urls,
                ca=self.path(f"{ca}.pem") if ca else "",
                cert=self.path(f"{client}.pem") if client else "",
                key=self.path(f"{client}.key") if client else "",
                timeout_s=timeout_s,
            )
        )


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    made = Drawer(tmp_path_factory.mktemp("certificates"))
    ours, theirs = made.make("ours"), made.make("theirs")
    made.make("server", ours)
    made.make("agent", ours)
    made.make("stranger", theirs)
    made.make("elsewhere", ours, address="10.1.1.1")
    made.make("old", ours, years=-1)
    return made


@pytest.fixture(scope="module")
def secured(drawer: Drawer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    arguments = [*drawer.served("server"), "--client-cert-auth", "--trusted-ca-file", drawer.path("ours.pem")]
    with running_etcd(tmp_path_factory.mktemp("tls"), scheme="https", arguments=arguments) as etcd:
        yield etcd


async def said(store: EtcdStore, kind: type[Exception] = NotTrusted) -> str:
    """What a call and a watch are told; they are told the same."""
    with trio.fail_after(60):
        with pytest.raises(kind) as call:
            await store.get("/m/a")
        with pytest.raises(kind) as watch:
            async with store.watch("/m/", "/m0", 0):
                pass
    await store.aclose()
    assert str(call.value).partition(" (")[0] == str(watch.value).partition(" (")[0]
    return str(call.value)


async def test_every_kind_of_call_works(drawer: Drawer, secured: EtcdProcess) -> None:
    """With a certificate that etcd trusts."""
    store = drawer.store(secured.url)
    lease = await store.grant(60)
    revision = await store.put("/m/a", b"1", lease=lease)
    assert await store.keep_alive(lease) > 0
    with trio.fail_after(60):
        async with store.watch("/m/", "/m0", revision) as watch:
            assert (await watch.receive()).revision == revision
    await store.revoke(lease)
    await store.aclose()


@pytest.mark.parametrize(
    ("ca", "client", "words"),
    [
        ("theirs", "agent", "not of the authority that is trusted here; `ca` names its file"),
        ("", "agent", "not of the authority that is trusted here; `ca` names its file"),
        ("ours", "", "wants a client certificate (`cert` and `key`)"),
        ("ours", "stranger", "wants a client certificate (`cert` and `key`)"),
    ],
)
async def test_a_certificate_that_is_not_accepted(
    drawer: Drawer, secured: EtcdProcess, ca: str, client: str, words: str
) -> None:
    """Whose it is, and which setting mends it; a refusal, for trying again does not help."""
    assert words in await said(drawer.store(secured.url, ca=ca, client=client))
    assert issubclass(NotTrusted, Refused)


@pytest.mark.parametrize(
    ("name", "words"), [("elsewhere", "for another address than this endpoint's"), ("old", "has expired")]
)
async def test_etcd_shows_the_wrong_certificate(drawer: Drawer, tmp_path: Path, name: str, words: str) -> None:
    """Made for another address, or too old."""
    with running_etcd(tmp_path, scheme="https", arguments=drawer.served(name)) as etcd:
        assert words in await said(drawer.store(etcd.url))


async def test_one_side_speaks_tls(drawer: Drawer, secured: EtcdProcess, etcd: EtcdProcess) -> None:
    """The scheme of the endpoint is not etcd's."""
    plain, tls = secured.url.replace("https", "http"), etcd.url.replace("http", "https")
    assert "is the endpoint https://" in await said(drawer.store(plain, timeout_s=0.5), Unavailable)
    assert "is the endpoint http://" in await said(drawer.store(tls, timeout_s=0.5), Unavailable)


async def test_another_member_may_have_a_better_one(drawer: Drawer, secured: EtcdProcess, tmp_path: Path) -> None:
    """One member whose certificate is bad, or that is dead, does not keep anybody from the others."""
    dead = f"https://127.0.0.1:{free_port()}"
    with running_etcd(tmp_path, scheme="https", arguments=drawer.served("elsewhere")) as bad:
        store = drawer.store(bad.url, dead, secured.url)
        with trio.fail_after(60):
            assert await store.put("/m/a", b"1") > 0
            async with store.watch("/m/", "/m0", 0) as watch:
                assert watch.revision > 0
        await store.aclose()


async def test_a_certificate_is_a_user(drawer: Drawer, tmp_path: Path) -> None:
    """By its common name, without a password; what it may not do it is told."""
    arguments = [*drawer.served("server"), "--client-cert-auth", "--trusted-ca-file", drawer.path("ours.pem")]
    with running_etcd(tmp_path, scheme="https", arguments=[*arguments, "--bcrypt-cost", "4"]) as etcd:
        for words in (
            *("user add root:secret", "user grant-role root root", "role add agent"),
            "role grant-permission agent --prefix=true readwrite /m/",
            *("user add agent --no-password", "user grant-role agent agent", "auth enable"),
        ):
            tls = [f"--{name}={drawer.path(file)}" for name, file in CLIENT.items()]
            command = [find_binary("etcdctl"), "--endpoints", etcd.url, *tls, *words.split()]
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        store = drawer.store(etcd.url)
        assert await store.keep_alive(await store.grant(60)) > 0
        revision = await store.put("/m/a", b"1")
        with trio.fail_after(60):
            async with store.watch("/m/", "/m0", revision) as watch:
                assert (await watch.receive()).revision == revision
        with pytest.raises(Refused, match="permission denied: /x"):
            await store.put("/x", b"1")
        await store.aclose()


def test_files_that_are_no_certificates(drawer: Drawer, tmp_path: Path) -> None:
    """Said at once, with the file: gRPC would only never connect."""
    (tmp_path / "garbage.pem").write_text("garbage")
    garbage, url = str(tmp_path / "garbage.pem"), ("https://127.0.0.1:1",)
    cert, key, other = (drawer.path(name) for name in ("agent.pem", "agent.key", "stranger.key"))
    with pytest.raises(OSError, match=r"no PEM certificate in it: '.*garbage.pem'"):
        EtcdStore(EtcdSettings(endpoints=url, ca=garbage))
    with pytest.raises(OSError, match=r"none of the key in .*stranger.key: '.*agent.pem'"):
        EtcdStore(EtcdSettings(endpoints=url, cert=cert, key=other))
    with pytest.raises(OSError, match=r"no PEM certificate in it, or .*: '.*garbage.pem'"):
        EtcdStore(EtcdSettings(endpoints=url, cert=garbage, key=key))
    with pytest.raises(FileNotFoundError):
        EtcdStore(EtcdSettings(endpoints=url, ca=str(tmp_path / "none.pem")))
