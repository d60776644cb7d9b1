"""The table on disk, for starting while etcd is away; and the local services with their tokens.

Files are written aside and renamed, so that a crash or a full disk leaves the last good one. What cannot be read back
counts as not there (`agent.process.own_files`).

Laws
- What is kept here decides where requests go and who may send them, so nobody else may write here: a directory that is
  another user's, or that others may write to, is refused, and no name in it is followed elsewhere.
- The lock is a file in that directory, which nobody else can take; a re-execution is handed it, and never without it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from agent.process.own_files import read_as, set_aside

log = structlog.get_logger()
_MAGIC: Final = b"shoal-table-1\n"
_writing = threading.Lock()
"""Threads of one process do not write aside under one name."""


class Saved(msgspec.Struct, frozen=True):
    """A table as it was."""

    mesh: str
    revision: int
    saved_at: float
    """Unix time (s)."""
    items: list[tuple[str, bytes, int]]
    """Key, value, revision."""
    cluster: int = 0
    """Id of the etcd that it is of; 0: not known."""
    witness: tuple[str, int] = ("", 0)
    """A key of that etcd, and a revision at which it was put."""
    known_revision: int = 0
    """Up to which any etcd before that one was known."""


def write(path: Path, data: bytes) -> bool:
    """Replace a file, whole. False (and a warning) when that is not possible."""
    with _writing:
        return _replace(path, data)


def _replace(path: Path, data: bytes) -> bool:
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (path, aside):
            if name.is_dir() and not name.is_symlink():
                set_aside(name, "it is a directory, where a file is to be written")
        aside.unlink(missing_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
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


def lock(directory: Path, inherited: int = -1) -> int | None:
    """Have a state directory for this process alone, as long as it lives. None when nothing can be written there.

    `inherited`: the lock of the process before, -1 for none; of another directory it is let go of. Raises OSError when
    another agent has the directory (two would take each other for their own predecessor), and when others may write
    in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        _unusable(error)
        return None
    _check_ours(directory)
    try:
        fd = _open_lock(directory / "lock")
    except OSError as error:
        _unusable(error)
        return None
    if inherited >= 0:
        if os.path.samestat(os.fstat(fd), os.fstat(inherited)):
            os.close(fd)
            os.set_inheritable(inherited, False)
            return inherited
        os.close(inherited)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"another agent uses {directory}; give each its own state_dir") from None
    return fd


def _open_lock(path: Path) -> int:
    """What stands there and is no file of ours cannot be anybody's lock. Raises OSError."""
    if os.path.lexists(path) and not (stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK | os.W_OK)):
        set_aside(path, "it is no file that this agent may write to")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _unusable(error: OSError) -> None:
    log.warning("the state directory cannot be used; the agent goes on without", error=str(error))


def _check_ours(directory: Path) -> None:
    """Raises OSError for a directory that others may write to, or that they chose by a link; warns where they may put
    another in its place."""
    trusted = (0, os.geteuid())
    found = directory.stat()
    if found.st_uid not in trusted:
        _refuse(directory, f"belongs to the user {found.st_uid}, and holds what only the agent may write")
    if found.st_mode & 0o022:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        _refuse(directory, f"may be written by others (mode {mode}); `chmod go-w` it, or name a directory inside of it")
    for part in (directory.absolute(), *directory.absolute().parents):
        above = part.lstat()
        if stat.S_ISLNK(above.st_mode):
            if above.st_uid not in trusted:
                _refuse(directory, f"is reached by a link of the user {above.st_uid}: {part}")
        elif above.st_uid not in trusted or (above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX):
            log.warning("others may put another directory in the place of the state directory", above=str(part))


def _refuse(directory: Path, reason: str) -> None:
    raise OSError(errno.EPERM, f"the state directory {directory} {reason}")


def save_table(path: Path, saved: Saved) -> bool:
    """Write the table. False when the disk does not take it."""
    body = msgspec.msgpack.encode(saved)
    return write(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load_table(path: Path, mesh: str) -> Saved | None:
    """The table that was saved; None when there is none, it cannot be read, or is another mesh's."""
    saved = read_as(path, _parse_table)
    return saved if saved is not None and saved.mesh == mesh else None


def _parse_table(data: bytes) -> Saved:
    """Raises ValueError."""
    head = len(_MAGIC) + 32
    body = data[head:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : head]:
        raise ValueError("it is not as it was written")
    return msgspec.msgpack.decode(body, type=Saved)


def load_object(path: Path) -> dict[str, Any]:
    """A small JSON file; empty when there is none, or it cannot be read."""
    return read_as(path, msgspec.json.Decoder(dict[str, Any]).decode) or {}
