# mypyc: compiled
"""After an answer of 101: bytes go both ways, unread, with back-pressure, until both sides are through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

TUNNEL_IDLE_S: Final = 3600.0


class Tunnel:
    """Of one exchange."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def on_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        exchange = self._exchange
        exchange.bytes_out += len(data)
        exchange.down.write(data)
        attempt = exchange.attempt
        if attempt is not None and attempt.up is not None and exchange.down.full:
            attempt.up.pause_reading()
        self.touch()

    def on_client_data(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self._exchange
        attempt = exchange.attempt
        up = attempt.up if attempt is not None else None
        if up is None:
            return
        exchange.bytes_in += len(data)
        up.write(data)
        if attempt is not None and attempt.up is up and up.full:
            exchange.down.pause_reading()
        self.touch()

    def on_eof(self, *, from_upstream: bool) -> None:
        """One side has said all it has to say. The other may finish; when both have, it is over."""
        exchange = self._exchange
        if exchange.down.half_close(from_upstream=from_upstream):
            exchange.end_tunnel()
        elif not from_upstream and exchange.attempt is not None and exchange.attempt.up is not None:
            exchange.attempt.up.finish_writing()

    def touch(self) -> None:
        """It is not idle."""
        exchange = self._exchange
        if not exchange.down.closed:
            exchange.down.arm(exchange.worker.reactor.now + TUNNEL_IDLE_S)
