"""The proxy workers: started, fed, listened to, replaced when they die, drained at the end.

Laws
- A worker that dies is replaced at once, and gets the whole table before anything else; the next deaths in a row wait
  a little longer each time.
- A worker that does not answer for `hang_s` is taken for hung, and killed.
- Control never waits for a worker before it goes on with another.
- A worker that has not yet taken into force what it was told of the table is told no more of it; then it is told how
  the table is by that time. So a worker that is behind costs no memory, and compiles nothing that is outdated already.
- A worker is killed for what it says only where that makes no sense as a frame of any version. What control fails to
  handle is control's own mistake: told, counted, answered where an answer is waited for, and nobody's death.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from agent import build, frames
from agent.control.host.sockets import TOLD, OldWorker, share
from agent.control.workers.shared_counts import NONE, SharedCounts
from agent.control.workers.worker import Feed, Worker
from agent.frames import ToControl, ToWorker
from agent.surroundings import handed_on
from registry.backoff import Backoff

PING_S: Final = 5.0
HANG_S: Final = 30.0
ASK_S: Final = 3.0
LAST_WORDS_S: Final = 2.0
GIVEN_UP_BYTES: Final = 512 * 1024
"""What workers remember together of calls that came to nothing (`agent/proxy/given_up.py`)."""
MAX_UNKNOWN: Final = 16
"""Kinds of frames of a worker's that are told of; each once."""
_ROOT: Final = str(Path(__file__).resolve().parents[3])
log = structlog.get_logger()


class Senseless(Exception):
    """What a worker said is no frame."""


