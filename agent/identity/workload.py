"""What SPIFFE's Workload API gives, read strictly: SVIDs, their keys, and the roots of trust domains.

Laws
- One SVID that makes no sense costs nobody else anything; nor does another trust domain's bundle.
- The trust domain is that of our own agent's SVID, else that of the first one; SVIDs of others are passed over.
- What convinces is not decided here (`verification`): this is what was given, and that a key is its certificate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.identity.bundles import MAX_ROOTS, Bundle
from agent.identity.certificates import key_digest, to_pem
from agent.identity.spiffe import SpiffeId, parse_id
from agent.identity.verification import MAX_CHAIN

MAX_SVIDS: Final = 1000
_SEQUENCE: Final = 0x30


class Offered(NamedTuple):
    """One SVID, as it came. Certificates are DER, one behind the other; the key is PKCS#8."""

    id: str
    chain: bytes
    key: bytes
    roots: bytes
    """Of its trust domain."""


class Given(NamedTuple):
    """One that may be shown, if it convinces."""

    id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    """The SVID first."""
    pem: bytes
    """Chain and key."""


class Delivery(NamedTuple):
    """All that was given at once. It takes the place of what was given before."""

    bundle: Bundle
    federated: dict[str, Bundle]
    """By trust domain, without the own one."""
    svids: dict[str, Given]
    """By SPIFFE id, as text; of several for one id, the first."""
    malformed: dict[str, str]
    """What is not taken, and why: a SPIFFE id or a trust domain."""


def read(host: str, offered: Sequence[Offered], federated: Mapping[str, bytes]) -> Delivery:
    """Raises ValueError where nothing of it can be used."""
    if not 1 <= len(offered) <= MAX_SVIDS:
        raise ValueError(f"{len(offered)} SVIDs; from 1 to {MAX_SVIDS} can be taken")
    svids: dict[str, Given] = {}
    malformed: dict[str, str] = {}
    roots: dict[str, bytes] = {}
    for each in offered:
        try:
            given = _given(each)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            malformed[each.id[:200]] = str(error)[:200]
            continue
        svids.setdefault(str(given.id), given)
        roots.setdefault(given.id.trust_domain, each.roots)
    if not svids:
        raise ValueError("; ".join(f"{name!r}: {why}" for name, why in list(malformed.items())[:3]))
    ours = next((each.id for each in svids.values() if each.id.host == host), next(iter(svids.values())).id)
    domain = ours.trust_domain
    bundle = _bundle(domain, roots[domain])
    others: dict[str, Bundle] = {}
    for name, text in federated.items():
        try:
            other = parse_id(name)
            if other.path:
                raise ValueError("no trust domain")
            if other.trust_domain != domain:
                others[other.trust_domain] = _bundle(other.trust_domain, text)
        except ValueError as error:
            malformed[name[:200]] = str(error)[:200]
    for name, given in list(svids.items()):
        if given.id.trust_domain != domain:
            malformed[name] = f"of another trust domain than {ours}"
            del svids[name]
    return Delivery(bundle, others, svids, malformed)


def _given(offered: Offered) -> Given:
    """Raises ValueError, TypeError and UnsupportedAlgorithm."""
    identity = parse_id(offered.id)
    chain = certificates(offered.chain, MAX_CHAIN)
    key = serialization.load_der_private_key(offered.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("a key is of an elliptic curve or RSA")
    if not chain or key_digest(chain[0].public_key()) != key_digest(key.public_key()):
        raise ValueError("a certificate that is not its key's")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Given(identity, chain, to_pem(list(chain)) + pem)


def _bundle(domain: str, roots: bytes) -> Bundle:
    """Raises ValueError."""
    found = certificates(roots, MAX_ROOTS)
    if not found:
        raise ValueError(f"{domain}: a bundle without roots")
    return Bundle(domain, found)


def certificates(data: bytes, most: int) -> tuple[x509.Certificate, ...]:
    """DER certificates that stand one behind the other. Raises ValueError."""
    found: list[x509.Certificate] = []
    while data:
        if len(found) == most:
            raise ValueError(f"more than {most} certificates")
        size = _size(data)
        found.append(x509.load_der_x509_certificate(data[:size]))
        data = data[size:]
    return tuple(found)


def _size(data: bytes) -> int:
    """Bytes of the first value (X.690, 8.1). Raises ValueError."""
    if len(data) < 2 or data[0] != _SEQUENCE:
        raise ValueError("no certificate")
    first = data[1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    if not 1 <= count <= 4 or len(data) < 2 + count:
        raise ValueError("no certificate")
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")
