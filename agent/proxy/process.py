# mypyc: compiled
"""The process of a proxy worker: one Trio loop, one reactor. Started by control, which hands it its listening sockets.

Environment: SHOAL_CONTROL_FD (one end of a socket pair), SHOAL_OUTBOUND_FDS and SHOAL_INBOUND_FDS (listening sockets,
comma separated), SHOAL_CALLER_FDS and SHOAL_CALLERS (those of callers, and which service's each is; empty:
everybody's), SHOAL_GIVEN_UP_FD, SHOAL_COUNTS_FD and SHOAL_COUNTS_REGION (memory of all its workers, and which part is
this one's; a control of before does not have them), SHOAL_LISTEN (`with_table` where others serve these sockets until
then). Control holds copies of the listening sockets, so that what waits in their queues outlives a worker.

When control is gone a worker goes on serving its last table for ORPHAN_S, so that a successor can take over, and then
drains: a table that nobody keeps true must not be served forever.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import signal
import socket
from functools import partial
from typing import Any, Final

import trio

from agent import frames, framing, portions
from agent.frames import ToControl
from agent.process.descriptors import raise_limit
from agent.proxy.control import recording
from agent.proxy.control.storing import MAX_WAITING
from agent.proxy.draining import ORPHAN_S, Draining
from agent.proxy.given_up import GivenUp
from agent.proxy.judges.evaluator import Evaluator
from agent.proxy.report import state
from agent.proxy.report.news import MAX_EVENTS
from agent.proxy.worker import Worker
from policies.together import MAGIC, WORDS, Together

FLUSH_S: Final = 0.1
FLUSH_ROWS: Final = 200
FOLLOWED_ROWS: Final = 50
"""Of one filter: a target may be 60 KiB long, and a batch has a bound."""
MAX_COMPARED: Final = 64
"""Requests whose answers wait to be compared: each may hold three bodies."""

log = logging.getLogger("shoal.worker")


def encoded(frame: ToControl) -> bytes:
    """A frame for control; empty, and told, where it is none that could be sent: it costs nothing but itself."""
    try:
        return framing.encode(frame)
    except Exception:
        log.exception("a frame for control cannot be sent: %r", frame.__struct_config__.tag)
        return b""


async def serve(worker: Worker, stream: trio.SocketStream) -> None:
    """Run until drained, or until control's deadline for it."""
    trio.lowlevel.add_instrument(worker.lateness)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.reactor.run)
        nursery.start_soon(worker.reactor.wheel.run)
        nursery.start_soon(Evaluator(worker.judges).run)
        sending = trio.Lock()

        async def send(answers: list[ToControl]) -> None:
            async with sending:
                try:
                    for answer in answers:
                        data = encoded(answer)
                        if data:
                            await stream.send_all(data)
                except trio.BrokenResourceError:
                    pass  # control is gone; listening to it tells the same

        async def flush() -> None:
            while True:
                await trio.sleep(FLUSH_S)
                # In small portions, with requests served in between: formatting a second's rows at once would show in
                # the latencies that they record.
                while records := worker.recorder.take(FLUSH_ROWS):
                    await send([records])
                while followed := worker.recorder.take_followed(FOLLOWED_ROWS):
                    await send([*followed])
                while audited := worker.audit.take(FLUSH_ROWS):
                    await send([audited])
                while spans := worker.spans.take(FLUSH_ROWS):
                    await send([spans])
                if worker.news.events:
                    await send([frames.Happened(worker.news.take())])

        async def measure() -> None:
            # Beside `flush`, which waits where control is slow: it is then that they grow.
            while True:
                await trio.sleep(FLUSH_S)
                worker.recorder.measure()
                worker.spans.measure()
                worker.audit.measure()

        to_control, for_control = trio.open_memory_channel[ToControl](MAX_EVENTS)
        to_compare, compared = trio.open_memory_channel[ToControl](MAX_COMPARED)

        to_store, for_store = trio.open_memory_channel[ToControl](MAX_WAITING)

        def offer(channel: trio.MemorySendChannel[ToControl], frame: ToControl) -> bool:
            try:
                channel.send_nowait(frame)
            except trio.WouldBlock:
                return False
            return True

        def send_soon(frame: ToControl) -> None:
            offer(to_control, frame)  # where control is slow, the question's deadline answers it

        def miss(source: str) -> None:
            send_soon(frames.KeyMissed(source))

        async def pass_on(channel: trio.MemoryReceiveChannel[ToControl]) -> None:
            async for frame in channel:
                await send([frame])

        to_audit, for_audit = trio.open_memory_channel[ToControl](recording.MAX_WAITING)
        worker.connect(send_soon, partial(offer, to_compare), partial(offer, to_store), partial(offer, to_audit))
        worker.table.keyring.on_missing = miss
        for channel in (for_control, compared, for_store, for_audit):
            nursery.start_soon(pass_on, channel)
        nursery.start_soon(flush)
        nursery.start_soon(measure)
        draining = Draining()
        nursery.start_soon(_obey, worker, stream, send, draining)
        await draining.over(worker.drained, worker.let_go)
        worker.cut()
        while records := worker.recorder.take(FLUSH_ROWS):
            await send([records])
        while audited := worker.audit.take(FLUSH_ROWS):
            await send([audited])
        while spans := worker.spans.take(FLUSH_ROWS):
            await send([spans])
        await send([frames.Drained(state.metrics(worker))])
        nursery.cancel_scope.cancel()
    worker.close()


