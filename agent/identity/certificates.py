# mypyc: interpreted, because a worker loads it with what judges a handshake, and no request asks it
"""Certificates are made here, and signing requests: root, intermediate, SVID.

Laws
- Pure: keys, serial numbers and the time are handed in, and signatures are deterministic (RFC 6979).
- Of a request nothing is taken but its key. What is in a certificate is what its signer says.
- An SVID is no CA, has exactly one URI and no other name, and no longer life than who signed it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.identity.spiffe import SpiffeId
from policies.language.trust import check_trust_domain

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""RSA only for a CA of somebody else's."""

BACKDATE_S: Final = 300.0
"""Certificates begin so long before they are made, for clocks that are behind."""
SVID_S: Final = 24 * 3600.0
PERSON_S: Final = 12 * 3600.0
"""Of a person's: a working day."""
LEAST_SVID_S: Final = 3600.0
MOST_SVID_S: Final = 7 * 24 * 3600.0
INTERMEDIATE_S: Final = 30 * 24 * 3600.0
ROOT_S: Final = 3652 * 24 * 3600.0
SERIAL_BYTES: Final = 16
MAX_REQUEST_BYTES: Final = 8192

ORGANISATION: Final = "Shoal"
ISSUER_UNIT: Final = "issuer"


class Issuer(NamedTuple):
    """Who signs: an intermediate, or a root."""

    certificate: x509.Certificate
    key: SigningKey


class Terms(NamedTuple):
    """What a certificate is made with."""

    serial: int
    now_s: float
    """Seconds of the epoch."""
    lifetime_s: float
    not_before_s: float = 0.0
    """It begins no earlier, whatever clocks may differ by: what began earlier is revoked."""


def serial_of(chance: bytes) -> int:
    """A serial number of SERIAL_BYTES random bytes: 127 bits, and never 0."""
    if len(chance) != SERIAL_BYTES:
        raise ValueError(f"{len(chance)} bytes of chance; a serial number is made of {SERIAL_BYTES}")
    return int.from_bytes(chance, "big") >> 1 or 1


def make_root(key: SigningKey, trust_domain: str, terms: Terms) -> x509.Certificate:
    """A root for a trust domain: what it signs may sign SVIDs, and no further CA."""
    name = _name(f"{check_trust_domain(trust_domain)} root"[-64:])
    builder = _builder(name, name, key.public_key(), terms, ends_s=None)
    builder = _as_ca(builder, path_length=1)
    return _signed(_with_uri(builder, SpiffeId(trust_domain, "")), key)


def make_intermediate(
    root: Issuer, public_key: ec.EllipticCurvePublicKey, trust_domain: str, host: str, terms: Terms
) -> x509.Certificate:
    """What an issuer signs with: SVIDs of one trust domain, and nothing else."""
    builder = _issued(root, _name(host, ISSUER_UNIT), public_key, terms)
    permitted = [x509.UniformResourceIdentifier(check_trust_domain(trust_domain))]
    builder = _as_ca(builder, path_length=0).add_extension(
        x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True
    )
    return _signed(_with_uri(builder, SpiffeId(trust_domain, "")), root.key)


def make_svid(
    issuer: Issuer, public_key: ec.EllipticCurvePublicKey, identity: SpiffeId, host: str, terms: Terms
) -> x509.Certificate:
    """The certificate of a service or an agent on a host. Who may hold what is asked elsewhere (`issuing`)."""
    builder = _issued(issuer, _name(host), public_key, terms)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    return _signed(_with_uri(builder, identity), issuer.key)


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PEM) for a key. It names nothing: nothing but its key is read."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return request.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a signing request whose owner has the private one. Raises ValueError for any other."""
    if len(pem) > MAX_REQUEST_BYTES:
        raise ValueError(f"a signing request of more than {MAX_REQUEST_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise ValueError(f"no signing request (PEM): {str(error)[:120]}") from None
    if not proven:
        raise ValueError("the signing request is not signed by the key that it is for")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key of a signing request is one of P-256")
    return key


def key_digest(key: object) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo), in hex: what revocations call it."""
    public = cast(ec.EllipticCurvePublicKey, key)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def host_of(certificate: x509.Certificate) -> str:
    """The host that a certificate of ours was made for; empty where it does not say."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def to_pem(chain: list[x509.Certificate]) -> bytes:
    """A chain as text, the SVID first."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)


def _name(common: str, unit: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION)]
    if unit:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _issued(
    issuer: Issuer, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, terms: Terms
) -> x509.CertificateBuilder:
    above = issuer.certificate
    ends_s = above.not_valid_after_utc.timestamp()
    if ends_s <= terms.now_s:
        raise ValueError(f"the certificate that signs has ended at {above.not_valid_after_utc.isoformat()}")
    known = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return _builder(subject, above.subject, public_key, terms, ends_s).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known), critical=False
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    terms: Terms,
    ends_s: float | None,
) -> x509.CertificateBuilder:
    begins_s = max(terms.now_s - BACKDATE_S, terms.not_before_s)
    until_s = terms.now_s + terms.lifetime_s
    if ends_s is not None:
        until_s = min(until_s, ends_s)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(terms.serial)
        .not_valid_before(_moment(begins_s))
        .not_valid_after(_moment(until_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_ca(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(_usage(signs=True), critical=True)


def _with_uri(builder: x509.CertificateBuilder, identity: SpiffeId) -> x509.CertificateBuilder:
    uri = x509.UniformResourceIdentifier(str(identity))
    return builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: SigningKey) -> x509.Certificate:
    deterministic = True if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=deterministic)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
