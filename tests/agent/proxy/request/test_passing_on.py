"""HTTP/1.1 through the proxy, byte for byte, on real sockets."""

from __future__ import annotations

import trio
import trio.testing

from tests.support.proxy import GET, OK, Client, always_ok, endpoint, refusing_port, running_proxy


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
