"""Rate limits, faults, breakers and ejection, as requests meet them: real sockets, one worker."""

import json
from collections import Counter
from typing import Any

import pytest
import trio

from tests.support.proxy import GET, OK, Client, Proxy, always_ok, endpoint, refusing_port, running_proxy, watched

CATS = GET.replace(b"pets", b"cats")
SOON = "2099-01-01T00:00:00Z"


class Service:
    """An upstream whose answers can be changed; counts what it is asked."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked = 0

    async def __call__(self, client: Client) -> None:
        while True:
            await client.head()
            self.asked += 1
            await client.send(b"HTTP/1.1 %d Said\r\nContent-Length: 2\r\n\r\nso" % self.status)


async def statuses(proxy: Proxy, times: int, request: bytes = GET) -> Counter[int]:
    """Of requests in a row on a fresh connection."""
    client = await proxy.client()
    found: Counter[int] = Counter()
    for _ in range(times):
        found[int((await answer(client, request))[0][9:12])] += 1
    return found


async def answer(client: Client, request: bytes = GET) -> tuple[bytes, bytes]:
    """Head and body."""
    await client.send(request)
    head = await client.head()
    length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0")
    body = b""
    with trio.fail_after(60):
        while len(client.received) < int(length):
            data = await client.stream.receive_some(65536)
            assert data
            client.received += data
    body, client.received = client.received[: int(length)], client.received[int(length) :]
    return head, body


# Breakers.

BREAKER: dict[str, Any] = {"trip": {"consecutive": 3}, "recovery": {"open": "200ms", "successes": 2}}
ONCE = {"attempts": 1}


async def test_a_breaker_opens_refuses_and_closes_again() -> None:
    """Three failures open it; the service is left alone; probes find out, and two good ones close it."""
    service = Service(500)
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(service)), breaker=BREAKER, retry=ONCE)
        assert await statuses(proxy, 3) == {500: 3}
        client = await proxy.client()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 503") and b"retry-after: 1\r\n" in head
        assert b"x-shoal-policy: breaker" in head and "3 failures in a row" in json.loads(body)["reason"]
        assert service.asked == 3
        service.status = 200
        with trio.fail_after(60):
            while (await statuses(proxy, 1)) != {200: 1}:
                await trio.sleep(0.02)
        assert (await statuses(proxy, 10))[200] == 10
        changes = [(event.before, event.after) for event in proxy.worker.news.events]
        assert changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


async def test_a_fallback_service_takes_over() -> None:
    """And only one that is there; its own breaker counts."""
    broken, spare = Service(500), Service()
    async with running_proxy() as proxy:
        proxy.put(
            endpoint(await proxy.upstream(broken)),
            breaker={**BREAKER, "fallback": {"service": "cats.production"}},
            retry=ONCE,
        )
        assert await statuses(proxy, 4) == {500: 3, 503: 1}
        proxy.put(endpoint(await proxy.upstream(spare)), service="cats.production")
        assert await statuses(proxy, 2) == {200: 2}
        assert spare.asked == 2


async def test_fallbacks_that_lead_in_a_circle_end() -> None:
    """With an answer that says so."""
    async with running_proxy() as proxy:
        for name, other in (("pets.production", "cats.production"), ("cats.production", "pets.production")):
            port = await proxy.upstream(Service(500))
            proxy.put(endpoint(port), service=name, breaker={**BREAKER, "fallback": {"service": other}}, retry=ONCE)
        await statuses(proxy, 3)
        await statuses(proxy, 3, CATS)
        client = await proxy.client()
        head, body = await answer(client)
        assert b"x-shoal-policy: breaker" in head and b"along its fallbacks" in body


async def test_a_fixed_answer() -> None:
    """The fail whale: its status, its headers, its body, and nothing of ours in between."""
    whale = {"status": 200, "headers": {"content-type": "text/html"}, "body": "<b>back soon</b>"}
    async with running_proxy() as proxy:
        proxy.put(
            endpoint(await proxy.upstream(Service(500))),
            breaker={**BREAKER, "fallback": {"respond": whale}},
            retry=ONCE,
        )
        await statuses(proxy, 3)
        head, body = await answer(await proxy.client())
        assert head.startswith(b"HTTP/1.1 200") and head.lower().count(b"content-type") == 1
        assert body == b"<b>back soon</b>"


async def test_callers_are_told_when_to_come_back() -> None:
    """As the document says, with the usual answer."""
    async with running_proxy() as proxy:
        breaker = {**BREAKER, "fallback": {"retry_after": "42s"}}
        proxy.put(endpoint(await proxy.upstream(Service(500))), breaker=breaker, retry=ONCE)
        await statuses(proxy, 3)
        head, body = await answer(await proxy.client())
        assert head.startswith(b"HTTP/1.1 503") and b"retry-after: 42\r\n" in head.lower() + b"\r\n"
        assert b"breaker" in body


async def test_limits_refuse_without_opening() -> None:
    """A second request while one is in flight."""
    release = trio.Event()

    async def slow(client: Client) -> None:
        await client.head()
        await release.wait()
        await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(slow)), breaker={"limits": {"requests": 1}})
        first = await proxy.client()
        await first.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.05)
        head, _ = await answer(await proxy.client())
        assert head.startswith(b"HTTP/1.1 503")
        release.set()
        await first.until(b"ok")
        circuit = proxy.worker.table.services["pets.production"].circuit
        assert circuit is not None and (circuit.state, circuit.active) == ("closed", 0)


async def test_an_endpoint_has_a_breaker_of_its_own() -> None:
    """The bad one is passed over; the good one carries the load; nothing is refused."""
    bad, good = Service(500), Service()
    each = {"trip": {"consecutive": 3}, "recovery": {"open": "10s"}}
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(bad), await proxy.upstream(good)]
        proxy.put(*map(endpoint, ports), breaker={"endpoint": each}, retry=ONCE)
        found = await statuses(proxy, 60)
        assert found == {500: 3, 200: 57}
        assert bad.asked == 3


async def test_a_client_that_goes_away_counts_for_nothing() -> None:
    """Its request is no failure, and leaves the breaker's count of what is in flight."""

    async def never(client: Client) -> None:
        await client.head()
        await trio.sleep_forever()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(never)), breaker={**BREAKER, "endpoint": {"trip": {"consecutive": 1}}})
        client = await proxy.client()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.stream.aclose()
        service = proxy.worker.table.services["pets.production"]
        assert service.circuit is not None
        with trio.fail_after(60):
            while service.circuit.active:
                await trio.sleep(0.01)
        assert service.circuit.state == "closed"
        (each,) = service.plan.endpoints
        assert each.load.circuit is not None and each.load.circuit.state == "closed" and not each.load.circuit.active


