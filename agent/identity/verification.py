# mypyc: interpreted, because a handshake asks it, and no request
"""Who a peer is: the one function that decides it, for both sides of a hop.

RFC 5280 section 6 as far as SPIFFE's chains go (X509-SVID, sections 4 and 5), and its own rules for leaves.

Laws
- The name decides which roots count, before any signature is looked at: a root is good for its own domain only.
- Common names, DNS names and addresses count for nothing. Exactly one URI does.
- Whatever a peer sends, the answer is a value. Nothing raises, nothing is looked up, and at most MAX_CHAIN are read.
- What is not understood and says that it is critical is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.identity.bundles import Bundle
from agent.identity.certificates import host_of, key_digest
from agent.identity.revocations import Revocations, Shown
from agent.identity.spiffe import SpiffeId, parse_id
from agent.identity.verdict import Identity, Refused

MAX_CHAIN: Final = 4
"""Certificates that are looked at: an SVID and three above it."""
MAX_CERTIFICATE_BYTES: Final = 16 * 1024
_REMEMBERED: Final = 512
"""Certificates that were read, and signatures that were judged: peers come again, and neither depends on the time."""

_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)


class _Unproven(Exception):
    """Inside of this module: the reason."""


def verify(
    chain: Sequence[bytes],
    bundles: Mapping[str, Bundle],
    revocations: Revocations,
    now_s: float,
    expected: SpiffeId | None = None,
) -> Identity | Refused:
    """Who shows a chain (DER, the SVID first), by bundles (by trust domain) and a clock (seconds of the epoch);
    `expected`: the only one who will do, None: whoever proves who he is."""
    try:
        identity = _verify(chain, bundles, now_s)
    except _Unproven as unproven:
        return Refused(str(unproven))
    except _UNREADABLE as error:
        return Refused(f"a certificate that cannot be read: {str(error)[:120]}")
    revoked = revoked_by(identity, revocations)
    if revoked:
        return Refused(f"{identity.id} is {revoked}")
    if expected is not None and identity.id != expected:
        return Refused(f"this is {identity.id}, where {expected} was expected")
    return identity


def revoked_by(identity: Identity, revocations: Revocations) -> str:
    """Why somebody who was believed is so no more, in words; empty: he is."""
    return next(filter(None, map(revocations.find, identity.shown)), "")


def signs_for(chain: Sequence[bytes], bundle: Bundle, now_s: float) -> SpiffeId | Refused:
    """Whether a chain (DER, an issuer's intermediate first) may sign the SVIDs of a bundle's trust domain, which is
    then answered."""
    domain = SpiffeId(bundle.trust_domain, "")
    try:
        if not 1 <= len(chain) < MAX_CHAIN:
            raise _Unproven(f"{len(chain)} certificates; an issuer's chain has 1 to {MAX_CHAIN - 1}")
        first, *others = map(_load, chain)
        _check_signer(first, 0, domain)
        _path(first, others, bundle, domain, now_s, between=1)
    except _Unproven as unproven:
        return Refused(str(unproven))
    except _UNREADABLE as error:
        return Refused(f"a certificate that cannot be read: {str(error)[:120]}")
    return domain


def _verify(chain: Sequence[bytes], bundles: Mapping[str, Bundle], now_s: float) -> Identity:
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise _Unproven("no certificate was shown" if not chain else f"a chain of more than {MAX_CHAIN} certificates")
    if max(map(len, chain)) > MAX_CERTIFICATE_BYTES:
        raise _Unproven(f"a certificate of more than {MAX_CERTIFICATE_BYTES} bytes")
    leaf, *others = map(_load, chain)
    identity = _name_of(leaf)
    bundle = bundles.get(identity.trust_domain)
    if bundle is None or not bundle.roots:
        raise _Unproven(f"{identity}: the trust domain {identity.trust_domain} is not trusted here")
    _check_leaf(leaf)
    path = _path(leaf, others, bundle, identity, now_s)
    host = host_of(leaf)
    shown = (_shown_as(leaf, identity.service, identity.person), *(_shown_as(each, "", "") for each in path))
    return Identity(identity, host, leaf.serial_number, min(_ends_s(each) for each in (leaf, *path)), shown)


@lru_cache(maxsize=_REMEMBERED)
def _load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


@lru_cache(maxsize=_REMEMBERED)
def _shown_as(certificate: x509.Certificate, service: str, person: str) -> Shown:
    key = key_digest(certificate.public_key())
    return Shown(certificate.serial_number, key, host_of(certificate), service, _begins_s(certificate), person)


def _name_of(leaf: x509.Certificate) -> SpiffeId:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _Unproven("a certificate without a SPIFFE id: it has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _Unproven(f"a certificate with {len(uris)} URIs; a SPIFFE id is exactly one")
    identity = parse_id(uris[0])
    if not identity.path:
        raise _Unproven(f"{identity} names a trust domain, and nobody in it")
    return identity


def _check_leaf(leaf: x509.Certificate) -> None:
    _check_critical(leaf)
    constraints = _constraints(leaf)
    usage = _usage(leaf)
    if (constraints is not None and constraints.ca) or usage.key_cert_sign or usage.crl_sign:
        raise _Unproven("the certificate of a CA proves nobody")
    if not usage.digital_signature:
        raise _Unproven("a certificate whose key usage is without digitalSignature")
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes):
        raise _Unproven("a certificate whose extended key usage is without serverAuth and clientAuth")


def _path(
    leaf: x509.Certificate,
    others: list[x509.Certificate],
    bundle: Bundle,
    identity: SpiffeId,
    now_s: float,
    between: int = 0,
) -> list[x509.Certificate]:
    """What leads from a leaf to a root of the bundle, the root last; `between`: how far below it the SVID is. What is
    shown besides, or in another order, is passed over (RFC 8446 section 4.4.2)."""
    found: list[x509.Certificate] = []
    below = leaf
    _check_time(leaf, now_s, str(identity))
    while True:
        root = next((root for root in bundle.roots if _signed_by(below, root)), None)
        above = root or next((each for each in others if each not in found and _signed_by(below, each)), None)
        if above is None:
            raise _Unproven(f"{identity}: its chain does not lead to a root of {bundle.trust_domain}")
        _check_signer(above, len(found) + between, identity)
        _check_time(above, now_s, "the root" if root is not None else "an intermediate")
        found.append(above)
        if root is not None:
            return found
        below = above


@lru_cache(maxsize=_REMEMBERED)
def _signed_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    if below.issuer != above.subject or not isinstance(below.signature_hash_algorithm, _HASHES):
        return False
    try:
        below.verify_directly_issued_by(above)
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def _check_signer(above: x509.Certificate, below: int, identity: SpiffeId) -> None:
    """That a certificate may sign, with so many between it and the leaf, for such a name."""
    _check_critical(above)
    constraints = _constraints(above)
    if constraints is None or not constraints.ca or not _usage(above).key_cert_sign:
        raise _Unproven(f"{identity}: its chain goes through a certificate that may not sign others")
    if constraints.path_length is not None and below > constraints.path_length:
        raise _Unproven(f"{identity}: its chain is longer than one of its certificates allows")
    try:
        named = above.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return
    if not _is_within(identity.trust_domain, named):
        raise _Unproven(f"{identity}: its chain goes through a certificate that may not sign such names")


def _is_within(trust_domain: str, named: x509.NameConstraints) -> bool:
    """RFC 5280 section 4.2.1.10, for URIs: a host, or with a leading dot what is below it. Constraints of other sorts
    are of names that count for nothing here, but for those of the subject, which are not understood."""
    permitted, excluded = list(named.permitted_subtrees or ()), list(named.excluded_subtrees or ())
    if any(isinstance(name, x509.DirectoryName) for name in permitted + excluded):
        return False
    allowed = [name.value for name in permitted if isinstance(name, x509.UniformResourceIdentifier)]
    barred = [name.value for name in excluded if isinstance(name, x509.UniformResourceIdentifier)]
    if any(_covers(base, trust_domain) for base in barred):
        return False
    return not allowed or any(_covers(base, trust_domain) for base in allowed)


def _covers(base: str, trust_domain: str) -> bool:
    return trust_domain.endswith(base) if base.startswith(".") else trust_domain == base


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise _Unproven(
                f"a certificate with a critical extension that is not understood: {extension.oid.dotted_string}"
            )


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _usage(certificate: x509.Certificate) -> x509.KeyUsage:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise _Unproven("a certificate without key usage") from None


def _check_time(certificate: x509.Certificate, now_s: float, whose: str) -> None:
    begins_s, ends_s = _begins_s(certificate), _ends_s(certificate)
    if now_s < begins_s:
        early = f"begins at {_shown(begins_s)}, and it is {_shown(now_s)} here: {far(begins_s - now_s)} too early"
        raise _Unproven(f"{whose} {early}; one of the clocks is off")
    if now_s >= ends_s:
        raise _Unproven(f"{whose} has ended at {_shown(ends_s)}: {far(now_s - ends_s)} ago by the clock here")


def _begins_s(certificate: x509.Certificate) -> float:
    return certificate.not_valid_before_utc.timestamp()


def _ends_s(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def far(seconds: float) -> str:
    """A length of time, for people."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
