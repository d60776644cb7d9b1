"""What an issuer signs, and that other people's software takes it for what it is."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificates import (
    BACKDATE_S,
    Issuer,
    Terms,
    key_digest,
    make_request,
    make_root,
    make_svid,
    read_request,
    serial_of,
    to_pem,
)
from agent.identity.grants import Grant, Grants
from agent.identity.issuing import Issued, issue
from agent.identity.revocations import Revocations, Revoked
from agent.identity.spiffe import SpiffeId, agent_id, service_id
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import verify
from tests.support.identity import NOW_S, PETS, SHOP, TRUST_DOMAIN, Authority, der, key, key_pem, terms

OURS = Authority()
GRANTS = Grants(["web-1", "web-2"], {"pets.production": Grant(["web-1"]), "*.staging": Grant(["web-2", "web-9"])})
NOTHING = Revocations()


def ask(
    identity: SpiffeId, host: str, revocations: Revocations = NOTHING, pem: bytes | None = None
) -> Issued | Refused:
    request = make_request(key("asks")) if pem is None else pem
    return issue(OURS.issuer, identity, host, request, GRANTS, revocations, terms())


def test_what_is_granted_is_signed_and_believed() -> None:
    """A service by its pattern, and an agent by its host."""
    for identity, host, pattern in (
        (PETS, "web-1", "pets.production"),
        (service_id(TRUST_DOMAIN, "any.staging"), "web-2", "*.staging"),
        (agent_id(TRUST_DOMAIN, "web-2"), "web-2", ""),
    ):
        issued = ask(identity, host)
        assert isinstance(issued, Issued) and issued.pattern == pattern
        found = verify(der([issued.certificate, OURS.issuer.certificate]), OURS.bundles, NOTHING, NOW_S, identity)
        assert isinstance(found, Identity) and found.host == host


@pytest.mark.parametrize(
    ("identity", "host"),
    [
        (SHOP, "web-1"),
        (PETS, "web-2"),
        (service_id(TRUST_DOMAIN, "any.staging"), "web-1"),
        (service_id(TRUST_DOMAIN, "any.staging"), "web-9"),
        (agent_id(TRUST_DOMAIN, "web-2"), "web-1"),
        (agent_id(TRUST_DOMAIN, "web-9"), "web-9"),
        (SpiffeId(TRUST_DOMAIN, ""), "web-1"),
        (SpiffeId(TRUST_DOMAIN, "/admin"), "web-1"),
    ],
)
def test_a_host_that_asks_for_what_it_may_not_hold(identity: SpiffeId, host: str) -> None:
    """Another's service, another's agent, one that no operator has added, the trust domain, a path of its own."""
    refused = ask(identity, host)
    assert isinstance(refused, Refused) and host in refused.reason and str(identity) in refused.reason


@pytest.mark.parametrize("identity", [agent_id(TRUST_DOMAIN, "web-9"), PETS])
def test_a_host_that_was_put_out_is_told_that(identity: SpiffeId) -> None:
    """And nobody who reads it is led to let it in again."""
    put_out = Revoked(datetime.fromtimestamp(NOW_S + 9, UTC), host="web-9", before=datetime.fromtimestamp(NOW_S, UTC))
    refused = ask(identity, "web-9", Revocations([put_out]))
    assert isinstance(refused, Refused) and "host web-9 is revoked since" in refused.reason
    assert "added" not in refused.reason and "grant" not in refused.reason


def test_of_a_request_only_its_key_is_read() -> None:
    """Names, a CA, usage: whatever it asks for besides is not in the certificate."""
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web-2")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SHOP))]), critical=False)
        .sign(key("asks"), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    issued, plain = ask(PETS, "web-1", pem=greedy), ask(PETS, "web-1")
    assert isinstance(issued, Issued) and isinstance(plain, Issued)
    assert issued.certificate.subject == plain.certificate.subject
    assert [each.value for each in issued.certificate.extensions] == [
        each.value for each in plain.certificate.extensions
    ]


def signed_otherwise() -> bytes:
    """A request whose signature is not of its key: of a host that asks for a key that it does not have."""
    request = x509.load_pem_x509_csr(make_request(key("asks")))
    other = x509.load_pem_x509_csr(make_request(key("victim")))
    forged = request.public_bytes(serialization.Encoding.DER).replace(
        request.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
        other.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
    )
    return x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)


def of_key(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_requests_that_are_none() -> None:
    """Garbage, a certificate, another's key, a key of another sort, and a huge one."""
    for pem, said in (
        (b"", "no signing request"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no signing request"),
        (to_pem([OURS.root.certificate]), "no signing request"),
        (signed_otherwise(), "not signed by the key"),
        (of_key(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (of_key(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "P-256"),
        (b"x" * 10_000, "more than"),
    ):
        refused = ask(PETS, "web-1", pem=pem)
        assert isinstance(refused, Refused) and said in refused.reason


@given(st.binary(max_size=300))
def test_garbage_is_no_request(pem: bytes) -> None:
    """Never an error that is none of ours."""
    with pytest.raises(ValueError, match=r"."):
        read_request(pem)


def test_what_is_revoked_is_not_made_again() -> None:
    """A key never; what a service or a host had begins no earlier than it was revoked, so that the new one is good."""
    until = datetime.fromtimestamp(NOW_S + 86400, UTC)
    by_key = Revoked(until, key=key_digest(key("asks").public_key()))
    refused = ask(PETS, "web-1", Revocations([by_key]))
    assert isinstance(refused, Refused) and "new key" in refused.reason
    at = datetime.fromtimestamp(NOW_S - 10, UTC)
    for entry in (Revoked(until, service="pets.production", before=at), Revoked(until, host="web-1", before=at)):
        revocations = Revocations([entry])
        assert isinstance(verify(der(OURS.svid()), OURS.bundles, revocations, NOW_S), Refused)
        issued = ask(PETS, "web-1", revocations)
        assert isinstance(issued, Issued) and issued.certificate.not_valid_before_utc == at
        chain = der([issued.certificate, OURS.issuer.certificate])
        assert isinstance(verify(chain, OURS.bundles, revocations, NOW_S), Identity)


def test_an_issuer_whose_certificate_has_ended_signs_nothing() -> None:
    """And one that soon does signs for as long as it lasts."""
    late = NOW_S + 31 * 86400
    refused = issue(OURS.issuer, PETS, "web-1", make_request(key("asks")), GRANTS, NOTHING, terms(late))
    assert isinstance(refused, Refused) and "ended" in refused.reason


def test_the_same_makes_the_same() -> None:
    """Byte by byte: nothing of a certificate comes from elsewhere."""
    made = [make_svid(OURS.issuer, key("asks").public_key(), PETS, "web-1", Terms(7, NOW_S, 3600.0)) for _ in range(2)]
    assert made[0].public_bytes(serialization.Encoding.DER) == made[1].public_bytes(serialization.Encoding.DER)
    assert made[0].not_valid_before_utc.timestamp() == NOW_S - BACKDATE_S


@given(st.binary(min_size=16, max_size=16))
def test_serial_numbers_are_positive(chance: bytes) -> None:
    """RFC 5280 section 4.1.2.2: not 0, and at most 20 bytes."""
    assert 0 < serial_of(chance) < 1 << 127


def test_an_rsa_root_of_somebody_else() -> None:
    """An external CA may have RSA keys."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    root = Issuer(make_root(private, TRUST_DOMAIN, terms(lifetime_s=1e8)), private)
    leaf = make_svid(root, key("asks").public_key(), PETS, "web-1", terms())
    bundles = {TRUST_DOMAIN: OURS.bundle._replace(roots=(root.certificate,))}
    assert isinstance(verify(der([leaf]), bundles, NOTHING, NOW_S), Identity)


# A referee.


def openssl_verify(tmp_path: Path, chain: list[x509.Certificate], *options: str) -> subprocess.CompletedProcess[str]:
    """What `openssl verify` says of a chain, by our root, at our time."""
    (tmp_path / "root.pem").write_bytes(to_pem([OURS.root.certificate]))
    (tmp_path / "above.pem").write_bytes(to_pem(chain[1:]))
    (tmp_path / "leaf.pem").write_bytes(to_pem(chain[:1]))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW_S)), "-CAfile", str(tmp_path / "root.pem")]
    command += ["-untrusted", str(tmp_path / "above.pem"), *options, str(tmp_path / "leaf.pem")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_takes_ours(tmp_path: Path, purpose: str) -> None:
    """Strictly, for both sides of a hop: usage, constraints, path length, key identifiers."""
    done = openssl_verify(tmp_path, OURS.svid(), "-purpose", purpose)
    assert done.returncode == 0, done.stdout + done.stderr


def test_openssl_refuses_what_we_refuse(tmp_path: Path) -> None:
    """A name outside of the constraints, a CA below an intermediate, a link that is missing."""
    theirs = service_id("partner.example", "pets.production")
    forged = make_svid(OURS.issuer, key("x").public_key(), theirs, "web-1", terms())
    for chain, said in (
        ([forged, OURS.issuer.certificate], "permitted subtree violation"),
        ([OURS.svid()[0], Authority("partner.example").issuer.certificate], "unable to get local issuer"),
        (Authority("partner.example").svid(PETS), "unable to get local issuer"),
    ):
        done = openssl_verify(tmp_path, chain)
        assert done.returncode != 0 and said in done.stdout + done.stderr


def test_openssl_reads_our_request(tmp_path: Path) -> None:
    """And a CA of somebody else's can sign it."""
    (tmp_path / "request.pem").write_bytes(make_request(key("asks")))
    (tmp_path / "key.pem").write_bytes(key_pem("asks"))
    done = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-in", str(tmp_path / "request.pem")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "verify OK" in done.stdout + done.stderr
