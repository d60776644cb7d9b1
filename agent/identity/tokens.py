"""Join tokens: what an operator hands to a new host, once. Text that is pasted, so a part of it is told from the whole.

    shoal1.<base64url of: msgpack of the token's fields, and the first 4 bytes of its SHA-256>

Laws
- What is secret in it is `secret`. Of that etcd has the digest, and an issuer is told it in TLS, after it was judged.
- It says whom to believe until there is a bundle: the root, by its key, and which hosts' agents issue.

It is redeemed with one question (JOIN) to the host `agent.shoal` at an issuer's inbound listener: POST of a `Joining`,
answered with 200 and a `Joined`, or else in words.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.identity.bundles import Bundle
from agent.identity.spiffe import SpiffeId, agent_id, person_id

JOIN: Final = "/join"
PREFIX: Final = "shoal1."
SECRET_BYTES: Final = 32
TOKEN_S: Final = 3600.0
MAX_TOKEN: Final = 8192
CHECK_BYTES: Final = 4
MAX_ISSUERS: Final = 8
_CUT: Final = f"this join token is not whole: copy all of it, from {PREFIX} to its end"


class Joining(msgspec.Struct, frozen=True):
    """What a new host asks (msgpack)."""

    token: str
    """The token's secret, and nothing else of it: `digest_of` says under which key it is known."""
    csr: str
    """PEM: a signing request of the key that its agent is to have."""


class Joined(msgspec.Struct, frozen=True):
    """What it gets (msgpack)."""

    chain: str
    """PEM: its agent's SVID, and what leads from it to a root."""
    bundle: str
    """The trust domain's bundle, as `identity/bundle` has it."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """An issuer, and where its agent's inbound listener is."""

    host: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a new host is told."""

    secret: str
    """What an issuer is shown."""
    mesh: str
    host: str
    """Who it lets in."""
    until: int
    """Seconds of the epoch."""
    trust_domain: str
    root_name: bytes
    """Subject of the root that issuers lead to (DER)."""
    root_key: bytes
    """Its public key (SubjectPublicKeyInfo, DER): with the name, a trust anchor (RFC 5280, 6.1.1)."""
    issuers: list[Place]
    person: str = ""
    """Whom it lets in, where that is a person; `host` is empty then."""

    @property
    def who(self) -> SpiffeId:
        """Whom it makes. Raises ValueError for what is neither a host's nor a person's."""
        return person_id(self.trust_domain, self.person) if self.person else agent_id(self.trust_domain, self.host)

    @property
    def again(self) -> str:
        """The command that makes another."""
        return f"`shoal person add {self.person}`" if self.person else f"`shoal host add {self.host}`"


def secret_of(chance: bytes) -> str:
    """The secret of SECRET_BYTES random bytes."""
    if len(chance) != SECRET_BYTES:
        raise ValueError(f"{len(chance)} bytes of chance; a secret is made of {SECRET_BYTES}")
    return base64.urlsafe_b64encode(chance).rstrip(b"=").decode()


def digest_of(secret: str) -> str:
    """What etcd has of a secret: `identity/joins/<digest>`."""
    return hashlib.sha256(secret.encode()).hexdigest()


def anchor_of(root: x509.Certificate) -> tuple[bytes, bytes]:
    """`root_name` and `root_key` of a token."""
    key = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return root.subject.public_bytes(), key


def write_token(token: Token) -> str:
    """A token as text."""
    packed = msgspec.msgpack.encode(token)
    check = hashlib.sha256(packed).digest()[:CHECK_BYTES]
    return PREFIX + base64.urlsafe_b64encode(packed + check).rstrip(b"=").decode()


def read_token(text: str) -> Token:
    """A token. Raises ValueError that says what is wrong, and nothing of what is in it."""
    text = "".join(text.split())
    if len(text) > MAX_TOKEN or not text.startswith(PREFIX):
        raise ValueError(
            f"this is no join token: it begins with {PREFIX}, and `shoal host add`, or `shoal person add`, prints it"
        )
    body = text.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(_CUT) from None
    if hashlib.sha256(packed[:-CHECK_BYTES]).digest()[:CHECK_BYTES] != packed[-CHECK_BYTES:]:
        raise ValueError(_CUT)
    try:
        token = msgspec.msgpack.decode(packed[:-CHECK_BYTES], type=Token)
        _ = token.who
        anchor(token, 0.0)
    except (msgspec.MsgspecError, ValueError, TypeError):
        raise ValueError("this join token is of another version of Shoal, or broken") from None
    return token


def anchor(token: Token, now_s: float) -> Bundle:
    """Whom to believe by a token alone: a bundle whose root has the name and the key that the token says. Nobody has
    signed it, for an anchor is believed by where it comes from. Raises ValueError for a key that signs nothing."""
    key = serialization.load_der_public_key(token.root_key)
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ValueError("a root's key is of an elliptic curve or RSA")
    name = x509.Name.from_bytes(token.root_name)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(int(now_s), UTC))
        .not_valid_after(datetime.fromtimestamp(int(now_s), UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(ec.derive_private_key(1, ec.SECP256R1()), hashes.SHA256(), ecdsa_deterministic=True)
    )
    return Bundle(token.trust_domain, (root,))
