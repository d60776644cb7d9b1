"""The table on disk, for starting while etcd is away; and the local services with their tokens.

Files are written aside and renamed, so that a crash or a full disk leaves the last good one. What cannot be read back
exactly as it was written counts as not there.

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
from typing import Final

import msgspec
import structlog

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


def write(path: Path, data: bytes) -> bool:
    """Replace a file, whole. False (and a warning) when that is not possible."""
    with _writing:
        return _replace(path, data)


def _replace(path: Path, data: bytes) -> bool:
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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


def read(path: Path) -> bytes:
    """A file of ours. Raises OSError, also for a link, and for what is no file: none of that was written here."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return file.read()


def save_table(path: Path, saved: Saved) -> bool:
    """Write the table. False when the disk does not take it."""
    body = msgspec.msgpack.encode(saved)
    return write(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load_table(path: Path, mesh: str) -> Saved | None:
    """The table that was saved; None when there is none, it is damaged, or another mesh's."""
    try:
        data = read(path)
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
        return msgspec.json.decode(read(path))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("cannot read", path=str(path), error=str(error))
        return None
