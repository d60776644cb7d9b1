# mypyc: compiled
"""A proxy worker: one process, one Trio loop, one reactor. Started by control, which hands it its listening sockets.

Environment: SHOAL_CONTROL_FD (one end of a socket pair), SHOAL_OUTBOUND_FDS and SHOAL_INBOUND_FDS (listening sockets,
comma separated). Control holds copies of the listening sockets, so that what waits in their queues outlives a worker.

When control is gone a worker goes on serving its last table for ORPHAN_S, so that a successor can take over, and then
drains: a table that nobody keeps true must not be served forever.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio

from agent import build, frames
from agent.frames import EndpointFrame, Frame, Limits, PolicyFrame
from agent.proxy import explain, guards, shedding, state
from agent.proxy.access import Recorder
from agent.proxy.answers import Refusal, closing_answer
from agent.proxy.callers import Callers
from agent.proxy.downstream import Downstream
from agent.proxy.exchange import Exchange
from agent.proxy.lateness import Lateness
from agent.proxy.listener import Budget, Listener
from agent.proxy.pacing import Pace
from agent.proxy.peers import Peers
from agent.proxy.pool import Pool
from agent.proxy.reactor import Reactor
from agent.proxy.stats import count
from agent.proxy.storing import MAX_WAITING, Stores
from agent.proxy.table import Table
from agent.trust import Agents

ORPHAN_S: Final = 10.0
FLUSH_S: Final = 0.1
FLUSH_ROWS: Final = 200
MAX_HAPPENED: Final = 1000
MAX_COMPARED: Final = 64
"""Requests whose answers wait to be compared: each may hold three bodies."""

SPARE_DESCRIPTORS: Final = 128

log = logging.getLogger("shoal.worker")


def affordable() -> int:
    """How many connections a listener may have by the descriptors there are. Each may need one to an endpoint, and what
    one listener takes must leave the other its part."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(16, (soft - SPARE_DESCRIPTORS) // 4)


