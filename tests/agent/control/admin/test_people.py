"""The people's port, over TLS: who reads slowly on `/api/v1/live`, and who does not read at all."""

from __future__ import annotations

import random
import socket as sockets
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from agent.control.admin.live import looks, socket
from agent.control.admin.live.looks import Looks
from agent.control.admin.live.socket import Live
from agent.control.admin.people import serve_people
from agent.control.admin.v1.operation import Asked, NoQuery, Operation
from agent.control.asking.watched import Watched
from agent.control.host.sockets import listening
from agent.identity.verdict import Visitor
from agent.process import guests
from agent.settings.address import Address
from tests.support.web_pki import certificate, server_context
from tests.support.websocket import Closed, Page

SIZE_BYTES = 300_000
"""Of an answer."""
TOLD = 150
"""Answers that others hear: more, by far, than any buffer of the kernel holds."""


class Large(msgspec.Struct):
    """An answer."""

    number: int
    text: str


class Everybody:
    """An identity that lets everybody in who connects."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def door(self, *, tokens: bool) -> ssl.SSLContext:
        return self._context

    def visitor(self, _: Any) -> Visitor:
        return Visitor("ann", False)


class Port:
    """It, where there is a large answer that is another one each time."""

    def __init__(self, folder: Path) -> None:
        self.watched = Watched()
        self._number = 0
        self._streams: list[trio.abc.Stream] = []
        self._texts = [random.randbytes(SIZE_BYTES // 2).hex() for _ in range(8)]
        operation = Operation("GET", "/large", "large", "", NoQuery, Large, self._large)
        self.looks = Looks([operation], self.watched)
        self._application = Starlette(routes=[WebSocketRoute("/api/v1/live", Live(self.looks, self.watched).serve)])
        self._identity: Any = Everybody(server_context(folder, certificate("localhost")))
        (self._sock,) = listening(Address("127.0.0.1", 0), (), 1)

    async def _large(self, _: Asked) -> Large:
        self._number += 1
        return Large(self._number, self._texts[self._number % 8])

    def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.looks.run)
        nursery.start_soon(partial(serve_people, self._application, self._identity, self._sock, names=["localhost"]))

    async def page(self) -> Page:
        """By a connection that the kernel keeps little of."""
        sock = sockets.socket()
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65536)
        await trio.to_thread.run_sync(sock.connect, self._sock.getsockname())
        sock.setblocking(False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = trio.SSLStream(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), context)
        self._streams.append(stream)
        return await Page(stream).open("localhost", deflates=False)

    async def close(self) -> None:
        """It, and who came."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)
        self._sock.close()


@pytest.fixture
async def port(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Port]:
    monkeypatch.setattr(looks, "LEAST_S", 0.005)
    made = Port(tmp_path)
    made.start(nursery)
    yield made
    await made.close()
    nursery.cancel_scope.cancel()


def patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (guests, socket):
        monkeypatch.setattr(module, "SEND_S", seconds)


async def test_who_takes_nothing_is_cut(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are told all the while, and what was not taken fills no memory: a newer answer takes its place."""
    patience(monkeypatch, 3.0)
    slow, other = await port.page(), await port.page()
    await slow.say({"watch": "w", "path": "/large", "every_s": 0})
    tracemalloc.start()
    try:
        heard = [(await other.watch("/large", every_s=0))["body"]["number"]]
        with trio.fail_after(60):
            while port.watched.connections > 1 or len(heard) < TOLD:
                heard.append((await other.told())["body"]["number"])
        assert tracemalloc.get_traced_memory()[1] < 40 * SIZE_BYTES
    finally:
        tracemalloc.stop()
    assert heard == sorted(set(heard))
    assert port.watched.watches == 1 and port.watched.skipped > 0
    with pytest.raises((Closed, trio.BrokenResourceError)):
        while True:
            await slow.hear()


async def test_who_reads_slowly_is_told_the_newest(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what was before it; he is not cut, as long as he takes it."""
    patience(monkeypatch, 30.0)
    slow, other = await port.page(), await port.page()
    told = [(await slow.watch("/large", every_s=0))["body"]["number"]]
    number = (await other.watch("/large", every_s=0))["body"]["number"]
    with trio.fail_after(60):
        while len(told) < 8:
            until = number + 20
            while number < until:
                number = (await other.told())["body"]["number"]
            told.append((await slow.told())["body"]["number"])
    assert told == sorted(set(told)) and told[-1] - told[0] > len(told)
    assert port.watched.connections == 2 and port.watched.skipped > 0
