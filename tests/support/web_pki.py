"""Certificates as servers of the ordinary web have them: for host names, of a root that is nobody's trust domain."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "db.internal"
DAY_S = 86400.0


@lru_cache(maxsize=16)
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _made(subject: str, above: str, since_s: float, until_s: float, extensions: Sequence[x509.ExtensionType]) -> bytes:
    now_s = time.time()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(above))
        .public_key(_key(subject).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now_s + since_s, UTC))
        .not_valid_after(datetime.fromtimestamp(now_s + until_s, UTC))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(_key(above), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@lru_cache(maxsize=16)
def root(name: str = "a root") -> str:
    """A root's certificate, in PEM."""
    return _made(name, name, -DAY_S, 365 * DAY_S, [x509.BasicConstraints(True, None)]).decode()


def certificate(
    name: str,
    names: Sequence[str] | None = None,
    above: str = "a root",
    since_s: float = -DAY_S,
    until_s: float = DAY_S,
) -> bytes:
    """Chain and key of somebody, in PEM. `names`: of hosts; those that are his alone, and none for a client."""
    hosts = [x509.DNSName(each) for each in ([name] if names is None else names)]
    extensions: list[x509.ExtensionType] = [x509.BasicConstraints(False, None)]
    if hosts:
        extensions.append(x509.SubjectAlternativeName(hosts))
    key = _key(name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _made(name, above, since_s, until_s, extensions) + key


def kept(path: Path, text: bytes, mode: int = 0o600) -> Path:
    """A file of its own, put in the place of another as a whole."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(text)
    aside.chmod(mode)
    aside.rename(path)
    return path


def server_context(
    folder: Path,
    shown: bytes | None = None,
    *,
    clients: str = "",
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """A server's. `clients`: the root that those who call have to be of; empty: nobody is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = most
    context.load_cert_chain(kept(folder / "server.pem", shown or certificate(NAME)))
    context.set_alpn_protocols(["http/1.1"])
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients)
    return context
