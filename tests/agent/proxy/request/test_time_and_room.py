"""Limits of time and connections, back-pressure, draining and garbage, on real sockets."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import trio
import trio.testing

from agent.proxy.request.attempt import Attempt
from agent.proxy.request.exchange import Exchange
from tests.support.proxy import GET, OK, SERVICE, Client, always_ok, endpoint, refusing_port, running_proxy


async def test_dripping_a_head_is_cut_off_in_time() -> None:
    """The whole head has to come within its time, whatever the drip rate: 408."""
    async with running_proxy(head_s=0.3) as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        await client.ask(GET)

        async def drip() -> None:
            for byte in GET * 50:
                await client.send(bytes([byte]))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            head = await client.head()
            nursery.cancel_scope.cancel()
        assert head.startswith(b"HTTP/1.1 408")


async def test_idle_connections_are_closed() -> None:
    """After the idle time, without a word."""
    async with running_proxy(idle_s=0.1) as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        await client.ask(GET)
        assert await client.rest() == b""


async def test_connections_beyond_the_limit_are_told_so() -> None:
    """503 with a reason, at once."""

    async def takes_it_whole(client: Client) -> None:
        await client.until(b"yz")
        await client.send(OK)

    async with running_proxy(max_connections=1) as proxy:
        proxy.put(endpoint(await proxy.upstream(takes_it_whole)))
        first = await proxy.client()
        await first.send(GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 2\r\n\r\ny")
        with trio.fail_after(60):
            while not proxy.worker.table.services[SERVICE].stats.active:
                await trio.sleep(0.005)
        second = await proxy.client()
        assert (await second.rest()).startswith(b"HTTP/1.1 503")
        await first.ask(b"z")


async def test_requests_before_the_first_table_wait_for_it() -> None:
    """Bounded in time and number; then they are served like any other."""
    async with running_proxy(max_waiting=1) as proxy:
        port = await proxy.upstream(always_ok)
        early, surplus = await proxy.client(), await proxy.client()
        await early.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (await surplus.ask(GET, b"}\n")).startswith(b"HTTP/1.1 503")
        proxy.put(endpoint(port))
        await early.until(b"ok")


async def test_requests_before_the_first_table_do_not_wait_forever() -> None:
    """503 with Retry-After."""
    async with running_proxy(waiting_s=0.05) as proxy:
        client = await proxy.client()
        answer = await client.ask(GET, b"}\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer


async def test_a_client_that_goes_away_frees_the_instance() -> None:
    """Its upstream request is given up."""
    gone = trio.Event()

    async def upstream(client: Client) -> None:
        await client.head()
        await client.rest()
        gone.set()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await client.stream.aclose()
        with trio.fail_after(60):
            await gone.wait()
        load = proxy.worker.table.services[SERVICE].loads.popitem()[1]
        assert load.active == 0


async def still(count: Callable[[], int]) -> None:
    """Until something has moved and nothing does any more: a worker's clock ticks, so tasks are never all blocked."""
    before = -1
    with trio.fail_after(60):
        while (now := count()) != before or now <= 0:
            before = now
            await trio.sleep(0.2)


async def test_back_pressure_both_ways() -> None:
    """A slow reader holds the writer back: what the proxy holds is bounded, and every byte arrives."""
    size = 24 * 1024 * 1024
    sent = 0
    block = bytes(range(251)) * 4 + b"abcdefghijklmnopqrst"  # 1 KiB in which no shift goes unseen

    async def upstream(client: Client) -> None:
        nonlocal sent
        await client.head()
        await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await client.send(block * 64)
            sent += 65536

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(GET)
        await client.head()
        await still(lambda: sent)
        (connection,) = proxy.worker.connections
        assert connection._out is not None
        assert len(connection._out) < 1024 * 1024
        assert sent < size
        received = bytearray(client.received)
        with trio.fail_after(60):
            while len(received) < size:
                received += await client.stream.receive_some(1024 * 1024)
        assert received == block * (size // 1024)


async def test_upload_back_pressure() -> None:
    """An upstream that does not read holds the client back."""
    go_on = trio.Event()
    size = 24 * 1024 * 1024

    async def upstream(client: Client) -> None:
        await client.head()
        await go_on.wait()
        received = len(client.received)
        while received < size:
            received += len(await client.stream.receive_some(1024 * 1024))
        await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(b"PUT / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n" % size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"z" * size)
            (connection,) = proxy.worker.connections
            await still(lambda: connection.exchange.bytes_in if connection.exchange is not None else -2)
            assert connection.exchange is not None and connection.exchange.attempt is not None
            up = connection.exchange.attempt.up
            assert up is not None
            assert up.connection._out is not None
            assert len(up.connection._out) < 1024 * 1024
            go_on.set()
            with trio.fail_after(60):
                await client.until(b"ok")


async def test_draining_finishes_what_is_in_flight() -> None:
    """The answer arrives, then the connection closes; new connections are not accepted here."""
    go_on = trio.Event()

    async def upstream(client: Client) -> None:
        await client.head()
        await go_on.wait()
        await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.02)
        proxy.worker.drain()
        go_on.set()
        assert (await client.rest()).endswith(b"ok")
        with trio.fail_after(60):
            await proxy.worker.drained.wait()
        with pytest.raises(OSError, match="connect"):
            await proxy.client()


async def test_whole_request_deadline_from_the_caller() -> None:
    """A callee never gets longer than its caller has left: 504 when that is over."""

    async def upstream(client: Client) -> None:
        head = await client.head()
        left = int(head.split(b"x-shoal-deadline: ")[1].split(b"\r\n")[0])
        assert 0 < left <= 120
        await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        head = b"GET / HTTP/1.1\r\nHost: pets.production\r\nx-shoal-deadline: 120\r\n\r\n"
        assert (await client.ask(head, b"}\n")).startswith(b"HTTP/1.1 504")


async def test_a_request_leaves_no_garbage_behind() -> None:
    """What refers to each other is parted at the end: collecting it would stop every request for 40 ms."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)), endpoint(refusing_port()))
        client = await proxy.client()
        await client.ask(GET)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await client.ask(GET)
            left = [thing for thing in gc.get_objects() if isinstance(thing, Exchange | Attempt)]
        finally:
            gc.enable()
        assert left == []
