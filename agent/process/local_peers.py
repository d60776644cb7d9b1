# mypyc: interpreted, because it is asked once for a connection
"""Who is at the other end of a local connection, as the kernel says it.

Laws
- Of a Unix socket it is who connected, as of then (SO_PEERCRED), with all groups.
- Of TCP it is whose the socket at the other end is, now (sock_diag). One that was closed by its process while what it
  had sent is still on its way has no owner any more, and the kernel then says 0: that is nobody, and not root.
- What the kernel does not say is not guessed.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

from agent.identity.users import User

_SO_PEERGROUPS: Final = 59
_MOST_BYTES: Final = 1024
"""That Python's getsockopt takes."""

# linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_ASKED: Final = struct.Struct("=BBBBI")
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = (0xFFFFFFFF, 0xFFFFFFFF)
NOBODY: Final = User(0xFFFFFFFF)
"""No process: the number that stands for none (-1)."""
_OWNER_AT: Final = _HEADER.size + 4 + 48 + 12
"""Behind the header, four bytes of state, the ids of both sockets, and three counters."""


def user_of(sock: Any) -> User:
    """Who connected to a Unix socket: as of then, whatever its process has become. Raises OSError."""
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return User(uid, frozenset((gid, *_groups(sock, uid, gid))))


def listener_of(sock: Any) -> int:
    """The process that listens at the other end of a Unix socket of ours, or did when it began to. Raises OSError."""
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def owner_of(sock: socket.socket, *, groups: bool) -> User | None:
    """Whose the socket is that is connected to one of ours on loopback; None: the kernel does not say.

    `groups`: with its groups, which only the host's list of users knows.
    """
    try:
        return owner_between(sock.family, sock.getpeername(), sock.getsockname(), groups=groups)
    except OSError:
        return None


def owner_between(family: int, other: Any, own: Any, *, groups: bool) -> User | None:
    """The same by the addresses of both ends."""
    try:
        found = _socket(family, other, own)
    except OSError:
        return None
    return _user(found[0], groups=groups) if found is not None and found[1] else None


def holder_of(sock: Any, *, groups: bool) -> User | None:
    """Whose the socket is that ours is connected to; until somebody has accepted it, whose it is that listens there.
    None: it is on another host, or behind what forwards to there, or the kernel does not say."""
    try:
        end = sock.getpeername()
        found = _socket(sock.family, end, sock.getsockname())
        if found is None:
            return None
        if not found[1]:
            anywhere = ("::" if sock.family == socket.AF_INET6 else "0.0.0.0", 0)  # noqa: S104 - not to listen there
            found = _socket(sock.family, end, anywhere)
    except OSError:
        return None
    # Who has listened, and does so no more, takes what waited in the queue with him.
    return _user(found[0], groups=groups) if found is not None and found[1] else NOBODY


def _user(uid: int, *, groups: bool) -> User:
    return User(uid, frozenset(_listed(uid)) if groups else frozenset())


def _socket(family: int, source: Any, target: Any) -> tuple[int, int] | None:
    """Owner and inode (0: no process has it) of one, by its own address and the other's; None: there is none. Raises
    OSError where the kernel cannot be asked."""
    addresses = [socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (source, target)]
    wanted = struct.pack("!HH", source[1], target[1]) + b"".join(addresses) + struct.pack("=III", 0, *_NO_COOKIE)
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _SOCK_DIAG) as kernel:
        kernel.sendto(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST, 0, 0) + asked, (0, 0))
        told, sender = kernel.recvfrom(4096)
    if sender[0] or len(told) < _OWNER_AT + 8 or _HEADER.unpack_from(told)[1] != _BY_FAMILY:
        return None
    uid, inode = struct.unpack_from("=II", told, _OWNER_AT)
    return int(uid), int(inode)


def _groups(sock: Any, uid: int, gid: int) -> Iterable[int]:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        return _listed(uid, gid)  # more than Python has room for, or an old kernel: what the host's list of users says
    return struct.unpack(f"{len(packed) // 4}i", packed)


def _listed(uid: int, gid: int | None = None) -> Iterable[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return ()
    return os.getgrouplist(user.pw_name, user.pw_gid if gid is None else gid)
