"""What stands in etcd of events that are being told, written by who tells them.

Laws
- What is written is fenced by the claim of who tells, and by the entry as it was read.
- What is told is deleted from `events/` in the transaction that puts `told/`. What stands of it under another host's
  own key is that host's to clear away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog

from agent.control.events.outbox.pending import Standing
from agent.control.host.clock import now_text
from registry.claim import Claim
from registry.keys import Keys, Room
from registry.records import OutboxEntry, encode
from registry.store import Compare, Delete, Put, Refused, Store, StoreError

TOLD_S: Final = 25 * 3600
TOLD_FOR_S: Final = 3600
"""For so long events are put on the same lease."""
AT_A_TIME: Final = 100
log = structlog.get_logger()


class Entries:
    """Of one agent that tells."""

    def __init__(self, store: Store, keys: Keys, host: str) -> None:
        self._store = store
        self._keys = keys
        self._host = host
        self._told_lease = (0, -1.0)

    async def finish(
        self, standing: Standing, done: dict[str, str], claim: Claim, *, told: bool, lost: Mapping[str, str],
        also: Iterable[Put | Delete] = (),
    ) -> int:  # fmt: skip
        """Write down what came of an event, by hook; `told`: every hook is done; `lost`: hooks that gave it up just
        now. The revision; 0: it has changed meanwhile, or is gone. Raises StoreError."""
        event = standing.event
        key = self._keys.event(event.id)
        trying = {hook: reason for hook, reason in standing.trying.items() if hook not in done}
        operations: list[Put | Delete] = [Put(key, _entry(standing, done, trying)), *also]
        if told:
            record = OutboxEntry(event=msgspec.to_builtins(event), done=done, trying=trying, at=now_text())
            lease = await self._lease()
            operations = [Delete(key), Put(self._keys.event(event.id, Room.TOLD), encode(record), lease), *also]
            if standing.host == self._host:
                operations.append(Delete(self._keys.own_event(self._host, event.id)))
        if lost:
            dead = encode(OutboxEntry(event=msgspec.to_builtins(event), done=dict(lost), at=now_text()))
            operations.append(Put(self._keys.event(event.id, Room.UNDELIVERED), dead))
        fences = [Compare(claim.key, create_revision=claim.fence), Compare(key, mod_revision=standing.revision)]
        outcome = await self._store.transact(fences, operations)
        return outcome.revision if outcome.succeeded else 0

    async def note_trying(self, standing: Standing, hook: str, reason: str, claim: Claim) -> None:
        """Have it stand in etcd why a hook was not told yet, for people; no matter if that fails."""
        trying = {**standing.trying, hook: reason}
        record = _entry(standing, standing.done, trying)
        key = self._keys.event(standing.event.id)
        fences = [Compare(claim.key, create_revision=claim.fence), Compare(key, mod_revision=standing.revision)]
        try:
            await self._store.transact(fences, [Put(key, record)])
        except StoreError as error:
            log.debug("etcd did not take it", error=str(error))

    async def drop(self, keys: list[str]) -> bool:
        """Keys that say nothing any more; False: etcd does not let us. No matter if that fails otherwise, for it is
        done again."""
        for at in range(0, len(keys), AT_A_TIME):
            try:
                await self._store.transact([], [Delete(key) for key in keys[at : at + AT_A_TIME]])
            except Refused:
                return False
            except StoreError as error:
                log.debug("etcd did not take it", error=str(error))
        return True

    async def _lease(self) -> int:
        """The lease of what was told lately: nobody renews it."""
        lease, until = self._told_lease
        if time.monotonic() > until:
            lease = await self._store.grant(TOLD_S)
            self._told_lease = (lease, time.monotonic() + TOLD_FOR_S)
        return lease


def _entry(standing: Standing, done: dict[str, str], trying: dict[str, str]) -> bytes:
    """How far it is told; with the event itself, where that stands nowhere else."""
    event = {} if standing.host else msgspec.to_builtins(standing.event)
    return encode(OutboxEntry(event=event, host=standing.host, done=done, trying=trying, at=now_text()))
