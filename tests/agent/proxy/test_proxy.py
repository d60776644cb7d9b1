"""HTTP/1.1 through the proxy, byte for byte, on real sockets."""

import gc
from collections.abc import Callable

import pytest
import trio
import trio.testing

from agent.proxy.request.attempt import Attempt
from agent.proxy.request.exchange import Exchange
from tests.support.proxy import GET, OK, SERVICE, Client, always_ok, endpoint, refusing_port, running_proxy


async def test_a_request_and_the_next_on_the_same_connections() -> None:
    """Keep-alive both ways: two requests, one connection down, one up."""
    heads: list[bytes] = []

    async def upstream(client: Client) -> None:
        while True:
            heads.append(await client.head())
            await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        for _ in range(2):
            answer = await client.ask(b"GET /a?b HTTP/1.1\r\nHost: Pets.Production:80\r\nX-A: 1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert proxy.worker.pool.connects == 1
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /a?b HTTP/1.1"
    assert {b"Host: Pets.Production:80", b"X-A: 1", b"via: 1.1 shoal", b"x-forwarded-proto: http"} <= set(lines)
    assert b"x-forwarded-for: 127.0.0.1" in lines
    assert any(line.startswith(b"x-request-id: ") for line in lines)
    assert not any(line.startswith(b"x-shoal-deadline: ") for line in lines)


async def test_pipelined_requests_are_answered_in_order() -> None:
    """RFC 9112 section 9.3.2."""

    async def upstream(client: Client) -> None:
        while True:
            path = (await client.head()).split(b" ")[1]
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: pets.production\r\n\r\n" % n for n in range(50)))
        for n in range(50):
            await client.head()
            await client.until(b"/%d" % n)


async def test_bodies_by_length_and_chunked() -> None:
    """A body arrives framed as it was sent, whole, and the answer likewise."""

    async def upstream(client: Client) -> None:
        while True:
            head = await client.head()
            if b"ontent-Length: 5" in head:
                await client.until(b"hello")
                await client.send(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
                )
            else:
                assert b"transfer-encoding: chunked" in head
                await client.until(b"0\r\nx-sum: 1\r\n\r\n")
                await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 5\r\n\r\nhel")
        await client.send(b"lo")
        assert b"transfer-encoding: chunked" in await client.head()
        assert await client.until(b"\r\n\r\n") == b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
        head = b"POST / HTTP/1.1\r\nHost: pets.production\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.ask(head + b"3;ext=1\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")


async def test_head_has_no_body() -> None:
    """The length of what a GET would bring is passed on, and nothing is waited for."""

    async def upstream(client: Client) -> None:
        while True:
            await client.head()
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        for _ in range(2):
            head = await client.ask(b"HEAD / HTTP/1.1\r\nHost: pets.production\r\n\r\n", b"\r\n\r\n")
            assert b"Content-Length: 500" in head


async def test_expect_100_continue_goes_end_to_end() -> None:
    """The service decides whether it wants the body; 1xx answers are passed on."""

    async def upstream(client: Client) -> None:
        assert b"Expect: 100-continue" in await client.head()
        await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.until(b"hello")
        await client.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        head = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head)
        assert (await client.head()).startswith(b"HTTP/1.1 100")
        await client.send(b"hello")
        assert (await client.head()).startswith(b"HTTP/1.1 103")
        assert (await client.head()).startswith(b"HTTP/1.1 200")


async def test_upgrade_becomes_a_tunnel() -> None:
    """WebSocket: after 101 bytes go both ways, and each side may close first."""

    async def upstream(client: Client) -> None:
        head = await client.head()
        assert b"connection: upgrade" in head
        await client.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
        await client.until(b"ping")
        await client.send(b"pong")
        assert await client.rest() == b"bye"
        await client.send(b"end")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: pets.production\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        head = (await client.head()).lower()
        assert head.startswith(b"http/1.1 101")
        assert b"upgrade: websocket" in head
        assert b"connection: upgrade" in head
        await client.until(b"hi")
        await client.ask(b"ping", b"pong")
        await client.send(b"bye")
        await client.stream.send_eof()
        assert await client.rest() == b"end"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not proxy.worker.connections


