"""Supervision of real processes: the real worker, and ones that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from agent import frames, framing
from agent.control.host.sockets import TOLD, OldWorker, listening
from agent.control.workers.fleet import Fleet
from agent.control.workers.previous import MOST_PREVIOUS, NOTHING
from agent.frames import Change, Commit, Configure, PolicyFrame, Stage, ToWorker
from agent.framing import encode
from agent.settings.address import Address
from policies.kinds.shadow.answer import Asked
from tests.support.proxy import GET, OK, Client, always_ok, endpoint, refusing_port
from tests.support.proxy import listening as listening_port

ANY = Address("127.0.0.1", 0)
WORKER = (sys.executable, "-m", "agent.proxy")
SLEEPER = (sys.executable, "-c", "import time; time.sleep(1000)")


class Feed:
    """What one worker is told: all that there is at first, and whatever else as it is by then."""

    def __init__(self, run: Running) -> None:
        self.run = run
        self.taken: list[ToWorker] = []

    def take(self, *, parts: bool) -> list[ToWorker]:
        new = self.run.table if self.run.table != self.taken else []
        self.taken = self.run.table
        if new:
            self.run.takes += 1
            self.run.parts.append(parts)
        return new

    def close(self) -> None:
        self.run.closed += 1


class Running:
    """A fleet, what it is told, and what it tells."""

    def __init__(
        self, count: int, command: Sequence[str], hang_s: float, before: Running | None = None, **handlers: Any
    ) -> None:
        """`before`: whose listening sockets these are too."""
        self.outbound = [sock.dup() for sock in before.outbound] if before else listening(ANY, (), count)
        self.inbound = [sock.dup() for sock in before.inbound] if before else listening(ANY, (), count)
        self.table: list[ToWorker] = []
        self.takes = 0
        self.parts: list[bool] = []
        self.closed = 0
        self.lines = b""
        self.clients: list[Client] = []
        self.fleet = Fleet(
            self.outbound,
            self.inbound,
            count,
            configuration=lambda: Configure("here", access_log=True),
            feed=lambda: Feed(self),
            command=command,
            hang_s=hang_s,
            **{"on_records": self.on_records, **handlers},
        )

    def tell(self, table: list[ToWorker]) -> None:
        self.table = table
        self.fleet.feed()

    def on_records(self, lines: bytes, count: int) -> None:
        assert lines.count(b"\n") == count
        self.lines += lines

    @property
    def pids(self) -> list[int]:
        return sorted(worker.process.pid for worker in self.fleet.workers.values())

    async def until(self, question: Any) -> None:
        with trio.fail_after(60):
            while not question():
                await self.fleet.changed()

    async def client(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.outbound[0].getsockname()[1]))
        self.clients.append(client)
        return client


@asynccontextmanager
async def running(
    count: int = 1, command: Sequence[str] = WORKER, hang_s: float = 30, **handlers: Any
) -> AsyncIterator[Running]:
    running = Running(count, command, hang_s, **handlers)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.fleet.run)
            yield running
            nursery.cancel_scope.cancel()
    finally:
        for sock in (*running.outbound, *running.inbound, *(client.stream.socket for client in running.clients)):
            sock.close()


def service(port: int, revision: int = 1, **more: Any) -> list[ToWorker]:
    return [Stage("pets.production", revision, [endpoint(port, **more)], {}), Commit(revision)]


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    sock, port = listening_port()

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(AssertionError, trio.BrokenResourceError):
                await always_ok(Client(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
        yield port
        nursery.cancel_scope.cancel()


async def test_workers_serve_what_they_are_sent() -> None:
    """Ready with the first commit; what is published later is in force in all of them, and they say so."""
    async with upstream() as port, running(count=2) as run:
        await run.until(lambda: len(run.fleet.workers) == 2)
        assert not run.fleet.ready
        run.tell(service(port, 5))
        await run.until(lambda: run.fleet.ready)
        assert run.fleet.revision == 5
        run.tell([Commit(9)])
        await run.until(lambda: run.fleet.revision == 9)
        assert [revision for revision, _ in run.fleet.recent_commits] == [5, 9]
        assert (await (await run.client()).ask(GET)).endswith(b"ok")


async def test_a_worker_that_dies_is_replaced() -> None:
    """kill -9: a successor, with the whole table, on the same port; the other worker does not notice."""
    async with upstream() as port, running(count=2) as run:
        run.table = service(port, 3)
        await run.until(lambda: run.fleet.ready and len(run.pids) == 2)
        before = run.pids
        os.kill(before[0], signal.SIGKILL)
        await run.until(lambda: run.fleet.ready and len(run.pids) == 2 and before[0] not in run.pids)
        assert before[1] in run.pids
        assert run.fleet.restarts == 1
        assert run.fleet.revision == 3
        for _ in range(8):
            assert (await (await run.client()).ask(GET)).endswith(b"ok")


async def test_what_waits_in_the_queue_of_a_dead_worker_is_served() -> None:
    """Control holds the socket too: a client that connects while nobody accepts is answered by the successor."""
    async with upstream() as port, running() as run:
        run.table = service(port)
        await run.until(lambda: run.fleet.ready)
        os.kill(run.pids[0], signal.SIGSTOP)
        client = await run.client()
        await client.send(GET)
        os.kill(run.pids[0], signal.SIGKILL)
        assert (await client.until(b"ok")).endswith(b"ok")


async def test_a_worker_that_hangs_is_killed() -> None:
    """A stopped process answers nothing: it is replaced after `hang_s`."""
    async with upstream() as port, running(hang_s=5) as run:
        run.table = service(port)
        await run.until(lambda: run.fleet.ready)
        (before,) = run.pids
        os.kill(before, signal.SIGSTOP)
        await run.until(lambda: run.fleet.ready and run.pids != [before])
        assert (await (await run.client()).ask(GET)).endswith(b"ok")


async def test_a_worker_that_is_behind_runs_only_the_newest() -> None:
    """Stopped while 300 changes happen, it is told of one; what it says that it runs is what it serves, and the other
    worker is not held up."""
    async with upstream() as port, running(count=2) as run:
        run.table = service(port)
        await run.until(lambda: run.fleet.ready and len(run.pids) == 2)
        stopped, other = run.fleet.workers[0], run.fleet.workers[1]
        os.kill(stopped.process.pid, signal.SIGSTOP)
        run.tell(service(port, 2))
        await run.until(lambda: other.revision == 2)
        before = run.takes
        for revision in range(3, 303):
            run.tell(service(port if revision == 302 else refusing_port(), revision))
            await run.until(lambda now=revision: other.revision == now)
        assert run.fleet.revision == 1, "nothing is acknowledged that a worker does not run"
        assert run.takes - before == 300
        os.kill(stopped.process.pid, signal.SIGCONT)
        await run.until(lambda: run.fleet.revision == 302)
        assert run.takes - before == 301
        assert [revision for revision, _ in run.fleet.recent_commits][-2:] == [2, 302]
        for _ in range(8):
            assert (await (await run.client()).ask(GET)).endswith(b"ok")


async def test_a_worker_that_could_not_do_it_is_told_of_services_as_a_whole() -> None:
    """From then on: nobody knows what it lacks. One that takes everything is told what changed."""
    async with upstream() as port, running() as run:
        run.table = service(port)
        await run.until(lambda: run.fleet.ready)
        run.tell([Change("pets.production", 2), Commit(2)])
        await run.until(lambda: run.fleet.revision == 2)
        assert run.parts == [False, True]
        run.tell([Change("nobody", 3), Commit(3)])
        await run.until(lambda: run.fleet.revision == 3)
        run.tell(service(port, 4))
        await run.until(lambda: run.fleet.revision == 4)
        assert run.parts == [False, True, True, False]
    assert run.closed == 1


TALKS = """
import os, socket
control = socket.socket(fileno=int(os.environ["SHOAL_CONTROL_FD"]))
control.sendall({!r})
while control.recv(65536):
    pass
