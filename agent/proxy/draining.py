# mypyc: interpreted, because it happens once in the life of a worker
"""The end of a worker: it takes nothing new, and goes on with what is alive, within limits.

Laws
- Who is between two requests when `deadline_s` is over is let go: this worker's table is not kept true any more.
- What is under way then (a stream, an upgraded connection, a long answer) goes on for `alive_s`.
- Told again, a worker ends sooner, never later. Where control is gone, and with it whoever could tell, it has ORPHAN_S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from agent.frames import Drain

ORPHAN_S: Final = 10.0
"""How long a worker serves its last table when control is gone, and how long it drains then."""


class Draining:
    """When it ends."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self._idle = trio.CancelScope()
        self._alive = trio.CancelScope()

    def tell(self, drain: Drain) -> None:
        """Control wants it."""
        now = trio.current_time()
        self._idle.deadline = min(self._idle.deadline, now + drain.deadline_s)
        self._alive.deadline = min(self._alive.deadline, now + max(drain.deadline_s, drain.alive_s))
        self.began.set()

    def orphan(self) -> None:
        """Control is gone."""
        self.tell(Drain(ORPHAN_S))

    async def over(self, drained: trio.Event, let_go: Callable[[], None]) -> None:
        """Until nothing is under way, or the time is up. `let_go` closes what is between two requests."""
        await self.began.wait()
        with self._alive:
            with self._idle:
                await drained.wait()
            let_go()
            await drained.wait()