async def test_101_that_nobody_asked_for_is_a_broken_answer() -> None:
    """It would hand the connection to a protocol that was never agreed on."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        assert (await client.ask(GET, b"\r\n\r\n")).startswith(b"HTTP/1.1 502")


async def test_http10_client() -> None:
    """No chunks for HTTP/1.0: the body ends with the connection."""

    async def upstream(client: Client) -> None:
        assert (await client.head()).startswith(b"GET / HTTP/1.1")
        await client.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.0\r\nHost: pets.production\r\n\r\n")
        answer = await client.rest()
        assert answer.endswith(b"\r\n\r\nok")
        assert b"chunked" not in answer


async def test_http10_keep_alive() -> None:
    """An HTTP/1.0 client that asks for it keeps its connection, and is told so."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        for _ in range(2):
            answer = await client.ask(b"GET / HTTP/1.0\r\nHost: pets.production\r\nConnection: keep-alive\r\n\r\n")
            assert b"connection: keep-alive" in answer


async def test_answer_until_close_becomes_chunks() -> None:
    """An HTTP/1.0 upstream; the client's connection stays."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(b"HTTP/1.0 200 OK\r\n\r\nok")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        for _ in range(2):
            await client.ask(GET, b"2\r\nok\r\n0\r\n\r\n")


async def test_unknown_service_is_404() -> None:
    """Every answer of the mesh's own says whose it is and why, and keeps the connection where it can."""
    async with running_proxy() as proxy:
        proxy.put()
        client = await proxy.client()
        for _ in range(2):
            answer = await client.ask(b"GET / HTTP/1.1\r\nHost: cats.production\r\n\r\n", b"}\n")
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"server: shoal\r\n" in answer
            assert b"x-shoal-policy: service\r\n" in answer


async def test_known_service_without_endpoints_is_503() -> None:
    """With Retry-After: they may come."""
    async with running_proxy() as proxy:
        proxy.put()
        answer = await (await proxy.client()).ask(GET, b"}\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70000, 431),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
    ],
)
async def test_what_is_ambiguous_is_refused_and_closed(wire: bytes, status: int) -> None:
    """And nothing behind it is taken for a request; nothing reaches an upstream."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        await client.send(wire + GET)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"server: shoal") == 1
        assert b"connection: close\r\n" in answer
        assert proxy.worker.pool.connects == 0


async def test_bad_chunk_in_a_request_body() -> None:
    """400, closed; the upstream never sees the end of a request."""
    seen = b""

    async def upstream(client: Client) -> None:
        nonlocal seen
        await client.head()
        seen = await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        head = b"POST / HTTP/1.1\r\nHost: pets.production\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"3\r\nabc\r\n")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await client.send(b"zz\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert seen == b"3\r\nabc\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
    ],
)
async def test_a_broken_answer_is_502(answer: bytes) -> None:
    """Judged as strictly as a request; not tried again, for the instance has done its work."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(answer)
        await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        told = await (await proxy.client()).ask(GET, b"}\n")
        assert told.startswith(b"HTTP/1.1 502")
        assert b"x-shoal-policy: http" in told


async def test_upstream_that_dies_in_the_middle_of_a_body() -> None:
    """The client sees that the answer is not whole: the connection closes before its length is reached."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(GET)
        assert (await client.rest()).endswith(b"half")


async def test_bytes_behind_an_answer_end_the_connection() -> None:
    """An upstream that says more than it was asked is not asked again on that connection."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(OK + OK)
        await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        for _ in range(3):
            await client.ask(GET)
        assert proxy.worker.pool.connects == 3


async def test_an_early_answer_to_a_request_that_is_not_whole() -> None:
    """It is passed on, and the connection closes behind it: the rest of the body is never taken for a request."""

    async def upstream(client: Client) -> None:
        await client.head()
        await client.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await client.rest()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 500\r\n\r\nsome")
        answer = await client.until(b"no")
        assert b"connection: close" in answer
        await client.send(GET)
        assert await client.rest() == b""