async def test_an_edit_keeps_what_was_counted() -> None:
    """An open breaker stays open; without a document there is none."""
    service = Service(500)
    async with running_proxy() as proxy:
        port = await proxy.upstream(service)
        slow = {**BREAKER, "recovery": {"open": "30s"}}
        proxy.put(endpoint(port), breaker=slow, retry=ONCE)
        await statuses(proxy, 3)
        proxy.put(endpoint(port), breaker={**slow, "description": "edited"}, retry=ONCE)
        assert await statuses(proxy, 1) == {503: 1}
        proxy.put(endpoint(port), retry=ONCE)
        assert await statuses(proxy, 1) == {500: 1}


# Ejection.

OUTLIER = {"consecutive_5xx": 3, "min_requests": 3, "interval": "100ms", "ejection": "10s", "success_factor": 0}


async def test_a_bad_instance_is_ejected_and_comes_back() -> None:
    """Three failures in a row; the others take its requests; when its time is over it is in again."""
    bad, good = Service(500), Service()
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(bad), await proxy.upstream(good)]
        proxy.put(*map(endpoint, ports), outlier={**OUTLIER, "ejection": "300ms"}, retry=ONCE)
        assert (await statuses(proxy, 40))[500] == 3
        bad.status = 200
        with trio.fail_after(60):
            while len(proxy.worker.news.events) < 2:
                await trio.sleep(0.02)
        assert [event.after for event in proxy.worker.news.events] == ["ejected", "in"]
        before = bad.asked
        await statuses(proxy, 40)
        assert bad.asked > before


@pytest.mark.parametrize("then", [{}, {"outlier": {**OUTLIER, "mode": "audit"}}])
async def test_nobody_stays_out_without_the_document(then: dict[str, Any]) -> None:
    """However long it was to be out."""
    bad = Service(500)
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(bad), await proxy.upstream(Service())]
        proxy.put(*map(endpoint, ports), outlier=OUTLIER, retry=ONCE)
        await statuses(proxy, 40)
        assert bad.asked == 3
        proxy.put(*map(endpoint, ports), retry=ONCE, **then)
        await statuses(proxy, 40)
        assert bad.asked > 3


async def test_the_last_one_is_never_ejected() -> None:
    """When all fail, all are asked."""
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(Service(500)) for _ in range(2)]
        proxy.put(*map(endpoint, ports), outlier={**OUTLIER, "max_percent": 99}, retry=ONCE)
        await statuses(proxy, 40)
        assert len(proxy.worker.news.events) == 1


# Rate limits.

LIMITS = {"limits": [{"name": "all", "rate": "2/m", "burst": 2}]}


async def test_a_limit_answers_with_when_to_come_back() -> None:
    """429, Retry-After, and the RateLimit fields; the instance is not asked."""
    service = Service()
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(service)), ratelimit=LIMITS)
        assert await statuses(proxy, 4) == {200: 2, 429: 2}
        head, body = await answer(await proxy.client())
        assert b"retry-after: 30\r\n" in head
        assert b'ratelimit-policy: "all";q=2;w=60\r\n' in head and b'ratelimit: "all";r=0;t=30\r\n' in head
        assert b"x-shoal-policy: ratelimit" in head and "is used up" in json.loads(body)["reason"]
        assert service.asked == 2


