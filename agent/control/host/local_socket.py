"""The agent's own socket: where it stands, and which processes of this host connect, as the kernel names them
(SO_PEERCRED).

Laws
- Nobody finds it half made: it is bound aside, given its mode and group, and renamed into place.
- It is never taken from an agent that lives, nor left behind by one that ends in order.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from agent.control.host.rights import Peer
from agent.settings.check import MAX_SOCKET_PATH
from agent.settings.document import LocalPart, Settings
from agent.settings.file import SettingsError

BACKLOG: Final = 128
PROBE_S: Final = 1.0
_SO_PEERGROUPS: Final = 59
_MOST_BYTES: Final = 1024
"""That Python's getsockopt takes."""
log = structlog.get_logger()


class LocalSocket:
    """The listening socket, and the path where it stands."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self.path = path
        self._inode = _inode(path)

    def close(self) -> None:
        """Listen no more; the path goes too, unless somebody else stands there by now."""
        self.sock.close()
        if self._inode is not None and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Close our copy: a successor has another."""
        self.sock.close()


def opened(settings: Settings, inherited: int | None) -> LocalSocket | None:
    """The agent's socket. None, with a warning, where it cannot stand at a place that nobody asked for.

    Raises OSError when another agent has it, and SettingsError or OSError for settings that cannot be used.
    """
    path = settings.socket_path
    if inherited is not None:
        sock = socket.socket(fileno=inherited)
        sock.set_inheritable(False)
        if sock.getsockname() in (str(path), str(_aside(path))) and path.is_socket():
            _dress(path, settings.local)
            return LocalSocket(sock, path)
        sock.close()
    try:
        return LocalSocket(_made(path, settings.local), path)
    except OSError as error:
        if settings.local.socket or error.errno == errno.EADDRINUSE:
            raise
        log.warning("there is no socket for `shoal run` and operators", path=str(path), error=error.strerror)
        return None


def _aside(path: Path) -> Path:
    """Where it is made: the name that the kernel goes on knowing it by."""
    return path.with_name(f".{path.name}.new")


def _made(path: Path, local: LocalPart) -> socket.socket:
    aside = _aside(path)
    if len(os.fsencode(aside)) > MAX_SOCKET_PATH:
        raise OSError(errno.ENAMETOOLONG, f"the path of a socket has at most {MAX_SOCKET_PATH - 5} bytes", str(path))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if is_taken(path):
        raise OSError(errno.EADDRINUSE, f"another agent has {path}; give each its own socket in [local]")
    aside.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            sock.bind(str(aside))
        finally:
            os.umask(before)
        _dress(aside, local)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        aside.rename(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _dress(path: Path, local: LocalPart) -> None:
    if local.group:
        try:
            os.chown(path, -1, int(local.group) if local.group.isdigit() else grp.getgrnam(local.group).gr_gid)
        except KeyError:
            raise SettingsError(f"local.group: this host has no group {local.group[:60]!r}") from None
    path.chmod(int(local.mode, 8))


def is_taken(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            return error.errno != errno.ENOTSOCK
    return True


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def peer_of(sock: Any) -> Peer:
    """Who connected: as of then, whatever its process has become. Raises OSError."""
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(uid, frozenset((gid, *_groups(sock, uid, gid))))


def _groups(sock: Any, uid: int, gid: int) -> Iterable[int]:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        try:  # more than Python has room for, or an old kernel: what the host's list of users says
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return ()
    return struct.unpack(f"{len(packed) // 4}i", packed)
