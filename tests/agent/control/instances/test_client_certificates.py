from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.control.instances import client_certificates
from agent.control.instances.client_certificates import ClientCertificates
from tests.support.light import until
from tests.support.web_pki import certificate, kept


def test_files_are_of_services(tmp_path: Path) -> None:
    """By their names, as services are called; what is none of it is passed over, and a folder need not be there."""
    for name in ("pets.production.pem", "pets.production", "UPPER_case.pem", ".pem", "a.b.c.d.e.f.pem", "notes.txt"):
        kept(tmp_path / name, certificate("our host", []))
    (tmp_path / "vets.pem").mkdir()
    found = ClientCertificates(tmp_path).found
    assert set(found) == {"pets.production", "vets"}
    assert found["pets.production"].reason == "" and found["pets.production"].mark
    assert found["vets"].reason == f"{tmp_path}/vets.pem is no file"
    assert ClientCertificates(tmp_path / "none").found == {}


def test_a_key_with_a_password_is_of_no_use(tmp_path: Path) -> None:
    """Nobody is asked at a terminal."""
    from cryptography.hazmat.primitives import serialization

    text = certificate("our host", [])
    key = serialization.load_pem_private_key(text[text.index(b"-----BEGIN PRIVATE") :], None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    kept(tmp_path / "pets.pem", text.partition(b"-----BEGIN PRIVATE")[0] + sealed)
    assert "has a password" in ClientCertificates(tmp_path).found["pets"].reason


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    """As tools that renew certificates leave them; the key's own permissions count."""
    behind = kept(tmp_path / "live-1", certificate("our host", []))
    (tmp_path / "pets.pem").symlink_to(behind)
    assert ClientCertificates(tmp_path).found["pets"].reason == ""
    behind.chmod(0o644)
    assert "0644" in ClientCertificates(tmp_path).found["pets"].reason


async def test_another_file_is_seen_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of it: put, renewed in place, opened to others, deleted. Told once each."""
    monkeypatch.setattr(client_certificates, "LOOK_S", 0.01)
    certificates = ClientCertificates(tmp_path)
    told: list[int] = []
    path = tmp_path / "pets.pem"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(certificates.run, lambda: told.append(len(certificates.found)))
        kept(path, certificate("the first", []))
        await until(lambda: told == [1])
        mark = certificates.found["pets"].mark
        path.write_bytes(certificate("the second", []))
        await until(lambda: certificates.found["pets"].mark != mark and not certificates.found["pets"].reason)
        path.chmod(0o640)
        await until(lambda: bool(certificates.found["pets"].reason))
        path.unlink()
        await until(lambda: certificates.found == {})
        changes = len(told)
        await trio.sleep(0.1)
        assert len(told) == changes
        nursery.cancel_scope.cancel()
