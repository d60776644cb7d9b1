"""Copies of a program: as many as are wanted, ended in order, started again when they end by themselves."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.cli.failure import Failure
from agent.cli.running.replicas import AGAIN_S, Replicas, command_of, number_of

PROGRAM = """
import os, pathlib, signal, sys, time
mine = pathlib.Path(sys.argv[1]) / str(os.getpid())
def end(*_):
    mine.write_text(mine.read_text() + "told ")
    time.sleep(0.1)
    mine.unlink()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
mine.write_text("")
while True:
    time.sleep(0.05)
"""


async def until(folder: Path, count: int) -> set[int]:
    with trio.fail_after(60):
        while len(found := {int(path.name) for path in folder.iterdir()}) != count:
            await trio.sleep(0.02)
    return found


async def test_there_are_as_many_as_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More and fewer, the last ones first; one that is killed comes back; a signal to us ends all, each told once."""
    monkeypatch.setattr("agent.cli.running.replicas.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("agent.cli.running.replicas.AGAIN_S", (0.05,) * len(AGAIN_S))
    wanted: list[int | None] = [None]
    notes: list[str] = []
    copies = Replicas([sys.executable, "-c", PROGRAM, str(tmp_path)], 1, lambda: wanted[0], notes.append)
    async with trio.open_nursery() as nursery:
        codes: list[int] = []

        async def live() -> None:
            codes.append(await copies.live())

        nursery.start_soon(live)
        (first,) = await until(tmp_path, 1)
        wanted[0] = 3
        three = await until(tmp_path, 3)
        assert first in three
        wanted[0] = 2
        two = await until(tmp_path, 2)
        assert first in two and two < three
        wanted[0] = None
        os.kill(first, signal.SIGKILL)
        (tmp_path / str(first)).unlink()
        again = await until(tmp_path, 2)
        assert first not in again and any("ended by itself (-9)" in note for note in notes)
        wanted[0] = -4
        await until(tmp_path, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(60):
            while not codes:
                await trio.sleep(0.02)
        assert codes == [0] and not list(tmp_path.iterdir())


async def test_a_copy_that_cannot_be_started_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has no process left is no reason to end those that it has; it is tried again."""
    monkeypatch.setattr("agent.cli.running.replicas.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("agent.cli.running.replicas.AGAIN_S", (0.05,) * len(AGAIN_S))
    opened, allowed = trio.lowlevel.open_process, 1

    async def open_process(*args: Any, **more: Any) -> trio.Process:
        nonlocal allowed
        if not allowed:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        allowed -= 1
        return await opened(*args, **more)

    monkeypatch.setattr(trio.lowlevel, "open_process", open_process)
    notes: list[str] = []
    copies = Replicas([sys.executable, "-c", PROGRAM, str(tmp_path)], 2, lambda: None, notes.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copies.live)
        with trio.fail_after(60):
            while len(notes) < 3:
                await trio.sleep(0.02)
        (first,) = await until(tmp_path, 1)
        assert "cannot be started (Resource temporarily unavailable), and is started again" in notes[-1]
        allowed = 1
        assert first in await until(tmp_path, 2)
        os.kill(os.getpid(), signal.SIGTERM)
    assert not list(tmp_path.iterdir())


def test_each_copy_is_started_as_we_were() -> None:
    """Without what asks for several; what stands behind -- is the program's."""
    words = ["python", "-P", "shoal", "run", "--replicas=auto", "-s", "pets", "--", "x", "--replicas=2"]
    assert command_of(words, "ab") == [*words[:4], "-s", "pets", "--metadata", "run=ab", "--", "x", "--replicas=2"]


def test_what_is_no_number_is_refused() -> None:
    """In words."""
    assert number_of("auto") == 0 and number_of("7") == 7
    for text in ("0", "101", "many", "-1", ""):
        with pytest.raises(Failure, match="neither auto nor a number"):
            number_of(text)
