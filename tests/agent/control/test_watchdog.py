"""A loop that is late is seen from beside it, with where it was; one that hangs is taken for dead."""

from __future__ import annotations

import threading
import time

import trio

from agent.control.watchdog import Watchdog


def a_long_calculation(done: threading.Event) -> None:
    ends = time.monotonic() + 60
    while not done.is_set() and time.monotonic() < ends:
        pass


async def test_a_late_loop_is_counted_with_its_stack() -> None:
    """Where it was while it was late, which nobody could find out afterwards."""
    dog = Watchdog(late_s=0.1)
    seen = threading.Event()

    def look() -> None:
        while not dog.stack:
            time.sleep(0.01)
        seen.set()

    with trio.fail_after(60):
        async with dog.running():
            await trio.sleep(0.2)
            dog.stack = ""
            thread = threading.Thread(target=look)
            thread.start()
            a_long_calculation(seen)
            thread.join()
            while dog.late == 0:
                await trio.sleep(0.01)
    assert "a_long_calculation (test_watchdog.py:" in dog.stack
    assert dog.late_total_s >= dog.worst_s >= 0.1
    assert "shoal-watchdog" not in [thread.name for thread in threading.enumerate()]


async def test_a_loop_that_hangs_counts_as_dead_and_lives_again() -> None:
    """Seen by any thread; once it comes round it is alive."""
    dog = Watchdog(hang_s=0.5)
    dead = threading.Event()

    def look() -> None:
        while dog.alive():
            time.sleep(0.01)
        dead.set()

    with trio.fail_after(60):
        async with dog.running():
            assert dog.alive()
            thread = threading.Thread(target=look)
            thread.start()
            a_long_calculation(dead)
            thread.join()
            assert dead.is_set()
            while not dog.alive():
                await trio.sleep(0.01)
