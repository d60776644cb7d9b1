"""Keys, certificates and what was believed, in `state_dir/identity/`: for a restart while etcd is away.

Laws
- A certificate and its key are one file, written aside and renamed: no crash leaves one without the other, or half.
- Keys are made here, may be read by the agent's user alone (0600), and go nowhere else.
- A file is named after its key and never written over, so that whoever was told of one reads that one or none. It says
  in its first line whose it is; readers of PEM pass over that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.control.host import disk
from agent.control.identity.around import BELIEVED
from agent.control.identity.standing import Saved
from agent.identity.certificates import key_digest, to_pem
from agent.process.own_files import read_as, set_aside

log = structlog.get_logger()
PENDING: Final = ".key"
HELD: Final = ".pem"
_SAID: Final = "for "
Key = ec.EllipticCurvePrivateKey


class Kept(NamedTuple):
    """A key of this host's, and its certificate once there is one."""

    name: str
    """What it is for, as requests are called: agent, issuer, svc/<service>."""
    path: Path
    key: Key
    chain: tuple[x509.Certificate, ...]
    """The certificate first; empty: it was asked for."""


class _Believed(msgspec.Struct, frozen=True):
    mesh: str
    items: list[Saved]


class Files:
    """Of one agent."""

    def __init__(self, folder: Path, mesh: str) -> None:
        self._folder = folder
        self._mesh = mesh

    def make_key(self, name: str) -> Kept | None:
        """A new key; None (and a warning) where it cannot be kept."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._written(Kept(name, self._path(key, PENDING), key, ()))

    def hold(self, name: str, key: Key, chain: tuple[x509.Certificate, ...]) -> Kept | None:
        """A key with its certificate; what was pending is not any more. None where it cannot be kept."""
        path = self._path(key, HELD)
        if path.exists():  # the same key with another certificate
            path = path.with_name(f"{path.stem}-{chain[0].serial_number:x}{HELD}")
        kept = self._written(Kept(name, path, key, chain))
        if kept is not None:
            self.drop(self._path(key, PENDING))
        return kept

    def drop(self, path: Path) -> None:
        """A file is of no more use."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot be deleted", path=str(path), error=error.strerror)

    def read(self) -> list[Kept]:
        """All that there is, certificates first; what makes no sense is set aside."""
        found: list[Kept] = []
        for ending in (HELD, PENDING, f"{HELD}.new", f"{PENDING}.new"):
            try:
                paths = sorted(self._folder.glob(f"*{ending}"))
            except OSError as error:
                log.warning("cannot be read", path=str(self._folder), error=error.strerror)
                continue
            for path in paths:
                if path.suffix == ".new":  # somebody ended while it was written
                    self.drop(path)
                    continue
                text = read_as(path, bytes)
                if text is not None:
                    try:
                        found.append(_parse(path, text, certified=ending == HELD))
                    except ValueError as error:
                        set_aside(path, str(error)[:200])
        return found

    def save(self, items: list[Saved]) -> bool:
        """What is believed. False where the disk does not take it."""
        return disk.write(self._folder / BELIEVED, msgspec.json.encode(_Believed(self._mesh, items)))

    def load(self) -> list[Saved]:
        """What was believed, of the same mesh."""
        found = read_as(self._folder / BELIEVED, msgspec.json.Decoder(_Believed).decode)
        return found.items if found is not None and found.mesh == self._mesh else []

    def _path(self, key: Key, ending: str) -> Path:
        return self._folder / f"{key_digest(key.public_key())[:16]}{ending}"

    def _written(self, kept: Kept) -> Kept | None:
        pem = kept.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        text = f"{_SAID}{kept.name}\n".encode() + pem + to_pem(list(kept.chain))
        return kept if disk.write(kept.path, text) else None


def _parse(path: Path, text: bytes, *, certified: bool) -> Kept:
    """Raises ValueError."""
    first, _, pem = text.partition(b"\n")
    if not first.startswith(_SAID.encode()):
        raise ValueError("it does not say what it is for")
    try:
        key = serialization.load_pem_private_key(pem, None)
        chain = tuple(x509.load_pem_x509_certificates(pem)) if certified else ()
    except TypeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("no key of an elliptic curve")
    if chain and key_digest(chain[0].public_key()) != key_digest(key.public_key()):
        raise ValueError("a certificate that is not its key's")
    return Kept(first[len(_SAID) :].decode(), path, key, chain)
