"""Questions to other agents: one small request each, to the inbound listener of a host, bounded in time and size.

Where that host's agent says that it holds an SVID, and ours holds one, the connection is TLS and both are proven; else
it is plain text, and leaves from where we are registered, by which the other one believes us. Which of both it is says
what is published, never what the network answers: there is no way back to plain text.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, Final, cast

import httpcore
import trio

from agent.control.identity.way import NoAnswer, TooLarge, TooLate, Way
from agent.control.mesh.table import Table
from agent.questions import HOST, MAX_ANSWER_BYTES
from agent.tls.chain import chain_of
from agent.trust import is_here, source_for

IDLE_S: Final = 60.0
MAX_IDLE: Final = 4
"""Connections to one host."""
SPARE: Final = 64
"""Hosts that are not in the mesh any more, and whose connections may still be there."""


def nobody(host: str) -> Way | None:
    """Nothing is proven here."""
    return None


class Peers:
    """Other agents, as this one asks them."""

    def __init__(self, table: Table, way: Callable[[str], Way | None] = nobody) -> None:
        """`way`: how to ask a host's agent that holds an SVID; None: we hold none."""
        self._table = table
        self._way = way
        self._plain: dict[str, tuple[str, httpcore.AsyncConnectionPool]] = {}
        """By host, with the address that questions leave from. A pool each: it looks through all of its connections
        with every request, and hundreds of hosts are asked at once."""
        self._proven: dict[str, tuple[Way, httpcore.AsyncConnectionPool]] = {}
        """By host."""

    async def ask(
        self, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = MAX_ANSWER_BYTES
    ) -> tuple[int, bytes]:
        """Another agent's answer: status and body. Raises NoAnswer; TooLarge for a body of more than `most_bytes`: who
        answers under an agent's address need not be it any more."""
        record = self._table.agents.get(host)
        if record is None:
            raise NoAnswer("no such agent lives in this mesh")
        await self._let_go()
        address = f"[{record.address}]" if ":" in record.address else record.address
        try:
            with trio.fail_after(timeout_s):
                way = self._way(host) if self._proves(host) else None
                scheme, pool = (
                    ("http", self._from(host, record.address)) if way is None else ("https", self._to(host, way))
                )
                async with pool.stream(
                    "POST",
                    f"{scheme}://{address}:{record.inbound_port}{path}",
                    headers={"host": HOST},
                    content=body,
                    extensions={} if way is None else {"sni_hostname": way.sni},
                ) as answer:
                    return answer.status, await _whole(answer, most_bytes)
        except trio.TooSlowError:
            raise TooLate(f"no answer within {timeout_s:.3g} s") from None
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise NoAnswer(str(error) or type(error).__name__) from None
        except httpcore.ConnectionNotAvailable as error:
            raise NoAnswer(f"the connection was given up: {error}") from None

    def _proves(self, host: str) -> bool:
        held = self._table.owners.holds.get(host)
        return held is not None and held.agent is not None and held.agent.timestamp() > time.time()

    async def _let_go(self) -> None:
        """Of hosts that are not in the mesh any more, once they are many."""
        for pools in (self._plain, self._proven):
            if len(pools) > len(self._table.agents) + SPARE:
                for host in pools.keys() - self._table.agents.keys():
                    _, pool = pools.pop(host, ("", None))
                    if pool is not None:  # another question may have been quicker
                        await pool.aclose()

    def _from(self, host: str, target: str) -> httpcore.AsyncConnectionPool:
        """In plain text, from where we are registered; from the system's choice where that is none of this host's."""
        own = self._table.agents.get(self._table.host)
        source = source_for(own.address, target) if own is not None else ""
        known = self._plain.get(host)
        if known is None or known[0] != source:
            local = source if source and is_here(source) else None
            known = self._plain[host] = (source, _pool(httpcore.TrioBackend(), None, local))
        return known[1]

    def _to(self, host: str, way: Way) -> httpcore.AsyncConnectionPool:
        """With what we hold now: what was opened as another goes when it is idle."""
        known = self._proven.get(host)
        if known is None or known[0] is not way:
            known = self._proven[host] = (way, _pool(_Judging(way), way.context, None))
        return known[1]

    async def aclose(self) -> None:
        """Close everything."""
        for _, pool in [*self._plain.values(), *self._proven.values()]:
            await pool.aclose()
        self._plain.clear()
        self._proven.clear()


def _pool(
    backend: httpcore.AsyncNetworkBackend, context: ssl.SSLContext | None, local: str | None
) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=context,
        network_backend=backend,
        local_address=local,
        max_connections=None,
        max_keepalive_connections=MAX_IDLE,
        keepalive_expiry=IDLE_S,
    )


async def _whole(answer: httpcore.Response, most: int) -> bytes:
    """As it came. Raises TooLarge."""
    pieces: list[bytes] = []
    size = 0
    async for piece in cast("AsyncIterable[bytes]", answer.stream):
        size += len(piece)
        if size > most:
            raise TooLarge(f"an answer of more than {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


class _Judging(httpcore.AsyncNetworkBackend):
    """Connects, and looks at who is there."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Judged(
            await self._inner.connect_tcp(host, port, timeout, local_address, socket_options),
            self._way,
        )

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Judged(httpcore.AsyncNetworkStream):
    """A connection on which nothing is said before its other end is believed."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, way: Way) -> None:
        self._inner = inner
        self._way = way

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            secured = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # httpcore leaves it open when it is cancelled
            with trio.CancelScope(shield=True):
                await self._inner.aclose()
            raise
        tls = secured.get_extra_info("ssl_object")
        reason = self._way.judge(chain_of(tls)) if isinstance(tls, ssl.SSLObject) else "it is no TLS"
        if reason:
            await secured.aclose()
            raise httpcore.ConnectError(f"identity refused, nothing was sent: {reason}")
        return secured

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
