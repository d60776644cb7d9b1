"""The Store contract in memory, for unit tests: the same promises, and faults on demand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from registry.store import (
    Change,
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseGone,
    Outcome,
    Put,
    Range,
    Refused,
    TooLarge,
    Unavailable,
    WatchBatch,
)

MAX_VALUE_BYTES = 1_500_000
MAX_OPERATIONS = 128


class MemoryStore:
    """One etcd, without etcd. Leases run out on Trio's clock."""

    def __init__(self) -> None:
        self.cluster_id = 1
        self.revision = 1
        self.compacted = 0
        self.down = False
        """While True every call raises Unavailable."""
        self._keys: dict[str, KeyValue] = {}
        self._history: list[list[Change]] = []
        """One list of changes a revision, from revision `_first` on."""
        self._first = 2
        self._leases: dict[int, tuple[int, float]] = {}
        self._lease_numbers = itertools.count(1000)
        self._watches: set[MemoryWatch] = set()

    # Faults.

    def cut(self) -> None:
        """Break every open watch."""
        for watch in list(self._watches):
            watch.end(Unavailable("cut"))

    def silence(self) -> None:
        """Open watches stay open, and deliver nothing any more."""
        for watch in self._watches:
            watch.silent = True

    def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        self.compacted = max(self.compacted, min(revision, self.revision))

    def replace(self, *, cluster_id: int | None = None, revision: int = 1) -> None:
        """Another etcd in this one's place: empty, at some revision, perhaps with another id."""
        self.cluster_id = cluster_id if cluster_id is not None else self.cluster_id
        self._keys = {}
        self._history = []
        self.revision = revision
        self._first = revision + 1
        self.compacted = revision
        self._leases = {}
        self.cut()

    # The contract.

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        await self._answer()
        if not revision:
            return self._keys.get(key)
        if revision < self.compacted:
            raise Compacted(self.compacted)
        past = self._history[: max(0, revision + 1 - self._first)]
        last = next((c for changes in reversed(past) for c in changes if c.key == key), None)
        if last is None or last.value is None:
            return None
        return KeyValue(key, last.value, last.revision, last.created, 0, 0)

    async def range(self, start: str, end: str, *, revision: int = 0, keys_only: bool = False) -> Range:
        await self._answer()
        if revision and revision < self.compacted:
            raise Compacted(self.compacted)
        stood = self._keys if revision in (0, self.revision) else self._at(revision)
        items = [kv for key, kv in sorted(stood.items()) if start <= key < end]
        if keys_only:
            items = [kv._replace(value=b"") for kv in items]
        return Range(items, revision or self.revision, self.cluster_id)

    def _at(self, revision: int) -> dict[str, KeyValue]:
        """The keys as they stood at a revision; without leases."""
        stood: dict[str, KeyValue] = {}
        for changes in self._history[: max(0, revision + 1 - self._first)]:
            for change in changes:
                if change.value is None:
                    del stood[change.key]
                else:
                    stood[change.key] = KeyValue(change.key, change.value, change.revision, change.created, 0, 0)
        return stood

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        await self._answer()
        return self._apply([Put(key, value, lease)])

    async def delete(self, key: str) -> int:
        await self._answer()
        return self._apply([Delete(key)])

    async def delete_range(self, start: str, end: str) -> int:
        await self._answer()
        return self._apply([Delete(key) for key in sorted(self._keys) if start <= key < end])

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        await self._answer()
        if max(len(compare), len(success), len(failure)) > MAX_OPERATIONS:
            raise TooLarge(f"a transaction of {len(success)} operations; at most {MAX_OPERATIONS}")
        _check_once(success)
        _check_once(failure)
        succeeded = all(self._holds(c) for c in compare)
        return Outcome(succeeded, self._apply(success if succeeded else failure))

    async def grant(self, ttl_s: int) -> int:
        await self._answer()
        lease = next(self._lease_numbers)
        self._leases[lease] = (ttl_s, trio.current_time() + ttl_s)
        return lease

    async def keep_alive(self, lease: int) -> int:
        await self._answer()
        if lease not in self._leases:
            raise LeaseGone(f"lease {lease} has run out")
        ttl_s, _ = self._leases[lease]
        self._leases[lease] = (ttl_s, trio.current_time() + ttl_s)
        return ttl_s

    async def revoke(self, lease: int) -> None:
        await self._answer()
        self.expire(lease)

    def expire(self, lease: int) -> None:
        """End a lease, and delete what is on it, as one revision."""
        if self._leases.pop(lease, None) is not None:
            self._apply([Delete(key) for key, kv in sorted(self._keys.items()) if kv.lease == lease])

    @asynccontextmanager
    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[MemoryWatch]:
        await self._answer()
        watch = MemoryWatch(self, start, end, revision)
        if revision and revision <= self.compacted:
            raise Compacted(self.compacted)
        for number, changes in enumerate(self._history, self._first):
            if revision and number >= revision:
                watch.deliver(number, changes)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def aclose(self) -> None:
        self.cut()

    # Inside.

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise Unavailable("down")
        now = trio.current_time()
        for lease, (_, ends) in list(self._leases.items()):
            if ends <= now:
                self.expire(lease)

    def _holds(self, compare: Compare) -> bool:
        if compare.end:
            keys = [key for key in self._keys if compare.key <= key < compare.end]
            return all(self._holds(compare._replace(key=key, end="")) for key in keys or [compare.key])
        found = self._keys.get(compare.key)
        if compare.create_revision is not None:
            return (found.create_revision if found else 0) == compare.create_revision
        return (found.mod_revision if found else 0) == compare.mod_revision

    def _apply(self, operations: Sequence[Put | Delete]) -> int:
        """Do it all as one revision; deleting what is not there changes nothing."""
        for operation in operations:
            if isinstance(operation, Put):
                if len(operation.value) > MAX_VALUE_BYTES:
                    raise TooLarge(f"{operation.key}: {len(operation.value)} bytes")
                if operation.lease and operation.lease not in self._leases:
                    raise LeaseGone(f"lease {operation.lease} has run out")
        effective = [op for op in dict.fromkeys(operations) if isinstance(op, Put) or op.key in self._keys]
        if not effective:
            return self.revision
        self.revision += 1
        changes = [self._apply_one(operation) for operation in effective]
        self._history.append(changes)
        for watch in list(self._watches):
            watch.deliver(self.revision, changes)
        return self.revision

    def _apply_one(self, operation: Put | Delete) -> Change:
        if isinstance(operation, Delete):
            del self._keys[operation.key]
            return Change(operation.key, None, self.revision)
        before = self._keys.get(operation.key)
        created = before.create_revision if before else self.revision
        version = before.version + 1 if before else 1
        self._keys[operation.key] = KeyValue(
            operation.key, operation.value, self.revision, created, version, operation.lease
        )
        return Change(operation.key, operation.value, self.revision, created)


