"""The workers of the process before (SIGHUP): heard from the first moment on, relieved once there are others, gone when
nothing of theirs is alive any more.

Laws
- What was half read of one, or half written to it, is handed over in memory: a stream of frames has no gap.
- One goes on for `alive_s` with what is alive; but however often one reloads they are at most MOST_PREVIOUS: the oldest
  beyond it have as long as if the agent stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
import trio

from agent import frames, framing
from agent.control.host.sockets import TOLD, OldWorker
from agent.control.workers.conversation import Conversation
from agent.control.workers.process import InheritedProcess
from agent.control.workers.worker import Rest, Worker
from agent.frames import ToWorker

MOST_PREVIOUS: Final = 16
LAST_WORDS_S: Final = 2.0
PATIENCE_S: Final = 2.0
"""Beyond its time, for a worker to end by itself."""
NOTHING: Final = -1
log = structlog.get_logger()


class NoFeed:
    """They are told nothing more of the table."""

    def take(self, *, parts: bool) -> list[ToWorker]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""


class PreviousWorker:
    """One of them."""

    def __init__(self, old: OldWorker, worker: Worker | None, process: InheritedProcess) -> None:
        self.pid = old.pid
        self.worker = worker
        """None: a version before told it to drain, and let go of it."""
        self.process = process
        self.until = old.until
        """As in OldWorker."""
        self.told = trio.Event()
        """Set whenever `until` is another."""

    def end_within(self, drain_s: float, alive_s: float) -> None:
        """It is to end."""
        if self.worker is not None:
            self.worker.send(framing.encode(frames.Drain(drain_s, alive_s)))
        until = time.monotonic() + max(drain_s, alive_s)
        self.until = min(self.until or until, until)
        self.told.set()
        self.told = trio.Event()


class PreviousWorkers:
    """All of them; the latest first."""

    def __init__(self, left: Sequence[OldWorker], talk: Conversation, on_ended: Callable[[int], None]) -> None:
        """`on_ended`: of each process, when it is gone."""
        self._left = left
        self._talk = talk
        self._on_ended = on_ended
        self._hushed = False
        self.workers: list[PreviousWorker] = []

    @property
    def heard(self) -> list[Worker]:
        """Those that can be asked."""
        return [it.worker for it in self.workers if it.worker is not None and not it.worker.retired]

    def adopt(self) -> None:
        """Take them over, within Trio."""
        for old in self._left:
            process = InheritedProcess(old.pid)
            self.workers.append(PreviousWorker(old, _adopted(old, process), process))

    async def run(self) -> None:
        """Hear them until they have ended, or until cancelled: then they end with this process, unless there is a
        next one."""
        try:
            async with trio.open_nursery() as nursery:
                for it in self.workers:
                    nursery.start_soon(self._attend, it)
        finally:
            if not self._hushed:
                for it in self.workers:
                    it.process.kill()
                    if it.worker is not None:
                        it.worker.close()

    async def _attend(self, it: PreviousWorker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_in_time, it)
            if it.worker is not None:
                nursery.start_soon(it.worker.write)
                nursery.start_soon(self._talk.listen, it.worker)
            await it.process.wait()
            if it.worker is not None:
                with trio.move_on_after(LAST_WORDS_S):
                    await it.worker.heard.wait()
            if self._hushed:
                await trio.sleep_forever()  # the next process hears its last words
            nursery.cancel_scope.cancel()
        self.workers.remove(it)
        if it.worker is not None:
            it.worker.close()
        self._on_ended(it.pid)

    def relieve(self, drain_s: float, alive_s: float) -> None:
        """There are others: they take nothing new, and end when nothing is alive any more."""
        for at, it in enumerate(self.workers):
            if at >= MOST_PREVIOUS or it.worker is None:
                it.end_within(drain_s, 0)
            elif not it.until:
                it.end_within(drain_s, alive_s)

    def drain(self, drain_s: float) -> None:
        """The agent stops."""
        for it in self.workers:
            it.end_within(drain_s, 0)

    def hush(self) -> None:
        """Another process goes on with them."""
        self._hushed = True
        for it in self.workers:
            if it.worker is not None:
                it.worker.hush()

    def left(self) -> list[OldWorker]:
        """For that process."""
        return [
            OldWorker(it.pid, TOLD, until=it.until) if it.worker is None else left(it.worker, it.until)
            for it in self.workers
        ]


async def _kill_in_time(it: PreviousWorker) -> None:
    while True:
        with trio.move_on_after(max(0.0, it.until + PATIENCE_S - time.monotonic()) if it.until else float("inf")):
            await it.told.wait()
            continue
        log.warning("a previous worker has not ended in time, and is killed", pid=it.pid)
        it.process.kill()
        return


def _adopted(old: OldWorker, process: InheritedProcess) -> Worker | None:
    if old.fd == TOLD:
        return None
    os.set_inheritable(old.fd, False)
    rest = taken(old.rest)
    sock = trio.socket.fromfd(old.fd, trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    os.close(old.fd)
    return Worker(-1, process, sock, NoFeed(), msgspec.msgpack.decode(rest, type=Rest) if rest else None)


def left(worker: Worker, until: float = 0.0) -> OldWorker:
    """A worker, for the process that is executed next; let go of here. `until`: as in OldWorker."""
    fd = os.dup(worker.socket.fileno())
    os.set_inheritable(fd, True)
    rest = in_memory(msgspec.msgpack.encode(worker.rest()))
    worker.close()
    return OldWorker(worker.process.pid, fd, rest, until)


def in_memory(data: bytes) -> int:
    """Bytes, for the process that is executed next: the descriptor of a file that is nowhere else."""
    fd = os.memfd_create("shoal-handover")
    os.set_inheritable(fd, True)
    with open(os.dup(fd), "wb") as file:
        file.write(data)
    return fd


def taken(fd: int) -> bytes:
    """What `in_memory` made; empty for NOTHING. The file is gone then."""
    if fd == NOTHING:
        return b""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