async def test_every_user_has_a_bucket() -> None:
    """By a header; and a body of one's own."""
    limits = {
        "limits": [{"name": "user", "rate": "1/h", "key": {"header": "x-user"}, "status": 503, "body": "slow down"}]
    }
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(Service())), ratelimit=limits)
        client = await proxy.client()
        for user in (b"ann", b"bob"):
            request = GET.replace(b"\r\n\r\n", b"\r\nX-User: %b\r\n\r\n" % user)
            assert (await answer(client, request))[0].startswith(b"HTTP/1.1 200")
            head, body = await answer(client, request)
            assert head.startswith(b"HTTP/1.1 503") and body == b"slow down"


async def test_a_share_of_a_limit() -> None:
    """Of two workers each lets half of it pass."""
    async with running_proxy() as proxy:
        proxy.worker.table.share = 0.5
        proxy.put(
            endpoint(await proxy.upstream(Service())),
            ratelimit={"limits": [{"name": "all", "rate": "10/h", "burst": 10}]},
        )
        assert (await statuses(proxy, 10))[200] == 5


# Faults.


def fault(**rule: Any) -> dict[str, Any]:
    return {"expires": SOON, "rules": [rule]}


async def test_faults_are_injected() -> None:
    """Delay, answer, both; not where the request asks to be spared."""
    service = Service()
    async with running_proxy() as proxy:
        port = await proxy.upstream(service)
        proxy.put(
            endpoint(port), fault=fault(abort={"status": 418, "body": "short"}, delay={"least": "50ms", "most": "60ms"})
        )
        client = await proxy.client()
        began = trio.current_time()
        head, body = await answer(client)
        assert trio.current_time() - began >= 0.05
        assert (head[9:12], body, service.asked) == (b"418", b"short", 0)
        spared = GET.replace(b"\r\n\r\n", b"\r\nX-Shoal-No-Fault: 1\r\n\r\n")
        assert (await answer(client, spared))[0].startswith(b"HTTP/1.1 200")
        proxy.put(endpoint(port), fault=fault(delay={"most": "30ms"}))
        assert (await answer(client))[0].startswith(b"HTTP/1.1 200")
        proxy.put(endpoint(port), fault=fault(reset=True))
        await client.send(GET)
        assert await client.rest() == b""


async def test_a_fault_that_was_forgotten_ends() -> None:
    """By its own date."""
    async with running_proxy() as proxy:
        document = {"expires": "2020-01-01T00:00:00Z", "rules": [{"abort": {"status": 500}}]}
        proxy.put(endpoint(await proxy.upstream(Service())), fault=document)
        assert await statuses(proxy, 3) == {200: 3}


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3000\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\nBB8\r\n%b\r\n0\r\n\r\n"]
)
async def test_a_body_is_throttled(framing: bytes) -> None:
    """3,000 bytes at 10,000 a second take a while, and arrive whole; the next request is not disturbed."""
    said = b"z" * 3000

    async def upstream(client: Client) -> None:
        while True:
            await client.head()
            await client.send(b"HTTP/1.1 200 OK\r\n" + framing % said)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)), fault=fault(throttle=10_000))
        client = await proxy.client()
        for _ in range(2):
            began = trio.current_time()
            await client.send(GET)
            await client.head()
            if b"chunked" in framing:
                received = (await client.until(b"0\r\n\r\n")).replace(b"\r\n", b"")
                assert received.count(b"z") == 3000
            else:
                assert (await client.until(said)).endswith(said)
            assert trio.current_time() - began >= 0.2


# Audit.


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("breaker", BREAKER),
        ("ratelimit", {"limits": [{"name": "all", "rate": "1/h"}]}),
        ("fault", fault(abort={"status": 418})),
        ("outlier", OUTLIER),
    ],
)
async def test_audit_counts_and_does_nothing(kind: str, document: dict[str, Any]) -> None:
    """What it would have done stands in a counter."""
    service = Service(500 if kind in ("breaker", "outlier") else 200)
    async with running_proxy() as proxy:
        ports = [await proxy.upstream(service), await proxy.upstream(service)]
        proxy.put(*map(endpoint, ports), retry=ONCE, **{kind: {**document, "mode": "audit"}})
        assert await statuses(proxy, 20) == {service.status: 20}
        assert watched(proxy.worker)[kind] > 0


async def test_unconfigured_kinds_leave_nothing_behind() -> None:
    """No state, and no view of the request is made."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)), endpoint(refusing_port()))
        await statuses(proxy, 3)
        service = proxy.worker.table.services["pets.production"]
        assert (service.circuit, service.buckets, service.ejector, service.judge) == (None, None, None, None)
        plan = service.plan
        assert (plan.outbound, plan.towards, plan.departing, plan.inbound) == ((), (), (), ())
