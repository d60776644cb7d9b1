"""Workers of the process before: drained, heard to the last word, and never many."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest
import trio

from agent import frames, framing
from agent.control.host.sockets import TOLD, OldWorker
from agent.control.workers.previous import MOST_PREVIOUS, NOTHING
from agent.framing import encode
from tests.support.fleet import SLEEPER, Running, running, service, upstream
from tests.support.proxy import GET, refusing_port


@asynccontextmanager
async def handed_over(run: Running, **more: Any) -> AsyncIterator[Running]:
    """The fleet of the process that is executed next, which is this one."""
    run.fleet.leave_behind()
    left, retired = run.fleet.left_behind(), run.fleet.hand_over_ledger()
    async with running(count=1, inherited=left, inherited_ledger=retired, **more) as later:
        later.table = run.table
        await later.until(lambda: later.fleet.ready)
        yield later


async def relieved(run: Running, drain_s: float = 5.0, alive_s: float = 5.0) -> None:
    """They have ended."""
    run.fleet.previous.relieve(drain_s, alive_s)
    await run.until(lambda: not run.fleet.previous.workers)


async def test_old_workers_are_drained() -> None:
    """What the process before left behind ends when it is told to, and its death is collected."""
    async with running() as run:
        run.table = service(refusing_port())
        await run.until(lambda: run.fleet.ready)
        pids = run.pids
        async with handed_over(run) as later:
            assert [it.pid for it in later.fleet.previous.workers] == pids
            await relieved(later)


async def test_nobody_waits_for_the_table_of_a_new_worker_while_an_old_one_serves() -> None:
    """A new worker takes connections with its first table and not before: the next re-execution may come first."""
    async with upstream() as port, running() as run:
        run.table = service(port)
        await run.until(lambda: run.fleet.ready)
        run.fleet.leave_behind()
        async with running(before=run, inherited=run.fleet.left_behind()) as later:
            await later.until(lambda: later.fleet.workers)
            worker = later.fleet.workers[0]
            began = worker.last_word
            worker.send(encode(frames.Ask(0, "ping")))
            await trio.sleep(0)
            while worker.last_word == began:  # it runs, and knows no table
                await trio.sleep(0.01)
            for _ in range(12):
                assert (await (await later.client()).ask(GET)).endswith(b"ok")
            later.tell(run.table)
            await later.until(lambda: later.fleet.ready)
            await relieved(later)
            assert (await (await later.client()).ask(GET)).endswith(b"ok")


async def test_a_worker_that_is_being_started_is_not_forgotten_over_a_re_execution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next process does not know of it, so it ends here, whatever it was about to serve."""
    started: list[trio.Process] = []
    start = trio.lowlevel.open_process

    async def slowly(*args: Any, **more: Any) -> trio.Process:
        with trio.CancelScope(shield=True):
            run.fleet.leave_behind()
            started.append(await start(*args, **more))
        return started[0]

    monkeypatch.setattr(trio.lowlevel, "open_process", slowly)
    async with running(command=SLEEPER) as run:
        with trio.fail_after(60):
            while not started:
                await trio.sleep(0.01)
    assert run.fleet.left_behind() == ()
    assert started[0].returncode is not None


async def test_an_old_worker_that_does_not_end_is_killed() -> None:
    """A worker that never answers its drain is ended with the deadline; so is one whose socket is closed already."""
    for told in (False, True):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(SLEEPER)
        fd = TOLD if told else os.dup(ours.fileno())
        with ours, theirs, trio.fail_after(60):
            async with running(count=0, inherited=[OldWorker(process.pid, fd)]) as run:
                await stand_in(run, process.pid)
                await relieved(run, -1.5, -1.5)
        assert process.poll() is not None


pid_of = attrgetter("pid")


async def stand_in(run: Running, pid: int) -> Any:
    """Of a worker of the process before, whose other end is the test's."""
    while pid not in map(pid_of, run.fleet.previous.workers):
        await trio.sleep(0.01)
    return next(it.worker for it in run.fleet.previous.workers if it.pid == pid)