class Worker:
    """What the connections of one worker share."""

    def __init__(self, seed: int | None = None) -> None:
        self.reactor = Reactor()
        self.pool = Pool(self.reactor)
        self.table = Table()
        self.lateness = Lateness(self.reactor.wheel, time.monotonic())
        self.callers = Callers()
        self.limits = Limits()
        self.rng = random.Random(seed)
        self.recorder = Recorder()
        self.peers = Peers()
        self.stores = Stores()
        self.cpu = shedding.CpuWatch(self)
        self.pace = Pace(self.reactor)
        self._compare: Callable[[Frame], bool] | None = None
        self.agents = Agents()
        """Who is believed to be one."""
        self.outbound = Budget(inbound=False)
        self.inbound = Budget(inbound=True)
        self._affordable = affordable()
        self._believed: tuple[dict[str, str], str] | None = None
        """Where agents are registered, and which host this is, from the next commit on."""
        self.connections: set[Downstream] = set()
        self.listeners: list[Listener] = []
        self.draining = False
        self.refused: dict[str, int] = {}
        """Answers of the mesh's own that no service stands behind, by policy."""
        self.troubled: dict[str, float] = {}
        """Services whose own calls through this worker fail, and until when that is believed (monotonic seconds)."""
        self.happened: list[dict[str, Any]] = []
        """What control, and whoever asks it, should know: breakers that opened, endpoints that were ejected."""
        self.accepted = 0
        self.drained = trio.Event()
        self._waiting: list[Exchange] = []
        self._refused: list[dict[str, Any]] = []
        """What of the staged changes could not be compiled; told with the commit."""
        self._request_prefix = os.urandom(6).hex().encode()
        self._request_number = 0

    # Connections.

    def listen(self, fd: int, *, inbound: bool) -> None:
        """Serve a listening socket."""
        self.listeners.append(Listener(self, fd, self.inbound if inbound else self.outbound))

    def on_accepted(self, sock: socket.socket, peer: str, budget: Budget) -> None:
        """A client connected, to the listener that the budget is of."""
        self.accepted += 1
        sock.setblocking(False)
        agent = budget.inbound and self.agents.from_agent(peer)
        if not budget.enter(min(self.limits.max_connections, self._affordable), agent=agent):
            refusal = Refusal(503, "agent", "this agent has as many connections as it may", 1, unsent=True)
            self.count_refused(refusal)
            try:
                sock.send(closing_answer(refusal))
            except OSError:
                pass
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.add(Downstream(self, sock, peer, budget, agent))

    def forget(self, connection: Downstream) -> None:
        """A client's connection closed."""
        connection.budget.leave(agent=connection.from_agent)
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.drained.set()

    def count_refused(self, refusal: Refusal) -> None:
        """Count an answer of the mesh's own for which there is no exchange."""
        count(self.refused, refusal.policy)

    def happen(
        self, kind: str, service: str, endpoint: str, before: str, after: str, reason: str, *, audit: bool = False
    ) -> None:
        """Something changed of itself. `endpoint` is empty for the service as a whole."""
        if len(self.happened) < MAX_HAPPENED:
            self.happened.append(
                {
                    "kind": kind,
                    "service": service,
                    "endpoint": endpoint,
                    "before": before,
                    "after": after,
                    "reason": reason,
                    "audit": audit,
                    "at": time.time(),
                }
            )

    def next_request_id(self) -> bytes:
        """Unique over workers and restarts."""
        self._request_number += 1
        return b"%b-%x" % (self._request_prefix, self._request_number)

    def record(self, exchange: Exchange, duration_s: float) -> None:
        """A request ended."""
        self.recorder.record(exchange, duration_s)

    def send_comparison(self, frame: Frame) -> bool:
        """Answers for control to compare; False when it has enough to do."""
        return self._compare is not None and self._compare(frame)

    def connect(
        self, send: Callable[[Frame], None], compare: Callable[[Frame], bool], store: Callable[[Frame], bool]
    ) -> None:
        """Where frames for control go."""
        self.peers.connect(send)
        self.stores.connect(store)
        self._compare = compare

    # The first table.

    def wait_for_table(self, exchange: Exchange) -> None:
        """Hold a request that came before the first table; bounded in number, for each listener, and in time."""
        budget = exchange.down.budget
        if budget.waiting >= self.limits.max_waiting:
            exchange.refuse(Refusal(503, "agent", "this agent has not learnt the mesh yet", 1, unsent=True))
            return
        budget.waiting += 1
        self._waiting.append(exchange)
        exchange.down.arm(self.reactor.now + self.limits.waiting_s)

    def _serve_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.outbound.waiting = self.inbound.waiting = 0
        for exchange in waiting:
            if exchange.down.exchange is exchange:
                exchange.start()

    # Frames.

    def on_frame(self, frame: Frame) -> list[Frame]:
        """Do what control wants; returns what to answer. A frame that fails costs nothing but itself."""
        try:
            return self._obey(frame)
        except Exception as error:
            kind = frame.get("t") if isinstance(frame, dict) else None
            log.exception("a frame of control's failed: %r", kind)
            reason = f"{type(error).__name__}: {error}"
            if kind == "ask" and "id" in frame:
                return [{"t": "answer", "id": frame["id"], "error": reason}]
            reason = f"a frame {kind!r} failed: {reason}"
            self._refused.append({"kind": "", "key": str(kind), "path": "$", "reason": reason})
            return []

    def _obey(self, frame: Frame) -> list[Frame]:
        kind = frame["t"]
        if kind == "service":
            endpoints = msgspec.convert(frame["endpoints"], list[EndpointFrame])
            policies = msgspec.convert(frame["policies"], dict[str, PolicyFrame])
            self._stage(frame["name"], frame["revision"], endpoints, policies)
            return []
        if kind == "gone":
            self.table.gone(frame["name"])
            return []
        if kind == "agents":
            self._believed = (msgspec.convert(frame["addresses"], dict[str, str]), str(frame["host"]))
            return []
        if kind == "commit":
            return self._commit(frame["revision"], max(1, frame.get("agents", 1)))
        if kind == "configure":
            self._configure(frame)
            return []
        if kind == "ask":
            return [self._answer(frame)]
        if kind == "peer_answer":
            self.peers.answer(frame["id"], frame["status"], frame["body"])
            return []
        if kind == "stored":
            self.stores.answer(frame["id"], frame["name"], frame["reason"])
            return []
        if kind == "shares":
            self._share(msgspec.convert(frame["shares"], dict[str, dict[str, float]]))
            return []
        if kind == "drain":
            self.drain()
            return []
        raise ValueError(f"a frame {kind!r} that this worker does not know")

    def _stage(
        self, name: str, revision: int, endpoints: list[EndpointFrame], policies: dict[str, PolicyFrame]
    ) -> None:
        try:
            self._refused += self.table.stage(name, revision, endpoints, policies, time.monotonic())
        except Exception as error:  # one service's plan must cost nothing but that plan
            log.exception("%s cannot be compiled; the plan of before stays in force", name)
            reason = f"the plan of {name} cannot be compiled: {type(error).__name__}: {error}"
            self._refused.append({"kind": "", "key": name, "path": "$", "reason": reason})

    def _configure(self, frame: Frame) -> None:
        self.table.host = frame.get("host", "")
        self.table.zone = frame.get("zone", "")
        self.table.share = float(frame.get("share", 1.0))
        self.callers.configure(frame.get("callers") or {})
        before, self.limits = self.limits, msgspec.convert(frame.get("limits") or {}, Limits)
        if self.limits != before and self.limits.max_connections > self._affordable:
            most, wanted = self._affordable, self.limits.max_connections
            log.warning("descriptors for %d connections of each listener, not for %d (LimitNOFILE)", most, wanted)
        self.agents.believe(frame.get("agents") or ())
        self.recorder.wanted = bool(frame.get("access_log"))

    def _share(self, shares: dict[str, dict[str, float]]) -> None:
        """This worker's parts of limits: by service, by limit."""
        for name, by_limit in shares.items():
            service = self.table.services.get(name)
            if service is not None and service.buckets is not None:
                for limit, share in by_limit.items():
                    service.buckets.set_share(limit, share)

    def _commit(self, revision: int, agents: int) -> list[Frame]:
        first = not self.table.ready
        self.table.commit(revision, agents)
        if self._believed is not None:
            self.agents.learn(*self._believed)
            self._believed = None
        unjudged, self.table.unjudged = self.table.unjudged, []
        if any(s.plan.shed is not None and s.plan.shed.compiled.cpu for s in self.table.services.values()):
            self.cpu.start()
        for service in unjudged:
            service.judge = guards.Judge(self, service)
        self.reactor.now = time.monotonic()
        self._serve_waiting()
        answers: list[Frame] = [{"t": "runs", "revision": revision, "refused": self._refused}]
        self._refused = []
        if first:
            gc.collect()
            gc.freeze()
            answers.append({"t": "ready", "pid": os.getpid(), "build": build.kind()})
        return answers

    def _answer(self, frame: Frame) -> Frame:
        answer: Frame = {"t": "answer", "id": frame["id"]}
        args = frame.get("args") or {}
        try:
            if frame["what"] == "ping":
                answer["value"] = {}
            elif frame["what"] == "metrics":
                answer["value"] = state.metrics(self)
            elif frame["what"] == "state":
                answer["value"] = state.services(self, args.get("service"))
            elif frame["what"] == "demand":
                answer["value"] = state.demand(self)
            elif frame["what"] == "explain":
                answer["value"] = explain.explain(self, args)
            else:
                answer["error"] = f"nothing is known here of {frame['what']!r}"
        except (ValueError, TypeError, KeyError) as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        return answer

    # Stopping.

    def drain(self) -> None:
        """Accept no more; every connection closes behind its next answer."""
        if self.draining:
            return
        self.draining = True
        for listener in self.listeners:
            listener.close()
        if not self.connections:
            self.drained.set()

    def close(self) -> None:
        """Close what is left."""
        for connection in list(self.connections):
            connection.abort()
        self.pool.close()
        self.reactor.close()


