"""Who is called lost, and when, while etcd comes and goes."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from agent.control.events.absence import MOMENT_S, Absence


async def test_others_are_lost_once_they_had_the_time_to_come_back(autojump_clock: trio.testing.MockClock) -> None:
    """A lease's length from etcd's return on, or from the end of our own lease; else after a moment."""
    absence, there, told = Absence("web-1", 10.0), True, []

    def tell(name: str, parts: Any, data: Any, time: str = "") -> None:
        told.append((name, parts["host"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(absence.watch, lambda: there, tell)
        await trio.sleep(30)
        seen_at = trio.current_time()
        assert absence.believed_at(seen_at) == seen_at + MOMENT_S
        there = False
        await trio.sleep(20)
        assert absence.believed_at(seen_at) > trio.current_time() + 9, "it moves as long as etcd is away"
        there = True
        back_at = trio.current_time()
        await trio.sleep(1)
        assert back_at + 10 <= absence.believed_at(back_at) <= back_at + 10.5
        assert told == [("etcd.unreachable", "web-1"), ("etcd.back", "web-1")]
        await trio.sleep(60)
        absence.note()
        assert absence.believed_at(trio.current_time()) == trio.current_time() + 10
        nursery.cancel_scope.cancel()
