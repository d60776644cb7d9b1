"""The proxy workers: started, fed, listened to, replaced when they die, drained at the end.

Laws
- A worker that dies is replaced at once, and gets the whole table before anything else; the next deaths in a row wait
  a little longer each time.
- A worker that does not answer for `hang_s` is taken for hung, and killed.
- Control never waits for a worker before it goes on with another.
- A worker that has not yet taken into force what it was told of the table is told no more of it; then it is told how
  the table is by that time. So a worker that is behind costs no memory, and compiles nothing that is outdated already.
- Nothing that a worker said or counted is lost over a re-execution: what is between it and control is handed over.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from agent import frames, framing
from agent.control.host.sockets import OldWorker, share
from agent.control.workers.asking import Asking
from agent.control.workers.convergence import Convergence
from agent.control.workers.conversation import Conversation, Reply
from agent.control.workers.previous import NOTHING, PreviousWorkers, in_memory, left, taken
from agent.control.workers.shared_counts import NONE, SharedCounts
from agent.control.workers.worker import Feed, Worker
from agent.frames import ToWorker
from agent.surroundings import handed_on
from registry.backoff import Backoff

PING_S: Final = 5.0
HANG_S: Final = 30.0
ASK_S: Final = 3.0
LAST_WORDS_S: Final = 2.0
COUNT_EVERY_S: Final = 2.0
PORTION: Final = 100
"""Services whose figures a worker tells at a time."""
GIVEN_UP_BYTES: Final = 512 * 1024
"""What workers remember together of calls that came to nothing (`agent/proxy/given_up.py`)."""
_ROOT: Final = str(Path(__file__).resolve().parents[3])
log = structlog.get_logger()


class Fleet:
    """Every worker of this agent."""

    def __init__(
        self,
        outbound: list[socket.socket],
        inbound: list[socket.socket],
        count: int,
        *,
        callers: Sequence[tuple[str, socket.socket]] = (),
        configuration: Callable[[], frames.Configure],
        feed: Callable[[], Feed],
        trust: Callable[[], frames.Trust] = frames.Trust,
        keys: Callable[[], Iterable[frames.IssuerKeys]] = tuple,
        follows: Callable[[], Iterable[frames.Follow | frames.Tap]] = tuple,
        on_records: Callable[[bytes, int], None],
        on_spans: Callable[[bytes, int], None] = lambda lines, count: None,
        on_followed: Callable[[frames.Followed], None] = lambda told: None,
        on_happened: Callable[[list[frames.Transition]], None] = lambda events: None,
        on_compared: Callable[[frames.Compared], None] = lambda told: None,
        on_peer: Callable[[frames.Peer, Reply], None] = lambda asked, reply: reply(404, b""),
        on_key_missed: Callable[[str], None] = lambda source: None,
        on_store: Callable[[frames.Topic, bytes, Callable[[str], None]], None] = lambda topic, record, reply: None,
        on_audited: Callable[[frames.Audited, Callable[[str], None]], None] = lambda told, reply: reply(""),
        inherited_counts: int = NONE,
        inherited: Sequence[OldWorker] = (),
        inherited_ledger: int = NOTHING,
        command: Sequence[str] = (sys.executable, "-P", "-m", "agent.proxy"),
        hang_s: float = HANG_S,
    ) -> None:
        """`count` is of workers. `callers`: listeners of callers' own, which all workers share, with whose they are.
        `configuration`, `trust`, `keys` and `follows` give what a newcomer has to know; `feed` makes what it is told of
        the table.
        `inherited…`: of the process before (`SharedCounts`, its workers, `Ledger`). `hang_s`: how long a worker may be
        silent, in seconds."""
        self._outbound = outbound
        self._inbound = inbound
        self._callers = callers
        self._count = count
        self._configuration = configuration
        self._trust = trust
        self._keys = keys
        self._follows = follows
        self._make_feed = feed
        self._talk = Conversation(
            on_records=on_records,
            on_spans=on_spans,
            on_followed=on_followed,
            on_happened=on_happened,
            on_compared=on_compared,
            on_peer=on_peer,
            on_key_missed=on_key_missed,
            on_store=on_store,
            on_audited=on_audited,
            on_turn=self._recount,
        )
        self.previous = PreviousWorkers(inherited, self._talk, self._old_worker_ended)
        self._inherited_ledger = inherited_ledger
        self._command = list(command)
        self._hang_s = hang_s
        # No number that the process before used: workers that it left answer what it asked.
        self._asking = Asking()
        self._changed = trio.Event()
        self._counting = trio.Lock()
        self._stopping = False
        self._left_behind = False
        self._left: list[Worker] = []
        self._given_up = -1
        """Memory that the workers share, while it runs."""
        self._inherited_counts = inherited_counts
        self._counts: SharedCounts | None = None
        self.workers: dict[int, Worker] = {}
        self.restarts = 0
        self.mishandled = self._talk.mishandled
        self.revision = 0
        """The lowest that every ready worker runs."""
        self.convergence = Convergence()
        self.recent_commits: deque[tuple[int, float]] = deque(maxlen=100)
        """Revision, and unix time (s) at which the last worker ran it."""

    # Starting and replacing.

    async def run(self) -> None:
        """Keep every worker running until cancelled, or until drained."""
        self._given_up = os.memfd_create("shoal-given-up")
        try:
            os.ftruncate(self._given_up, GIVEN_UP_BYTES)
            self._counts = SharedCounts(self._inherited_counts)
            self._talk.ledger.load(taken(self._inherited_ledger))
            self.previous.adopt()
            async with trio.open_nursery() as nursery:
                for index in range(self._count):
                    nursery.start_soon(self._keep, index)
                nursery.start_soon(self.previous.run)
                nursery.start_soon(self._keep_counted)
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
        if self._left_behind:  # while it was being started: the process that is executed next does not know of it
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            ours.close()
            counts.free(region)
            return
        counts.began(region, process.pid)
        worker = Worker(index, process, trio.socket.from_stdlib_socket(ours), self._make_feed())
        self.workers[index] = worker
        self._recount()
        known: list[ToWorker] = [self._configuration(), self._trust(), *self._keys(), *self._follows()]
        worker.send(b"".join(map(framing.encode, known)))
        worker.feed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.write)
                nursery.start_soon(self._watch, worker)
                nursery.start_soon(self._talk.listen, worker)
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
            "SHOAL_CALLER_FDS": [sock.fileno() for _, sock in self._callers],
        }
        path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
        told = {name: ",".join(map(str, numbers)) for name, numbers in fds.items()}
        return await trio.lowlevel.open_process(
            self._command,
            pass_fds=[fd for numbers in fds.values() for fd in numbers],
            env={
                **handed_on(os.environ),
                **told,
                "PYTHONPATH": path,
                "SHOAL_CALLERS": ",".join(service for service, _ in self._callers),
                "SHOAL_COUNTS_REGION": str(region),
                "SHOAL_LISTEN": "with_table" if self.previous.workers else "now",
            },
            stdin=subprocess.DEVNULL,
        )

    def _bury(self, worker: Worker) -> None:
        if worker.process.returncode is None and not self._left_behind:
            worker.process.kill()
        if self.workers.get(worker.index) is worker:
            del self.workers[worker.index]
        if not self._left_behind:
            worker.close()
            self._talk.ledger.end(worker.process.pid)
        for answer in worker.answers.values():
            answer.close()
        self._recount()

    # Talking.

    async def _watch(self, worker: Worker) -> None:
        while True:
            await trio.sleep(min(PING_S, self._hang_s / 4))
            worker.send(framing.encode(frames.Ask(0, "ping")))
            if time.monotonic() - worker.last_word > self._hang_s:
                log.error("a worker hangs, and is killed", worker=worker.index, pid=worker.process.pid)
                worker.process.kill()

    def feed(self) -> None:
        """The table changed: have every worker know, as soon as it has taken what it was told before."""
        for worker in self.workers.values():
            worker.feed()

    def publish(self, changed: Iterable[ToWorker]) -> None:
        """Send frames to every worker."""
        data = b"".join(map(framing.encode, changed))
        for worker in self.workers.values():
            worker.send(data)

    def tell(self, index: int, frame: ToWorker) -> None:
        """Send a frame to one worker, if it is there."""
        worker = self.workers.get(index)
        if worker is not None:
            worker.send(framing.encode(frame))

    async def ask_each(self, what: str) -> dict[int, Any]:
        """What each ready worker answers, by its index; those that do not answer in time are left out."""
        answers: dict[int, Any] = {}

        async def one(worker: Worker) -> None:
            found: list[Any] = []
            await self._asking.ask(worker, what, {}, found)
            if found:
                answers[worker.index] = found[0]

        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for worker in [worker for worker in self.workers.values() if worker.ready]:
                    nursery.start_soon(one, worker)
        return answers

    async def metrics(self) -> list[dict[str, Any]]:
        """What all workers have counted by now, those of the process before too, and those that are gone."""
        async with self._counting:
            with trio.move_on_after(ASK_S):
                async with trio.open_nursery() as nursery:
                    for worker in (*(w for w in self.workers.values() if w.ready), *self.previous.heard):
                        nursery.start_soon(self._hear_counted, worker)
        return self.counted()

    def counted(self) -> list[dict[str, Any]]:
        """The same, as it was heard last."""
        return self._talk.ledger.figures()

    async def _hear_counted(self, worker: Worker) -> None:
        told = await self._asking.in_portions(worker, "metrics", PORTION)
        if told is not None and not worker.closed:
            self._talk.ledger.hear(worker.process.pid, told)

    def pids(self) -> list[int]:
        """Of the workers that live, but those of the process before."""
        return [worker.process.pid for worker in self.workers.values()]

    async def loads(self) -> dict[int, dict[str, Any]]:
        """What is under way in each ready worker, by its process; without those that do not answer in time."""
        found: dict[int, dict[str, Any]] = {}
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for worker in [worker for worker in self.workers.values() if worker.ready]:
                    nursery.start_soon(self._hear_load, worker, found)
        return found

    async def _hear_load(self, worker: Worker, loads: dict[int, dict[str, Any]]) -> None:
        told = await self._asking.in_portions(worker, "load")
        if told is not None:
            loads[worker.process.pid] = told["services"]

    async def _keep_counted(self) -> None:
        """Have what a worker counts heard before it may die."""
        while True:
            await trio.sleep(COUNT_EVERY_S)
            await self.metrics()

    def reconfigure(self) -> None:
        """Send the configuration again."""
        self.publish([self._configuration()])

    def prove(self) -> None:
        """Send what this agent can prove, and whom it believes, again."""
        self.publish([self._trust()])

    async def has_taken(self) -> bool:
        """Whether every worker has taken what it was sent before this was asked."""
        asked = {worker for worker in self.workers.values() if worker.ready}
        answered = await self.ask("ping")
        return len(answered) >= len(asked)

    async def ask(self, what: str, args: dict[str, Any] | None = None, *, one: bool = False) -> list[Any]:
        """What every ready worker answers (or just one); those that do not answer in time are left out."""
        asked = [worker for worker in self.workers.values() if worker.ready][: 1 if one else None]
        answers: list[Any] = []
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for worker in asked:
                    nursery.start_soon(self._asking.ask, worker, what, args or {}, answers)
        return answers

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
            self.convergence.run(lowest, time.monotonic())
        self.revision = lowest
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until some worker runs something else, or came or went."""
        await self._changed.wait()

    # Ending.

    async def drain(self, deadline_s: float) -> None:
        """Have every worker, those of the process before too, finish what is in flight, and end."""
        self._stopping = True
        self.publish([frames.Drain(deadline_s)])
        self.previous.drain(deadline_s)
        with trio.move_on_after(deadline_s + 2):
            while self.workers or self.previous.workers:
                await self.changed()

    def announce_absence(self) -> None:
        """Tell the workers that this process hears nothing for a while."""
        for worker in self.workers.values():
            worker.send(framing.encode(frames.Away()))

    def leave_behind(self) -> None:
        """Let the workers live on, for the process that is executed next: nothing more is heard of them here."""
        self._stopping = self._left_behind = True
        self._left = [*self.workers.values()]
        for worker in self._left:
            worker.hush()
        self.previous.hush()

    def left_behind(self) -> tuple[OldWorker, ...]:
        """How to reach them; asked when everything here has ended."""
        return (*map(left, self._left), *self.previous.left())

    def hand_over_ledger(self) -> int:
        """What workers counted, for the process that is executed next."""
        return in_memory(self._talk.ledger.saved())

    def _old_worker_ended(self, pid: int) -> None:
        """One that the process before left behind holds nothing any more."""
        if self._counts is not None:
            self._counts.ended(pid)
        self._talk.ledger.end(pid)
        self._recount()

    def hand_over_counts(self) -> int:
        """What the process that is executed next counts on in; NONE before it runs."""
        return self._counts.hand_over() if self._counts is not None else NONE
