from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.cli.failure import Failure
from agent.cli.identity.domain import now_s, settle, take
from agent.cli.identity.founding import TLS
from agent.cli.identity.issuers import signed
from agent.cli.identity.revoking import added, of_certificate, of_service, parse_serial
from agent.cli.identity.root_key import terms
from agent.identity.bundles import parse_bundle
from agent.identity.certificates import INTERMEDIATE_S, ROOT_S, Issuer, make_intermediate, make_root, to_pem
from agent.identity.revocations import Revocations, Revoked
from agent.identity.verdict import Identity
from agent.identity.verification import verify
from policies.catalogue import parse
from policies.language.document import Invalid
from registry.identity_records import IssuerRecord
from registry.records import encode
from tests.support.identity import der, key
from tests.support.operating import Mesh

PETS = "svc/pets.production"


async def chain(mesh: Mesh, host: str, name: str) -> list[x509.Certificate]:
    """What a host was given."""
    return x509.load_pem_x509_certificates((await mesh.value(mesh.keys.signed(host, name)))["chain"].encode())


async def intermediate(mesh: Mesh, host: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates((await mesh.value(mesh.keys.identity("issuers", host)))["chain"].encode())[0]


async def serve(mesh: Mesh, issuer: str, *hosts: str) -> None:
    """Hosts that live are granted pets.production, ask, and hold."""
    for host in hosts:
        await mesh.shoal("host", "add", host, "--service", "pets.production")
        await mesh.hosts.ask(host, "agent")
        await mesh.hosts.ask(host, PETS)
    await mesh.hosts.answer(issuer)
    for host in hosts:
        await mesh.hosts.hold(host)


async def test_a_root_is_made_that_openssl_takes(mesh: Mesh, tmp_path: Path) -> None:
    """Its key is its owner's alone, and what the issuer signs leads to it, as everybody else's tools judge that."""
    await mesh.init("web-1")
    assert stat.S_IMODE(os.stat(mesh.key).st_mode) == 0o600
    await serve(mesh, "web-1", "web-1")
    (tmp_path / "root.pem").write_text((await mesh.shoal("ca", "export", "--pem")).stdout)
    leaf, above = await chain(mesh, "web-1", PETS)
    (tmp_path / "leaf.pem").write_bytes(to_pem([leaf]))
    (tmp_path / "above.pem").write_bytes(to_pem([above]))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "above.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "leaf.pem: OK\n", done.stderr
    bundle = parse_bundle("", (await mesh.shoal("ca", "export")).stdout.encode())
    assert (bundle.trust_domain, bundle.sequence) == (f"{mesh.name}.shoal", 1)
    assert isinstance(verify(der([leaf, above]), {bundle.trust_domain: bundle}, Revocations(), now_s()), Identity)


async def test_nothing_is_granted_by_a_root(mesh: Mesh) -> None:
    """Of all that lives and is registered only the issuer belongs to the mesh, and it may hold no service."""
    await mesh.hosts.live("web-2", services=("pets.production",))
    await mesh.init("web-1")
    domain = await take(mesh.store, mesh.name)
    assert (list(domain.hosts), domain.grants) == (["web-1"], {})
    item = await mesh.store.get(mesh.keys.policy(TLS, "*"))
    assert item is not None
    put = parse(TLS, "*", item.value)
    assert not isinstance(put, Invalid), put
    assert json.loads(item.value) == {"mtls": "permissive"}


async def test_of_two_roots_at_once_one_is_made(mesh: Mesh, tmp_path: Path) -> None:
    """And the key of the other is nowhere: nobody keeps what will never be good for anything."""
    for name in ("a.key", "b.key", "c.key"):
        assert not (tmp_path / name).exists()
    ends: list[int] = []

    async def one(name: str) -> None:
        ends.append(await _ends(mesh, name))

    async with trio.open_nursery() as nursery:
        for name in ("a.key", "b.key", "c.key"):
            nursery.start_soon(one, name)
    left = [name for name in ("a.key", "b.key", "c.key") if (tmp_path / name).exists()]
    assert (sorted(ends), len(left)) == ([0, 1, 1], 1)
    kept = serialization.load_pem_private_key((tmp_path / left[0]).read_bytes(), None)
    bundle = (await take(mesh.store, mesh.name)).required()
    assert [root.public_key() for root in bundle.roots] == [kept.public_key()]


async def _ends(mesh: Mesh, name: str) -> int:
    try:
        await mesh.shoal("ca", "init", "--root-key", name, apart=True)
    except AssertionError:
        return 1
    return 0


async def test_what_was_broken_off_goes_on(mesh: Mesh) -> None:
    """The same root signs later what an issuer had not asked for yet, and lets further ones issue."""
    await mesh.hosts.live("web-1")
    first = await mesh.shoal("ca", "init", "--issuer", "web-1", "--timeout", "0")
    assert "web-1 has not asked for an intermediate yet" in first.stderr
    root = (await take(mesh.store, mesh.name)).bundle
    for host in ("web-1", "web-2"):
        await mesh.hosts.live(host)
        await mesh.hosts.ask(host)
    told = await mesh.json("ca", "init", "--issuer", "web-2")
    assert [(issuer["host"], issuer["state"]) for issuer in told["issuers"]] == [
        ("web-1", "current"),
        ("web-2", "current"),
    ]
    assert (await take(mesh.store, mesh.name)).bundle == root
    serial = (await intermediate(mesh, "web-1")).serial_number
    await mesh.shoal("ca", "init")
    assert (await intermediate(mesh, "web-1")).serial_number == serial


async def test_an_issuer_may_ask_while_it_is_waited_for(mesh: Mesh) -> None:
    """Its agent hears that it is to issue by what the command has just put."""
    await mesh.hosts.live("web-1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.shoal, "ca", "init", "--issuer", "web-1", "--timeout", "100")
        with trio.fail_after(60):
            while await mesh.value(mesh.keys.identity("issuers", "web-1")) is None:
                await trio.sleep(0.05)
        await mesh.hosts.ask("web-1")
    assert (await intermediate(mesh, "web-1")).public_key() == key("web-1 issuer").public_key()


async def test_another_root_takes_no_ones_place(mesh: Mesh, tmp_path: Path) -> None:
    """Neither another key, nor another trust domain, nor no key at all; each is told what would be right."""
    await mesh.init("web-1")
    before = await mesh.value(mesh.keys.identity("bundle"))
    (tmp_path / "other").mkdir()
    away = await mesh.shoal("ca", "init", "--root-key", "gone.key", code=1)
    assert "this mesh has a CA already" in away.stderr
    assert not (tmp_path / "gone.key").exists()
    strange = key("strange").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "strange.key").touch(0o600)
    (tmp_path / "strange.key").write_bytes(strange)
    assert "of no root of" in (await mesh.shoal("ca", "init", "--root-key", "strange.key", code=1)).stderr
    moved = await mesh.shoal("ca", "init", "--trust-domain", "other.example", "--root-key", str(mesh.key), code=1)
    assert "cannot be changed" in moved.stderr
    assert await mesh.value(mesh.keys.identity("bundle")) == before


async def test_a_key_that_others_may_read_is_not_used(mesh: Mesh) -> None:
    """Nor one that is none; and what is in it is in no message."""
    await mesh.init("web-1")
    os.chmod(mesh.key, 0o640)
    assert "chmod 600" in (await mesh.shoal("ca", "rotate", "intermediate", code=2)).stderr
    os.chmod(mesh.key, 0o600)
    mesh.key.write_text("secret")
    told = (await mesh.shoal("ca", "rotate", "intermediate", code=2)).stderr
    assert "no private key (PEM)" in told
    assert "secret" not in told


async def test_a_key_may_have_a_passphrase(mesh: Mesh, tmp_path: Path) -> None:
    """It is nowhere else, and a wrong one, or none, is told."""
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    await mesh.hosts.live("web-1")
    await mesh.hosts.ask("web-1")
    await mesh.shoal("ca", "init", "--issuer", "web-1", "--passphrase-file", "right")
    assert mesh.key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for words, why in (([], "wants --passphrase-file"), (["--passphrase-file", "wrong"], "another passphrase's")):
        assert why in (await mesh.shoal("ca", "rotate", "intermediate", *words, code=2)).stderr
    await mesh.shoal("ca", "rotate", "intermediate", "--passphrase-file", "right")


async def test_what_is_registered_is_printed_as_grants(mesh: Mesh) -> None:
    """Lines that a shell takes, after which nothing is left; and nothing is made by printing them."""
    await mesh.hosts.live("web-1", services=("pets.production", "shop.staging"))
    await mesh.hosts.live("web-2", services=("pets.production",))
    lines = (await mesh.shoal("ca", "init", "--grant-observed")).stdout.splitlines()
    assert (await take(mesh.store, mesh.name)).bundle is None
    assert len(lines) == 4
    await mesh.init("web-3")
    await mesh.shoal("host", "add", "web-1", "--service", "*.staging")
    for line in (await mesh.shoal("ca", "init", "--grant-observed")).stdout.splitlines():
        program, put, where, document = shlex.split(line)
        assert (program, put) == ("etcdctl", "put")
        await mesh.store.put(where, document.encode())
    domain = await take(mesh.store, mesh.name)
    assert domain.malformed == {}
    assert {pattern: grant.hosts for pattern, grant in domain.grants.items()} == {
        "pets.production": ["web-1", "web-2"],
        "*.staging": ["web-1"],
    }
    again = await mesh.shoal("ca", "init", "--grant-observed")
    assert (again.stdout, again.stderr) == ("", "nothing is registered that is not granted\n")


async def test_another_ca_may_sign(mesh: Mesh, tmp_path: Path) -> None:
    """A company's own, of RSA: it gets what issuers ask for, and its chains are taken in once they are good."""
    theirs = rsa.generate_private_key(65537, 2048)
    domain = f"{mesh.name}.shoal"
    root = Issuer(make_root(theirs, domain, terms(now_s(), ROOT_S)), theirs)
    (tmp_path / "root.pem").write_bytes(to_pem([root.certificate]))
    for host in ("web-1", "web-2"):
        await mesh.hosts.live(host)
        await mesh.hosts.ask(host)
    told = await mesh.json("ca", "init", "--external", "root.pem", "--issuer", "web-1", "--issuer", "web-2")
    assert not mesh.key.exists()
    for host, csr in told["csrs"].items():
        public = x509.load_pem_x509_csr(csr.encode()).public_key()
        assert public == key(f"{host} issuer").public_key()
        made = make_intermediate(root, public, domain, host, terms(now_s(), INTERMEDIATE_S))  # type: ignore[arg-type]
        (tmp_path / f"{host}.pem").write_bytes(to_pem([made, root.certificate]))
    assert (await mesh.json("ca", "import", "web-1.pem", "web-2.pem"))["issuers"] == ["web-1", "web-2"]
    assert (await mesh.value(mesh.keys.identity("issuers", "web-1")))["chain"].count("BEGIN") == 1
    await serve(mesh, "web-1", "web-1")
    shown = await chain(mesh, "web-1", PETS)
    bundle = (await take(mesh.store, mesh.name)).required()
    assert isinstance(verify(der(shown), {domain: bundle}, Revocations(), now_s()), Identity)
    await _bad_chains(mesh, tmp_path, root)


async def _bad_chains(mesh: Mesh, tmp_path: Path, root: Issuer) -> None:
    """Nothing is written for a chain of somebody else's root, of a key that nobody asks with, or of no CA."""
    before = await mesh.value(mesh.keys.identity("issuers", "web-1"))
    domain = f"{mesh.name}.shoal"
    other_key = key("other root")
    other = Issuer(make_root(other_key, domain, terms(now_s(), ROOT_S)), other_key)
    web_1 = key("web-1 issuer").public_key()
    for name, certificate, why in (
        ("foreign", make_intermediate(other, web_1, domain, "web-1", terms(now_s(), 60.0)), "does not lead to a root"),
        ("stranger", make_intermediate(root, key("x").public_key(), domain, "web-1", terms(now_s(), 60)), "no issuer"),
        ("elsewhere", make_intermediate(root, web_1, "else.example", "web-1", terms(now_s(), 60)), "such names"),
        ("late", make_intermediate(root, web_1, domain, "web-1", terms(now_s() - 120, 60)), "has ended"),
        ("leaf", (await chain(mesh, "web-1", "agent"))[0], "no issuer"),
    ):
        (tmp_path / f"{name}.pem").write_bytes(to_pem([certificate]))
        assert why in (await mesh.shoal("ca", "import", f"{name}.pem", code=1)).stderr
    (tmp_path / "text.pem").write_text("nothing")
    assert "no certificate (PEM)" in (await mesh.shoal("ca", "import", "text.pem", code=2)).stderr
    assert await mesh.value(mesh.keys.identity("issuers", "web-1")) == before


async def test_status_says_who_holds_what_and_what_is_missing(mesh: Mesh) -> None:
    """Exit code 0 when nobody has anything to do; else 1, and the line that would help."""
    assert "has no CA yet" in (await mesh.shoal("ca", "status", code=1)).stderr
    await mesh.init("web-1")
    await mesh.hosts.live("web-2", services=("pets.production",))
    await mesh.hosts.ask("web-2", PETS)
    told = await mesh.json("ca", "status", code=1)
    assert [row["name"] for row in told["pending"]] == [PETS]
    await mesh.hosts.answer("web-1")
    told = await mesh.json("ca", "status", code=1)
    (refused,) = told["refused"]
    assert (refused["host"], refused["name"]) == ("web-2", PETS)
    assert "no grant" in refused["reason"]
    for line in refused["allow"]:
        _, _, where, document = shlex.split(line)
        await mesh.store.put(where, document.encode())
    await serve(mesh, "web-1", "web-1", "web-2")
    told = await mesh.json("ca", "status")
    assert [(row["host"], row["name"], row["state"]) for row in told["held"]] == [
        (host, name, "current") for host in ("web-1", "web-2") for name in ("agent", PETS)
    ]
    assert "refused" not in (await mesh.shoal("ca", "status")).stdout


async def test_status_names_what_is_registered_and_not_granted(mesh: Mesh) -> None:
    """Its agent does not even ask for it, so no request says so; of one that is away nobody needs to do anything."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    assert (await mesh.json("ca", "status"))["ungranted"] == []
    await mesh.hosts.live("web-1", services=("pets.production", "shop.production"))
    told = await mesh.json("ca", "status", code=1)
    (row,) = told["ungranted"]
    assert (row["host"], row["name"], told["refused"], told["pending"]) == ("web-1", "svc/shop.production", [], [])
    assert "web-1 has registered svc/shop.production" in (await mesh.shoal("ca", "status", code=1)).stdout
    (line,) = row["allow"]
    _, _, where, document = shlex.split(line)
    await mesh.store.put(where, document.encode())
    assert (await mesh.json("ca", "status"))["ungranted"] == []
    await mesh.store.delete(mesh.keys.identity("grants", "shop.production"))
    await mesh.store.delete(mesh.keys.agent("web-1"))
    assert (await mesh.json("ca", "status"))["ungranted"] == []


@pytest.mark.parametrize("what", ["lagging", "ended", "ends soon", "malformed", "not added", "no issuer"])
async def test_status_finds_what_somebody_should_do(mesh: Mesh, what: str) -> None:
    """Each by itself, in a mesh in which all else is well."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    await mesh.shoal("ca", "status")
    if what == "lagging":
        await mesh.hosts.hold("web-1", sequence=0)
    elif what in ("ended", "ends soon"):
        await mesh.hosts.answer("web-1", now_s=now_s() - (25 if what == "ended" else 20) * 3600)
        await mesh.hosts.hold("web-1")
    elif what == "malformed":
        await mesh.store.put(mesh.keys.identity("grants", "shop"), b"{")
    elif what == "not added":
        await mesh.hosts.live("web-9")
    else:
        await mesh.store.put(mesh.keys.identity("issuers", "web-1"), encode(IssuerRecord()))
    told = await mesh.json("ca", "status", code=1)
    words = json.dumps(told) + (await mesh.shoal("ca", "status", code=1)).stdout
    assert {"no issuer": "wants an intermediate"}.get(what, what) in words


async def test_an_intermediate_is_renewed_and_what_it_signed_stays_good(mesh: Mesh) -> None:
    """The chain travels with each certificate; new ones are made with the new intermediate."""
    await mesh.init("web-1", "web-2")
    await serve(mesh, "web-1", "web-1")
    old = await chain(mesh, "web-1", PETS)
    await mesh.hosts.ask("web-1", whose="another key")
    await mesh.shoal("ca", "rotate", "intermediate", "--root-key", str(mesh.key))
    bundle = (await take(mesh.store, mesh.name)).required()
    assert (await intermediate(mesh, "web-1")).public_key() == key("another key").public_key()
    assert (await intermediate(mesh, "web-1")).serial_number != old[1].serial_number
    assert isinstance(verify(der(old), {bundle.trust_domain: bundle}, Revocations(), now_s()), Identity)


async def test_an_issuer_that_does_not_ask_is_named(mesh: Mesh) -> None:
    """The others get theirs; one that does not live is not waited for."""
    await mesh.init("web-1")
    await mesh.shoal("ca", "init", "--issuer", "web-9", "--timeout", "0")
    before = (await intermediate(mesh, "web-1")).serial_number
    told = await mesh.shoal("ca", "rotate", "intermediate", code=1)
    assert "no request stands of web-9" in told.stderr
    assert (await intermediate(mesh, "web-1")).serial_number != before


async def test_leaves_are_renewed_when_all_have_asked_anew(mesh: Mesh) -> None:
    """Their hosts are told from when on; who has not done it in time is named, and nothing is revoked."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    late = await mesh.shoal("ca", "rotate", "leaf", "--timeout", "0", code=1)
    assert f"web-1 agent, web-1 {PETS}" in late.stderr
    asked = datetime.fromisoformat((await mesh.value(mesh.keys.identity("hosts", "web-1")))["renew_before"])
    assert abs(asked.timestamp() - now_s()) < 600
    async with trio.open_nursery() as nursery:
        words = ("ca", "rotate", "leaf", "--host", "web-1", "--timeout", "100")
        nursery.start_soon(lambda: mesh.shoal(*words, apart=True))
        where = mesh.keys.identity("hosts", "web-1")
        with trio.fail_after(60):
            while datetime.fromisoformat((await mesh.value(where))["renew_before"]) == asked:
                await trio.sleep(0.05)
        await serve(mesh, "web-1", "web-1")
    assert (await take(mesh.store, mesh.name)).revocations == Revocations()
    assert "no host of this mesh" in (await mesh.shoal("ca", "rotate", "leaf", "--host", "x", code=1)).stderr


async def test_a_certificate_is_revoked_until_it_would_have_ended(mesh: Mesh) -> None:
    """By its serial number as openssl prints it; asked again nothing changes, and garbage is refused."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    shown = await chain(mesh, "web-1", PETS)
    serial = f"{shown[0].serial_number:X}"
    pairs = ":".join(serial[at : at + 2] for at in range(0, len(serial), 2)) if len(serial) % 2 == 0 else serial
    done = await mesh.json("ca", "revoke", "certificate", pairs, "--reason", "lost")
    assert (await mesh.json("ca", "revoke", "certificate", f"0{serial}", "--reason", "lost"))["revision"] >= done[
        "revision"
    ]
    domain = await take(mesh.store, mesh.name)
    assert len(domain.revocations) == 1
    ends = domain.revocations._entries["serial", serial.lower()].until
    assert ends == shown[0].not_valid_after_utc
    verdict = verify(der(shown), {f"{mesh.name}.shoal": domain.required()}, domain.revocations, now_s())
    assert "revoked: serial" in str(verdict)
    for text in ("", "xyz", "12 34", "-1", "f" * 41, "0"):
        with pytest.raises(Failure, match="no serial number"):
            parse_serial(text)


async def test_revocations_at_once_all_stand(mesh: Mesh) -> None:
    """Each is added to what others have put meanwhile; none is lost."""
    await mesh.init("web-1")

    async def revoke(serial: str) -> None:
        await settle(
            mesh.store,
            mesh.name,
            lambda domain: (added(domain, of_certificate(domain, serial, now_s(), ""), now_s()), None),
        )

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(revoke, f"{number:x}")
    assert len((await take(mesh.store, mesh.name)).revocations) == 5


async def test_a_list_of_revocations_that_cannot_be_read_is_not_written_over(mesh: Mesh) -> None:
    """What stood there would be forgotten: it is named, to be mended."""
    await mesh.init("web-1")
    await mesh.store.put(mesh.keys.identity("revocations"), b"[")
    told = await mesh.shoal("ca", "revoke", "service", "pets.production", code=1)
    assert "identity/revocations cannot be read" in told.stderr
    item = await mesh.store.get(mesh.keys.identity("revocations"))
    assert item is not None
    assert item.value == b"["


async def test_a_service_gets_other_certificates_after_it_was_revoked(mesh: Mesh) -> None:
    """What it had is refused, and what is made from then on is not."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    old = await chain(mesh, "web-1", PETS)
    await mesh.shoal("ca", "revoke", "service", "pets/production", "--reason", "leaked")
    await serve(mesh, "web-1", "web-1")
    domain = await take(mesh.store, mesh.name)
    bundles = {f"{mesh.name}.shoal": domain.required()}
    assert "leaked" in str(verify(der(old), bundles, domain.revocations, now_s()))
    new = await chain(mesh, "web-1", PETS)
    assert isinstance(verify(der(new), bundles, domain.revocations, now_s() + 2), Identity)
    assert of_service("pets", 0.0, "").service == "pets"


async def test_a_revoked_host_is_put_out(mesh: Mesh) -> None:
    """Certificates, grants, tokens, requests, instances of every service, its lease; of an issuer its intermediate."""
    await mesh.init("web-1", "web-2")
    await mesh.hosts.live("web-3", services=("pets.production", "shop.production"))
    await serve(mesh, "web-1", "web-1", "web-3")
    mine = await chain(mesh, "web-3", PETS)
    its = await chain(mesh, "web-1", PETS)
    told = await mesh.json("ca", "revoke", "host", "web-3", "--reason", "stolen")
    assert told["revision"] > 0
    assert "its instances of 2 services are gone, and its lease" in told["done"]
    assert any("etcd has no user 'web-3'" in line for line in told["left"])
    domain = await take(mesh.store, mesh.name)
    assert [name for name in domain.items if "web-3" in name] == []
    assert domain.grants["pets.production"].hosts == ["web-1"]
    bundles = {f"{mesh.name}.shoal": domain.required()}
    assert "stolen" in str(verify(der(mine), bundles, domain.revocations, now_s()))
    assert isinstance(verify(der(its), bundles, domain.revocations, now_s()), Identity)
    await mesh.shoal("ca", "revoke", "host", "web-1")
    domain = await take(mesh.store, mesh.name)
    assert list(domain.issuers) == ["web-2"]
    assert "revoked: host web-1" in str(verify(der(its), bundles, domain.revocations, now_s()))


async def test_an_issuer_that_was_put_out_and_is_back_has_a_good_intermediate(mesh: Mesh) -> None:
    """It begins no earlier than the revocation; and a revoked key is not signed again."""
    await mesh.init("web-1", "web-2")
    await mesh.shoal("ca", "revoke", "host", "web-1")
    await mesh.hosts.live("web-1")
    await mesh.hosts.ask("web-1", whose="a new key")
    await mesh.shoal("ca", "init", "--issuer", "web-1")
    domain = await take(mesh.store, mesh.name)
    (entry,) = domain.revocations._entries.values()
    assert (await intermediate(mesh, "web-1")).not_valid_before_utc >= entry.before
    from agent.cli.identity.issuers import Asking
    from agent.identity.certificates import key_digest

    public = key("a new key").public_key()
    domain.revocations = Revocations([Revoked(until=datetime(2100, 1, 1, tzinfo=UTC), key=key_digest(public))])
    root = Issuer(domain.required().roots[0], key("whatever"))
    with pytest.raises(Failure, match="asks with a key that is revoked"):
        signed(domain, root, [Asking("web-1", public, "")], now_s())


async def test_a_revoked_host_is_told_as_revoked_and_not_how_to_let_it_in(mesh: Mesh) -> None:
    """Its agent goes on trying: since when, by whom and why stands instead of the line that undoes it."""
    await mesh.init("web-1")
    await mesh.hosts.live("web-3", services=("pets.production",))
    await serve(mesh, "web-1", "web-1", "web-3")
    await mesh.shoal("ca", "revoke", "host", "web-3", "--reason", "stolen")
    await mesh.hosts.live("web-3", services=("pets.production",))
    await mesh.hosts.ask("web-3", "agent")
    await mesh.hosts.ask("web-3", PETS)
    await mesh.hosts.answer("web-1")
    told = (await mesh.shoal("ca", "status", code=1)).stdout
    lines = [line for line in told.splitlines() if "web-3" in line]
    assert any(line.startswith("revoked   host web-3 (stolen), since 20") and ", by " in line for line in lines), told
    assert any("put out of the mesh, and its agent lives: stop it" in line for line in lines)
    assert "host add" not in told and not any(line.startswith("allow") for line in told.splitlines()), told
    assert "no operator has added" not in told and "no grant names it" not in told, told
    (row,) = (await mesh.json("ca", "status", code=1))["revoked"]
    assert (row["sort"], row["name"], row["reason"]) == ("host", "web-3", "stolen")
    assert row["since"] < row["until"] and row["by"]
    (listed,) = (row for row in await mesh.json("host", "list") if row["host"] == "web-3")
    assert listed["revoked"].startswith("since 20") and listed["revoked"].endswith("(stolen)")
    told = (await mesh.shoal("host", "add", "web-3")).stderr
    assert "warning: host web-3 is revoked since" in told and "let in again" in told
    assert "put out" not in (await mesh.shoal("ca", "status", code=1)).stdout


@pytest.mark.parametrize(
    ("sort", "wrong", "right"),
    [("host", "wbe-1", "web-1"), ("person", "aad", "ada"), ("service", "pest.production", "pets.production")],
)
async def test_a_name_that_is_none_is_not_revoked(mesh: Mesh, sort: str, wrong: str, right: str) -> None:
    """Whoever is told that the thief is out looks no further; what etcd knows no more is revoked by --force."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    await mesh.shoal("person", "add", "ada")
    told = (await mesh.shoal("ca", "revoke", sort, wrong, code=1)).stderr
    assert f"no {sort} '{wrong}' is known here (did you mean '{right}'?); nothing was revoked" in told
    assert len((await take(mesh.store, mesh.name)).revocations) == 0
    await mesh.shoal("ca", "revoke", sort, wrong, "--force")
    await mesh.shoal("ca", "revoke", sort, right)
    await mesh.shoal("ca", "revoke", sort, right)
    assert len((await take(mesh.store, mesh.name)).revocations) == 2


async def test_a_serial_number_that_etcd_has_not_is_revoked_with_a_warning(mesh: Mesh) -> None:
    """It may be that of a certificate before, or of a person's."""
    await mesh.init("web-1")
    await serve(mesh, "web-1", "web-1")
    assert "etcd has no certificate 1234" in (await mesh.shoal("ca", "revoke", "certificate", "1234")).stderr
    serial = f"{(await chain(mesh, 'web-1', PETS))[0].serial_number:x}"
    assert "warning" not in (await mesh.shoal("ca", "revoke", "certificate", serial)).stderr
