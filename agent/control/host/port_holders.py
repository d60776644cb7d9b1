"""Who listens on an address of this host, as /proc tells it.

The system answers by itself whether an address is taken, and by another user it always is: SO_REUSEPORT joins only
sockets of one user. What it does not tell is by whom, and the workers of an agent that crashed, which serve until its
successor does, are no reason not to start. A name that agents agreed upon could be taken first by anybody; what a
process holds cannot be claimed by another.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from agent.settings.address import Address

_LISTENS: Final = "0A"
_WORKER: Final = b"SHOAL_CONTROL_FD="
"""In the environment of every worker, and of nothing else."""


class Holder(NamedTuple):
    """One process that listens; pid 0: one that we may not see."""

    pid: int
    user: int
    worker: bool
    """Of an agent: it serves for a control process, which holds the same sockets as long as it lives."""

    def __str__(self) -> str:
        who = f"the user {_name(self.user)}"
        return f"process {self.pid} of {who}" if self.pid else f"a process of {who}"


def holders(address: Address) -> list[Holder]:
    """Every process that listens where a socket on `address` would be in its way."""
    users = dict(_listening(address))
    found = [Holder(pid, users[inode], _is_worker(pid)) for pid in _pids() for inode in _sockets(pid) if inode in users]
    seen = {inode for pid in {holder.pid for holder in found} for inode in _sockets(pid)}
    hidden = [Holder(0, user, False) for inode, user in users.items() if inode not in seen]
    return sorted(set(found)) + sorted(set(hidden))


def _listening(address: Address) -> Iterable[tuple[int, int]]:
    """Inode and user of each socket that listens there."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            host, _, port = words[1].partition(":")
            if words[3] == _LISTENS and int(port, 16) == address.port and _overlap(_host(host), address.host):
                yield int(words[9]), int(words[7])


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc writes it: words of 32 bits, each in the byte order of the machine."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _overlap(one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: str) -> bool:
    two = ipaddress.ip_address(other)
    return one == two or one.is_unspecified or two.is_unspecified


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _sockets(pid: int) -> list[int]:
    """Inodes of the sockets that a process holds; none where we may not look, or it has ended."""
    found = []
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(fd.path)
            except OSError:
                continue
            if target.startswith("socket:["):
                found.append(int(target[8:-1]))
    except OSError:
        return []
    return found


def _is_worker(pid: int) -> bool:
    try:
        return any(entry.startswith(_WORKER) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def _name(user: int) -> str:
    try:
        return repr(pwd.getpwuid(user).pw_name)
    except KeyError:
        return str(user)
