"""The root's key: in a file that only its owner may read, made here and wanted for intermediates only.

Laws
- Nothing is written over. A file that is there is a key that somebody needs.
- It is on the disk, whole, before anything in etcd says that there is such a root.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.cli.failure import Exit, Failure
from agent.identity.certificates import ROOT_S, SERIAL_BYTES, Issuer, Terms, key_digest, make_root, serial_of

if TYPE_CHECKING:
    from cryptography import x509

    from agent.identity.bundles import Bundle
    from agent.identity.certificates import SigningKey

MAX_BYTES = 64 * 1024
SHARED = 0o077


def made(path: Path, passphrase: bytes) -> tuple[SigningKey, bool]:
    """The key in a file, which is made where there is none; whether it was made. Raises Failure."""
    key = ec.generate_private_key(ec.SECP256R1())
    hidden: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return read(path, passphrase), False
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; name another place with --root-key", Exit.USAGE) from None
    with open(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key, True


def read(path: Path, passphrase: bytes) -> SigningKey:
    """The key in a file. Raises Failure that says what is wrong with it, and nothing of what is in it."""
    try:
        with open(path, "rb") as file:
            shared = os.fstat(file.fileno()).st_mode & SHARED
            pem = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failure(f"the root's key, {path}: {error.strerror}; name its file with --root-key", Exit.USAGE) from None
    if shared:
        raise Failure(f"{path} may be read by others; the root's key is its owner's: chmod 600 {path}", Exit.USAGE)
    return _parsed(path, pem, passphrase)


def _parsed(path: Path, pem: bytes, passphrase: bytes) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(pem, passphrase or None)
    except TypeError:
        wrong = "has no passphrase; leave --passphrase-file out" if passphrase else "wants --passphrase-file"
        raise Failure(f"the key in {path} {wrong}", Exit.USAGE) from None
    except ValueError:
        wrong = "no private key (PEM), or another passphrase's" if passphrase else "no private key (PEM)"
        raise Failure(f"{path}: {wrong}", Exit.USAGE) from None
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise Failure(f"{path}: a root's key is of an elliptic curve or RSA", Exit.USAGE)


def passphrase_in(path: str) -> bytes:
    """What a file holds, without the line's end; empty without a file. Raises Failure."""
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            found = file.read(MAX_BYTES).rstrip(b"\r\n")
    except OSError as error:
        raise Failure(f"the file that --passphrase-file names: {error.strerror}", Exit.USAGE) from None
    if not found:
        raise Failure("the file that --passphrase-file names is empty", Exit.USAGE)
    return found


def signer(key: SigningKey, bundle: Bundle, path: Path) -> Issuer:
    """The root whose key it is. Raises Failure where it is none of the bundle's."""
    root = root_of(key, bundle)
    if root is None:
        raise Failure(f"the key in {path} is of no root of {bundle.trust_domain}; `shoal ca status` lists those")
    return Issuer(root, key)


def next_root(path: Path, passphrase: bytes, bundle: Bundle, now_s: float) -> Issuer:
    """The root of the key in a file, the bundle's or a new one; the key is made where there is none. Raises Failure."""
    if not path.exists() and len(bundle.roots) > 1:
        raise Failure(
            f"a new root is on its way in: go on with its key (there is no {path}), or take it back (--abort)"
        )
    key, _ = made(path, passphrase)
    root = root_of(key, bundle) or make_root(key, bundle.trust_domain, terms(now_s, ROOT_S))
    return Issuer(root, key)


def root_of(key: SigningKey, bundle: Bundle) -> x509.Certificate | None:
    """The root of a bundle whose key it is."""
    digest = key_digest(key.public_key())
    return next((root for root in bundle.roots if key_digest(root.public_key()) == digest), None)


def terms(now_s: float, lifetime_s: float) -> Terms:
    """With a serial number by chance."""
    return Terms(serial_of(os.urandom(SERIAL_BYTES)), now_s, lifetime_s)
