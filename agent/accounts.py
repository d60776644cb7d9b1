"""Users of this host that programs may run as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final, NamedTuple

_CAPABILITIES: Final = (5, 6, 7)
"""To signal others' processes, and to become another group and user (capabilities(7))."""


class Account(NamedTuple):
    """Whom programs run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_account(text: str) -> Account:
    """A user by name or number. Raises ValueError when there is none, or when we could not become it."""
    try:
        entry = pwd.getpwuid(int(text)) if text.isascii() and text.isdigit() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        raise ValueError(f"{text[:60]!r} is no user of this host; create it, or name one of /etc/passwd") from None
    if entry.pw_uid != os.geteuid() and not _may_become_others():
        raise ValueError(
            f"an agent that runs as {own_name()} cannot run programs as {entry.pw_name}; "
            "leave it empty, or start the agent as root"
        )
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups))


def _may_become_others() -> bool:
    """Root with its powers. Others' capabilities would stay with the programs, which could become root by them."""
    if os.geteuid() != 0:
        return False
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    held = int(line.split()[1], 16)
    return all(held >> bit & 1 for bit in _CAPABILITIES)


def own_name() -> str:
    """Whom this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
