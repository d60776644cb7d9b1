"""How much of an answer is read, whoever sends it: in bytes, and in pieces."""

from __future__ import annotations

import ssl
from typing import Any, Final

import httpcore

MAX_HEAD_BYTES: Final = 32 * 1024
"""Of an answer's head with all interim answers before it."""
LEAST_PIECE_BYTES: Final = 64
"""What pieces of an answer have to have on average, beyond the first few."""
FEW: Final = 256


class TooMuch(Exception):
    """An answer beyond its bounds."""


class Allowance:
    """How much may still be read, and in how many pieces."""

    def __init__(self, size_bytes: int = MAX_HEAD_BYTES) -> None:
        self.grant(size_bytes)

    def grant(self, size_bytes: int) -> None:
        """From now on."""
        self._bytes = size_bytes
        self._pieces = FEW + size_bytes // LEAST_PIECE_BYTES

    def take(self, size_bytes: int) -> None:
        """Raises TooMuch."""
        self._bytes -= size_bytes
        self._pieces -= 1
        if self._bytes < 0 or self._pieces < 0:
            raise TooMuch


class Bounded(httpcore.AsyncNetworkStream):
    """A connection that is read as far as it is allowed."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, allowance: Allowance) -> None:
        self._inner = inner
        self._allowance = allowance

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        data = await self._inner.read(max_bytes, timeout)
        self._allowance.take(len(data))
        return data

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
        return Bounded(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._allowance)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


async def beginning(answer: httpcore.Response, most: int, allowance: Allowance) -> tuple[bytes, bool]:
    """Of an answer's body so many bytes, and whether that is all of it. Raises TooMuch.

    It ends by the connection's allowance, and never by leaving the loop: httpcore's generators are within each other,
    and only an exception from the innermost closes all of them.
    """
    body = bytearray()
    pieces = FEW + 2 * most // LEAST_PIECE_BYTES
    try:
        async for piece in answer.aiter_stream():
            pieces -= 1
            if len(body) <= most:
                body += piece
            if len(body) > most or pieces < 0:
                allowance.grant(0)
    except TooMuch:
        if len(body) <= most:
            raise
    return bytes(body[:most]), len(body) <= most
