"""A TCP port for anybody: bounded in connections and in time, and open to who asks."""

from __future__ import annotations

import socket

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from agent.control.admin import server
from agent.control.host.sockets import listening
from agent.process import guests
from agent.settings.address import Address

ASK = b"GET /%b HTTP/1.1\r\nHost: metrics.corp.example\r\n\r\n"


class Port:
    """One that serves; `/held` is answered once `release` is set, `/large` is more than any buffer holds."""

    def __init__(self, nursery: trio.Nursery, most: int) -> None:
        self.release = trio.Event()
        self.held = 0
        self._nursery = nursery
        self._clients: list[trio.SocketStream] = []
        (self._sock,) = listening(Address("127.0.0.1", 0), (), 1)
        self.address = self._sock.getsockname()
        routes: list[BaseRoute] = [
            WebSocketRoute("/told", self._told),
            Route("/quick", self._quick),
            Route("/held", self._held),
            Route("/large", self._large),
            Route("/read", self._read, methods=["POST"]),
        ]
        nursery.start_soon(server.serve, Starlette(routes=routes), self._sock, most)

    async def _quick(self, _: Request) -> PlainTextResponse:
        return PlainTextResponse("quick")

    async def _large(self, _: Request) -> PlainTextResponse:
        return PlainTextResponse("x" * 50_000_000)

    async def _read(self, request: Request) -> PlainTextResponse:
        self.held += 1
        text = (await request.body()).decode()
        return PlainTextResponse(text)

    async def _held(self, _: Request) -> PlainTextResponse:
        self.held += 1
        await self.release.wait()
        return PlainTextResponse("held")

    async def _told(self, page: WebSocket) -> None:
        """A little, which buffers of the kernel hold, and then nothing, until the page goes."""
        await page.accept()
        self.held += 1
        try:
            await page.send_text("x" * 12_000)
            await page.receive()
        finally:
            self.held -= 1

    async def client(self, said: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream(*self.address)
        self._clients.append(stream)
        await stream.send_all(said)
        return stream

    async def close(self) -> None:
        """It, and who came."""
        for client in self._clients:
            await client.aclose()
        self._sock.close()
        self._nursery.cancel_scope.cancel()

    async def status(self) -> bytes:
        """Of a quick question of a newcomer."""
        async with await self.client(ASK % b"quick") as stream:
            return (await stream.receive_some(12))[9:]


async def closed(stream: trio.SocketStream) -> bool:
    with trio.fail_after(60):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


@pytest.mark.parametrize("said", [b"", b"GET /quick HT", ASK % b"quick"])
async def test_who_waits_makes_way(nursery: trio.Nursery, said: bytes) -> None:
    """Connections that say nothing, that drip, that have been answered: the first of them is closed, and whoever asks
    is answered."""
    port = Port(nursery, 3)
    streams = [await port.client(said) for _ in range(3)]
    if said.endswith(b"\r\n\r\n"):
        for stream in streams:
            while not (await stream.receive_some(4096)).endswith(b"quick"):
                pass
    for _ in range(4):
        assert await port.status() == b"200"
    assert await closed(streams[0])
    await port.close()


async def test_who_is_answered_does_not_make_way(nursery: trio.Nursery) -> None:
    """With all of them busy, one more is told so; afterwards there is room."""
    port = Port(nursery, 2)
    streams = [await port.client(ASK % b"held") for _ in range(2)]
    with trio.fail_after(60):
        while port.held < 2:
            await trio.sleep(0.001)
    assert await port.status() == b"503"
    port.release.set()
    for stream in streams:
        assert (await stream.receive_some(4096))[9:12] == b"200"
    with trio.fail_after(60):
        while await port.status() != b"200":
            await trio.sleep(0.01)
    await port.close()


async def test_a_head_that_drips_has_its_time(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a byte of it comes."""
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    port = Port(nursery, 8)
    stream = await port.client(b"GET /quick HTTP/1.1\r\nX: ")
    with trio.fail_after(60):
        try:
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.01)
        except trio.BrokenResourceError:
            pass
    await port.close()


async def test_an_answer_that_nobody_takes_has_its_time(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the connection is gone, and its place free."""
    monkeypatch.setattr(guests, "SEND_S", 0.2)
    port = Port(nursery, 1)
    async with await port.client(ASK % b"large"):
        with trio.fail_after(60):
            while await port.status() != b"200":
                await trio.sleep(0.01)
    await port.close()


async def test_an_answer_that_is_not_made_has_its_time(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed."""
    monkeypatch.setattr(guests, "REQUEST_S", 0.1)
    port = Port(nursery, 1)
    assert await closed(await port.client(ASK % b"held"))
    assert await port.status() == b"200"
    await port.close()


async def test_who_is_gone_without_a_word_is_given_up(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that he is sent is in the kernel's buffers, and nobody waits for him to take it: the kernel notices."""
    monkeypatch.setattr(guests, "SEND_S", 1.0)
    port = Port(nursery, 4)
    with socket.socket() as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await trio.to_thread.run_sync(gone.connect, port.address)
        gone.send(
            b"GET /told HTTP/1.1\r\nHost: metrics.corp.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with trio.fail_after(60):
            while not port.held:
                await trio.sleep(0.01)
            while port.held:
                await trio.sleep(0.01)
    await port.close()


async def test_whoever_drips_a_body_makes_way() -> None:
    """As for a head: nobody is being answered yet. Whose body is there is."""
    begun = b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    async with trio.open_nursery() as nursery:
        port = Port(nursery, 2)
        dripping = [await port.client(begun + b"a") for _ in range(2)]
        with trio.fail_after(30):
            while port.held < 2:
                await trio.sleep(0.01)
        assert await port.status() == b"200"
        assert await dripping[0].receive_some() == b"", "it has waited longest"
        await dripping[1].send_all(b"bc")
        heard = b""
        while not heard.endswith(b"abc"):
            heard += await dripping[1].receive_some()
        await port.close()
