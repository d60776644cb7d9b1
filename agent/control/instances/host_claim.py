"""One agent a host name: the key `agents/<host>` is created, never taken over from somebody who lives.

A predecessor of this very agent that crashed is known by the boot id that it left on disk, and is succeeded at once.
Anybody else's key has to run out first; when it does not within the time of a lease, its owner lives, and this agent
gives up with a message. It serves meanwhile: the name is for others to find us, not for our own calls.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import structlog
import trio

from agent.control.host import disk
from agent.process.own_files import read_as
from registry.backoff import Backoff
from registry.lease import Holder
from registry.records import Agent, Malformed, decode, encode
from registry.store import Compare, Put, Store, StoreError

BOOT: Final = re.compile(r"[!-~]{1,64}")
"""What tells the runs of agents apart."""
GRACE_S: Final = 5.0
MAX_TTL_S: Final = 60.0
log = structlog.get_logger()


class HostTaken(Exception):
    """Another agent that lives has this host's name."""


async def claim_host(store: Store, holder: Holder, key: str, record: Agent, boot_path: Path) -> None:
    """Put our record, once the name is free. Raises HostTaken when it stays taken."""
    predecessor = read_as(boot_path, _parse_boot) or "none"
    backoff = Backoff(0.1, 2.0)
    waits_until = None
    while True:
        try:
            other = await _other(store, key, record.boot, predecessor)
            if other is None and await _create(store, key, record):
                break
        except StoreError as error:
            log.warning("etcd is away; this agent is not announced yet", error=str(error))
            await trio.sleep(backoff.next_s())
            continue
        if waits_until is None:
            log.warning("the host's name is taken; waiting for its lease to run out", address=other and other.address)
            waits_until = trio.current_time() + min(holder.ttl_s, MAX_TTL_S) + GRACE_S
        if other is not None and trio.current_time() > waits_until:
            raise HostTaken(f"{key}: an agent at {other.address} lives under this name; give each its own `host`")
        await trio.sleep(0.5)
    disk.write(boot_path, record.boot.encode())
    holder.put(key, encode(record))


async def _other(store: Store, key: str, boot: str, predecessor: str) -> Agent | None:
    """Who stands there and is neither us nor our own predecessor."""
    found = await store.get(key)
    if found is None:
        return None
    try:
        standing = decode(Agent, found.value)
    except Malformed:
        return None  # nobody that others could find
    return None if standing.boot in (boot, predecessor) else standing


async def _create(store: Store, key: str, record: Agent) -> bool:
    """Put it as it stands: the holder moves it to its lease. False when somebody was faster."""
    found = await store.get(key)
    revision = found.mod_revision if found is not None else 0
    lease = await store.grant(10)
    outcome = await store.transact([Compare(key, mod_revision=revision)], [Put(key, encode(record), lease)])
    return outcome.succeeded


def _parse_boot(data: bytes) -> str:
    """Raises ValueError."""
    boot = data.decode().strip()
    if not BOOT.fullmatch(boot):
        raise ValueError("it is no boot id")
    return boot
