"""Signatures with the agent's own SVID, and whether one is an agent's. Called in threads.

Law: a signature counts as long after its certificate has ended as anybody can trace the certificate: it is judged by
the time at which it was made, and by the roots that are believed now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from agent.audit.heads import Check, Doubt
from agent.control.audit import files
from agent.frames import Svid, Trust
from agent.identity.bundles import Bundle
from agent.identity.revocations import Revocations
from agent.identity.spiffe import agent_id
from agent.identity.verdict import Refused
from agent.identity.verification import verify

MAX_CHAIN_BYTES: Final = 32 * 1024


class Signed(NamedTuple):
    """A signature, and whose."""

    signature: str
    """Hex."""
    certificate: str
    """SHA-256, hex."""
    chain: str
    """PEM, the signer's own first."""


NOBODY: Final = Signed("", "", "")


def sign(svid: Svid | None, what: bytes) -> Signed:
    """By the agent's own key; NOBODY where it holds none. Raises OSError and ValueError for files that are none."""
    if svid is None:
        return NOBODY
    pem = svid.pem or Path(svid.chain).read_bytes()
    secret = svid.pem or (pem if svid.key == svid.chain else Path(svid.key).read_bytes())
    chain = x509.load_pem_x509_certificates(pem)
    key = load_pem_private_key(secret, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        made = key.sign(what, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(what, padding.PKCS1v15(), hashes.SHA256())
    else:
        return NOBODY
    text = b"".join(each.public_bytes(Encoding.PEM) for each in chain).decode()
    return Signed(made.hex(), fingerprint(chain[0]), text)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def keep(folder: Path, certificate: str, chain: str) -> None:
    """A signer's certificates, beside the log. Raises OSError."""
    if certificate and len(chain) <= MAX_CHAIN_BYTES:
        path = folder / files.CERTIFICATES / f"{certificate}.pem"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.replace(path, chain.encode())


def kept(folder: Path, certificate: str) -> str:
    """The chain that was kept under a fingerprint; empty: none was."""
    if len(certificate) != 64 or not certificate.isalnum():
        return ""
    try:
        return b"".join(files.lines(folder / files.CERTIFICATES / f"{certificate}.pem"))[:MAX_CHAIN_BYTES].decode()
    except (OSError, ValueError):
        return ""


def checker(chains: Callable[[str], str], trust: Trust) -> Check:
    """Judges signatures. `chains`: PEM by fingerprint; empty: not known."""
    bundles = _bundles(trust)

    def check(host: str, certificate: str, what: bytes, signature: str, at: float) -> Doubt | None:
        try:
            chain = x509.load_pem_x509_certificates(chains(certificate).encode() or b"-")
        except ValueError:
            return Doubt("the certificate that it is by was not kept", forged=False)
        if fingerprint(chain[0]) != certificate:
            return Doubt("the certificate that was kept is another one", forged=True)
        if not _holds(chain[0], signature, what):
            return Doubt("it is not by that certificate", forged=True)
        if not bundles:
            return Doubt("no trust bundle is known here", forged=False)
        shown = [each.public_bytes(Encoding.DER) for each in chain]
        found = verify(shown, bundles, Revocations(), at, agent_id(trust.trust_domain, host))
        return Doubt(found.reason, forged=False) if isinstance(found, Refused) else None

    return check


def _holds(certificate: x509.Certificate, signature: str, what: bytes) -> bool:
    try:
        key, made = certificate.public_key(), bytes.fromhex(signature)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(made, what, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(made, what, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _bundles(trust: Trust) -> Mapping[str, Bundle]:
    found = {}
    for domain, roots in trust.bundles.items():
        try:
            found[domain] = Bundle(domain, tuple(x509.load_der_x509_certificate(each) for each in roots))
        except ValueError:
            continue
    return found
