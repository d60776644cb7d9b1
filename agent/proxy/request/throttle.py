# mypyc: compiled
"""An answer's body, passed on slowly on purpose: what a fault policy makes of it."""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.reactor import Timed
from agent.proxy.request.attempt import Party

TICK_S: Final = 0.05


class Throttle(Timed):
    """Holds what may not be sent yet; the upstream is not read from while there is any."""

    __slots__ = ("_ended", "_exchange", "_held", "_piece", "_trailers")

    def __init__(self, exchange: Party, bytes_per_s: float) -> None:
        super().__init__()
        self._exchange = exchange
        self._piece = max(1, int(bytes_per_s * TICK_S))
        self._held = bytearray()
        self._ended = False
        self._trailers: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """A piece of the body."""
        waiting = bool(self._held)
        self._held += data
        up = self._exchange.upstream()
        if up is not None:
            up.pause_reading()
        if not waiting:
            self._wait()

    def end(self, trailers: list[bytes]) -> None:
        """The body has come whole."""
        self._ended = True
        self._trailers = trailers
        if not self._held:
            self._exchange.end_answer(trailers)

    def _wait(self) -> None:
        reactor = self._exchange.reactor
        reactor.wheel.arm(self, reactor.now + TICK_S)

    def on_deadline(self, now: float) -> None:
        """Pass on what is due."""
        exchange = self._exchange
        if exchange.over:
            return
        piece = bytes(self._held[: self._piece])
        del self._held[: self._piece]
        if piece:
            exchange.pass_body(piece)
        if self._held:
            self._wait()
        elif self._ended:
            exchange.end_answer(self._trailers)
        else:
            exchange.on_drained()
