"""Listening Unix sockets of the agent: where they stand. Its own, of which users ask, and those that callers have.

Laws
- Nobody finds it half made: it is bound aside, given its mode and group, and renamed into place.
- It is never taken from an agent that lives, nor left behind by one that ends in order.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
from pathlib import Path
from typing import Final

import structlog

from agent.process.local_peers import listener_of
from agent.settings.check import MAX_SOCKET_PATH
from agent.settings.document import Settings
from agent.settings.file import SettingsError

BACKLOG: Final = 128
PROBE_S: Final = 1.0
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
    try:
        return opened_at(path, settings.local.mode, settings.local.group, inherited)
    except OSError as error:
        if settings.local.socket or error.errno == errno.EADDRINUSE:
            raise
        log.warning("there is no socket for `shoal run` and operators", path=str(path), error=error.strerror)
        return None


def opened_at(path: Path, mode: str, group: str, inherited: int | None, backlog: int = BACKLOG) -> LocalSocket:
    """At a path: the one that was handed over if it stands there, else another. Raises OSError and SettingsError."""
    if inherited is not None:
        sock = socket.socket(fileno=inherited)
        sock.set_inheritable(False)
        if sock.getsockname() in (str(path), str(_aside(path))) and path.is_socket():
            _dress(path, mode, group)
            return LocalSocket(sock, path)
        sock.close()
    return LocalSocket(_made(path, mode, group, backlog), path)


def _aside(path: Path) -> Path:
    """Where it is made: the name that the kernel goes on knowing it by."""
    return path.with_name(f".{path.name}.new")


def _made(path: Path, mode: str, group: str, backlog: int) -> socket.socket:
    aside = _aside(path)
    if len(os.fsencode(aside)) > MAX_SOCKET_PATH:
        raise OSError(errno.ENAMETOOLONG, f"the path of a socket has at most {MAX_SOCKET_PATH - 5} bytes", str(path))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if is_taken(path):
        raise OSError(errno.EADDRINUSE, f"another agent has {path}; give each its own socket")
    aside.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            sock.bind(str(aside))
        finally:
            os.umask(before)
        _dress(aside, mode, group)
        sock.listen(backlog)
        sock.setblocking(False)
        aside.rename(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _dress(path: Path, mode: str, group: str) -> None:
    if group:
        try:
            os.chown(path, -1, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid)
        except KeyError:
            raise SettingsError(f"local.group: this host has no group {group[:60]!r}") from None
    path.chmod(int(mode, 8))


def is_taken(path: Path) -> bool:
    """Whether somebody listens there. Workers that a crashed agent left are nobody: they serve their queue, and end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            return error.errno != errno.ENOTSOCK
        return _lives(listener_of(probe))


def _lives(pid: int) -> bool:
    """0: it is none that we can see."""
    return not pid or Path("/proc", str(pid)).exists()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
