"""Snapshot, then watch: a range of etcd as it is, kept true. (Law 1 of the mesh: no event is lost.)

Laws
- Range at revision R, watch from R+1. What is delivered are whole revisions, in order, each once.
- After a broken stream the watch goes on where it stopped. After a compaction, and whenever the etcd that answers is
  not the one that was left (another cluster id, a lower revision), there is a fresh range, a diff against what is
  held, and synthesised deletes: one Update with `resync`.
- The revision to go on from moves only on what arrived in the stream, or with a range.
- Whether it is another is said with the Update, because its owner may not want to believe it. It is, too, when a key
  stands at a lower revision than it had, and when what was put last is not in the history of its revision (which etcd
  has until it is compacted). So an etcd that was restored from a backup under its old id, and has grown past our
  revision before we came back, is told from the one we left. What is known from before a restart (`expect`) counts.
- After more than AWAY_S without etcd everything is read again, and believed anew. While it is there, its keys and their
  revisions are compared with what is held now and then (`AUDIT_S`): a watch tells only what happens.
- A stream that is open but silent is asked for a sign of life, and given up when there is none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import structlog
import trio

from registry.backoff import Backoff
from registry.store import Change, Compacted, Range, Refused, Store, StoreError, Unavailable, Watch

SILENCE_S: Final = 5.0
AWAY_S: Final = 10.0
AUDIT_S: Final = 240.0
"""Between two comparisons; up to a half more, by chance, so that agents do not all ask at once."""
log = structlog.get_logger()


class Update(NamedTuple):
    """What changed. Without changes (only after a resync) it is word that nothing did."""

    revision: int
    changes: Sequence[Change]
    """In order of revision; one change a key when `resync`."""
    resync: bool
    another: str = ""
    """Why this etcd is not the one of the updates before; empty: it is. Then everything that stands is among the
    changes."""


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


class _Absence(NamedTuple):
    """Of etcd."""

    since: float
    """When it was last heard of, or first asked for, on Trio's clock."""
    revision: int
    """Up to which it was followed; 0: it was not."""


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
        audit_s: float = AUDIT_S,
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
        self._audit_s = audit_s
        self._audit_at = 0.0
        self._rng = random.Random()
        self._cluster_id = 0
        self._anew = False
        """Whether revisions prove nothing for the next snapshot."""
        self._witness = ("", 0)
        """A key, and the revision at which it was put: the newest that is known."""
        self._left = 0.0
        """When etcd was last there, on Trio's clock; before that, when it was first asked for."""
        self._absence: _Absence | None = None
        """While it is away, and that was told."""
        self._told = (0, 0)
        """The revision that was delivered last, and the newest among it at which one of our keys changed."""
        self._held: dict[str, int] = {}
        """Every key, and the revision of its value. The values are the owner's to keep."""
        self.state = MirrorState()

    @property
    def cluster_id(self) -> int:
        """Of the etcd that was read last; 0: none was."""
        return self._cluster_id

    @property
    def witness(self) -> tuple[str, int]:
        """A key, and the revision at which it was put: the newest that is known."""
        return self._witness

    def newest_change(self, revision: int) -> int:
        """The newest up to a revision that was delivered at which one of our keys changed. A snapshot may be younger
        than all that is in it: something was put elsewhere. What is gone by it counts as far as a watch told of it."""
        told, newest = self._told
        return newest if revision == told else revision

    def expect(self, cluster_id: int, revision: int, witness: tuple[str, int]) -> None:
        """What is known of etcd from before, though none of it is held; before `run`."""
        self._cluster_id = cluster_id
        self.state.revision = revision
        self._witness = witness

    async def run(self) -> None:
        """Follow etcd until cancelled, whatever it does."""
        self._left = trio.current_time()
        while True:
            try:
                if not self.state.synced:
                    await self._resync()
                elif trio.current_time() - self._left > AWAY_S:
                    self._anew = True
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
            self._absence = _Absence(self._left, state.revision)
            what = "etcd refuses us" if isinstance(error, Refused) else "etcd is away"
            log.warning(f"{what}; what is known stays in force", error=str(error))
        state.connected = False
        state.error = str(error)
        await trio.sleep(self._backoff.next_s())

    async def _resync(self) -> None:
        """Take a snapshot, and tell the owner how it differs from what is held."""
        found = await self._store.range(self._start, self._end)
        another = self._why_another(found) or await self._why_rewritten(found)
        changes = self._difference(found, another)
        await self._prepare(changes)
        self._held = {kv.key: kv.mod_revision for kv in found.items}
        self._witness = max(self._held.items(), key=lambda item: item[1], default=("", 0))
        self._anew = False
        self._cluster_id = found.cluster_id
        state = self.state
        state.revision = found.revision
        state.synced = True
        state.resyncs += 1
        if another:
            log.warning("this is not the etcd that was left", reason=another)
            if self._absence is not None:
                self._absence = self._absence._replace(revision=0)  # its revisions are others
        self._told = (found.revision, max(0 if another else self._told[1], self._witness[1]))
        self._deliver(Update(found.revision, changes, True, another))
        self._contact()

    def _why_another(self, found: Range) -> str:
        """Why this is not the etcd that was left, by what it says of itself; empty: nothing speaks against it."""
        if not self._cluster_id:
            return ""
        if found.cluster_id != self._cluster_id:
            return f"its cluster id is {found.cluster_id:x}, and was {self._cluster_id:x}"
        if found.revision < self.state.revision:
            return f"its revision is {found.revision}, and was {self.state.revision}"
        for kv in found.items:
            if kv.mod_revision < self._held.get(kv.key, 0):
                return f"{kv.key} stands at revision {kv.mod_revision}, and stood at {self._held[kv.key]}"
        return ""

    async def _why_rewritten(self, found: Range) -> str:
        """The same, by its history."""
        key, revision = self._witness
        if not self._cluster_id or not revision:
            return ""
        try:
            stood = await self._store.get(key, revision=revision)
        except Compacted:
            return ""
        if stood is not None and stood.mod_revision == revision:
            return ""
        return f"{key} was put at revision {revision}, and its history has nothing of it"

    def _difference(self, found: Range, another: str) -> list[Change]:
        """Values that are new, and deletes for what is gone. A revision proves sameness only within one etcd."""
        same_etcd = not another and not self._anew and bool(self._cluster_id)
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
            self._contact()
            self._tell_it_is_back(watch.revision)
            self._plan_audit()
            while True:
                await self._take(watch)
                if trio.current_time() >= self._audit_at:
                    await self._audit()

    def _tell_it_is_back(self, revision: int) -> None:
        """It is watched again, and stands at a revision."""
        absence, self._absence = self._absence, None
        if absence is None:
            return
        fields: dict[str, object] = {"away_s": round(trio.current_time() - absence.since, 1), "revision": revision}
        if absence.revision and revision >= absence.revision:
            fields["revisions_caught_up"] = revision - absence.revision
        log.info("etcd is back", **fields)

    def _plan_audit(self) -> None:
        self._audit_at = trio.current_time() + self._audit_s * (1 + self._rng.random() / 2)

    async def _audit(self) -> None:
        """Compare what is held with what stands. Raises _AnotherEtcd."""
        self._plan_audit()
        try:
            found = await self._store.range(self._start, self._end, revision=self.state.revision, keys_only=True)
        except Compacted:
            return
        stands = {kv.key: kv.mod_revision for kv in found.items}
        if stands != self._held:
            differ = sorted(key for key, _ in stands.items() ^ self._held.items())
            self._anew = True
            raise _AnotherEtcd(f"it differs from what is held, at {differ[0]} among others, though no word of it came")

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
            self._told = (batch.revision, max(change.revision for change in batch.changes))
            self._deliver(Update(batch.revision, batch.changes, False))

    def _hold(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is None:
                self._held.pop(change.key, None)
            else:
                self._held[change.key] = change.revision
                self._witness = (change.key, change.revision)

    def _contact(self) -> None:
        self._backoff.reset()
        self._left = trio.current_time()
        self.state.connected = True
        self.state.error = ""
        self.state.last_contact = time.monotonic()
