"""What agents ask each other through the inbound listener, before control has its say."""

from __future__ import annotations

import contextlib

import pytest
import trio

from agent.frames import Peer
from agent.proxy.control import peers
from tests.support.proxy import STRANGER, Client, Proxy, running_proxy

QUESTION = b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: 5\r\n\r\nhello"


def control(proxy: Proxy) -> list[Peer]:
    """What reaches control; it answers nothing by itself."""
    proxy.put()
    asked: list[Peer] = []
    proxy.worker.peers.connect(asked.append)
    return asked


async def until_asked(asked: list[Peer], count: int = 1) -> None:
    with trio.fail_after(60):
        while len(asked) < count:
            await trio.sleep(0.005)


async def refused(client: Client) -> bytes:
    return (await client.head()).split(b"\r\n")[0]


async def test_a_question_and_its_answer() -> None:
    """Whole, with its path; and the connection is used again."""
    async with running_proxy() as proxy:
        asked = control(proxy)
        client = await proxy.client(inbound=True)
        for number in (1, 2):
            await client.send(QUESTION)
            await until_asked(asked, number)
            assert (asked[-1].path, asked[-1].body) == ("/shares", b"hello")
            proxy.worker.peers.answer(asked[-1].id, 200, b"well?")
            assert (await client.until(b"well?")).startswith(b"HTTP/1.1 200")


async def test_only_agents_are_asked_and_only_inbound() -> None:
    """A client of the outbound listener cannot reach control by that name, and no service can have it."""
    async with running_proxy() as proxy:
        asked = control(proxy)
        client = await proxy.client()
        await client.send(QUESTION)
        assert b"404" in await refused(client) and asked == []


async def test_bounds() -> None:
    """A body beyond reason, too many at once, and control that is silent or not there."""
    async with running_proxy() as proxy:
        proxy.put()
        client = await proxy.client(inbound=True)
        await client.send(QUESTION)
        assert b"503" in await refused(client), "control is not there"
        asked = control(proxy)
        client = await proxy.client(inbound=True)
        size = peers.MAX_BYTES + 1
        await client.send(b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: %d\r\n\r\n" % size)
        await client.send(b"x" * size)
        assert b"413" in await refused(client) and asked == []
        waiting = [await proxy.client(inbound=True) for _ in range(peers.MAX_ASKED)]
        for each in waiting:
            await each.send(QUESTION)
        await until_asked(asked, peers.MAX_ASKED)
        client = await proxy.client(inbound=True)
        await client.send(QUESTION)
        assert b"503" in await refused(client)
        for each in waiting[:10]:
            await each.stream.aclose()
        with trio.fail_after(60):
            while len(proxy.worker.peers._asked) > peers.MAX_ASKED - 10:
                await trio.sleep(0.005)
        proxy.worker.peers.answer(asked[0].id, 200, b"too late")


async def test_control_that_does_not_answer() -> None:
    """504 when its time is over; what comes then is dropped."""
    async with running_proxy() as proxy:
        proxy.worker.peers.answer_s = 0.05
        asked = control(proxy)
        client = await proxy.client(inbound=True)
        await client.send(QUESTION)
        assert b"504" in await refused(client)
        proxy.worker.peers.answer(asked[0].id, 200, b"too late")
        assert len(proxy.worker.peers._asked) == 0


async def test_strangers_ask_nothing() -> None:
    """403 before the question is read, however they spell who they are; nothing of it reaches control."""
    async with running_proxy() as proxy:
        asked = control(proxy)
        for head in (QUESTION, QUESTION.replace(b"\r\n\r\nhello", b"\r\nX-Shoal-Caller: another\r\n\r\n")):
            client = await proxy.client(inbound=True, source=STRANGER)
            await client.send(head)
            assert b"403" in await refused(client)
        assert asked == [] and len(proxy.worker.peers._asked) == 0


async def test_control_is_told_where_a_question_comes_from() -> None:
    """So that it can compare the member that is named in it with who may be there."""
    async with running_proxy() as proxy:
        asked = control(proxy)
        proxy.worker.agents.learn({"another": STRANGER}, "here")
        await (await proxy.client(inbound=True, source=STRANGER)).send(QUESTION)
        await until_asked(asked)
        assert asked[0].address == STRANGER


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 1000\r\n\r\nh", b"Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n"],
    ids=["length", "chunked"],
)
async def test_a_question_that_drips_or_never_ends(framing: bytes) -> None:
    """It has as long as any question has, all of it, and no more for each byte."""
    async with running_proxy() as proxy:
        proxy.worker.peers.answer_s = 0.2
        asked = control(proxy)
        client = await proxy.client(inbound=True)
        await client.send(b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\n" + framing)

        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await client.send(b"1\r\nh\r\n" if b"chunked" in framing else b"h")
                    await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert b"504" in await refused(client)
            nursery.cancel_scope.cancel()
        assert asked == []
