"""Work that has a while at its agent's end."""

from __future__ import annotations

import math

import trio
import trio.testing

from agent.process.finishing import Finishing


class Work:
    """Takes so long for what is left, once it hears of the end."""

    def __init__(self, takes_s: float) -> None:
        self.finishing = Finishing(2.0, lambda: self.woken.set())
        self.woken = trio.Event()
        self.takes_s = takes_s
        self.done: list[str] = []

    async def work(self) -> None:
        with self.finishing.patience:
            await self.woken.wait()
            assert self.finishing.ending
            await trio.sleep(self.takes_s)
            self.done.append("finished")
        self.done.append("over")


async def ended(work: Work) -> float:
    """How long its end took."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.finishing.run, work.work)
        await trio.testing.wait_all_tasks_blocked()
        assert not work.finishing.ending
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    return trio.current_time() - began


async def test_what_is_left_is_finished(autojump_clock: object) -> None:
    """Though the task was cancelled."""
    work = Work(1.5)
    assert await ended(work) == 1.5 and work.done == ["finished", "over"]


async def test_what_takes_too_long_is_left_behind(autojump_clock: object) -> None:
    """Not a moment later than it has."""
    work = Work(math.inf)
    assert await ended(work) == 2.0 and work.done == ["over"]
