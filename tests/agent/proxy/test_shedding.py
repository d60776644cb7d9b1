"""Load shedding on real sockets: an inbound agent that is full, and a calling agent that takes the ways out."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.support.playbook import Playbook
from tests.support.proxy import (
    CREDENTIALS,
    GET,
    OK,
    Client,
    Proxy,
    always_ok,
    endpoint,
    entrust,
    running_proxy,
    watched,
)

POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n"


class Slow:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.asked = 0
        self.fields = b""

    async def __call__(self, client: Client) -> None:
        while True:
            await client.head()
            self.asked += 1
            await self.gate.wait()
            await client.send(OK.replace(b"\r\n\r\n", b"\r\n" + self.fields + b"\r\n"))


async def stuck(proxy: Proxy, count: int, slow: Slow) -> list[Client]:
    """So many requests under way."""
    clients = [await proxy.client() for _ in range(count)]
    for client in clients:
        await client.send(GET)
    with trio.fail_after(60):
        while slow.asked < count:
            await trio.sleep(0.005)
    return clients


def stats(proxy: Proxy, service: str = "pets.production") -> Any:
    return proxy.worker.table.services[service].stats


async def test_what_is_too_much_is_refused_and_said_so() -> None:
    """503, Retry-After, x-shoal-shed; nothing is tried again, no endpoint is blamed; and then all is well again."""
    async with running_proxy() as proxy:
        slow = Slow()
        port = await proxy.upstream(slow)
        proxy.put(endpoint(port), shed={"concurrency": 2, "retry_after": "7s"}, retry={"attempts": 5, "on": ["5xx"]})
        clients = await stuck(proxy, 2, slow)
        late = await proxy.client()
        await late.send(GET)
        head = await late.head()
        assert head.startswith(b"HTTP/1.1 503") and b"x-shoal-shed: 1\r\n" in head and b"retry-after: 7\r\n" in head
        assert b"x-shoal-policy: shed" in head and slow.asked == 2
        slow.gate.set()
        for client in clients:
            await client.until(b"ok")
        late.received = b""
        again = await proxy.client()
        assert b"200" in await again.ask(GET)
        limiter = proxy.worker.table.services["pets.production"].limiter
        with trio.fail_after(60):
            while limiter is not None and limiter.active:
                await trio.sleep(0.005)
        assert stats(proxy).shed == {"refused": 1} and "retries" not in stats(proxy).failures
        (load,) = proxy.worker.table.services["pets.production"].loads.values()
        assert (load.active, load.failures, load.refused_until) == (0, 0, 0.0)
        assert [e.after for e in proxy.worker.news.events] == ["shedding"]


@pytest.mark.parametrize(
    ("instead", "expected"),
    [
        ([{"service": "backup.production"}], b"backup"),
        ([{"service": "gone.production"}, {"version": "v9"}, {"zone": "south"}], b"in the south"),
        ([{"version": "v9"}, {"respond": {"status": 200, "body": "later, please"}}], b"later, please"),
        ([{"respond": {"status": 503, "headers": {"x-whale": "yes"}}}], b"x-whale: yes"),
    ],
)
async def test_ways_out(instead: list[dict[str, Any]], expected: bytes) -> None:
    """The first that leads somewhere; those that do not are passed over."""

    def says(text: bytes) -> Any:
        async def handle(client: Client) -> None:
            while True:
                await client.head()
                await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

        return handle

    async with running_proxy() as proxy:
        slow = Slow()
        ports = [
            await proxy.upstream(slow),
            await proxy.upstream(says(b"backup")),
            await proxy.upstream(says(b"in the south")),
        ]
        proxy.put(endpoint(ports[1]), service="backup.production")
        south = endpoint(ports[2], zone="south", version="v2", agent="another")
        route = {"rules": [{"split": [{"version": "v1"}]}]}
        proxy.put(endpoint(ports[0]), south, shed={"concurrency": 1, "instead": instead}, route=route)
        await stuck(proxy, 1, slow)
        client = await proxy.client()
        await client.send(GET)
        await client.until(expected)
        with trio.fail_after(60):
            while stats(proxy).active > 1:
                await trio.sleep(0.005)


async def test_two_that_send_each_other_what_is_too_much() -> None:
    """Both are full: each was asked once, and then it is said so; nothing goes round."""
    async with running_proxy() as proxy:
        slow, other = Slow(), Slow()
        there = {"concurrency": 1, "instead": [{"service": "other.production"}]}
        back = {"concurrency": 1, "instead": [{"service": "pets.production"}]}
        proxy.put(endpoint(await proxy.upstream(slow)), shed=there)
        proxy.put(endpoint(await proxy.upstream(other)), service="other.production", shed=back)
        await stuck(proxy, 1, slow)
        client = await proxy.client()
        await client.send(GET.replace(b"pets", b"other"))
        with trio.fail_after(60):
            while other.asked < 1:
                await trio.sleep(0.005)
        late = await proxy.client()
        await late.send(GET)
        assert (await late.head()).startswith(b"HTTP/1.1 503")
        assert (slow.asked, other.asked) == (1, 1)


async def test_a_calling_agent_hears_it_from_the_other_host() -> None:
    """Two hops: the owner's agent refuses before it asks; the caller's takes the way out, and blames nobody."""
    async with running_proxy() as owner, running_proxy() as caller:
        slow = Slow()
        port = await owner.upstream(slow)
        owner.worker.table.host = "there"
        document = {"concurrency": 1, "instead": [{"service": "backup.production"}]}
        owner.put(endpoint(port, "i", agent="there"), shed=document)
        via = {"agent": "there", "via": True, "dial_port": owner.inbound_port}
        backup = await caller.upstream(always_ok)
        caller.put(endpoint(backup), service="backup.production")
        breaker = {"trip": {"consecutive": 1}, "endpoint": {"trip": {"consecutive": 1}}}
        caller.put(
            endpoint(port, "i", **via),
            shed=document,
            breaker=breaker,
            outlier={"consecutive_5xx": 1, "min_requests": 1},
        )
        await stuck(caller, 1, slow)
        for request in (GET, POST % 5 + b"hello"):
            assert b"200" in await (await caller.client()).ask(request)
        assert slow.asked == 1 and stats(owner).shed == {"refused": 2} and stats(caller).shed == {"elsewhere": 2}
        large = await caller.client()
        await large.send(POST % 200_000 + b"x" * 200_000)
        assert b"503" in await large.head()
        service = caller.worker.table.services["pets.production"]
        assert service.circuit is not None and service.circuit.state == "closed"
        assert caller.worker.news.events == []


async def test_priorities() -> None:
    """By a rule, by the request's own word, and not by the word where it is not believed."""
    async with running_proxy() as proxy:
        slow = Slow()
        port = await proxy.upstream(slow)
        rules = [{"match": {"path": {"prefix": "/checkout"}}, "priority": "critical"}]
        proxy.put(endpoint(port), shed={"concurrency": 10, "priorities": rules})
        await stuck(proxy, 9, slow)

        async def asked(request: bytes) -> bool:
            client = await proxy.client()
            before = slow.asked
            await client.send(request)
            with trio.move_on_after(0.3):
                return b"503" not in await client.head()
            return slow.asked > before

        entrust(proxy.worker)
        anybody = GET[:-2] + b"X-Shoal-Priority: high\r\n\r\n"
        marked = GET[:-2] + b"X-Shoal-Priority: high\r\n" + CREDENTIALS + b"\r\n"
        assert not await asked(GET)
        assert not await asked(anybody), "only a service may say so"
        assert await asked(marked)
        assert not await asked(marked)
        proxy.put(endpoint(port), shed={"concurrency": 12, "priorities": rules, "believe_header": False})
        assert await asked(GET.replace(b"GET / ", b"GET /checkout/1 "))
        assert not await asked(marked)


