"""Whether control's loop comes round: measured by Trio's own word, and by a thread beside it, which says why not.

What stalls the loop stalls everything that control does: leases would run out (a thread of its own renews them, see
registry.renewal, for as long as this loop is not taken for dead), and changes would arrive late. When the loop is late,
the thread writes down where the loop's thread is at that moment. That is the one thing that cannot be found out
afterwards.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from agent.process.lateness import Lateness

LATE_S: Final = 0.25
"""Later than this is late."""
HANG_S: Final = 30.0
"""And a loop that is as late as this counts as dead: its lease is not renewed any more. As for workers."""
QUIET_S: Final = 10.0
"""The least time between two stacks in the log: what is late all the time need not be said all the time."""
_FRAMES: Final = 12
log = structlog.get_logger()


class Watchdog:
    """One loop, and the thread that looks after it."""

    def __init__(self, *, late_s: float = LATE_S, hang_s: float = HANG_S) -> None:
        self._late_s = late_s
        self._hang_s = hang_s
        self._end = threading.Event()
        self.lateness = Lateness(late_s)
        self.stack = ""
        """Where it was when it was late last, innermost first."""

    def alive(self) -> bool:
        """Whether the loop came round not too long ago. For any thread."""
        return self.lateness.late_by() < self._hang_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the loop that this is called on, for the length of a block."""
        self._end.clear()
        loop = threading.get_ident()
        trio.lowlevel.add_instrument(self.lateness)
        thread = threading.Thread(target=self._watch, args=(loop,), name="shoal-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            trio.lowlevel.remove_instrument(self.lateness)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(thread.join)

    # In the thread.

    def _watch(self, loop: int) -> None:
        said, known = 0.0, self.lateness.count
        while not self._end.wait(self._late_s):
            late_s = self.lateness.late_by()
            if late_s >= self._late_s:
                self.stack = _stack(loop)
            if self.lateness.count != known:
                known = self.lateness.count
                log.warning("control's loop was late", late_s=round(self.lateness.last_s, 3))
            if late_s >= self._late_s and time.monotonic() - said >= QUIET_S:
                said = time.monotonic()
                log.warning("control's loop is late", for_s=round(late_s, 3), stack=self.stack)


def _stack(thread: int) -> str:
    """Where a thread is, innermost first, on one line."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    found = traceback.extract_stack(frame)[-_FRAMES:]
    return " < ".join(f"{one.name} ({one.filename.rpartition('/')[2]}:{one.lineno})" for one in reversed(found))
