"""How long records are kept, and how a person is erased from them.

Laws
- The log tells what is taken out of it, on disk, before it is: who finds something missing finds the word for it, too.
- Segments go from the oldest on, whole, when the last of their records has been kept long enough, or when the log would
  have more bytes than it may. A record that is to be kept for less loses its content when its time is over.
- The segment that is written to is closed before anything is erased: only closed ones are rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
import trio

from agent.audit.record import ERASED, EXPIRED, Draft, Position, Record, erased, expired, parsed
from agent.control.audit import files
from agent.control.audit.log import AuditLog

FIRST_S: Final = 60.0
EVERY_S: Final = 3600.0
MOST_RECENT: Final = 1
"""Closed segments that stay however full the log is."""
log = structlog.get_logger()


class Erased(NamedTuple):
    """What became of a wish to erase somebody."""

    records: int
    segments: int
    reason: str = ""
    """Why it was not done, or not everywhere."""


class _Times(NamedTuple):
    """Of a closed segment."""

    ends: float
    """When the last of its records has been kept long enough (s of the epoch)."""
    thins: float
    """When the first of those that are to be kept for less has; 0: none of them is."""


class Keeping:
    """Of one log."""

    def __init__(self, audit: AuditLog, keep_s: float, max_bytes: int) -> None:
        """`keep_s`: how long what names no time of its own is kept."""
        self._audit = audit
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._times: dict[Path, _Times] = {}
        self._turn = trio.Lock()
        """Of whoever rewrites closed segments."""
        self.expired = 0
        """Segments that went."""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        await trio.sleep(FIRST_S)
        while True:
            try:
                await self.review()
            except OSError as error:
                log.warning("audit records cannot be looked through", error=error.strerror or str(error))
            await trio.sleep(EVERY_S)

    # By time, and by room.

    async def review(self) -> None:
        """Let go of what was kept long enough. Raises OSError."""
        async with self._turn:
            gone = await trio.to_thread.run_sync(self._outlived)
            if gone:
                last, reason = gone[-1][1], gone[-1][2]
                told = {"last": last.n, "hash": last.hash, "segments": len(gone), "reason": reason}
                why = await self.said(Draft(EXPIRED, self._audit.clock(), told))
                if why:
                    return
                for path, _, _ in gone:
                    await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))
                    self._times.pop(path, None)
                    self.expired += 1
            now = self._audit.clock()
            for path in [path for path, times in self._times.items() if 0 < times.thins <= now]:
                await trio.to_thread.run_sync(files.rewrite, path, partial(_thinned, now))
                del self._times[path]

    def _outlived(self) -> list[tuple[Path, Position, str]]:
        """Closed segments that go now: with their last record, and why. Raises OSError."""
        now, found = self._audit.clock(), []
        closed = [path for path in files.segments(self._audit.folder) if path.suffix == files.CLOSED]
        sizes = {path: path.stat().st_size for path in files.segments(self._audit.folder)}
        total = sum(sizes.values())
        for path in closed:
            times = self._times.get(path)
            if times is None:
                times = self._times[path] = self._times_of(path)
        for path in closed[: len(closed) - MOST_RECENT]:
            over = self._max_bytes and total > self._max_bytes
            if self._times[path].ends > now and not over:
                break
            last = _last(path)
            if last is None:
                break  # it is damaged, and somebody should look at it
            total -= sizes[path]
            found.append((path, last, "room" if self._times[path].ends > now else "time"))
        return found

    def _times_of(self, path: Path) -> _Times:
        ends, thins = 0.0, 0.0
        for text in files.lines(path):
            record = parsed(text)
            if isinstance(record, str):
                continue
            ends = max(ends, record.until or record.at + self._keep_s)
            if record.until and record.data is not None:
                thins = min(thins or record.until, record.until)
        return _Times(ends, thins)

    # By a wish.

    async def erase(self, name: str, value: str, *, by: str) -> Erased:
        """Take away the personal values of every record that is of somebody: where `person` or `claim.sub` is this.
        `by`: who wishes it."""
        await self._audit.flushed()
        await self._audit.seal()
        of_him = partial(_is_of, name, value)
        async with self._turn:
            try:
                found = await trio.to_thread.run_sync(self._count, of_him)
            except OSError as error:
                return Erased(0, 0, error.strerror or str(error))
            records = sum(found.values())
            if not records:
                return Erased(0, 0)
            told: dict[str, Any] = {"records": records, "segments": len(found), "field": name}
            why = await self.said(Draft(ERASED, self._audit.clock(), told, {"person": by} if by else {}))
            if why:
                return Erased(0, 0, f"it could not be noted, so nothing was erased: {why}")
            done = 0
            for path in found:
                try:
                    done += await trio.to_thread.run_sync(
                        files.rewrite, path, lambda record: erased(record) if of_him(record) else record
                    )
                except OSError as error:
                    return Erased(done, len(found), f"{path.name}: {error.strerror}")
            return Erased(done, len(found))

    def _count(self, match: Callable[[Record], bool]) -> dict[Path, int]:
        """Records of somebody, by closed segment. Raises OSError."""
        found: dict[Path, int] = {}
        for path in files.segments(self._audit.folder):
            if path.suffix == files.CLOSED:
                many = sum(match(record) for text in files.lines(path) if isinstance(record := parsed(text), Record))
                if many:
                    found[path] = many
        return found

    async def said(self, draft: Draft) -> str:
        """Record something, and wait for the disk; why it is not there."""
        told = trio.Event()
        why = [""]

        def reply(reason: str) -> None:
            why[0] = reason
            told.set()

        self._audit.synced(draft, reply)
        await told.wait()
        return why[0]


def _is_of(name: str, value: str, record: Record) -> bool:
    return record.values.get(name) == value


def _thinned(now: float, record: Record) -> Record:
    return expired(record) if record.data is not None and 0 < record.until <= now else record


def _last(path: Path) -> Position | None:
    """The last record of a segment; None: it makes no sense."""
    last: Record | str = ""
    for text in files.lines(path):
        last = parsed(text)
    return last.position if isinstance(last, Record) else None