async def test_an_instances_own_word() -> None:
    """Its header moves the limit; what is no number does not."""
    async with running_proxy() as proxy:
        slow = Slow()
        slow.gate.set()
        port = await proxy.upstream(slow)
        proxy.put(endpoint(port), shed={"concurrency": 100, "load": {"header": "X-Load", "most": 0.5}})
        client = await proxy.client()
        limiter = proxy.worker.table.services["pets.production"].limiter
        assert limiter is not None
        for word, pressed in ((b"calm", False), (b"nan", False), (b"0.4", False), (b"-3", False), (b"2.5", True)):
            slow.fields = b"X-Load: %b\r\n" % word
            await client.ask(GET)
            assert (limiter._pressure < 1) is pressed


async def test_in_audit_mode_everything_is_let_in() -> None:
    """And counted."""
    async with running_proxy() as proxy:
        slow = Slow()
        proxy.put(endpoint(await proxy.upstream(slow)), shed={"concurrency": 1, "mode": "audit"})
        await stuck(proxy, 4, slow)
        assert watched(proxy.worker) == {"shed": 3} and stats(proxy).shed == {}


async def test_a_hedge_has_to_be_let_in_too() -> None:
    """Where the limit is reached the first attempt goes on alone."""
    async with running_proxy() as proxy:
        slow = Slow()
        ports = [await proxy.upstream(slow) for _ in range(2)]
        hedge = {"hedge": {"after": "20ms"}, "budget": {"ratio": 1}}
        proxy.put(*map(endpoint, ports), shed={"concurrency": 1}, retry=hedge)
        (client,) = await stuck(proxy, 1, slow)
        await trio.sleep(0.15)
        assert slow.asked == 1
        proxy.put(*map(endpoint, ports), shed={"concurrency": 3}, retry=hedge)
        other = await proxy.client()
        await other.send(GET)
        with trio.fail_after(60):
            while slow.asked < 3:
                await trio.sleep(0.005)
        slow.gate.set()
        await client.until(b"ok")
        await other.until(b"ok")
        limiter = proxy.worker.table.services["pets.production"].limiter
        with trio.fail_after(60):
            while limiter is not None and limiter.active:
                await trio.sleep(0.005)


