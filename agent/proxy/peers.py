# mypyc: compiled
"""What agents say to each other: small questions that come in by the inbound listener and are answered by control.

They share its port, so that there is nothing more to open in a firewall, and whatever secures it secures them. Agents
only may ask: everybody else is refused before any of the question is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent.proxy.answers import Refusal
from agent.proxy.waiting import Waiting

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

HOST: Final = b"agent.shoal"
"""The name under which an agent itself is asked; no service can have it."""
MAX_BYTES: Final = 64 * 1024
MAX_ASKED: Final = 256
ANSWER_S: Final = 5.0


class Peers:
    """Questions that wait for control's answer."""

    __slots__ = ("_asked", "_send", "answer_s")

    def __init__(self) -> None:
        self._asked = Waiting(MAX_ASKED)
        self.answer_s = ANSWER_S
        self._send: Callable[[dict[str, Any]], None] | None = None

    def connect(self, send: Callable[[dict[str, Any]], None]) -> None:
        """Where frames for control go."""
        self._send = send

    def ask(self, exchange: Exchange, body: bytes) -> None:
        """Pass a whole question on; its answer comes by `answer`, or never, and then its deadline does."""
        number = self._asked.add(exchange) if self._send is not None and len(body) <= MAX_BYTES else None
        if number is None or self._send is None:
            exchange.refuse(Refusal(503, "agent", "this agent cannot take that question now", 1, unsent=True))
            return
        path, address = exchange.request.target.decode("latin-1"), exchange.down.peer
        self._send({"t": "peer", "id": number, "path": path, "body": body, "address": address})

    def answer(self, number: int, status: int, body: bytes) -> None:
        """Control's answer."""
        exchange = self._asked.take(number)
        if exchange is not None:
            exchange.answer_peer(status, body)

    def forget(self, exchange: Exchange) -> None:
        """The question ended before its answer."""
        self._asked.forget(exchange)
