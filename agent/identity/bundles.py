# mypyc: interpreted, because it is read when trust changes, and no request waits for that
"""Trust bundles: the roots of one trust domain, as SPIFFE bundle documents (JWKS, RFC 7517).

Laws
- A document is taken whole or not at all. Entries for other uses than X.509-SVIDs are passed over (X509-SVID 6.2).
- A document of ours names its trust domain (`trust_domain`, which other readers ignore), and is of no other one.
- An agent goes to a bundle of a higher sequence only (`succeeds`): no restored etcd brings a removed root back.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from policies.language.document import why_not
from policies.language.trust import check_trust_domain

MAX_ROOTS: Final = 32
MAX_BUNDLE_BYTES: Final = 256 * 1024
REFRESH_S: Final = 300
_USE: Final = "x509-svid"


class Bundle(NamedTuple):
    """The roots of a trust domain. Each is good for that domain only."""

    trust_domain: str
    roots: tuple[x509.Certificate, ...]
    sequence: int = 0
    refresh_s: int = REFRESH_S
    """How soon others look for a newer one, where they fetch it."""


class _Jwk(msgspec.Struct, frozen=True, omit_defaults=True):
    use: str = ""
    kty: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    x5c: list[str] = []


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[_Jwk]
    trust_domain: str = ""
    """Not of SPIFFE, whose readers pass over what they do not know (bundle format, 4.1)."""
    spiffe_sequence: int = 0
    spiffe_refresh_hint: int = REFRESH_S


def parse_bundle(trust_domain: str, text: bytes) -> Bundle:
    """A SPIFFE bundle document, taken as that of a trust domain (empty: of the one that it names). Raises ValueError
    that says what is wrong, where."""
    if len(text) > MAX_BUNDLE_BYTES:
        raise ValueError(f"a bundle of more than {MAX_BUNDLE_BYTES} bytes")
    try:
        document = msgspec.json.decode(text, type=_Jwks)
    except msgspec.MsgspecError as error:
        flaw = why_not(error, text, _Jwks)
        raise ValueError(f"{flaw.path}: no SPIFFE bundle: {flaw.reason}") from None
    roots: list[x509.Certificate] = []
    for index, entry in enumerate(document.keys):
        if entry.use == _USE and entry.x5c:
            root = _root(entry, f"$.keys[{index}].x5c[0]")
            if root not in roots:
                roots.append(root)
    if len(roots) > MAX_ROOTS:
        raise ValueError(f"$.keys: {len(roots)} roots; a trust domain has at most {MAX_ROOTS}")
    if document.spiffe_sequence < 0:
        raise ValueError(f"$.spiffe_sequence: {document.spiffe_sequence}; 0 or more")
    domain = _domain(trust_domain, document.trust_domain)
    return Bundle(domain, tuple(roots), document.spiffe_sequence, document.spiffe_refresh_hint)


def bundle_document(bundle: Bundle) -> bytes:
    """A bundle as text that anybody's SPIFFE reads."""
    keys = [_jwk(root) for root in bundle.roots]
    document = _Jwks(keys, bundle.trust_domain, bundle.sequence, bundle.refresh_s)
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def succeeds(held: Bundle, offered: Bundle) -> bool:
    """Whether a bundle takes the place of one that is held."""
    return offered.trust_domain == held.trust_domain and offered.sequence > held.sequence


def _domain(given: str, named: str) -> str:
    if not given and not named:
        raise ValueError('$.trust_domain: missing; such as "default.shoal", which names in certificates begin with')
    if given and named and given != named:
        raise ValueError(f"$.trust_domain: {named[:80]!r}, where the bundle of {given} is expected")
    return check_trust_domain(given or named)


def _root(entry: _Jwk, where: str) -> x509.Certificate:
    try:
        found = x509.load_der_x509_certificate(base64.b64decode(entry.x5c[0], validate=True))
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, binascii.Error, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ValueError(f"{where}: no certificate of a CA: {str(error)[:120]}") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise ValueError(f"{where}: a certificate that may not sign others is no root")
    return found


def _jwk(root: x509.Certificate) -> _Jwk:
    x5c = [base64.b64encode(root.public_bytes(serialization.Encoding.DER)).decode()]
    key = root.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = (key.curve.key_size + 7) // 8
        point = key.public_numbers()
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[key.curve.key_size]
        return _Jwk(_USE, "EC", curve, _base64url(point.x, size), _base64url(point.y, size), x5c=x5c)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        n, e = _base64url(numbers.n, (numbers.n.bit_length() + 7) // 8), _base64url(numbers.e, 3)
        return _Jwk(_USE, "RSA", n=n, e=e, x5c=x5c)
    raise ValueError(f"a root's key is of an elliptic curve or RSA, and not {type(key).__name__}")


def _base64url(number: int, size: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()