async def test_what_old_workers_say_is_heard_to_the_last_word() -> None:
    """Over re-executions that come at any byte of it: each record once, and each request counted once."""
    told: list[bytes] = []
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(SLEEPER)
    said = b"".join(encode(frames.Records(1, b"%d\n" % number)) for number in range(40))
    said += encode(frames.Drained({"services": {"pets": {"requests": {"2xx": 40}, "active": 3}}, "refused": {}}))
    left: Sequence[OldWorker] = [OldWorker(process.pid, os.dup(ours.fileno()))]
    retired = NOTHING
    size = -(-len(said) // 7)
    with ours, theirs, trio.fail_after(60):
        for at in range(0, len(said), size):
            more = {"inherited": left, "inherited_ledger": retired, "on_records": lambda line, _: told.append(line)}
            async with running(count=0, **more) as run:
                worker = await stand_in(run, process.pid)
                before = worker.last_word
                theirs.sendall(said[at : at + size])
                while worker.last_word == before:
                    await trio.sleep(0.01)
                run.fleet.leave_behind()
            left, retired = run.fleet.left_behind(), run.fleet.hand_over_ledger()
        process.kill()
        process.wait()
        async with running(count=0, inherited=left, inherited_ledger=retired) as run:
            while not (figures := await run.fleet.metrics()) or run.fleet.previous.workers:
                await trio.sleep(0.01)
            (gone,) = figures
            pets = gone["services"]["pets"]
            assert (pets["requests"], pets["active"], pets["breaker"], pets["ejected"]) == ({"2xx": 40}, 0, {}, {})
            assert pets["edges"][0][5] == [0, 0, 40, 0, 0, 0, 0] and (gone["refused"], gone["revision"]) == ({}, 0)
    assert told == [b"%d\n" % number for number in range(40)]


async def test_what_is_half_written_to_a_worker_is_written_by_the_next_process() -> None:
    """A frame of a megabyte, of which the worker has not read the beginning yet: it gets it whole, and what follows."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(SLEEPER)
    with ours, theirs, trio.fail_after(60):
        async with running(count=0, inherited=[OldWorker(process.pid, os.dup(ours.fileno()))]) as run:
            worker = await stand_in(run, process.pid)
            worker.send(encode(frames.Gone("x" * 1_000_000)))
            worker.send(encode(frames.Gone("second")))
            await trio.lowlevel.wait_readable(theirs)
            run.fleet.leave_behind()
        async with running(count=0, inherited=run.fleet.left_behind()) as run:
            await stand_in(run, process.pid)
            run.fleet.previous.relieve(5, 6)
            decoder, got = framing.Decoder(frames.to_worker), []
            theirs.setblocking(False)
            while len(got) < 3:
                await trio.lowlevel.wait_readable(theirs)
                got += list(decoder.feed(theirs.recv(65536)))
        assert got == [frames.Gone("x" * 1_000_000), frames.Gone("second"), frames.Drain(5, 6)]
    assert process.poll() is not None or process.wait(10) is not None


async def test_however_often_one_reloads_few_are_left() -> None:
    """Beyond a bound the oldest have as long as if the agent stopped."""
    with contextlib.ExitStack() as stack:
        left, theirs = [], []
        for _ in range(MOST_PREVIOUS + 2):
            ours, other = socket.socketpair()
            process = subprocess.Popen(SLEEPER)
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.enter_context(ours)
            theirs.append(stack.enter_context(other))
            left.append(OldWorker(process.pid, os.dup(ours.fileno())))
        async with running(count=0, inherited=left) as run:
            await stand_in(run, left[-1].pid)
            run.fleet.previous.relieve(30, 3600)
            told = []
            for other in theirs:
                await trio.lowlevel.wait_readable(other)
                told += list(framing.Decoder(frames.to_worker).feed(other.recv(65536)))
    assert told == [frames.Drain(30, 3600)] * MOST_PREVIOUS + [frames.Drain(30, 0)] * 2
