"""Whether etcd lets this agent write what it has to: asked before it matters, so that what is lacking is named.

A transaction that is refused for one key is refused whole, and etcd does not say for which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from registry.keys import Keys, Room
from registry.rights import Grant, Rights
from registry.store import Compare, Put, Refused, Store, StoreError, prefix_end

NEVER: Final = 2**62
"""A revision that no key is created at."""
AGAIN_S: Final = 30.0
log = structlog.get_logger()


async def may_write(store: Store, *keys: str) -> bool:
    """Whether etcd lets us write them all, which stay as they are: rights are judged first. Raises StoreError."""
    try:
        await store.transact([Compare(keys[0], create_revision=NEVER)], [Put(key, b"") for key in keys])
    except Refused:
        return False
    return True


def needed(keys: Keys, host: str, *, own: bool) -> list[Grant]:
    """What an agent writes in any case. `own`: under its host's own keys, and not where all hosts' stand."""
    rights = Rights(keys, kept_by_issuers=True)
    grants = {*rights.agent().grants, *rights.host(host).grants}
    later = {keys.under(Room.REQUESTS, host)}
    if not own:
        later |= {keys.under(Room.HOSTS, host), keys.under(Room.REPORTS, host)}
        grants.add(Grant(keys.room(Room.TALLIES), prefix_end(keys.room(Room.TALLIES)), "readwrite"))
        grants |= {grant for grant in rights.operator().grants if grant.key in common(keys)}
    return sorted(grant for grant in grants if grant.may == "readwrite" and grant.key not in later)


def common(keys: Keys) -> tuple[str, str]:
    """Where agents of all hosts write, unless they write under keys of their own."""
    return keys.room(Room.INSTANCES), keys.room(Room.HEALTH)


class EtcdRights:
    """This agent's."""

    def __init__(self, store: Store, keys: Keys, host: str) -> None:
        self._store = store
        self._keys = keys
        self._host = host
        self.lacking: tuple[str, ...] = ()
        """Keys, or prefixes of keys (with a slash at the end), that it may not write and has to."""

    async def run(self, own: Callable[[], bool]) -> None:
        """Look now and then, until cancelled; `own`: as `needed`."""
        while True:
            try:
                lacking = await self._look(needed(self._keys, self._host, own=own()))
            except StoreError:
                lacking = self.lacking  # etcd is away, which others tell
            if lacking != self.lacking:
                self.lacking = lacking
                if lacking:
                    log.error("etcd does not let this agent write what it has to", keys=" ".join(lacking))
                else:
                    log.info("etcd lets this agent write all that it has to")
            await trio.sleep(AGAIN_S)

    async def _look(self, grants: Iterable[Grant]) -> tuple[str, ...]:
        """All at once, and each by itself only where that is refused."""
        keys = {grant.key: f"{grant.key}probe" if grant.end else grant.key for grant in grants}
        if await may_write(self._store, *keys.values()):
            return ()
        return tuple([key for key, probe in keys.items() if not await may_write(self._store, probe)])
