"""Second attempts beside slow ones, and retries that do not multiply along a chain."""

import pytest
import trio

from tests.support.proxy import GET, OK, Client, Proxy, always_ok, endpoint, running_proxy

HEDGE = {"hedge": {"after": "20ms"}, "attempts": 3}
FAILING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n%b\r\nko"


class Slow:
    """An upstream whose answers wait for `release`; counts requests and connections that broke."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.release = trio.Event()
        self.heads: list[bytes] = []
        self.broken = 0

    async def __call__(self, client: Client) -> None:
        while True:
            self.heads.append(await client.head())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, client, nursery.cancel_scope)
                await self.release.wait()
                nursery.cancel_scope.cancel()
            if not self.release.is_set():
                return
            await client.send(self.answer)

    async def _watch(self, client: Client, scope: trio.CancelScope) -> None:
        if not await client.stream.receive_some():
            self.broken += 1
            scope.cancel()


async def asked(proxy: Proxy, times: int = 1, request: bytes = GET) -> list[bytes]:
    client = await proxy.client()
    return [await client.ask(request) for _ in range(times)]


async def test_the_first_answer_wins_and_the_loser_is_cancelled() -> None:
    """Whichever endpoint is drawn first, the fast one answers; the slow one's connection is closed."""
    slow = Slow()
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(slow)), endpoint(await proxy.upstream(always_ok)), retry=HEDGE)
        for answer in await asked(proxy, 20):
            assert answer.startswith(b"HTTP/1.1 200")
        service = proxy.worker.table.services["pets.production"]
        with trio.fail_after(60):
            while slow.broken < len(slow.heads):
                await trio.sleep(0.01)
        assert slow.heads
        assert service.stats.failures["hedges"] == service.stats.failures["hedges_won"] == len(slow.heads)
        assert all(e.load.active == 0 for e in service.plan.endpoints)


async def test_hedges_come_out_of_the_budget() -> None:
    """A budget of one a second allows one, though every answer is slow."""
    slow = Slow()
    budget = {"ratio": 0, "min_per_second": 1, "ttl": "1s"}
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(slow) for _ in range(2)]
        proxy.put(*map(endpoint, ports), retry={**HEDGE, "budget": budget})
        clients = [await proxy.client() for _ in range(5)]
        for client in clients:
            await client.send(GET)
        await trio.sleep(0.3)
        assert proxy.worker.table.services["pets.production"].stats.failures.get("hedges", 0) <= 2
        slow.release.set()
        for client in clients:
            await client.until(b"ok")


async def test_what_is_not_safe_to_send_twice_is_not_hedged() -> None:
    """POST goes to one endpoint."""
    slow = Slow()
    async with running_proxy() as proxy:
        proxy.put(*[endpoint(await proxy.upstream(slow)) for _ in range(2)], retry=HEDGE)
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 1\r\n\r\nx")
        await trio.sleep(0.2)
        assert len(slow.heads) == 1
        slow.release.set()
        await client.until(b"ok")


async def test_of_two_the_one_that_fails_is_let_go() -> None:
    """The first fails while the second is under way: the second's answer is the answer."""
    failing, good = Slow(FAILING % b""), Slow()
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(failing)), endpoint(await proxy.upstream(good)), retry=HEDGE)
        client = await proxy.client()
        await client.send(GET)
        with trio.fail_after(60):
            while not (failing.heads and good.heads):
                await trio.sleep(0.01)
        failing.release.set()
        await trio.sleep(0.1)
        good.release.set()
        assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")


async def test_a_quantile_is_learnt_before_it_is_used() -> None:
    """With p95 nothing is hedged until enough answers were seen."""
    async with running_proxy() as proxy:
        proxy.put(
            *[endpoint(await proxy.upstream(always_ok)) for _ in range(2)],
            retry={"hedge": {"least": "10s"}, "attempts": 2},
        )
        await asked(proxy, 50)
        service = proxy.worker.table.services["pets.production"]
        assert service.recent.quantile(0.95) is not None
        assert "hedges" not in service.stats.failures


async def test_a_rule_has_retries_of_its_own() -> None:
    """For what it matches, and nothing else."""
    failing = Slow(FAILING % b"")
    failing.release.set()
    async with running_proxy() as proxy:
        rules = [{"match": {"path": {"prefix": "/once"}}, "retry": {"attempts": 1}}]
        proxy.put(endpoint(await proxy.upstream(failing)), retry={"attempts": 3}, route={"rules": rules})
        client = await proxy.client()
        await client.ask(GET.replace(b" / ", b" /once "), b"ko")
        assert len(failing.heads) == 1
        await client.ask(GET, b"ko")
        assert len(failing.heads) == 4


@pytest.mark.parametrize(("said", "tries"), [(b"", 2), (b"X-Shoal-No-Retry: 1\r\n", 1)])
async def test_who_is_nearest_to_the_failure_tries_again(said: bytes, tries: int) -> None:
    """An answer that says that all tries were made is not tried again, and says so to those before."""
    failing = Slow(FAILING % said)
    failing.release.set()
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(failing)))
        client = await proxy.client()
        answer = await client.ask(GET, b"ko")
        assert len(failing.heads) == tries
        assert b"x-shoal-no-retry: request=" in answer
