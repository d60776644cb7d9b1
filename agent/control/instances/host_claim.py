"""One agent a host name: the key `agents/<host>` is created, never taken over from somebody who lives.

Laws
- A predecessor of this very agent that crashed is succeeded at once. It is known by what it left on disk: its boot id,
  and the mark of the directory that it wrote in, whose lock we have now. A copy of that directory (an image of a
  machine, a backup that was put elsewhere) has the boot id and not the mark, and its original may live.
- Anybody else's key has to run out first; when it does not within the time of a lease, its owner lives, and this agent
  gives up with a message. It serves meanwhile: the name is for others to find us, not for our own calls. It takes no
  name of its own making: under that its instances would be in the mesh twice, and nobody would look for it.
- Who looked and who puts are one transaction; and so is, later, all that is written under the name (`registry.fences`).
- An agent that finds its name another's gives up in the same way.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from agent.control.host import disk
from agent.process.own_files import read_as
from registry.backoff import Backoff
from registry.lease import Holder
from registry.records import Agent, Malformed, decode, encode
from registry.store import Compare, KeyValue, Put, Store, StoreError

BOOT: Final = re.compile(r"([!-+\--~]{1,48})(?:,([0-9a-f]{12}))?")
"""What tells the runs of agents apart, and the mark of the directory; agents of versions before wrote none."""
KERNEL: Final = Path("/proc/sys/kernel/random/boot_id")
GRACE_S: Final = 5.0
MAX_TTL_S: Final = 60.0
log = structlog.get_logger()


class HostTaken(Exception):
    """Another agent that lives has this host's name."""


class Left(NamedTuple):
    """What an agent left on disk."""

    boot: str
    mark: str = ""


async def claim_host(store: Store, holder: Holder, key: str, record: Agent, boot_path: Path) -> None:
    """Put our record, once the name is free. Raises HostTaken when it stays taken."""
    left, mark = read_as(boot_path, _parse_boot) or Left("none"), directory_mark(boot_path.parent)
    ours = {record.boot} if left.mark not in ("", mark) else {record.boot, left.boot}
    backoff = Backoff(0.1, 2.0)
    waits_until = None
    while True:
        try:
            found = await store.get(key)
            other = _other(found, ours)
            if other is None and await _create(store, key, record, found):
                break
        except StoreError as error:
            log.warning("etcd is away; this agent is not announced yet", error=str(error))
            await trio.sleep(backoff.next_s())
            continue
        if waits_until is None:
            log.warning("the host's name is taken; waiting for its lease to run out", address=other and other.address)
            waits_until = trio.current_time() + _patience_s(holder)
        if other is not None and trio.current_time() > waits_until:
            raise HostTaken(f"{key}: {_words(other, copied=other.boot == left.boot)}")
        await trio.sleep(0.5)
    disk.write(boot_path, f"{record.boot},{mark}".encode())
    holder.name(key, encode(record))


async def keep_name(holder: Holder, key: str) -> None:
    """Wait until another agent has had our name for longer than a lease without its owner lasts, and raise HostTaken.
    An etcd that was restored has the key of a run before, for as long as that."""
    while True:
        await holder.until_taken(key)
        with trio.move_on_after(_patience_s(holder)):
            await holder.until_free(key)
            continue
        raise HostTaken(f"{key}: {holder.taken(key)}; give each its own `host`")


def directory_mark(directory: Path) -> str:
    """What a copy of a directory has not: which one it is, of which start of which machine."""
    try:
        found = directory.stat()
        machine = KERNEL.read_text().strip()
    except OSError:
        return "0" * 12
    return hashlib.sha256(f"{machine} {found.st_dev} {found.st_ino}".encode()).hexdigest()[:12]


def _patience_s(holder: Holder) -> float:
    return min(holder.ttl_s, MAX_TTL_S) + GRACE_S


def _words(other: Agent, *, copied: bool) -> str:
    said = f"an agent at {other.address} lives under this name; give each its own `host`"
    if copied:
        said += " (this state directory is a copy of that agent's: leave it out of images of machines)"
    return said


def _other(found: KeyValue | None, ours: set[str]) -> Agent | None:
    """Who stands there and is neither us nor our own predecessor."""
    if found is None:
        return None
    try:
        standing = decode(Agent, found.value)
    except Malformed:
        return None  # nobody that others could find
    return None if standing.boot in ours else standing


async def _create(store: Store, key: str, record: Agent, found: KeyValue | None) -> bool:
    """Put it in the place of what was found: the holder moves it to its lease. False when somebody was faster."""
    revision = found.mod_revision if found is not None else 0
    lease = await store.grant(10)
    outcome = await store.transact([Compare(key, mod_revision=revision)], [Put(key, encode(record), lease)])
    return outcome.succeeded


def _parse_boot(data: bytes) -> Left:
    """Raises ValueError."""
    found = BOOT.fullmatch(data.decode().strip())
    if found is None:
        raise ValueError("it is no boot id")
    return Left(found[1], found[2] or "")
