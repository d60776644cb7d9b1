"""Supervision of real processes: the real worker, and ones that misbehave."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from agent import frames
from agent.frames import Change, Commit
from agent.framing import encode
from policies.kinds.shadow.answer import Asked
from tests.support.fleet import running, service, upstream
from tests.support.proxy import GET, Client, refusing_port
from tests.support.proxy import listening as listening_port


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
