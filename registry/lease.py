"""Keys that live as long as their owner: put on a lease, kept alive, and put again when the lease was lost.

Law 7 of the mesh: an expired lease means a new lease and every key put again, promptly. What should stand in etcd is
kept here; what does stand there is made to agree, whenever etcd lets us, and as far as it is ours (`registry.fences`).
With a Renewal the lease itself is renewed by a thread, so that a loop that is late loses no lease; without one (a store
in memory) by `run`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain, groupby
from typing import Final

import structlog
import trio

from registry.backoff import Backoff
from registry.fences import Fences, NameTaken, Whose, nobodys
from registry.renewal import Renewal
from registry.store import Change, Delete, LeaseGone, NoSpace, Put, Store, StoreError, TooLarge

log = structlog.get_logger()
_BATCH: Final = 100
MAX_ALSO: Final = 90


class Holder:
    """Holds keys on one lease. `put` and `drop` say what should be; `run` sees to it; `settled` waits for it."""

    def __init__(
        self,
        store: Store,
        ttl_s: int = 15,
        *,
        lease: int = 0,
        backoff: Backoff | None = None,
        renewal: Renewal | None = None,
        whose: Whose = nobodys,
    ) -> None:
        """`whose`: who has a key that only one may have."""
        self._store = store
        self._fences = Fences(whose)
        self._renewal = renewal
        self._gone = 0
        """The lease that the thread found gone."""
        self.ttl_s = ttl_s
        self._backoff = backoff or Backoff(0.1, max(1.0, ttl_s / 5))
        self._wanted: dict[str, bytes] = {}
        self._dirty: set[str] = set()
        self._also: dict[str, list[Put]] = {}
        """Puts without lease that go into the transaction of a key."""
        self._flying = False
        """Whether a transaction is on its way, with keys that are not dirty for its time: what is said of them
        meanwhile counts anew, also when it is the same."""
        self._wake = trio.Event()
        self._settled = trio.Event()
        self._judged = trio.Event()
        """Set, and made anew, when others are found to have keys, or not to have them any more."""
        self._renewed = -math.inf
        self.lease = lease
        """0 while there is none."""
        self.renewed = trio.Event()
        """Set once the thread has renewed a lease."""
        self.revision = 0
        """Of the last change that was made in etcd."""
        self.error = ""
        self.regrants = 0

    def put(self, key: str, value: bytes, *, also: Sequence[Put] = (), of: str = "") -> None:
        """Have a key stand on the lease. `also` is put in the same transaction, without a lease, and not again unless
        it is not known whether that transaction was made.

        `of`: the key that only one may have, and which it is written with or not at all; itself, for that key. While
        another has that (`taken`) nothing is put, and what was to be put then is once he is gone.
        """
        if of:
            self._fences.join(key, of)
        if self._wanted.get(key) != value or also:
            self._wanted[key] = value
            if not self._fences.bars(key):
                self._add(key, also)
                self._touch(key)

    def drop(self, key: str, *, also: Sequence[Put] = ()) -> None:
        """Have a key gone, unless it is another's; `also` as in `put`."""
        self._wanted.pop(key, None)
        if not self._fences.bars(key):
            self._add(key, also)
        self._touch(key)  # what is on its way may just have made it ours

    def supersede(self, keys: Sequence[str], group: str, by: str, *, stands: bool = False) -> None:
        """Have the keys of a group gone in the transaction in which the group `by` is put: one revision has both.

        What was to be put along with them is put with that. `stands`: they stand in etcd, though nobody put them here.
        """
        if stands or self._flying or self._fences.begun(group):
            self._fences.supersede(keys, group, by)
        for key in keys:
            self._wanted.pop(key, None)
            self._add(by, self._also.pop(key, ()))
            if self._fences.is_superseded(key):
                self._touch(key)
            else:
                self._dirty.discard(key)
                self._fences.leave(key)

    def name(self, key: str, value: bytes) -> None:
        """Have the key stand under which all others are written: none is while another has it (NameTaken)."""
        self._fences.name = key
        self.put(key, value, of=key)

    def taken(self, key: str) -> str:
        """Who else has a key that only one may have, in words; empty: nobody, as far as etcd has said."""
        return self._fences.taken.get(key, "")

    async def until_taken(self, key: str) -> None:
        """Wait until somebody else has it."""
        while not self.taken(key):
            await self._judged.wait()

    async def until_free(self, key: str) -> None:
        """Wait until nobody else has it."""
        while self.taken(key):
            await self._judged.wait()

    def _add(self, key: str, also: Sequence[Put]) -> None:
        if also:
            kept = [*self._also.get(key, ()), *also]
            if len(kept) > MAX_ALSO:
                log.error("more happened to a key while etcd was away than can be told", key=key)
            self._also[key] = kept[-MAX_ALSO:]

    def hear(self, change: Change) -> None:
        """What happened in etcd: a key of ours that somebody deleted is put again, and so is one that is ours alone and
        that somebody wrote over. One that another had, and that is gone, is had with all that belongs to it."""
        key = change.key
        if key not in self._wanted:
            if change.value is None and self._fences.is_superseded(key) and not self._flying:
                self._dirty.discard(key)
                self._fences.leave(key)
            return
        if change.value is None or self._fences.bars(key):
            for member in self._fences.members(key, self._wanted) or [key]:
                self._touch(member)
        elif change.value != self._wanted[key] and self._fences.is_written_over(key, change.revision):
            log.warning("somebody wrote over a key of this agent; it is put again", key=key)
            self._touch(key)

    def _touch(self, key: str) -> None:
        self._dirty.add(key)
        self._unsettle()
        self._wake.set()

    def _unsettle(self) -> None:
        if self._settled.is_set():  # else somebody may wait for the event that there is
            self._settled = trio.Event()

    async def settled(self) -> None:
        """Wait until etcd agrees with everything said so far."""
        while self._dirty or self._flying or not self.lease:
            await self._settled.wait()

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        """Have the thread, if there is one, renew the lease for the length of a block.

        One that was handed over is renewed at once, long before `run` can begin.
        """
        if self._renewal is None:
            yield
            return
        async with self._renewal.running(self._on_gone, self.renewed.set):
            self._renewal.lease = self.lease
            yield

    def _on_gone(self, lease: int) -> None:
        self._gone = lease
        self._wake.set()

    async def extend(self, limit_s: float) -> None:
        """Have the lease its whole time from now on, if etcd says so within the limit: for a successor that has yet to
        come up."""
        if self.lease:
            with trio.move_on_after(limit_s):
                try:
                    await self._store.keep_alive(self.lease)
                except StoreError as error:
                    log.warning("the lease is not extended", error=str(error))

    async def run(self) -> None:
        """Keep etcd in agreement until cancelled, inside of `renewing`. The lease stays; `release` gives it up."""
        while True:
            try:
                await self._once()
            except LeaseGone as gone:
                log.warning("the lease is gone; every key is put again on a new one", reason=str(gone))
                self.lease = 0
                self._fences.forget_lives()
                self._unsettle()
            except StoreError as error:
                if not self.error:
                    log.warning("cannot keep our keys in etcd; trying on", error=str(error))
                self.error = str(error)
                await trio.sleep(self._backoff.next_s())

    async def _once(self) -> None:
        """A lease, then what has changed, then wait for more or for the next renewal."""
        if not self.lease:
            began = trio.current_time()
            self.lease = await self._store.grant(self.ttl_s)
            self._renewed = began
            self.regrants += 1
            self._dirty |= set(self._wanted)
        await self._renew()
        while self._dirty:
            await self._flush_batch()
        self._backoff.reset()
        self.error = self._renewal.error if self._renewal is not None else ""
        self._settled.set()
        self._wake = trio.Event()
        with trio.move_on_at(self._renewed + self.ttl_s / 3):
            await self._wake.wait()

    async def _renew(self) -> None:
        """As long as there is a thread for it, only hear what it found."""
        if self._gone == self.lease:
            raise LeaseGone(f"lease {self.lease:x} has run out")
        if self._renewal is not None:
            self._renewal.lease = self.lease
            self._renewed = trio.current_time()
        elif trio.current_time() >= self._renewed + self.ttl_s / 3:
            began = trio.current_time()
            await self._store.keep_alive(self.lease)
            self._renewed = began

    async def _flush_batch(self) -> None:
        self._dirty = {key for key in self._dirty if not self._fences.waits(key)}
        batch = self._next_batch()
        if not batch:
            return
        self._dirty.difference_update(batch)
        self._flying = True
        try:
            await self._flush(batch)
            batch = []
        finally:
            self._flying = False
            self._dirty.update(batch)

    def _next_batch(self) -> list[str]:
        """As many keys as fit into a transaction with what goes along with them, units whole; one unit at least."""
        batch: list[str] = []
        size = 0
        for _, members in groupby(sorted(self._dirty, key=self._fences.order), key=self._fences.unit):
            unit = list(members)
            size += sum(1 + len(self._also.get(key, ())) for key in unit)
            if batch and size > _BATCH:
                break
            batch += unit
        return batch

    async def _flush(self, keys: Sequence[str]) -> None:
        """As one revision, where etcd takes that much at once."""
        values = {key: self._wanted.get(key) for key in keys}
        operations: list[Put | Delete] = [
            Delete(key) if value is None else Put(key, value, self.lease) for key, value in values.items()
        ]
        also = {key: list(self._also[key]) for key in keys if key in self._also}
        compares = self._fences.compares(keys)
        try:
            outcome = await self._store.transact(
                compares, [*operations, *(put for puts in also.values() for put in puts)]
            )
        except TooLarge as error:
            if len(keys) == 1:
                log.error("a key cannot be put, and is left out", key=keys[0], error=str(error))
                self._also.pop(keys[0], None)
                return
            for half in self._fences.halves(keys):
                await self._flush(half)
            return
        except NoSpace:
            gone = (key for key, value in values.items() if value is None)
            await self._delete_alone(key for key in gone if not self._fences.is_superseded(key))
            raise
        if not outcome.succeeded:
            await self._judge(keys, [compare.key for compare in compares])
            return
        self.revision = outcome.revision
        self._fences.done(operations, outcome.revision, self._wanted)
        self._dirty.update(chain(*(self._fences.members(key, ()) for key in keys)))  # what waited for it
        self._tell_judged()
        for key, puts in also.items():
            left = self._also[key][len(puts) :]
            if left:
                self._also[key] = left
            else:
                del self._also[key]

    async def _judge(self, keys: Sequence[str], fencing: Sequence[str]) -> None:
        """Some of them are not as we knew them: who has them? What is ours is tried again, what is another's is left to
        him. Raises NameTaken, and then all of it is tried again later."""
        for group in fencing:
            found = await self._store.get(group)
            self._fences.judge(group, found, self.lease)
            if found is None:  # others may have come and gone: all that belongs to it is put with it
                self._dirty.update(self._fences.members(group, self._wanted))
        self._tell_judged()
        if who := self.taken(self._fences.name):
            raise NameTaken(f"the name of this host is another's: {who}")
        for key in keys:
            if not self._fences.bars(key):
                self._dirty.add(key)
                continue
            self._also.pop(key, None)
            if key not in self._wanted:
                self._dirty.discard(key)
                self._dirty.update(self._fences.members(key, ()))  # nothing will stand in their place
                self._fences.leave(key)

    def _tell_judged(self) -> None:
        self._judged.set()
        self._judged = trio.Event()

    async def _delete_alone(self, keys: Iterable[str]) -> None:
        """What is to be gone goes at least: an etcd without space takes deletes and no puts, so that what is seen to be
        ours cannot become another's meanwhile. It is said again with what else has to be put."""
        for key in keys:
            if await self._holds(key):
                self.revision = await self._store.delete(key)  # a full etcd of 3.5.1 refuses any transaction

    async def _holds(self, key: str) -> bool:
        """Whether what fences it is as we know it."""
        for compare in self._fences.compares([key]):
            found = await self._store.get(compare.key)
            if (found.create_revision if found is not None else 0) != compare.create_revision:
                return False
        return True

    async def release(self) -> None:
        """Give the lease up, and with it every key that stands on it."""
        lease, self.lease = self.lease, 0
        if self._renewal is not None:
            self._renewal.lease = 0
        self._unsettle()
        if lease:
            await self._store.revoke(lease)
