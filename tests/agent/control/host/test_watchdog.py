"""A loop that is late is seen from beside it, with where it was; one that hangs is taken for dead."""

from __future__ import annotations

import threading
import time

import trio

from agent.control.host.watchdog import Watchdog


def a_long_calculation(done: threading.Event) -> None:
    ends = time.monotonic() + 60
    while not done.is_set() and time.monotonic() < ends:
        pass


def a_calculation_of(seconds: float) -> None:
    threading.Timer(seconds, (done := threading.Event()).set).start()
    a_long_calculation(done)


async def test_a_late_loop_is_counted_with_its_stack() -> None:
    """Where it was while it was late, which nobody could find out afterwards."""
    dog = Watchdog(late_s=0.1)
    with trio.fail_after(60):
        async with dog.running():
            # Again and again: a busy machine makes this loop late by itself, and each lateness is looked at once.
            while "a_long_calculation (test_watchdog.py:" not in dog.stack:
                await trio.sleep(0.1)
                a_calculation_of(1.0)
            await trio.sleep(0)
            assert dog.lateness.count
    assert dog.lateness.total_s >= dog.lateness.worst_s >= 0.1
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
