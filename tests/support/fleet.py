"""A fleet of real workers, and what it is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from agent.control.host.sockets import listening
from agent.control.workers.fleet import Fleet
from agent.frames import Commit, Configure, Stage, ToWorker
from agent.settings.address import Address
from tests.support.proxy import Client, always_ok, endpoint
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
