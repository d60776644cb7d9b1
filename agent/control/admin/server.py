"""HTTP for the admin API: on a TCP port for anybody, and on the agent's own socket with the word of who asks.

Law: one user cannot have all connections of the socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import hypercorn.trio
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.applications import Starlette

from agent.control.admin.door import PEER
from agent.control.host.local_socket import LocalSocket, peer_of
from agent.control.host.rights import Peer

MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_EACH: Final = 64


def configured() -> Config:
    """Hypercorn's settings, for either listener."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 1
    config.shutdown_timeout = 1
    config.keep_alive_timeout = 30
    config.h11_max_incomplete_size = 64 * 1024
    return config


async def serve(application: Starlette, fd: int, shutdown: Callable[..., Awaitable[None]]) -> None:
    """Serve on an inherited listening socket until `shutdown` returns."""
    config = configured()
    config.bind = [f"fd://{fd}"]
    await hypercorn.trio.serve(application, config, shutdown_trigger=shutdown)  # type: ignore[arg-type]


class _Connection(TCPServer):
    """One that ends when its client does: Hypercorn's own stays for as long as an idle one may."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


async def serve_local(application: Starlette, local: LocalSocket) -> None:
    """Serve on the agent's own socket until cancelled."""
    config, context = configured(), WorkerContext(None)
    connected: Counter[int] = Counter()

    async def one(stream: trio.SocketStream) -> None:
        try:
            peer = peer_of(stream.socket)
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        if connected[peer.uid] >= MAX_CONNECTIONS_EACH or connected.total() >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        connected[peer.uid] += 1
        try:
            app = ASGIWrapper(partial(_named, application, peer))
            await _Connection(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        finally:
            connected[peer.uid] -= 1

    async with trio.SocketListener(trio.socket.from_stdlib_socket(local.sock.dup())) as listener:
        await trio.serve_listeners(one, [listener])


async def _named(application: Starlette, peer: Peer, scope: Any, receive: Any, send: Any) -> None:
    await application({**scope, PEER: peer}, receive, send)
