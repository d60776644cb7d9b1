"""Work that goes on until its agent ends, and then has a while for what is left.

Laws
- Who is cancelled hears so (`ending`) and is woken, and goes on for the time that it has; what has not ended by then
  is left behind, whatever it waits for: a disk that hangs, a peer that does not answer.
- Only what stands in `patience` is spared: who does something behind it bounds that himself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Finishing:
    """Of one task, which runs once."""

    def __init__(self, finish_s: float, wake: Callable[[], None]) -> None:
        """`wake`: has the work look at `ending`."""
        self._finish_s = finish_s
        self._wake = wake
        self.ending = False
        """Whether there is an end to it by now."""
        self.patience = trio.CancelScope(shield=True)
        """What it goes on in."""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled, and until `work` has ended then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            try:
                await trio.sleep_forever()
            finally:
                self.ending = True
                self.patience.deadline = trio.current_time() + self._finish_s
                self._wake()
