"""Certificates for a measurement: of proxies that have no issuer of their own, and those that an agent has."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
    to_pem,
)
from agent.identity.spiffe import SpiffeId, service_id

TRUST_DOMAIN = "bench.shoal"


def id_of(service: str) -> SpiffeId:
    """As a service of this trust domain."""
    return service_id(TRUST_DOMAIN, service)


def write(folder: Path, *services: str) -> None:
    """`root.pem`, and for each service `<service>.pem` and `<service>.key`."""
    root_key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = Issuer(make_root(root_key, TRUST_DOMAIN, _terms(ROOT_S)), root_key)
    above = make_intermediate(root, issuer_key.public_key(), TRUST_DOMAIN, "bench", _terms(INTERMEDIATE_S))
    (folder / "root.pem").write_bytes(to_pem([root.certificate]))
    for service in services:
        key = ec.generate_private_key(ec.SECP256R1())
        svid = make_svid(Issuer(above, issuer_key), key.public_key(), id_of(service), "bench", _terms(SVID_S))
        (folder / f"{service}.pem").write_bytes(to_pem([svid, above]))
        (folder / f"{service}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _terms(lifetime_s: float) -> Terms:
    return Terms(serial_of(os.urandom(SERIAL_BYTES)), time.time(), lifetime_s)


def context(chain: Path, key: Path | None = None) -> ssl.SSLContext:
    """A caller's. What it costs is not measured, so it believes everybody."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(chain, key)
    return made


def of_agent(identity: Path) -> ssl.SSLContext:
    """What an agent shows as itself, from its state directory."""
    for path in identity.glob("*.pem"):
        leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if "/agent/" in names.get_values_for_type(x509.UniformResourceIdentifier)[0]:
            return context(path)
    raise FileNotFoundError(f"no certificate of the agent in {identity}")
