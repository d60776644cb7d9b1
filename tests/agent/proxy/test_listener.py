"""What clients of one listener may take, so that those of the other have theirs."""

from __future__ import annotations

import resource

import pytest
import trio

from agent.frames import Where
from agent.proxy import worker as worker_module
from agent.proxy.budget import Budget
from agent.proxy.peer import peer_at
from agent.proxy.worker import affordable
from tests.support.proxy import GET, STRANGER, Client, Proxy, always_ok, endpoint, running_proxy


def test_the_inbound_budget_keeps_a_part_for_agents() -> None:
    """Strangers have three quarters; agents whatever is free; the outbound listener knows no strangers."""
    inbound, outbound = Budget(inbound=True), Budget(inbound=False)
    assert [inbound.enter(8, agent=False) for _ in range(7)] == [True] * 6 + [False]
    assert [inbound.enter(8, agent=True) for _ in range(3)] == [True, True, False]
    inbound.leave(agent=False)
    inbound.leave(agent=True)
    assert inbound.enter(8, agent=False) and not inbound.enter(8, agent=False) and inbound.enter(8, agent=True)
    assert [outbound.enter(2, agent=False) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("most", "strangers"), [(1, 1), (2, 1), (4, 3), (5, 3)])
def test_small_budgets(most: int, strangers: int) -> None:
    """A stranger is served by the smallest agent, too."""
    budget = Budget(inbound=True)
    assert sum(budget.enter(most, agent=False) for _ in range(10)) == strangers


@pytest.mark.parametrize(
    ("peer", "found"),
    [("10.0.0.5", "10.0.0.5"), ("::ffff:10.0.0.5", "10.0.0.5"), ("::1", "::1"), ("::ffff:a:1", "::ffff:a:1")],
)
def test_an_ipv4_client_of_an_ipv6_socket(peer: str, found: str) -> None:
    """Has the address that it has: for loopback, for agents, and for X-Forwarded-For."""
    assert peer_at(peer, None).address == found


async def flood(proxy: Proxy, count: int) -> list[Client]:
    """Connections of one stranger that say nothing."""
    return [await proxy.client(inbound=True, source=STRANGER) for _ in range(count)]


async def served(proxy: Proxy, *, inbound: bool) -> bool:
    client = await proxy.client(inbound=inbound)
    return (await client.ask(GET, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_strangers_locks_out_strangers_only() -> None:
    """With every connection that they may have taken, local services and agents are served; a further stranger is told;
    and when they go, others may come."""
    async with running_proxy(max_connections=20) as proxy:
        proxy.worker.table.host = "here"
        proxy.put(endpoint(await proxy.upstream(always_ok), agent="here"))
        taken = await flood(proxy, 15)
        with trio.fail_after(60):
            while proxy.worker.inbound.strangers < 15:
                await trio.sleep(0.005)
        refused = await flood(proxy, 3)
        for client in refused:
            assert (await client.rest()).startswith(b"HTTP/1.1 503")
        assert await served(proxy, inbound=False) and await served(proxy, inbound=True)
        for client in taken:
            await client.stream.aclose()
        with trio.fail_after(60):
            while proxy.worker.inbound.strangers:
                await trio.sleep(0.005)
        (client,) = await flood(proxy, 1)
        assert (await client.ask(GET)).endswith(b"ok")


async def test_who_says_nothing_is_cut() -> None:
    """After the time for a head, and the place is free again."""
    async with running_proxy(max_connections=4, head_s=0.1) as proxy:
        for client in await flood(proxy, 3):
            assert await client.rest() == b""
        assert proxy.worker.inbound.open == proxy.worker.inbound.strangers == 0


async def test_requests_before_the_first_table_wait_apart() -> None:
    """As many as strangers may have waiting, local services have their own."""
    async with running_proxy(max_waiting=2) as proxy:
        proxy.worker.table.host = "here"
        clients = await flood(proxy, 3)
        for client in clients:
            await client.send(GET)
        with trio.fail_after(60):
            while proxy.worker.refused != {"agent": 1}:
                await trio.sleep(0.005)
        local = await proxy.client()
        await local.send(GET)
        with trio.fail_after(60):
            while proxy.worker.outbound.waiting < 1:
                await trio.sleep(0.005)
        proxy.put(endpoint(await proxy.upstream(always_ok), agent="here"))
        assert (await local.until(b"ok")).startswith(b"HTTP/1.1 200")
        assert proxy.worker.inbound.waiting == proxy.worker.outbound.waiting == 0


async def test_what_an_agent_said_before_the_first_table_is_believed() -> None:
    """Who it is is known with the table, and its words are judged then."""
    async with running_proxy() as proxy:
        proxy.worker.agents.learn({}, "here")
        proxy.worker.table.host = "here"
        client = await proxy.client(inbound=True)
        await client.send(GET[:-2] + b"X-Shoal-Endpoint: pets.production/two\r\n\r\n")
        with trio.fail_after(60):
            while proxy.worker.inbound.waiting < 1:
                await trio.sleep(0.005)
        proxy.worker.take(Where("here", {"another": "127.0.0.1"}))
        proxy.put(endpoint(await proxy.upstream(always_ok), "one", agent="here"))
        assert b"pets.production/two is not on this host" in await client.until(b"}\n")


def test_descriptors_bound_what_a_listener_takes() -> None:
    """A quarter of them each: as many for connections to endpoints, and the other listener is not starved."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert affordable() == (1024 - worker_module.SPARE_DESCRIPTORS) // 4
        resource.setrlimit(resource.RLIMIT_NOFILE, (130, hard))
        assert affordable() == 16
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
