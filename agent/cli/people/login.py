"""A person's login on this machine: a key that was made here, the certificate for it, and whom to ask for the next.

One directory a mesh, the person's alone: `login.json`, which is public, and `login.pem`, key and chain, mode 0600.

Law: what is kept is whole. A login takes another's place in one step, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from agent.cli.failure import Exit, Failure
from registry.keys import Keys

SAID: Final = "login.json"
HELD: Final = "login.pem"


class Issuer(msgspec.Struct, frozen=True):
    """One that may be asked, and where."""

    host: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Login(msgspec.Struct, frozen=True):
    """What stands in `login.json`."""

    person: str
    mesh: str
    trust_domain: str
    until: float
    """Unix time (s) at which it ends."""
    issuers: list[Issuer]
    bundle: str
    """The trust domain's roots, as `identity/bundle` has them."""


def folder(mesh: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a mesh's login is. Raises Failure for a name that is no mesh's: a token may say anything."""
    try:
        Keys(mesh)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    state = environment.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "shoal" / "login" / mesh


def load(mesh: str) -> Login | None:
    """The login, whether it has ended or not; None where there is none. Raises Failure for one that cannot be read."""
    at = folder(mesh)
    try:
        return msgspec.json.decode((at / SAID).read_bytes(), type=Login) if (at / HELD).exists() else None
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise Failure(f"{at / SAID} cannot be read: {error}; `shoal login` with a new token writes it anew") from None


def keep(login: Login, pem: bytes) -> Path:
    """Write a login, `pem` its key and chain; where it is. Raises Failure."""
    at = folder(login.mesh)
    try:
        at.mkdir(parents=True, exist_ok=True, mode=0o700)
        at.chmod(0o700)
        _write(at / HELD, pem)
        _write(at / SAID, msgspec.json.format(msgspec.json.encode(login), indent=1))
    except OSError as error:
        raise Failure(f"{at} cannot be written: {error.strerror}; the login is lost, have another token made") from None
    return at / HELD


def forget(mesh: str) -> bool:
    """Delete a login; whether there was one. Raises Failure."""
    at = folder(mesh)
    there = (at / HELD).exists()
    try:
        for name in (HELD, SAID):
            (at / name).unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"{at} cannot be deleted: {error.strerror}") from None
    return there


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
