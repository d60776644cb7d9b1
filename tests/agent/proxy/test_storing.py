"""A request that is stored instead of served, as a worker does its part of it; control is the test."""

from __future__ import annotations

import json
from typing import Any

import trio

from agent.frames import Store
from agent.proxy.control import storing
from tests.agent.proxy.test_shedding import Slow, stuck
from tests.support.proxy import Client, Proxy, endpoint, running_proxy

URL = "redis://redis.corp:6379/0?stream=orders.{service}"
POST = b"POST /buy?x=%20 HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 5\r\nX-Two: a\r\nX-Two: b\r\n\r\nhello"


def control(proxy: Proxy) -> list[Store]:
    """What reaches control; it answers nothing by itself."""
    frames: list[Store] = []

    def send(frame: Store) -> bool:
        frames.append(frame)
        return True

    proxy.worker.stores.connect(send)
    return frames


async def full(proxy: Proxy, *ways: Any, retry: Any = None, **topic: Any) -> list[Store]:
    """A service that takes no more, and control."""
    slow = Slow()
    port = await proxy.upstream(slow)
    shed = {"concurrency": 1, "instead": [{"topic": {"url": URL, **topic}}, *ways]}
    proxy.put(endpoint(port), shed=shed, **({"retry": retry} if retry else {}))
    await stuck(proxy, 1, slow)
    return control(proxy)


async def until_stored(frames: list[Store], count: int = 1) -> dict[str, Any]:
    with trio.fail_after(60):
        while len(frames) < count:
            await trio.sleep(0.005)
    told: dict[str, Any] = json.loads(frames[-1].record)
    return told


async def test_202_comes_after_controls_word() -> None:
    """And not before; the record is the request; the connection is used again."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        for number in (1, 2):
            await client.send(POST)
            told = await until_stored(frames, number)
            assert (told["method"], told["target"], told["body"]) == ("POST", "/buy?x=%20", "hello")
            assert told["service"] == "pets.production" and told["id"] == frames[-1].name
            assert told["headers"][:3] == [["host", "pets.production"], ["x-two", "a"], ["x-two", "b"]]
            assert told["headers"][3][0] == "x-request-id" and len(told["headers"]) == 4
            assert frames[-1].topic.url == URL.replace("{service}", "pets.production")
            with trio.move_on_after(0.05) as early:
                await client.stream.receive_some(1)
            assert early.cancelled_caught, "not before control has said so"
            proxy.worker.stores.answer(frames[-1].id, frames[-1].name, "")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 202") and b"x-shoal-stored: %b\r\n" % told["id"].encode() in head
            assert told["id"].encode() in await client.until(b"}\n")
        assert len({frame.name for frame in frames}) == 2


async def test_a_body_that_drips_and_is_chunked() -> None:
    """All of it is waited for; it is stored as bytes, not as it came over the wire; no UTF-8 is Base64."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: pets.production\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"3\r\n\x00\xff", b"a\r", b"\n2\r\nbc\r\n", b"0\r\n\r\n"):
            await trio.sleep(0.01)
            assert not frames
            await client.send(piece)
        told = await until_stored(frames)
        assert told["body_base64"] == "AP9hYmM=" and "body" not in told
        assert "transfer-encoding" not in dict(told["headers"])


async def test_one_that_waits_to_be_asked_for_its_body() -> None:
    """Expect: 100-continue is answered by the agent, for no instance will."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        told = await until_stored(frames)
        assert told["body"] == "hello" and "expect" not in dict(told["headers"])


async def test_what_control_cannot_keep_takes_the_next_way() -> None:
    """Or gets the 503 with the reason, and no 202."""
    async with running_proxy() as proxy:
        frames = await full(proxy, {"respond": {"status": 429, "body": "later"}})
        client = await proxy.client()
        await client.send(POST)
        await until_stored(frames)
        proxy.worker.stores.answer(frames[-1].id, frames[-1].name, "the disk does not take it")
        assert (await client.head()).startswith(b"HTTP/1.1 429")
        await client.until(b"later")
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        await client.send(POST)
        await until_stored(frames)
        proxy.worker.stores.answer(frames[-1].id, frames[-1].name, "the disk does not take it")
        assert (await client.head()).startswith(b"HTTP/1.1 503")
        assert b"the disk does not take it" in await client.until(b"}\n")


async def test_what_is_not_stored() -> None:
    """A method that is not wanted, a replay, a body that is too long: 503, and control is not bothered."""
    async with running_proxy() as proxy:
        frames = await full(proxy, retry={"max_body": 10}, methods=["POST"])
        long = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 11\r\n\r\n"
        for request in (
            b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n",
            b"PUT / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 0\r\n\r\n",
            POST.replace(b"X-Two: a", b"X-Shoal-Replay: 7"),
            long + b"hello world",
        ):
            client = await proxy.client()
            await client.send(request)
            assert (await client.head()).startswith(b"HTTP/1.1 503"), request
        client = await proxy.client()
        await client.send(long)
        await trio.sleep(0.02)
        await client.send(b"hello world")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503") and b"a body of more than 10 bytes" in head
        assert frames == []


async def test_headers_that_must_not_be_kept() -> None:
    async with running_proxy() as proxy:
        frames = await full(proxy, without=["Authorization", "x-TWO"])
        client = await proxy.client()
        await client.send(POST.replace(b"Content", b"Authorization: me\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent"))
        told = await until_stored(frames)
        assert [name for name, _ in told["headers"]] == ["host", "x-request-id"]


async def test_control_goes_or_was_never_there() -> None:
    """Those that wait are refused, and so are those that come: what is not on disk is no 202."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        await client.send(POST)
        await until_stored(frames)
        proxy.worker.stores.connect(None)
        assert (await client.head()).startswith(b"HTTP/1.1 503")
        await client.until(b"}\n")
        await client.send(POST)
        assert (await client.head()).startswith(b"HTTP/1.1 503")


async def test_a_client_that_goes_and_one_that_waits_too_long() -> None:
    """The answer that comes later is dropped: it may be stored, and nobody was told so."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        gone: Client = await proxy.client()
        await gone.send(POST)
        await until_stored(frames)
        gone.stream.socket.close()
        client = await proxy.client()
        await client.send(POST.replace(b"X-Two: a", b"X-Shoal-Deadline: 50"))
        await until_stored(frames, 2)
        assert (await client.head()).startswith(b"HTTP/1.1 504")
        for frame in frames:
            proxy.worker.stores.answer(frame.id, frame.name, "")
        with trio.fail_after(60):
            while len(proxy.worker.stores._waiting):
                await trio.sleep(0.005)


async def test_no_more_wait_than_may() -> None:
    async with running_proxy() as proxy:
        frames = await full(proxy)
        clients = [await proxy.client() for _ in range(storing.MAX_WAITING)]
        for each in clients:
            await each.send(POST)
        await until_stored(frames, storing.MAX_WAITING)
        client = await proxy.client()
        await client.send(POST)
        assert (await client.head()).startswith(b"HTTP/1.1 503")


async def test_it_is_told_where_it_went() -> None:
    """x-shoal-explain says so."""
    async with running_proxy() as proxy:
        frames = await full(proxy)
        client = await proxy.client()
        await client.send(POST.replace(b"X-Two: a", b"X-Shoal-Explain: 1"))
        await until_stored(frames)
        proxy.worker.stores.answer(frames[-1].id, frames[-1].name, "")
        head = await client.head()
        assert f"stored as {frames[-1].name}".encode() in head and b"shoal replay" in head
