"""The table on disk, for starting while etcd is away; and the local services with their tokens.

Files are written aside and renamed, so that a crash or a full disk leaves the last good one. What cannot be read back
exactly as it was written counts as not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

log = structlog.get_logger()
_MAGIC: Final = b"shoal-table-1\n"


class Saved(msgspec.Struct, frozen=True):
    """A table as it was."""

    mesh: str
    revision: int
    saved_at: float
    """Unix time (s)."""
    items: list[tuple[str, bytes, int]]
    """Key, value, revision."""


def write(path: Path, data: bytes) -> bool:
    """Replace a file, whole. False (and a warning) when that is not possible."""
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        log.warning("cannot write; the agent goes on without", path=str(path), error=error.strerror)
        try:
            aside.unlink(missing_ok=True)
        except OSError:
            pass
        return False
    return True


def lock(directory: Path) -> int | None:
    """Have a state directory for this process alone, as long as it lives. None when nothing can be written there.

    Raises OSError when another agent has it: two would take each other for their own predecessor.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("the state directory cannot be used; the agent goes on without", error=str(error))
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"another agent uses {directory}; give each its own state_dir") from None
    return fd


def save_table(path: Path, mesh: str, revision: int, items: Iterable[tuple[str, bytes, int]]) -> bool:
    """Write the table. False when the disk does not take it."""
    body = msgspec.msgpack.encode(Saved(mesh, revision, time.time(), list(items)))
    return write(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load_table(path: Path, mesh: str) -> Saved | None:
    """The table that was saved; None when there is none, it is damaged, or another mesh's."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read the table on disk", path=str(path), error=error.strerror)
        return None
    head = len(_MAGIC) + 32
    body = data[head:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : head]:
        log.warning("the table on disk is damaged, and is left aside", path=str(path))
        return None
    try:
        saved = msgspec.msgpack.decode(body, type=Saved)
    except msgspec.MsgspecError as error:
        log.warning("the table on disk is of another version, and is left aside", path=str(path), error=str(error))
        return None
    return saved if saved.mesh == mesh else None


def load_json(path: Path) -> object:
    """A small JSON file; None when there is none, or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("cannot read", path=str(path), error=str(error))
        return None
