"""One socket of the proxy: how much is asked of it at a time."""

from __future__ import annotations

import socket

import trio

from agent.proxy.connection import LARGE_BYTES, RECEIVE_BYTES, Connection
from agent.proxy.reactor import Reactor


class Sink(Connection):
    """Keeps what came, piece by piece."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__(reactor, sock)
        self.pieces: list[bytes] = []
        self.ended = trio.Event()

    def on_data(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_eof(self) -> None:
        self.ended.set()
        self.close()


async def test_a_large_body_is_read_in_large_pieces_and_whole() -> None:
    reactor = Reactor()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    body = bytes(range(256)) * 16384
    sink = Sink(reactor, ours)
    client = trio.socket.from_stdlib_socket(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        with trio.fail_after(10):
            view = memoryview(body)
            while view:
                view = view[await client.send(view) :]
            client.close()
            await sink.ended.wait()
        nursery.cancel_scope.cancel()
    reactor.close()
    assert b"".join(sink.pieces) == body
    sizes = [len(piece) for piece in sink.pieces]
    assert sizes[0] <= RECEIVE_BYTES
    assert RECEIVE_BYTES < max(sizes) <= LARGE_BYTES
