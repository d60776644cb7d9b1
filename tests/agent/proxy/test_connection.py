"""One socket of the proxy: how much is asked of it at a time."""

from __future__ import annotations

import socket

import pytest
import trio

from agent.proxy.connection import LARGE_BYTES, RECEIVE_BYTES
from tests.support.proxy import GET, OK, Client, endpoint, running_proxy


async def test_a_large_body_is_read_in_large_pieces_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small messages never pay for large buffers, not even behind a large body on the same connection."""
    asked: list[int] = []
    body = bytes(range(256)) * 16384
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), OK, OK]

    class Watched(socket.socket):
        def recv(self, size: int, flags: int = 0, /) -> bytes:
            if size in (RECEIVE_BYTES, LARGE_BYTES):  # the proxy's reads: the test's own ask for other sizes
                asked.append(size)
            return super().recv(size, flags)

    async def upstream(client: Client) -> None:
        for answer in answers:
            await client.head()
            await client.send(answer)
        await trio.sleep_forever()

    monkeypatch.setattr(socket, "socket", Watched)
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(upstream)))
        client = await proxy.client()
        await client.send(GET)
        assert b" 200 OK" in await client.head()
        received = bytearray(client.received)
        with trio.fail_after(10):
            while len(received) < len(body):
                received += await client.stream.receive_some(1024 * 1024)
        assert received == body
        assert asked[0] == RECEIVE_BYTES
        assert LARGE_BYTES in asked
        client.received = b""
        await client.ask(GET)
        asked.clear()
        await client.ask(GET)
        assert set(asked) == {RECEIVE_BYTES}
