# mypyc: compiled
"""After an answer of 101: bytes go both ways, unread, with back-pressure, until both sides are through."""

from __future__ import annotations

from typing import Final

from agent.proxy.request.attempt import Party

TUNNEL_IDLE_S: Final = 3600.0


class Tunnel:
    """Of one exchange."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Party) -> None:
        self._exchange = exchange

    def on_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        exchange = self._exchange
        exchange.bytes_out += len(data)
        exchange.down.send_body(data)
        up = exchange.upstream()
        if up is not None and exchange.down.full:
            up.pause_reading()
        self.touch()

    def on_client_data(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self._exchange
        up = exchange.upstream()
        if up is None:
            return
        exchange.bytes_in += len(data)
        up.send_body(data)
        if up.full and exchange.upstream() is up:
            exchange.down.pause_reading()
        self.touch()

    def on_eof(self, *, from_upstream: bool) -> None:
        """One side has said all it has to say. The other may finish; when both have, it is over."""
        exchange = self._exchange
        if exchange.down.half_close(from_upstream=from_upstream):
            exchange.end_tunnel()
            return
        up = exchange.upstream()
        if not from_upstream and up is not None:
            up.finish_writing()

    def touch(self) -> None:
        """It is not idle."""
        exchange = self._exchange
        if not exchange.down.closed:
            exchange.down.arm(exchange.reactor.now + TUNNEL_IDLE_S)
