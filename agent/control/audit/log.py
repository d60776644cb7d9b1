"""This host's audit log: what is to be recorded is handed over here, and written off control's loop.

Laws
- Recording never waits for a disk and never fails for who calls: what cannot be written is counted, and as soon as
  there is room again the log itself tells how many are missing, and why.
- Whoever waits for the disk (`synced`) is told that it is on it after it was synced, and never before; a failure is
  told at once, and that record is lost.
- What waits to be written is bounded in number and in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import structlog
import trio

from agent.audit.record import LOST, Chance, Draft, Position
from agent.control.audit.segments import Segments
from agent.process.finishing import Finishing

MOST_WAITING: Final = 50_000
"""Records."""
MOST_WAITING_BYTES: Final = 32 * 1024 * 1024
BATCH: Final = 1000
GATHER_S: Final = 0.05
"""Records that nobody waits for are written together."""
SYNC_S: Final = 1.0
"""How long after it was written a record that nobody waits for is on disk."""
RETRY_S: Final = 1.0
FINISH_S: Final = 2.0
T = TypeVar("T")
Reply = Callable[[str], None]
"""Told once: empty, it is on disk; else why not."""
log = structlog.get_logger()


class _Waiting(NamedTuple):
    draft: Draft
    size: int
    reply: Reply | None


class AuditLog:
    """Of one agent."""

    def __init__(
        self,
        folder: Path,
        host: str,
        *,
        about: Mapping[str, Any],
        segment_bytes: int,
        segment_s: float,
        clock: Callable[[], float],
        chance: Chance,
        ship: Callable[[bytes, int], None] | None = None,
    ) -> None:
        """`about`: what each segment tells of its agent. `ship`: is handed the lines of what was written."""
        self.segments = Segments(folder, host, about, clock, chance)
        self.folder = folder
        self.host = host
        self.clock = clock
        self.closed = trio.Event()
        """Set when a segment was closed, and then another."""
        self.opened = trio.Event()
        """Set when the end of what there was is found."""
        self.lost = 0
        """Records that were not written, since this process began."""
        self.error = ""
        """Why nothing is written now."""
        self.written = 0
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._ship = ship
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._writing = 0
        """Records of the batch that is being written."""
        self._given = trio.Event()
        self._turn = trio.Lock()
        """Of whoever uses the segments."""
        self._untold: dict[str, int] = {}
        """Records that were lost and of which the log does not tell yet, by why."""
        self._finishing = Finishing(FINISH_S, lambda: self._given.set())
        self._unsynced = False

    # What is handed over.

    def note(
        self,
        event: str,
        data: Mapping[str, Any],
        personal: Mapping[str, str] | None = None,
        *,
        until: float = 0.0,
    ) -> None:
        """Something happened."""
        self.add(Draft(event, self.clock(), data, personal or {}, until))

    def add(self, draft: Draft) -> None:
        """The same."""
        self._add(draft, None)

    def synced(self, draft: Draft, reply: Reply) -> None:
        """Something that somebody waits for."""
        self._add(draft, reply)

    def lose(self, count: int, reason: str) -> None:
        """Records that did not come as far as here."""
        if not self.lost:
            log.error("audit records are lost", reason=reason)
        self.lost += count
        self._untold[reason] = self._untold.get(reason, 0) + count
        self._given.set()

    def _add(self, draft: Draft, reply: Reply | None) -> None:
        size = _size(draft)
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + size > MOST_WAITING_BYTES:
            reason = self.error or "they are not written as fast as they come"
            self.lose(1, reason)
            if reply is not None:
                reply(reason)
            return
        self._waiting.append(_Waiting(draft, size, reply))
        self._waiting_bytes += size
        self._given.set()

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._waiting) + self._writing

    @property
    def position(self) -> Position:
        """The last record that is written."""
        return self.segments.position

    # Writing.

    async def run(self) -> None:
        """Write until cancelled, and then what is still there."""
        await self._finishing.run(self._work)

    async def _work(self) -> None:
        """A stuck disk is left behind at the end, with whatever it still does."""
        with self._finishing.patience:
            await self._open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_synced)
                await self._write_all()
                nursery.cancel_scope.cancel()
            await self._exclusive(self.segments.close)

    async def _open(self) -> None:
        while True:
            try:
                await self._exclusive(self.segments.open)
                self.error = ""
                self.opened.set()
                return
            except OSError as error:
                self._fail(error.strerror or str(error))
            if self._finishing.ending:
                self._finishing.patience.cancel()
            await trio.sleep(RETRY_S)

    async def _write_all(self) -> None:
        while True:
            while self._waiting or self._untold:
                if not any(each.reply is not None for each in self._waiting):
                    await trio.sleep(GATHER_S)
                if not await self._write_some():
                    if self._finishing.ending:
                        return
                    await trio.sleep(RETRY_S)
            if self._finishing.ending:
                return
            await self._turn_over()
            self._given = trio.Event()
            if not self._waiting and not self._finishing.ending:
                with trio.move_on_after(self._segment_s / 4):
                    await self._given.wait()

    async def _write_some(self) -> bool:
        """A batch; False: nothing can be written now, and what nobody waits for stays."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        untold, self._untold = self._untold, {}
        now = self.clock()
        told = [Draft(LOST, now, {"count": count, "reason": why}) for why, count in untold.items()]
        drafts = [*told, *(each.draft for each in batch)]
        sync = any(each.reply is not None for each in batch)
        self._writing = len(batch)
        try:
            written = await self._exclusive(partial(self.segments.append, drafts, sync=sync))
        finally:
            self._writing = 0
        if written.texts and self._ship is not None:
            self._ship(b"".join(written.texts), len(written.texts))
        self.written += written.records
        self._unsynced = bool(written.records) and not sync
        for why, count in list(untold.items())[written.records :]:
            self._untold[why] = self._untold.get(why, 0) + count
        there = max(0, written.records - len(told))
        for each in batch[:there]:
            self._settle(each)
            if each.reply is not None:
                each.reply("" if written.durable else written.reason)
        self._put_back(batch[there:], written.reason)
        if written.reason:
            self._fail(written.reason)
            return False
        if self.error:
            log.info("audit records are written again")
            self.error = ""
        if self.segments.size >= self._segment_bytes:
            await self.seal()
        return True

    def _put_back(self, batch: list[_Waiting], reason: str) -> None:
        """What was not written: who waits is told, and the rest is tried again."""
        for each in reversed(batch):
            if each.reply is None:
                self._waiting.appendleft(each)
            else:
                self._settle(each)
                self.lose(1, reason)
                each.reply(reason)

    def _settle(self, each: _Waiting) -> None:
        self._waiting_bytes -= each.size

    def _fail(self, reason: str) -> None:
        if not self.error:
            log.error("audit records cannot be written; they wait, and what does not fit is counted", reason=reason)
        self.error = reason

    async def _keep_synced(self) -> None:
        while True:
            await trio.sleep(SYNC_S)
            if self._unsynced:
                self._unsynced = False
                reason = await self._exclusive(self.segments.sync)
                if reason:
                    self._fail(reason)

    async def _turn_over(self) -> None:
        """Close a segment that is old."""
        began = self.segments.began
        if began and not 0 <= self.clock() - began < self._segment_s:
            await self.seal()

    async def seal(self) -> Path | None:
        """Close the open segment; None: there is none, or it goes on."""
        path = await self._exclusive(self.segments.seal)
        if path is not None:
            before, self.closed = self.closed, trio.Event()
            before.set()
        return path

    async def exclusive(self, work: Callable[[], T]) -> T:
        """Something with the segments, in a thread; nothing else of it meanwhile."""
        async with self._turn:
            return await trio.to_thread.run_sync(work)

    async def _exclusive(self, work: Callable[[], T]) -> T:
        async with self._turn:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def flushed(self) -> None:
        """Return when all that was handed over before is written, or cannot be."""
        while self.waiting and not self.error:  # noqa: ASYNC110 - it ends by the disk's doing
            await trio.sleep(0.01)

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        return {
            "last": self.position.n,
            "written": self.written,
            "waiting": self.waiting,
            "lost": self.lost,
            "error": self.error,
            "folder": str(self.folder),
        }


def _size(draft: Draft) -> int:
    """About how many bytes it takes."""
    return 500 + sum(_weight(value) for value in (*draft.data.values(), *draft.personal.values()))


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_weight(inner) for inner in value.values())
    return sum(map(_weight, value)) if isinstance(value, Iterable) else 8
