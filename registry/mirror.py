"""Snapshot, then watch: a range of etcd as it is, kept true. (Law 1 of the mesh: no event is lost.)

Laws
- Range at revision R, watch from R+1. What is delivered are whole revisions, in order, each once.
- After a broken stream the watch goes on where it stopped. After a compaction, and whenever the etcd that answers is
  not the one that was left (another cluster id, a lower revision), there is a fresh range, a diff against what is
  held, and synthesised deletes: one Update with `resync`.
- The revision to go on from moves only on what arrived in the stream, or with a range.
- An etcd that was restored from a backup under its old id, and has grown past our revision before we came back, looks
  like the one we left. Restoring takes a while, so after more than AWAY_S without it everything is read again, and
  believed anew. (Restoring with `--bump-revision --mark-compacted` shows by itself.)
- A stream that is open but silent is asked for a sign of life, and given up when there is none.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import structlog
import trio

from registry.backoff import Backoff
from registry.store import Change, Compacted, Range, Refused, Store, StoreError, Unavailable, Watch

SILENCE_S: Final = 5.0
AWAY_S: Final = 10.0
log = structlog.get_logger()


class Update(NamedTuple):
    """What changed. Without changes (only after a resync) it is word that nothing did."""

    revision: int
    changes: Sequence[Change]
    """In order of revision; one change a key when `resync`."""
    resync: bool


class MirrorState:
    """How the mirror stands with etcd. Times are monotonic seconds."""

    __slots__ = ("connected", "error", "last_contact", "resyncs", "revision", "synced")

    def __init__(self) -> None:
        self.synced = False
        """Whether there was a first snapshot."""
        self.connected = False
        self.error = ""
        self.revision = 0
        """Everything up to it has been delivered."""
        self.last_contact = 0.0
        self.resyncs = 0


class _AnotherEtcd(Exception):
    """The etcd that answers is not the one whose revisions we know."""


async def _nothing(_: Sequence[Change]) -> None:
    """Nothing is to be prepared."""


class Mirror:
    """Keeps the keys from `start` up to `end`, and tells one owner of every change, by a plain call."""

    def __init__(
        self,
        store: Store,
        start: str,
        end: str,
        deliver: Callable[[Update], None],
        *,
        prepare: Callable[[Sequence[Change]], Awaitable[None]] = _nothing,
        silence_s: float = SILENCE_S,
        backoff: Backoff | None = None,
    ) -> None:
        """`prepare` is awaited with the changes that are delivered next; it must not fail."""
        self._store = store
        self._start = start
        self._end = end
        self._deliver = deliver
        self._prepare = prepare
        self._silence_s = silence_s
        self._backoff = backoff or Backoff(0.1, 2.0)
        self._cluster_id = 0
        self._left = 0.0
        """When etcd was last there, on Trio's clock."""
        self._held: dict[str, int] = {}
        """Every key, and the revision of its value. The values are the owner's to keep."""
        self.state = MirrorState()

    @property
    def cluster_id(self) -> int:
        """Of the etcd that was read last; 0: none was."""
        return self._cluster_id

    async def run(self) -> None:
        """Follow etcd until cancelled, whatever it does."""
        while True:
            try:
                if not self.state.synced:
                    await self._resync()
                elif trio.current_time() - self._left > AWAY_S:
                    self._cluster_id = 0
                    await self._resync()
                await self._follow()
            except (Compacted, _AnotherEtcd) as reason:
                log.info("taking a fresh snapshot", reason=str(reason))
                self.state.synced = False
            except StoreError as error:
                await self._wait(error)

    async def _wait(self, error: StoreError) -> None:
        state = self.state
        if state.connected or not state.error:
            what = "etcd refuses us" if isinstance(error, Refused) else "etcd is away"
            log.warning(f"{what}; what is known stays in force", error=str(error))
        state.connected = False
        state.error = str(error)
        await trio.sleep(self._backoff.next_s())

    async def _resync(self) -> None:
        """Take a snapshot, and tell the owner how it differs from what is held."""
        found = await self._store.range(self._start, self._end)
        changes = self._difference(found)
        await self._prepare(changes)
        self._held = {kv.key: kv.mod_revision for kv in found.items}
        self._cluster_id = found.cluster_id
        state = self.state
        state.revision = found.revision
        state.synced = True
        state.resyncs += 1
        self._contact()
        self._deliver(Update(found.revision, changes, True))

    def _difference(self, found: Range) -> list[Change]:
        """Values that are new, and deletes for what is gone. A revision proves sameness only within one etcd."""
        same_etcd = found.cluster_id == self._cluster_id and found.revision >= self.state.revision
        held = self._held
        present = {kv.key for kv in found.items}
        gone = [Change(key, None, found.revision) for key in held if key not in present]
        put = [
            Change(kv.key, kv.value, kv.mod_revision, kv.create_revision)
            for kv in found.items
            if not same_etcd or held.get(kv.key) != kv.mod_revision
        ]
        return sorted(gone + put, key=lambda change: (change.revision, change.key))

    async def _follow(self) -> None:
        """Watch from the next revision on."""
        async with self._store.watch(self._start, self._end, self.state.revision + 1) as watch:
            if watch.cluster_id != self._cluster_id or watch.revision < self.state.revision:
                raise _AnotherEtcd(
                    f"cluster {watch.cluster_id:x} at revision {watch.revision}, after "
                    f"cluster {self._cluster_id:x} at revision {self.state.revision}"
                )
            if not self.state.connected:
                log.info("watching etcd", revision=self.state.revision)
            self._contact()
            while True:
                await self._take(watch)

    async def _take(self, watch: Watch) -> None:
        batch = None
        for asked in (False, True):
            with trio.move_on_after(self._silence_s):
                batch = await watch.receive()
            if batch is not None:
                break
            if not asked:
                await watch.request_progress()
        if batch is None:
            raise Unavailable(
                f"the watch has been silent for {2 * self._silence_s:g} s, though asked for a sign of life"
            )
        self._contact()
        if batch.revision <= self.state.revision:
            return
        if batch.changes:
            await self._prepare(batch.changes)
            self._hold(batch.changes)
        self.state.revision = batch.revision
        if batch.changes:
            self._deliver(Update(batch.revision, batch.changes, False))

    def _hold(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is None:
                self._held.pop(change.key, None)
            else:
                self._held[change.key] = change.revision

    def _contact(self) -> None:
        self._backoff.reset()
        self._left = trio.current_time()
        self.state.connected = True
        self.state.error = ""
        self.state.last_contact = time.monotonic()