def _check_once(operations: Sequence[Put | Delete]) -> None:
    """A revision has one value of a key. Raises Refused, as etcd does."""
    puts = [operation.key for operation in operations if isinstance(operation, Put)]
    deletes = {operation.key for operation in operations if isinstance(operation, Delete)}
    if len(set(puts)) < len(puts) or deletes.intersection(puts):
        raise Refused("duplicate key given in txn request")


class MemoryWatch:
    """An open watch."""

    def __init__(self, store: MemoryStore, start: str, end: str, revision: int) -> None:
        self._store = store
        self._start = start
        self._end = end
        self._from = revision
        self._send, self._receive = trio.open_memory_channel[WatchBatch](float("inf"))
        self._error: Exception = Unavailable("closed")
        self.silent = False
        self._ended = False
        self.cluster_id = store.cluster_id
        self.revision = store.revision

    def deliver(self, revision: int, changes: Sequence[Change]) -> None:
        """What happened at a revision."""
        seen = [c for c in changes if self._start <= c.key < self._end]
        if seen and not self.silent and not self._ended and revision >= self._from:
            self._send.send_nowait(WatchBatch(revision, seen))

    def end(self, error: Exception) -> None:
        """Break the stream."""
        self._error = error
        self._ended = True
        self._send.close()

    async def receive(self) -> WatchBatch:
        """The next batch."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise self._error from None

    async def request_progress(self) -> None:
        """Answers at once, unless silent."""
        if not self.silent and not self._ended:
            self._send.send_nowait(WatchBatch(0, ()))
        await trio.lowlevel.checkpoint()