async def _obey(worker: Worker, stream: trio.SocketStream, send: Any, draining: Draining) -> None:
    """Do what control wants, until it is gone."""
    decoder = framing.Decoder(frames.to_worker)
    while True:
        try:
            data = await stream.receive_some(1024 * 1024)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            worker.stores.connect(None)
            worker.recordings.connect(None)
            if not worker.draining:
                log.warning("control is gone; serving the last table for %g s more", ORPHAN_S)
                await trio.sleep(ORPHAN_S)
                worker.drain()
            draining.orphan()
            return
        for wanted in decoder.feed(data):
            for portion in portions.sliced(wanted) if isinstance(wanted, frames.Stage) else [wanted]:
                answers = worker.take(portion)
                if answers:
                    await send(answers)
                if isinstance(portion, frames.Stage | frames.Change):
                    await trio.lowlevel.checkpoint()  # requests first: a plan is compiled between them
            if isinstance(wanted, frames.Drain):
                draining.tell(wanted)


def _together() -> Together | None:
    """What all workers of the agent count together; None under a control of before, or without a region."""
    fds, region = _descriptors("SHOAL_COUNTS_FD"), int(os.environ.get("SHOAL_COUNTS_REGION", "-1"))
    if region < 0 or not fds:
        return None
    words = memoryview(mmap.mmap(fds[0], os.fstat(fds[0]).st_size)).cast("q")
    return Together(words, region) if len(words) == WORDS and words[0] == MAGIC else None


def _descriptors(name: str) -> list[int]:
    return [int(fd) for fd in os.environ.get(name, "").split(",") if fd]


async def main() -> None:
    """The process that control starts with `python -m agent.proxy`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is control's to handle
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # So is what a whole process group is sent, or all of a unit (`systemctl kill`): control drains its workers.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(50_000, 20, 50)
    raise_limit()
    worker = Worker(None, GivenUp(*_descriptors("SHOAL_GIVEN_UP_FD")), _together())
    outbound, inbound = _descriptors("SHOAL_OUTBOUND_FDS"), _descriptors("SHOAL_INBOUND_FDS")
    callers = list(zip(_descriptors("SHOAL_CALLER_FDS"), os.environ.get("SHOAL_CALLERS", "").split(","), strict=False))
    worker.listen_with_table(outbound, inbound, callers)
    if os.environ.get("SHOAL_LISTEN") != "with_table":
        worker.listen_now()
    control = socket.socket(fileno=int(os.environ["SHOAL_CONTROL_FD"]))
    await serve(worker, trio.SocketStream(trio.socket.from_stdlib_socket(control)))
