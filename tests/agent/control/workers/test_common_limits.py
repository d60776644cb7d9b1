"""Limits that all real workers have in common, those of before a reload too."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from agent.frames import Commit, PolicyFrame, Stage
from tests.support.fleet import Running, running
from tests.support.proxy import GET, OK, Client, endpoint
from tests.support.proxy import listening as listening_port


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