@pytest.mark.parametrize("how", ["leaves", "is_cut", "fails", "breaks_off", "is_answered", "leaves_amid_its_body"])
def test_what_an_end_says_to_an_adaptive_limit(how: str) -> None:
    """Nobody waits any more: the service may still be at it. It came to nothing, or is answered: it is not. And a
    request that did not come whole says nothing of the service."""
    timeout = {"try": "300ms"} if how == "is_cut" else {}
    retry = {"attempts": 1}
    with Playbook() as play:
        play.put("one", shed={}, retry=retry, **({"timeout": timeout} if timeout else {}))
        limiter = play.worker.table.services["pets.production"].limiter
        assert limiter is not None
        client = play.client()
        whole = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi"
        assert client >> (whole[:-1] if how == "leaves_amid_its_body" else whole)
        up = play.upstream()
        assert limiter.active == 1
        play.passes(0.5)
        if how.startswith("leaves"):
            client.ends()
        elif how == "fails":
            assert up >> b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
        elif how == "breaks_off":
            up.ends()
        elif how == "is_answered":
            assert up >> OK
        assert limiter.active == 0
        assert limiter.given_up == (1 if how in ("leaves", "is_cut") else 0)


SHOP = b"GET /orders/%d HTTP/1.1\r\nHost: shop.production\r\n\r\n"
FAILS = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "how", ["shed", "breaker", "far away", "there is room", "another's call", "an answer in its place", "does without"]
)
def test_who_calls_what_has_no_room_lets_in_what_can_succeed(how: str) -> None:
    """While what shop calls sheds load, or has its breaker open, and shop fails for it, requests for shop are turned
    away, and their agent is told why, as of any overload; not for calls that are not shop's, not where something else
    answers them, and not where shop answers well without."""
    full: dict[str, Any] = {"shed": {"concurrency": 1}}
    if how == "breaker":
        full = {"breaker": {"limits": {"requests": 1}}}
    elif how == "an answer in its place":
        full = {"breaker": {"limits": {"requests": 1}, "fallback": {"respond": {"status": 200, "body": "none"}}}}
    with Playbook() as play:
        entrust(play.worker)
        far = play.instance("one", agent="another", via=True) if how == "far away" else "one"
        play.put(far, **full)
        play.put("shop", service="shop.production", shed={"backpressure": True})
        if how not in ("there is room", "far away"):
            assert play.client() >> GET
            play.upstream("one")
        call = GET if how == "another's call" else GET.replace(b"\r\n\r\n", b"\r\n" + CREDENTIALS + b"\r\n")
        turned_away = 0
        for n in range(40):
            play.passes(0.06)
            coming = play.client(inbound=True)
            assert coming >> SHOP % n
            if play.idle:
                turned_away += 1
                head = coming.heard.lower()
                assert head.startswith(b"http/1.1 503") and b"x-shoal-shed: 1\r\n" in head
                assert b"pets.production, which it calls, has no room" in head and b"retry-after: 1\r\n" in head
                continue
            up = play.upstream("shop")
            calling = play.client()
            assert calling >> call
            if how == "there is room":
                assert play.upstream("one") >> OK.replace(b"Content-", b"Connection: close\r\nContent-")
            elif how == "far away":
                shed = FAILS.replace(b"Connection", b"x-shoal-shed: 1\r\nserver: shoal\r\nConnection")
                assert play.upstream("one") >> shed
            calling.ends()
            fails = how != "does without" and not calling.heard.startswith(b"HTTP/1.1 200")
            assert up >> (FAILS if fails else OK.replace(b"Content-", b"Connection: close\r\nContent-"))
        shop = play.worker.table.services["shop.production"]
        assert turned_away >= 20 if how in ("shed", "breaker", "far away") else turned_away == 0
        assert shop.stats.shed == ({"backpressure": turned_away} if turned_away else {})
        assert shop.limiter is not None and shop.limiter.active == 0
        assert shop.backpressure is not None and shop.backpressure.under_way == 0
        away = shop.backpressure.window > 0.0
        play.put("shop", service="shop.production", shed={})
        assert shop.backpressure is None and away == (turned_away > 0)
