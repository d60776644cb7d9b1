"""Issuers: who asks for an intermediate, what the root signs, and whether a chain that somebody else signed is one.

Pure but for the serial numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.cli.failure import Exit, Failure
from agent.cli.identity.domain import Change, Domain
from agent.cli.identity.root_key import terms
from agent.identity.certificates import INTERMEDIATE_S, Issuer, key_digest, make_intermediate, read_request, to_pem
from agent.identity.revocations import Shown
from agent.identity.spiffe import agent_id
from agent.identity.verdict import Refused
from agent.identity.verification import signs_for
from registry.identity_records import Host, IssuerRecord
from registry.keys import ISSUER_REQUEST
from registry.records import encode
from registry.store import Put

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from agent.identity.bundles import Bundle


class Asking(NamedTuple):
    """An issuer that has asked for an intermediate."""

    host: str
    key: ec.EllipticCurvePublicKey
    csr: str


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, hex."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def chain_in(pem: str) -> list[x509.Certificate]:
    """The certificates of a text; empty where there are none, or it cannot be read."""
    try:
        return x509.load_pem_x509_certificates(pem.encode()) if pem else []
    except ValueError:
        return []


def certificates_in(path: str) -> tuple[x509.Certificate, ...]:
    """Those in a file (PEM), one or more. Raises Failure."""
    try:
        found = chain_in(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: {getattr(error, 'strerror', 'not PEM')}", Exit.USAGE) from None
    if not found:
        raise Failure(f"{path}: no certificate (PEM) in it", Exit.USAGE)
    return tuple(found)


def asking(domain: Domain, hosts: Iterable[str]) -> tuple[list[Asking], list[str]]:
    """Those of some issuers that have asked, and those that have not, or not well."""
    ready: list[Asking] = []
    waiting: list[str] = []
    for host in hosts:
        request = domain.requests.get((host, ISSUER_REQUEST))
        try:
            if request is None or host not in domain.issuers:
                raise ValueError
            ready.append(Asking(host, read_request(request.csr.encode()), request.csr))
        except ValueError:
            waiting.append(host)
    return ready, waiting


def intermediate(domain: Domain, host: str) -> x509.Certificate | None:
    """What an issuer signs with; None: nothing yet."""
    record = domain.issuers.get(host)
    chain = chain_in(record.chain) if record is not None else []
    return chain[0] if chain else None


def is_answered(domain: Domain, each: Asking) -> bool:
    """Whether its intermediate is of the key that it asks with."""
    held = intermediate(domain, each.host)
    return held is not None and key_digest(held.public_key()) == key_digest(each.key)


def root_above(domain: Domain, host: str) -> x509.Certificate | None:
    """The root that an issuer's intermediate leads to; None: none of the bundle's."""
    record, bundle = domain.issuers.get(host), domain.bundle
    if record is None or bundle is None:
        return None
    chain = chain_in(record.chain)
    for root in bundle.roots:
        if any(each.issuer == root.subject and _is_signed_by(each, root) for each in chain):
            return root
    return None


def _is_signed_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def named(domain: Domain, hosts: Iterable[str]) -> Change:
    """That hosts may issue, and so belong to the mesh. Raises Failure for names that cannot be proven."""
    change = Change([], [])
    for host in hosts:
        check_host(host)
        for key, stands, record in (
            (domain.keys.identity("issuers", host), host in domain.issuers, IssuerRecord()),
            (domain.keys.identity("hosts", host), host in domain.hosts, Host()),
        ):
            change.compares.append(domain.unchanged(key))
            if not stands:
                change.operations.append(Put(key, encode(record)))
    return change


def signed(domain: Domain, root: Issuer, ready: Iterable[Asking], now_s: float) -> Change:
    """Intermediates for issuers that ask, as long as they are issuers."""
    bundle = domain.required()
    change = Change([domain.unchanged(domain.keys.identity("bundle"))], [])
    for each in ready:
        made_with = terms(now_s, INTERMEDIATE_S)
        shown = Shown(made_with.serial, key_digest(each.key), "", "", now_s)
        if revoked := domain.revocations.find(shown):
            raise Failure(f"{each.host} asks with a key that is {revoked}; nothing was signed")
        floor_s = domain.revocations.floor_s(each.host, "")
        made_with = made_with._replace(not_before_s=floor_s)
        _put(domain, change, each.host, [make_intermediate(root, each.key, bundle.trust_domain, each.host, made_with)])
    return change


def imported(domain: Domain, chains: Iterable[list[x509.Certificate]], now_s: float) -> tuple[Change, list[str]]:
    """Chains that another CA has signed, each for the issuer whose key it is of; those issuers. Raises Failure."""
    bundle = domain.required()
    change = Change([domain.unchanged(domain.keys.identity("bundle"))], [])
    ready, _ = asking(domain, sorted(domain.issuers))
    hosts: list[str] = []
    for chain in chains:
        digest = key_digest(chain[0].public_key())
        host = next((each.host for each in ready if key_digest(each.key) == digest), "")
        if not host:
            raise Failure(
                f"{chain[0].subject.rfc4514_string()}: its key is of no issuer's request; `shoal ca rotate "
                "intermediate --external` prints those that stand"
            )
        refused = signs_for(to_der(chain), bundle, now_s)
        if isinstance(refused, Refused):
            raise Failure(f"the chain for {host}: {refused.reason}")
        _put(domain, change, host, _without_roots(chain, bundle))
        hosts.append(host)
    return change, hosts


def to_der(chain: Iterable[x509.Certificate]) -> list[bytes]:
    """As peers show it."""
    return [each.public_bytes(serialization.Encoding.DER) for each in chain]


def check_host(host: str) -> None:
    """Raises Failure for a name that no certificate can have."""
    try:
        agent_id("any", host)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _without_roots(chain: list[x509.Certificate], bundle: Bundle) -> list[x509.Certificate]:
    return [each for each in chain if each not in bundle.roots]


def _put(domain: Domain, change: Change, host: str, chain: list[x509.Certificate]) -> None:
    key, asked = domain.keys.identity("issuers", host), domain.keys.request(host, ISSUER_REQUEST)
    change.compares += [domain.unchanged(key), domain.unchanged(asked)]
    record = msgspec.structs.replace(domain.issuers[host], chain=to_pem(chain).decode())
    change.operations.append(Put(key, encode(record)))
