"""Connections to the agent that `shoal` asks: by its socket, its admin port, or by a login over TLS.

Law: who answers over TLS has proven to be the agent that is meant before it is told anything (agent.cli.people.asking).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpcore
import trio

from agent.cli.failure import Exit, Failure
from agent.cli.people.asking import judged, shown
from agent.tls.chain import chain_of
from agent.tls.words import words

WITHIN_S: Final = 5.0
"""To be connected, and proven."""
HTTPS: Final = 443


class Dialled(NamedTuple):
    """A connection."""

    stream: trio.abc.Stream
    host: str
    """How the agent is called there."""
    headers: tuple[tuple[str, str], ...] = ()
    """That go with each request."""


async def dial(place: str, mesh: str) -> Dialled:
    """`place` as `agent.cli.agent_client.check_place` lets it pass. Raises Failure."""
    try:
        with trio.fail_after(WITHIN_S):
            if place.startswith("/"):
                return Dialled(await trio.open_unix_socket(place), "localhost")
            parts = urlsplit(place)
            if parts.scheme == "http":
                return Dialled(await trio.open_tcp_stream(parts.hostname or "", parts.port or 80), parts.netloc)
            return await _proven(place, parts.hostname or "", parts.port or HTTPS, mesh)
    except (OSError, trio.TooSlowError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error) or "it does not answer in time"
        raise Failure(f"no agent answers at {place} ({why})", Exit.UNREACHABLE) from None


async def _proven(place: str, host: str, port: int, mesh: str) -> Dialled:
    context, bundle, token = await trio.to_thread.run_sync(shown, mesh)
    tls = trio.SSLStream(await trio.open_tcp_stream(host, port), context, https_compatible=True)
    try:
        await tls.do_handshake()
        inner = tls._ssl_object  # trio has no other way to the chain
        assert isinstance(inner, ssl.SSLObject)
        called = judged(chain_of(inner), bundle, host, f"what answers at {host}:{port}")
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(tls)
        cause = error.__cause__
        why = words(cause) if isinstance(cause, OSError) else str(error)
        raise Failure(f"what answers at {place} speaks no TLS 1.3 with us: {why}", Exit.UNREACHABLE) from None
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return Dialled(tls, called, (("authorization", f"Bearer {token}"),) if token else ())


class Wire(httpcore.AsyncNetworkStream):
    """One, as httpcore wants it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's own
        try:
            with trio.fail_after(timeout if timeout is not None else float("inf")):
                return bytes(await self._stream.receive_some(max_bytes))
        except trio.TooSlowError:
            raise httpcore.ReadTimeout("it does not answer in time") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(_cause(error)) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            with trio.fail_after(timeout if timeout is not None else float("inf")):
                await self._stream.send_all(buffer)
        except trio.TooSlowError:
            raise httpcore.WriteTimeout("it does not take what it is asked") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError(_cause(error)) from None

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def start_tls(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("it is proven already")

    def get_extra_info(self, info: str) -> Any:
        return None


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return words(cause) if isinstance(cause, OSError) else str(error) or "it has closed the connection"


def fields(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """As httpcore and WebSockets want them."""
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
