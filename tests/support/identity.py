"""A trust domain for tests: its root, an intermediate, and whatever SVIDs are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.bundles import Bundle
from agent.identity.certificates import (
    INTERMEDIATE_S,
    ROOT_S,
    SERIAL_BYTES,
    SVID_S,
    Issuer,
    Terms,
    make_intermediate,
    make_root,
    make_svid,
    serial_of,
)
from agent.identity.spiffe import SpiffeId, service_id

NOW_S = 1_767_225_600.0
"""2026-01-01T00:00:00Z: the clock of tests that have one of their own."""
TRUST_DOMAIN = "default.shoal"
PETS = service_id(TRUST_DOMAIN, "pets.production")
SHOP = service_id(TRUST_DOMAIN, "shop.production")

Key = ec.EllipticCurvePrivateKey


@lru_cache(maxsize=64)
def key(name: str) -> Key:
    """The key of somebody; the same for the same name."""
    return ec.generate_private_key(ec.SECP256R1())


def terms(now_s: float = NOW_S, lifetime_s: float = SVID_S) -> Terms:
    """With a serial number of its own."""
    return Terms(serial_of(os.urandom(SERIAL_BYTES)), now_s, lifetime_s)


class Authority:
    """A trust domain, and who signs in it."""

    def __init__(self, trust_domain: str = TRUST_DOMAIN, now_s: float = NOW_S) -> None:
        self.trust_domain = trust_domain
        self.now_s = now_s
        root_key = key(f"root {trust_domain}")
        self.root = Issuer(make_root(root_key, trust_domain, terms(now_s, ROOT_S)), root_key)
        issuer_key = key(f"issuer {trust_domain}")
        above = make_intermediate(
            self.root, issuer_key.public_key(), trust_domain, "issuer-1", terms(now_s, INTERMEDIATE_S)
        )
        self.issuer = Issuer(above, issuer_key)
        self.bundle = Bundle(trust_domain, (self.root.certificate,), 1)
        self.bundles = {trust_domain: self.bundle}

    def svid(
        self, identity: SpiffeId = PETS, host: str = "web-1", lifetime_s: float = SVID_S, now_s: float | None = None
    ) -> list[x509.Certificate]:
        """A chain for somebody, of the key of that name."""
        made = terms(self.now_s if now_s is None else now_s, lifetime_s)
        leaf = make_svid(self.issuer, key(str(identity)).public_key(), identity, host, made)
        return [leaf, self.issuer.certificate]

    def crafted(self, change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder]) -> list[x509.Certificate]:
        """A chain whose leaf is ours but for what somebody changes in it: what only a lost issuer signs."""
        leaf = self.svid()[0]
        builder = x509.CertificateBuilder(
            issuer_name=leaf.issuer,
            subject_name=leaf.subject,
            public_key=key(str(PETS)).public_key(),
            serial_number=leaf.serial_number,
            not_valid_before=leaf.not_valid_before_utc,
            not_valid_after=leaf.not_valid_after_utc,
            extensions=list(leaf.extensions),
        )
        return [change(builder).sign(self.issuer.key, leaf.signature_hash_algorithm), self.issuer.certificate]


def replaced(builder: x509.CertificateBuilder, value: x509.ExtensionType, *, critical: bool) -> x509.CertificateBuilder:
    """With an extension in the place of the one of its sort."""
    kept = [each for each in builder._extensions if each.oid != value.oid]
    return x509.CertificateBuilder(
        builder._issuer_name,
        builder._subject_name,
        builder._public_key,
        builder._serial_number,
        builder._not_valid_before,
        builder._not_valid_after,
        kept,
    ).add_extension(value, critical=critical)


def der(chain: list[x509.Certificate]) -> list[bytes]:
    """As a peer shows it."""
    return [each.public_bytes(serialization.Encoding.DER) for each in chain]


def key_pem(name: str) -> bytes:
    """Somebody's private key, as text."""
    return key(name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
