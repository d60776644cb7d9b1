# mypyc: interpreted, because Trio calls it a few times for a whole batch of requests
"""How late a Trio loop is: how long it was busy between two waits, and how much longer than asked it waited.

Nothing is woken for it: Trio says when it begins to wait, and for how long at most, and when it goes on. A loop that
waits for nothing costs nothing; one that does not come round is seen by any thread that asks for `late_by`.
"""

from __future__ import annotations

import time

import trio


class Lateness(trio.abc.Instrument):
    """Of the loop that `trio.lowlevel.add_instrument` adds it to."""

    def __init__(self, late_s: float) -> None:
        """Less than `late_s` is an ordinary piece of work."""
        self._late_s = late_s
        self._due = time.monotonic()
        """When it should be seen again, or began what it is at."""
        self.count = 0
        """How often it was late."""
        self.total_s = 0.0
        """For how long in all, what is not late left out."""
        self.worst_s = 0.0
        self.last_s = 0.0

    def late_by(self) -> float:
        """How late it is now, in seconds; for any thread. Negative while it waits."""
        return time.monotonic() - self._due

    def before_io_wait(self, timeout: float) -> None:
        """Trio's call: what there was to do is done."""
        now = time.monotonic()
        self._take(now - self._due)
        self._due = now + timeout

    def after_io_wait(self, timeout: float) -> None:
        """Trio's call: there is something to do, or the time is up."""
        now = time.monotonic()
        self._take(now - self._due)
        self._due = now

    def _take(self, late_s: float) -> None:
        if late_s >= self._late_s:
            self.count += 1
            self.total_s += late_s
            self.worst_s = max(self.worst_s, late_s)
            self.last_s = late_s