async def test_a_refused_connection_is_tried_elsewhere_whatever_the_method() -> None:
    """Nothing was sent, so even a POST may go to another endpoint."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(refusing_port()), endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        for _ in range(8):
            await client.ask(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi")


async def test_a_get_whose_connection_breaks_is_tried_again() -> None:
    """Idempotent: once more, elsewhere."""

    async def broken(client: Client) -> None:
        await client.head()

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(broken)), endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        for _ in range(8):
            await client.ask(GET)


async def test_a_post_that_was_sent_is_never_sent_twice() -> None:
    """Law 10: the instance may have done the work."""
    seen = 0

    async def broken(client: Client) -> None:
        nonlocal seen
        await client.head()
        seen += 1

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(broken)), endpoint(await proxy.upstream(broken)))
        client = await proxy.client()
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi", b"}\n")
        assert answer.startswith(b"HTTP/1.1 502")
        assert seen == 1


async def test_a_body_is_replayed_from_memory() -> None:
    """A PUT with a body: the second endpoint gets all of it."""
    bodies: list[bytes] = []

    async def broken(client: Client) -> None:
        await client.head()

    async def good(client: Client) -> None:
        while True:
            await client.head()
            bodies.append(await client.until(b"end"))
            await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(broken)), endpoint(await proxy.upstream(good)))
        client = await proxy.client()
        body = b"x" * 30000 + b"end"
        for _ in range(4):
            head = b"PUT / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n" % len(body)
            await client.ask(head + body)
        assert bodies == [body] * 4


async def test_a_body_beyond_the_limit_is_not_replayed() -> None:
    """Memory for it is bounded: 64 KiB, then there is one try."""

    async def broken(client: Client) -> None:
        await client.until(b"end")

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(broken)), endpoint(await proxy.upstream(broken)))
        client = await proxy.client()
        body = b"x" * 100_000 + b"end"
        await client.send(b"PUT / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await client.until(b"}\n")).startswith(b"HTTP/1.1 502")
        assert proxy.worker.pool.connects == 1


async def test_a_connection_that_was_closed_while_idle() -> None:
    """The next request, of any method, goes over a new one."""

    async def once(client: Client) -> None:
        await client.head()
        await client.send(OK)

    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(once)))
        client = await proxy.client()
        for _ in range(3):
            await client.ask(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 0\r\n\r\n")


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


async def test_inbound_delivers_to_the_named_instance() -> None:
    """The calling agent picked; this agent dials it, and trusts the caller's name that the agent gives."""
    heads: list[bytes] = []

    async def upstream(client: Client) -> None:
        while True:
            heads.append(await client.head())
            await client.send(OK)

    async with running_proxy() as proxy:
        proxy.worker.table.host = "here"
        one, two = await proxy.upstream(upstream), refusing_port()
        proxy.put(endpoint(one, "one", agent="here"), endpoint(two, "two", agent="here"))
        client = await proxy.client(inbound=True)
        ask = b"GET / HTTP/1.1\r\nHost: x\r\nx-shoal-caller: web\r\nx-shoal-endpoint: pets.production/%b\r\n\r\n"
        ask = ask.replace(b"Host: x", b"Host: pets.production")
        await client.ask(ask % b"one")
        assert b"x-shoal-endpoint" not in heads[0]
        assert b"x-shoal-caller: web\r\n" in heads[0]
        for identity in (b"two", b"three"):
            answer = await client.ask(ask % identity, b"}\n")
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"x-shoal-unsent: 1" in answer


async def test_two_hops_a_post_survives_an_instance_that_is_gone() -> None:
    """The callee's agent says that nothing was sent; the caller's agent goes elsewhere, whatever the method."""
    async with running_proxy() as near, running_proxy() as far:
        far.worker.table.host = "far"
        good = await far.upstream(always_ok)
        far.put(endpoint(refusing_port(), "dead", agent="far"), endpoint(good, "good", agent="far"))
        over = {"agent": "far", "dial_port": far.inbound_port, "via": True}
        near.put(endpoint(1, "dead", **over), endpoint(good, "good", **over))
        client = await near.client()
        for _ in range(8):
            await client.ask(b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi")


async def test_explain_header_only_for_loopback_and_only_when_asked() -> None:
    """Decisions come back as JSON in a header."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        assert b"x-shoal-explain" not in await client.ask(GET)
        answer = await client.ask(b"GET / HTTP/1.1\r\nHost: pets.production\r\nx-shoal-explain: 1\r\n\r\n")
        assert b'x-shoal-explain: {"decisions":[' in answer


async def test_a_loop_is_cut() -> None:
    """A service registered at the proxy's own address: 508 after a few rounds, not a melt-down."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(proxy.outbound_port))
        answer = await (await proxy.client()).ask(GET, b"}\n")
        assert answer.startswith(b"HTTP/1.1 508")


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
