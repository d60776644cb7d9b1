# mypyc: compiled
"""A request that is stored instead of served: handed to control with its head and body, and answered with 202.

Laws
- 202 is said when control has said that the request is on disk, and never before.
- What is stored is the request as its client sent it, less what is between two hops only: a replay goes through
  everything that a request goes through.
- What is itself a replay is not stored again, or it would go in circles.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.proxy.framing import ChunkedDecoder
from agent.proxy.head import CHUNKED, CONTENT_LENGTH, EXPECT, REBUILT, SHOAL_REPLAY
from agent.proxy.waiting import Waiting

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from policies.kinds.shed.decide import Store

MAX_WAITING: Final = 256


class Stores:
    """Requests that wait for control to have stored them."""

    __slots__ = ("_send", "_waiting")

    def __init__(self) -> None:
        self._waiting = Waiting(MAX_WAITING)
        self._send: Callable[[dict[str, Any]], bool] | None = None

    def connect(self, send: Callable[[dict[str, Any]], bool] | None) -> None:
        """Where frames for control go; None once it is gone, and with it everything that is not on disk."""
        self._send = send
        if send is None:
            for exchange in self._waiting.all():
                exchange.not_stored("control is gone")

    def takes(self, exchange: Exchange, keep: Store) -> bool:
        """Whether such a request may be stored, and there is room for it."""
        request = exchange.request
        if self._send is None or self._waiting.full or request.method not in keep.methods:
            return False
        return exchange.can_repeat and request.special_value(SHOAL_REPLAY) is None

    def store(self, exchange: Exchange, keep: Store) -> None:
        """Hand a request over, all of which has come. The answer comes by `answer`, or never, and then its deadline."""
        id = exchange.worker.next_request_id().decode()
        record = record_of(exchange, keep, id)
        number = self._waiting.add(exchange)
        frame = {"t": "store", "id": number, "topic": keep.order, "record": record, "name": id}
        if number is None or self._send is None or not self._send(frame):
            self.forget(exchange)
            exchange.not_stored("control has enough to do")

    def answer(self, number: int, name: str, reason: str) -> None:
        """Control's answer; empty reason: it is stored."""
        exchange = self._waiting.take(number)
        if exchange is None:
            return
        if reason:
            exchange.not_stored(reason)
        else:
            exchange.stored(name)

    def forget(self, exchange: Exchange) -> None:
        """It ended before its answer."""
        self._waiting.forget(exchange)


def record_of(exchange: Exchange, keep: Store, id: str) -> bytes:
    """What stands in the topic: one JSON object (docs/topics.md)."""
    request, service = exchange.request, exchange.service
    assert service is not None
    headers = [
        [field.name.decode(), field.value.decode("latin-1")]
        for field in request.fields
        if field.code < REBUILT
        and field.code not in (CONTENT_LENGTH, EXPECT)
        and field.name not in request.connection
        and field.name not in keep.without
    ]
    if all(name != "x-request-id" for name, _ in headers):
        headers.append(["x-request-id", exchange.request_id.decode("latin-1")])
    told: dict[str, Any] = {
        "id": id,
        "service": service.name,
        "at": round(time.time(), 3),
        "caller": exchange.caller,
        "method": request.method.decode(),
        "target": request.target.decode("latin-1"),
        "headers": headers,
    }
    body = b"".join(exchange.whole_body())
    if request.framing == CHUNKED:
        body = ChunkedDecoder().feed(body)
    try:
        told["body"] = body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = base64.b64encode(body).decode()
    return msgspec.json.encode(told)