class Fleet:
    """Every worker of this agent."""

    def __init__(
        self,
        outbound: list[socket.socket],
        inbound: list[socket.socket],
        count: int,
        *,
        configuration: Callable[[], frames.Configure],
        feed: Callable[[], Feed],
        on_records: Callable[[bytes, int], None],
        on_happened: Callable[[list[frames.Transition]], None] = lambda events: None,
        on_compared: Callable[[frames.Compared], None] = lambda told: None,
        on_peer: Callable[[str, bytes, str], tuple[int, bytes]] = lambda path, body, address: (404, b""),
        on_store: Callable[[frames.Topic, bytes, Callable[[str], None]], None] = lambda topic, record, reply: None,
        inherited_counts: int = NONE,
        command: Sequence[str] = (sys.executable, "-P", "-m", "agent.proxy"),
        hang_s: float = HANG_S,
    ) -> None:
        """`count` is of workers. `configuration` gives what a newcomer has to know; `feed` makes what it is told of the
        table. `inherited_counts`: of the process before (`SharedCounts`). `hang_s`: how long a worker may be silent, in
        seconds."""
        self._outbound = outbound
        self._inbound = inbound
        self._count = count
        self._configuration = configuration
        self._make_feed = feed
        self._on_records = on_records
        self._on_happened = on_happened
        self._on_compared = on_compared
        self._on_peer = on_peer
        self._on_store = on_store
        self._command = list(command)
        self._hang_s = hang_s
        self._asks = itertools.count(1)
        self._changed = trio.Event()
        self._stopping = False
        self._left_behind = False
        self._given_up = -1
        """Memory that the workers share, while it runs."""
        self._inherited_counts = inherited_counts
        self._counts: SharedCounts | None = None
        self.workers: dict[int, Worker] = {}
        self.restarts = 0
        self.mishandled: Counter[str] = Counter()
        """Frames that control failed at, by kind."""
        self.revision = 0
        """The lowest that every ready worker runs."""
        self.recent_commits: deque[tuple[int, float]] = deque(maxlen=100)
        """Revision, and unix time (s) at which the last worker ran it."""

    # Starting and replacing.

    async def run(self) -> None:
        """Keep every worker running until cancelled, or until drained."""
        self._given_up = os.memfd_create("shoal-given-up")
        try:
            os.ftruncate(self._given_up, GIVEN_UP_BYTES)
            self._counts = SharedCounts(self._inherited_counts)
            async with trio.open_nursery() as nursery:
                for index in range(self._count):
                    nursery.start_soon(self._keep, index)
        finally:
            os.close(self._given_up)
            if self._counts is not None:
                self._counts.close()

    async def _keep(self, index: int) -> None:
        backoff = Backoff(0.05, 5.0)
        while not self._stopping:
            began = time.monotonic()
            try:
                await self._serve(index)
            except OSError as error:
                log.error("cannot start a worker", worker=index, error=str(error))
            if self._stopping:
                return
            self.restarts += 1
            if time.monotonic() - began > 10:
                backoff.reset()
                continue  # it had a life: its successor starts at once
            await trio.sleep(backoff.next_s())

    async def _serve(self, index: int) -> None:
        counts = self._counts
        assert counts is not None, "the fleet does not run"
        ours, theirs = socket.socketpair()
        region = counts.allot()
        try:
            process = await self._start(index, theirs, counts.fd, region)
        except BaseException:
            ours.close()
            counts.free(region)
            raise
        finally:
            theirs.close()
        counts.began(region, process.pid)
        worker = Worker(
            index, process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)), self._make_feed()
        )  # fmt: skip
        self.workers[index] = worker
        self._recount()
        worker.send(frames.encode(self._configuration()))
        worker.feed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, worker)
                nursery.start_soon(self._watch, worker)
                nursery.start_soon(self._read, worker)
                await process.wait()
                with trio.move_on_after(LAST_WORDS_S):
                    await worker.heard.wait()  # its last access records
                nursery.cancel_scope.cancel()
        finally:
            self._bury(worker)
            if not self._left_behind:
                with trio.CancelScope(shield=True):
                    await process.wait()
                counts.free(region)
        if not self._stopping:
            log.error("a worker died", worker=index, pid=process.pid, status=process.returncode)

    async def _start(self, index: int, theirs: socket.socket, counts: int, region: int) -> trio.Process:
        fds = {
            "SHOAL_CONTROL_FD": [theirs.fileno()],
            "SHOAL_OUTBOUND_FDS": [sock.fileno() for sock in share(self._outbound, index, self._count)],
            "SHOAL_GIVEN_UP_FD": [self._given_up],
            "SHOAL_COUNTS_FD": [counts],
            "SHOAL_INBOUND_FDS": [sock.fileno() for sock in share(self._inbound, index, self._count)],
        }
        path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
        told = {name: ",".join(map(str, numbers)) for name, numbers in fds.items()}
        return await trio.lowlevel.open_process(
            self._command,
            pass_fds=[fd for numbers in fds.values() for fd in numbers],
            env={**handed_on(os.environ), "PYTHONPATH": path, **told, "SHOAL_COUNTS_REGION": str(region)},
            stdin=subprocess.DEVNULL,
        )

    def _bury(self, worker: Worker) -> None:
        if worker.process.returncode is None and not self._left_behind:
            worker.process.kill()
        if self.workers.get(worker.index) is worker:
            del self.workers[worker.index]
        worker.close()
        for answer in worker.answers.values():
            answer.close()
        self._recount()

    # Talking.

    async def _write(self, worker: Worker) -> None:
        try:
            async for data in worker.sending:
                await worker.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the death of the process tells the rest

    async def _read(self, worker: Worker) -> None:
        decoder = frames.Decoder(frames.to_control)
        try:
            while True:
                try:
                    data = await worker.stream.receive_some(256 * 1024)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the death of the process tells the rest
                if not data:
                    return
                worker.last_word = time.monotonic()
                for told in decoder.feed(data):
                    if isinstance(told, frames.Unknown):
                        self._pass_over(worker, told)
                    else:
                        self._on_frame(worker, told)
        except Exception:  # what a worker says must not end control, nor the other workers with it
            log.exception("a worker does not make sense, and is killed", worker=worker.index, pid=worker.process.pid)
            worker.process.kill()
        finally:
            worker.heard.set()

    def _pass_over(self, worker: Worker, told: frames.Unknown) -> None:
        """What a worker of another version says besides: an upgrade on disk gives an old control new workers. Raises
        Senseless for what no version says."""
        if told.broken:
            raise Senseless(f"{told.kind}: {told.reason}")
        if told.kind not in worker.unknown and len(worker.unknown) < MAX_UNKNOWN:
            worker.unknown.add(told.kind)
            log.error("a worker says what is not known here", worker=worker.index, what=told.kind, reason=told.reason)

    def _on_frame(self, worker: Worker, told: ToControl) -> None:
        """Handle a sound frame. What goes wrong in here is not the worker's doing, which only passes on what came."""
        try:
            self._handle(worker, told)
        except Exception:
            kind = str(told.__struct_config__.tag)
            self.mishandled[kind] += 1
            log.exception("control failed at what a worker told it", what=kind, worker=worker.index)
            if isinstance(told, frames.Peer):
                self._answer_peer(worker, told, 500, b"this agent failed at that question")
            elif isinstance(told, frames.Store):
                self._stored(worker, told.id, told.name, "control failed at it")

    def _answer_peer(self, worker: Worker, asked: frames.Peer, status: int, body: bytes) -> None:
        worker.send(frames.encode(frames.PeerAnswer(asked.id, status, body)))

    def _handle(self, worker: Worker, told: ToControl) -> None:
        if isinstance(told, frames.Runs):
            for refused in told.refused:
                fields = msgspec.structs.asdict(refused)
                log.error("a worker refused what control accepted", worker=worker.index, **fields)
            worker.on_commit(told)
            self._recount()
        elif isinstance(told, frames.Ready):
            worker.on_ready(told)
            if worker.build != build.kind():
                log.error("a worker is not built as control is", worker=worker.index, build=worker.build)
            self._recount()
        elif isinstance(told, frames.Records):
            self._on_records(told.lines, told.count)
        elif isinstance(told, frames.Peer):
            self._answer_peer(worker, told, *self._on_peer(told.path, told.body, told.address))
        elif isinstance(told, frames.Store):
            self._on_store(told.topic, told.record, partial(self._stored, worker, told.id, told.name))
        elif isinstance(told, frames.Compared):
            self._on_compared(told)
        elif isinstance(told, frames.Happened):
            self._on_happened(told.events)
        elif isinstance(told, frames.Answer):
            answer = worker.answers.pop(told.id, None)
            if answer is not None:
                answer.send_nowait(told)

    def _stored(self, worker: Worker, number: int, name: str, reason: str) -> None:
        worker.send(frames.encode(frames.Stored(number, name, reason)))

    async def _watch(self, worker: Worker) -> None:
        while True:
            await trio.sleep(min(PING_S, self._hang_s / 4))
            worker.send(frames.encode(frames.Ask(0, "ping")))
            if time.monotonic() - worker.last_word > self._hang_s:
                log.error("a worker hangs, and is killed", worker=worker.index, pid=worker.process.pid)
                worker.process.kill()

    def feed(self) -> None:
        """The table changed: have every worker know, as soon as it has taken what it was told before."""
        for worker in self.workers.values():
            worker.feed()

    def publish(self, changed: Iterable[ToWorker]) -> None:
        """Send frames to every worker."""
        data = b"".join(map(frames.encode, changed))
        for worker in self.workers.values():
            worker.send(data)

    def tell(self, index: int, frame: ToWorker) -> None:
        """Send a frame to one worker, if it is there."""
        worker = self.workers.get(index)
        if worker is not None:
            worker.send(frames.encode(frame))

    async def ask_each(self, what: str) -> dict[int, Any]:
        """What each ready worker answers, by its index; those that do not answer in time are left out."""
        answers: dict[int, Any] = {}

        async def one(worker: Worker) -> None:
            found: list[Any] = []
            await self._ask_one(worker, what, {}, found)
            if found:
                answers[worker.index] = found[0]

        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for worker in [worker for worker in self.workers.values() if worker.ready]:
                    nursery.start_soon(one, worker)
        return answers

    def reconfigure(self) -> None:
        """Send the configuration again."""
        self.publish([self._configuration()])

    async def ask(self, what: str, args: dict[str, Any] | None = None, *, one: bool = False) -> list[Any]:
        """What every ready worker answers (or just one); those that do not answer in time are left out."""
        asked = [worker for worker in self.workers.values() if worker.ready][: 1 if one else None]
        answers: list[Any] = []
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for worker in asked:
                    nursery.start_soon(self._ask_one, worker, what, args or {}, answers)
        return answers

    async def _ask_one(self, worker: Worker, what: str, args: dict[str, Any], answers: list[Any]) -> None:
        number = next(self._asks)
        send, receive = trio.open_memory_channel[frames.Answer](1)
        worker.answers[number] = send
        worker.send(frames.encode(frames.Ask(number, what, args)))
        try:
            told = await receive.receive()
        except trio.EndOfChannel:
            return
        finally:
            worker.answers.pop(number, None)
        if told.error:
            log.error("a worker could not answer", what=what, error=told.error)
        else:
            answers.append(told.value)

    # What runs.

    @property
    def ready(self) -> bool:
        """Whether at least one worker serves, and none that lives is still without a table."""
        return bool(self.workers) and all(worker.ready for worker in self.workers.values())

    def _recount(self) -> None:
        running = [worker.revision for worker in self.workers.values() if worker.ready]
        lowest = min(running, default=self.revision)
        if lowest > self.revision:
            self.recent_commits.append((lowest, time.time()))
        self.revision = lowest
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until some worker runs something else, or came or went."""
        await self._changed.wait()

    # Ending.

    async def drain(self, deadline_s: float) -> None:
        """Have every worker finish what is in flight, and end."""
        self._stopping = True
        self.publish([frames.Drain(deadline_s)])
        with trio.move_on_after(deadline_s + 2):
            while self.workers:
                await self.changed()

    def leave_behind(self) -> tuple[OldWorker, ...]:
        """Let the workers live on, for the process that is executed next; returns how to reach them."""
        self._stopping = self._left_behind = True
        left = []
        for worker in self.workers.values():
            fd = os.dup(worker.stream.socket.fileno())
            os.set_inheritable(fd, True)
            left.append(OldWorker(worker.process.pid, fd))
        return tuple(left)

    def old_worker_ended(self, pid: int) -> None:
        """One that the process before left behind holds nothing any more."""
        if self._counts is not None:
            self._counts.ended(pid)

    def hand_over_counts(self) -> int:
        """What the process that is executed next counts on in; NONE before it runs."""
        return self._counts.hand_over() if self._counts is not None else NONE


async def drain_old(left: list[OldWorker], deadline_s: float, on_ended: Callable[[int], None]) -> None:
    """End the workers that the process before left behind: they finish what is in flight. `on_ended`: of each process.

    `left` always holds those that are still there, so that they can be handed on when a reload comes meanwhile.
    """
    _tell_to_drain(left, deadline_s)
    ends = trio.current_time() + deadline_s + 2
    while left:
        for worker in [worker for worker in left if _is_gone(worker.pid)]:
            left.remove(worker)
            on_ended(worker.pid)
        if left and trio.current_time() > ends:
            for worker in left:
                os.kill(worker.pid, signal.SIGKILL)
        await trio.sleep(0.1)


def _tell_to_drain(left: list[OldWorker], deadline_s: float) -> None:
    for at, worker in enumerate(left):
        if worker.fd == TOLD:
            continue
        with socket.socket(fileno=worker.fd) as sock:
            try:
                sock.sendall(frames.encode(frames.Drain(deadline_s)))
            except OSError:
                pass  # it died meanwhile
        left[at] = OldWorker(worker.pid, TOLD)


def _is_gone(pid: int) -> bool:
    """Whether a child has ended; collects it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