"""


@pytest.mark.parametrize(
    "said",
    [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x01\x05", b"\x00\x00\x00\x03\x81\xa1x"],
    ids=["too long", "no msgpack", "no map", "truncated"],
)
async def test_a_worker_that_talks_nonsense_is_killed(said: bytes) -> None:
    """What a worker says cannot end control; it is replaced, again and again, with growing pauses."""
    async with running(command=(sys.executable, "-c", TALKS.format(said))) as run:
        await run.until(lambda: run.fleet.restarts >= 2)


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "records"},
        {"t": "records", "lines": "text", "count": 1},
        {"t": "peer", "id": "1", "path": "/", "body": b"", "address": ""},
        {"t": "happened", "events": [{}]},
        {"t": "runs", "revision": 1, "refused": ["?"]},
        {"t": ["runs"]},
        {},
    ],
    ids=str,
)
async def test_a_worker_that_says_frames_of_nobodys_is_killed(frame: Any) -> None:
    """Well made, and without meaning: it is no worker of ours any more."""
    async with running(command=(sys.executable, "-c", TALKS.format(encode(frame)))) as run:
        await run.until(lambda: run.fleet.restarts >= 1)
    assert not run.fleet.mishandled


SOUND = [
    frames.Peer(7, "/shares", b"\x92\xa1\xff\x80", "10.0.0.9"),
    frames.Store(8, "n", frames.Topic("?"), b"{}"),
    frames.Happened([]),
    frames.Compared("s", 1, Asked("GET", "/", ""), {}),
    frames.Records(0, b""),
]
LAST = encode(frames.Runs(9, [])) + encode(frames.Ready(1, "compiled"))
NEWER: list[Any] = [{"t": "never heard of", "id": 1}, {"t": "records", "lines": b"", "count": 0, "mood": "good"}]
ANSWERED = """
import os, socket, sys
sys.path.insert(0, os.environ["PYTHONPATH"].split(os.pathsep)[0])
from agent.frames import PeerAnswer, Stored, to_worker
from agent.framing import Decoder
control = socket.socket(fileno=int(os.environ["SHOAL_CONTROL_FD"]))
control.sendall({!r})
decoder = Decoder(to_worker)
found = []
while len(found) < 2:
    found += [f for f in decoder.feed(control.recv(65536)) if isinstance(f, (PeerAnswer, Stored))]