def encoded(frame: Frame) -> bytes:
    """A frame for control; empty, and told, where it is none that could be sent: it costs nothing but itself."""
    try:
        return frames.encode(frame)
    except Exception:
        log.exception("a frame for control cannot be sent: %r", frame.get("t"))
        return b""


async def serve(worker: Worker, stream: trio.SocketStream) -> None:
    """Run until drained, or until control's deadline for it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.reactor.run)
        nursery.start_soon(worker.reactor.wheel.run)
        sending = trio.Lock()

        async def send(answers: list[Frame]) -> None:
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
                if worker.happened:
                    happened, worker.happened = worker.happened, []
                    await send([{"t": "happened", "events": happened}])

        to_control, for_control = trio.open_memory_channel[Frame](MAX_HAPPENED)
        to_compare, compared = trio.open_memory_channel[Frame](MAX_COMPARED)

        to_store, for_store = trio.open_memory_channel[Frame](MAX_WAITING)

        def offer(channel: trio.MemorySendChannel[Frame], frame: Frame) -> bool:
            try:
                channel.send_nowait(frame)
            except trio.WouldBlock:
                return False
            return True

        def send_soon(frame: Frame) -> None:
            offer(to_control, frame)  # where control is slow, the question's deadline answers it

        async def pass_on(channel: trio.MemoryReceiveChannel[Frame]) -> None:
            async for frame in channel:
                await send([frame])

        worker.connect(send_soon, partial(offer, to_compare), partial(offer, to_store))
        for channel in (for_control, compared, for_store):
            nursery.start_soon(pass_on, channel)
        nursery.start_soon(flush)
        deadline_s = await nursery.start(_obey, worker, stream, send)
        with trio.move_on_after(deadline_s):
            await worker.drained.wait()
        while records := worker.recorder.take(FLUSH_ROWS):
            await send([records])
        await send([{"t": "drained"}])
        nursery.cancel_scope.cancel()
    worker.close()


async def _obey(worker: Worker, stream: trio.SocketStream, send: Any, *, task_status: trio.TaskStatus[float]) -> None:
    """Do what control wants, until it is gone. Started once it wants us to drain, or is gone: with how long that may
    take, in seconds."""
    decoder = frames.Decoder()
    draining = False
    while True:
        try:
            data = await stream.receive_some(1024 * 1024)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            worker.stores.connect(None)
            if not draining:
                log.warning("control is gone; serving the last table for %g s more", ORPHAN_S)
                await trio.sleep(ORPHAN_S)
                worker.drain()
                task_status.started(ORPHAN_S)
            return
        for frame in decoder.feed(data):
            answers = worker.on_frame(frame)
            if answers:
                await send(answers)
            kind = frame.get("t")
            if kind == "drain" and not draining:
                draining = True
                task_status.started(float(frame["deadline_s"]))
            if kind == "service":
                await trio.lowlevel.checkpoint()  # requests first: a plan is compiled between them


def _descriptors(name: str) -> list[int]:
    return [int(fd) for fd in os.environ.get(name, "").split(",") if fd]


async def main() -> None:
    """The process that control starts with `python -m agent.proxy`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is control's to handle
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so is a process group's SIGTERM: control drains its workers
    gc.set_threshold(50_000, 20, 50)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    worker = Worker()
    for fd in _descriptors("SHOAL_OUTBOUND_FDS"):
        worker.listen(fd, inbound=False)
    for fd in _descriptors("SHOAL_INBOUND_FDS"):
        worker.listen(fd, inbound=True)
    control = socket.socket(fileno=int(os.environ["SHOAL_CONTROL_FD"]))
    await serve(worker, trio.SocketStream(trio.socket.from_stdlib_socket(control)))
