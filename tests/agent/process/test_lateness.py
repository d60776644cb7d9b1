"""A loop is late when it is busy for long, or wakes long after it wanted to; waiting is neither."""

from __future__ import annotations

import threading
import time

import trio

from agent.process.lateness import Lateness


def busy_for(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


async def test_work_is_late_and_waiting_is_not() -> None:
    """What it waits for on purpose is no lateness, however long."""
    lateness = Lateness(0.2)
    trio.lowlevel.add_instrument(lateness)
    await trio.sleep(0.3)
    quiet, before = lateness.count, lateness.total_s
    busy_for(0.4)
    await trio.sleep(0)
    assert lateness.count > quiet
    assert lateness.total_s - before >= 0.4
    assert lateness.worst_s >= 0.4
    trio.lowlevel.remove_instrument(lateness)


async def test_any_thread_sees_how_late_it_is_now() -> None:
    """Negative while it waits, and growing while it does not come round."""
    lateness = Lateness(0.2)
    trio.lowlevel.add_instrument(lateness)
    seen: list[float] = []
    asked = threading.Event()

    def look() -> None:
        asked.wait(20)
        while lateness.late_by() < 0.3:
            time.sleep(0.01)
        seen.append(lateness.late_by())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, look)
            await trio.sleep(0.05)
            asked.set()
            while not seen:
                busy_for(0.05)
    assert seen[0] >= 0.3
    trio.lowlevel.remove_instrument(lateness)


async def test_a_wait_without_end_is_not_late() -> None:
    """Nothing is due then."""
    lateness = Lateness(0.2)
    trio.lowlevel.add_instrument(lateness)
    assert await trio.to_thread.run_sync(lateness.late_by) < 0.2
    trio.lowlevel.remove_instrument(lateness)