control.sendall({!r} + (b"" if repr(found) == {!r} else b"no"))
while control.recv(65536):
    pass
"""


async def test_what_control_fails_at_costs_no_worker() -> None:
    """Its own exceptions are told, counted, answered where an answer is waited for; the next frames are heard."""
    failing: Any = {
        name: (lambda *_: 1 / 0) for name in ("on_peer", "on_store", "on_happened", "on_compared", "on_records")
    }
    said = b"".join(map(encode, SOUND))
    wanted = [
        frames.PeerAnswer(7, 500, b"this agent failed at that question"),
        frames.Stored(8, "n", "control failed at it"),
    ]
    async with running(command=(sys.executable, "-c", ANSWERED.format(said, LAST, repr(wanted))), **failing) as run:
        await run.until(lambda: run.fleet.ready)
        assert run.fleet.revision == 9 and run.fleet.restarts == 0
        assert run.fleet.mishandled == dict.fromkeys(("peer", "store", "happened", "compared", "records"), 1)


async def test_what_a_newer_worker_says_besides_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    """A kind that is not known is told of, once; a field is not missed. The worker lives, and is heard."""
    said = b"".join(map(encode, NEWER * 3)) + LAST
    async with running(command=(sys.executable, "-c", TALKS.format(said))) as run:
        await run.until(lambda: run.fleet.ready)
        assert run.fleet.revision == 9 and run.fleet.restarts == 0
    assert not run.fleet.mishandled
    assert capsys.readouterr().out.count("never heard of") == 2


@pytest.mark.parametrize("command", [("/no/such/program",), (sys.executable, "-c", "raise SystemExit(3)")])
async def test_a_worker_that_cannot_start_is_tried_again(command: Sequence[str]) -> None:
    """Whatever is wrong with starting it, control lives and tries on."""
    async with running(command=command) as run:
        with trio.fail_after(60):
            while run.fleet.restarts < 2:
                await trio.sleep(0.02)


async def test_asking() -> None:
    """Every ready worker answers; what one cannot answer is left out, and nobody waits for the dead."""
    async with running(count=2) as run:
        assert await run.fleet.ask("metrics") == []
        await run.until(lambda: len(run.fleet.workers) == 2)
        run.tell(service(refusing_port()))
        await run.until(lambda: run.fleet.ready)
        answers = await run.fleet.ask("metrics")
        assert [answer["revision"] for answer in answers] == [1, 1]
        assert len(await run.fleet.ask("explain", {"method": "GET", "url": "pets.production/"}, one=True)) == 1
        assert await run.fleet.ask("the impossible") == []


async def test_draining_finishes_what_is_in_flight() -> None:
    """The request that runs is answered, new connections are refused, and the last access records arrive."""
    release = trio.Event()

    async def slow(client: Client) -> None:
        await client.head()
        await release.wait()
        await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    sock, port = listening_port()
    async with running() as run, trio.open_nursery() as nursery:

        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                await slow(Client(stream))

        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
        run.table = service(port)
        await run.until(lambda: run.fleet.ready)
        client = await run.client()
        await client.send(GET)
        while not (await run.fleet.ask("metrics"))[0]["pool"]["open"]:
            await trio.sleep(0.01)
        open_files = Path(f"/proc/{run.pids[0]}/fd")
        before = len(list(open_files.iterdir()))
        nursery.start_soon(run.fleet.drain, 10.0)
        while len(list(open_files.iterdir())) > before - 2:  # both listeners are closed
            await trio.sleep(0.01)
        release.set()
        assert b"connection: close" in (await client.until(b"ok")).lower()
        client.stream.socket.close()
        await run.until(lambda: not run.fleet.workers)
        assert [json.loads(line)["target"] for line in run.lines.splitlines()] == ["/"]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def held(count: int, *, holds: bool = True, **documents: Any) -> AsyncIterator[tuple[Running, Any]]:
    """Real workers before an instance that holds what it is asked, and who asks one of them."""
    release = trio.Event()
    if not holds:
        release.set()

    async def slow(client: Client) -> None:
        while True:
            await client.head()
            await release.wait()
            await client.send(OK)

    sock, port = listening_port()

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(AssertionError, trio.BrokenResourceError, trio.ClosedResourceError):
                await slow(Client(stream))

    async def ask(run: Running) -> Client:
        client = await run.client()
        await client.send(GET)
        return client

    policies = {
        kind: PolicyFrame("pets.production", 1, msgspec.json.encode(document)) for kind, document in documents.items()
    }
    async with trio.open_nursery() as nursery, running(count=count) as run:
        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
        run.table = [Stage("pets.production", 1, [endpoint(port, agent="here")], policies), Commit(1)]
        await run.until(lambda: run.fleet.ready and len(run.pids) == count)
        yield run, ask
        release.set()
        nursery.cancel_scope.cancel()


async def refused(client: Client) -> bool:
    return (await client.head()).startswith(b"HTTP/1.1 503")


async def holder(run: Running) -> int:
    """Which worker has the one request that is under way; the kernel chose it."""
    with trio.fail_after(60):
        while True:
            for index, told in (await run.fleet.ask_each("metrics")).items():
                if told["services"].get("pets.production", {"active": 0})["active"]:
                    return index
            await trio.sleep(0.01)


@pytest.mark.parametrize("documents", [{"shed": {"concurrency": 1}}, {"breaker": {"limits": {"requests": 1}}}])
async def test_a_limit_is_of_all_workers(documents: dict[str, Any]) -> None:
    """One request under way of four real workers; when the one that holds it is killed another may pass."""
    async with held(4, **documents) as (run, ask):
        await ask(run)
        index = await holder(run)
        assert [await refused(await ask(run)) for _ in range(16)] == [True] * 16
        os.kill(run.fleet.workers[index].process.pid, signal.SIGKILL)
        await run.until(lambda: run.fleet.restarts == 1 and run.fleet.ready and len(run.pids) == 4)
        await ask(run)
        await holder(run)
        assert [await refused(await ask(run)) for _ in range(16)] == [True] * 16


async def test_a_rate_is_of_all_workers() -> None:
    """Five of forty pass, whichever of four real workers they come to; also where one of them dies in between."""
    limit = {"name": "all", "rate": "5/h", "burst": 5, "status": 503}
    async with held(4, holds=False, ratelimit={"limits": [limit]}) as (run, ask):
        assert [await refused(await ask(run)) for _ in range(20)] == [False] * 5 + [True] * 15
        os.kill(run.fleet.workers[0].process.pid, signal.SIGKILL)
        await run.until(lambda: run.fleet.restarts == 1 and run.fleet.ready and len(run.pids) == 4)
        assert [await refused(await ask(run)) for _ in range(20)] == [True] * 20


async def test_old_workers_and_new_ones_have_one_limit() -> None:
    """While those of the process before drain what they hold counts; and no longer when they are gone."""
    async with held(2, breaker={"limits": {"requests": 1}}) as (run, ask):
        await ask(run)
        index = await holder(run)
        async with running(count=2, inherited_counts=run.fleet.hand_over_counts()) as later:
            later.table = run.table
            await later.until(lambda: later.fleet.ready and len(later.pids) == 2)
            assert [await refused(await ask(later)) for _ in range(8)] == [True] * 8
            os.kill(run.fleet.workers[index].process.pid, signal.SIGKILL)
            await run.until(lambda: run.fleet.restarts == 1)
            await ask(later)
            await holder(later)
            assert [await refused(await ask(later)) for _ in range(8)] == [True] * 8


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
            assert figures == [
                {
                    "services": {"pets": {"requests": {"2xx": 40}, "active": 0, "breaker": {}, "ejected": {}}},
                    "refused": {},
                    "revision": 0,
                }
            ]
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


def requests_of(figures: list[dict[str, Any]]) -> tuple[int, int]:
    """Requests, and observations of the histogram."""
    found = [one["services"].get("pets.production") for one in figures if "services" in one]
    told = [one for one in found if one]
    return sum(one["requests"].get("2xx", 0) for one in told), sum(sum(one["duration_buckets"]) for one in told)


async def test_what_a_killed_worker_counted_stays() -> None:
    """What was shown never falls: one worker is killed, another one hangs first, the next counts on."""
    async with upstream() as port, running() as run:
        run.tell(service(port))
        shown = 0
        for signals in ((signal.SIGKILL,), (signal.SIGSTOP, signal.SIGKILL), (signal.SIGKILL,)):
            await run.until(lambda: run.fleet.ready)
            (pid,) = run.pids
            client = await run.client()
            for _ in range(5):
                assert (await client.ask(GET)).endswith(b"ok")
            shown += 5
            assert requests_of(await run.fleet.metrics()) == (shown, shown)
            for number in signals:
                os.kill(pid, number)
                assert requests_of(await run.fleet.metrics()) == (shown, shown), "it does not answer any more"
            await run.until(lambda pid=pid: run.pids not in ([], [pid]))
            assert requests_of(run.fleet.counted()) == (shown, shown)


async def test_what_was_counted_is_heard_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies before anybody looks at the metrics loses its last moments only."""
    monkeypatch.setattr("agent.control.workers.fleet.COUNT_EVERY_S", 0.01)
    async with upstream() as port, running() as run:
        run.tell(service(port))
        await run.until(lambda: run.fleet.ready)
        client = await run.client()
        assert (await client.ask(GET)).endswith(b"ok")
        with trio.fail_after(60):
            while requests_of(run.fleet.counted()) != (1, 1):
                await trio.sleep(0.01)
        (pid,) = run.pids
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: run.pids not in ([], [pid]))
        assert requests_of(await run.fleet.metrics()) == (1, 1)


async def test_many_services_are_told_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is missing, and none is told twice."""
    monkeypatch.setattr("agent.control.workers.fleet.PORTION", 3)
    names = [f"s{number}" for number in range(10)]
    async with upstream() as port, running() as run:
        run.tell([*(Stage(name, 1, [endpoint(port)], {}) for name in names), Commit(1)])
        await run.until(lambda: run.fleet.ready)
        client = await run.client()
        for name in names[1:]:
            assert (await client.ask(GET.replace(b"pets.production", name.encode()))).endswith(b"ok")
        (told,) = await run.fleet.metrics()
        assert {name: one["requests"] for name, one in told["services"].items()} == {n: {"2xx": 1} for n in names[1:]}
        assert told["connections"]["open"] == 1 and "next" not in told
