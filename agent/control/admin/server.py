"""HTTP for the admin API: on a TCP port for anybody, and on the agent's own socket with the word of who asks.

Law: one user cannot have all connections of the socket, and nobody those of a port (`agent/process/guests.py`).
"""

from __future__ import annotations

import socket
from collections import Counter
from functools import partial
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.applications import Starlette

from agent.control.admin.door import PEER
from agent.control.host.local_socket import LocalSocket
from agent.identity.users import User
from agent.process.guests import BoundedStream, Connection, Guests, to_its_end
from agent.process.local_peers import user_of
from agent.process.said import MOST_SAID_BYTES

MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_EACH: Final = 64
IDLE_S: Final = 30
"""Until the head of a request is there, or between two requests."""
PING_S: Final = 20.0
MAX_SCRAPERS: Final = 64
"""Of the metrics port."""


def configured() -> Config:
    """Hypercorn's settings, for either listener."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 1
    config.shutdown_timeout = 1
    config.keep_alive_timeout = IDLE_S
    config.h11_max_incomplete_size = 64 * 1024
    config.websocket_max_message_size = MOST_SAID_BYTES
    config.websocket_ping_interval = PING_S
    return config


async def serve(application: Starlette, sock: socket.socket, most: int = MAX_CONNECTIONS) -> None:
    """Serve anybody on a listening socket until cancelled, `most` of them at a time."""
    await Guests(application, configured(), most).serve(trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup())))


async def serve_local(application: Starlette, local: LocalSocket) -> None:
    """Serve on the agent's own socket until cancelled."""
    config, context = configured(), WorkerContext(None)
    connected: Counter[int] = Counter()

    async def one(stream: trio.SocketStream) -> None:
        try:
            peer = user_of(stream.socket)
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        if connected[peer.uid] >= MAX_CONNECTIONS_EACH or connected.total() >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        connected[peer.uid] += 1
        scope = trio.CancelScope()
        app = ASGIWrapper(partial(_named, application, peer, scope))
        try:
            with scope:
                bounded = BoundedStream(stream)
                await Connection(app, config, context, ConnectionState({}), bounded)  # type: ignore[arg-type]
        finally:
            connected[peer.uid] -= 1
            await trio.aclose_forcefully(stream)

    async with trio.SocketListener(trio.socket.from_stdlib_socket(local.sock.dup())) as listener:
        await trio.serve_listeners(one, [listener])


async def _named(
    application: Starlette, peer: User, connection: trio.CancelScope, scope: Any, receive: Any, send: Any
) -> None:
    answering = application({**scope, PEER: peer}, receive, send)
    await (to_its_end(connection, answering) if scope["type"] == "websocket" else answering)
