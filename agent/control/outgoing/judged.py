"""Connections to where documents say, after each address has been judged: for whatever speaks HTTP by httpcore.

Laws
- Every address that a name resolves to is judged, and the one that was connected to again (agent.hooks.targets).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpcore
import trio

from agent.control.outgoing.bounds import Allowance, Bounded
from agent.hooks.targets import Targets


class Refused(Exception):
    """An address that must not be called; why, in words."""


class Judged(httpcore.AsyncNetworkBackend):
    """Connects to what may be connected to."""

    def __init__(self, targets: Targets, allowance: Allowance, *, named: bool = False) -> None:
        """`named`: only to what the settings name, the public internet not being enough."""
        self._targets = targets
        self._allowance = allowance
        self._named = named
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        for address in addresses:
            self._judge(host, address)
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                problem = error
                continue
            connected = stream.get_extra_info("server_addr")
            try:
                self._judge(host, str(connected[0]) if connected else address)
            except Refused:
                await stream.aclose()
                raise
            return Bounded(stream, self._allowance)
        raise problem

    def _judge(self, host: str, address: str) -> None:
        reason = self._targets.refused(host, address, named=self._named)
        if reason is not None:
            raise Refused(reason)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Refused("a socket in the file system")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
