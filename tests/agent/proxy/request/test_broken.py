"""What is broken on either side, and what is tried again, on real sockets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.proxy import GET, OK, Client, always_ok, endpoint, refusing_port, running_proxy


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
