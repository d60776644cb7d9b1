# mypyc: compiled
"""A request that is stored instead of served: handed to control with its head and body, and answered with 202.

Laws
- 202 is said when control has said that the request is on disk, and never before.
- What is stored is the request as its client sent it, less what is between two hops only: a replay goes through
  everything that a request goes through.
- Without its token, where that is not for instances either (`authn`), nor what only the mesh says of people.
- What is itself a replay is not stored again, or it would go in circles.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent import frames
from agent.proxy.control.waiting import Waiting
from agent.proxy.messages.head import CONTENT_LENGTH, EXPECT, REBUILT, SHOAL_REPLAY, RequestHead
from agent.proxy.messages.presented import Introduction
from policies.kinds.shed.decide import Store

MAX_WAITING: Final = 256


class Storable:
    """A request that is to be stored, while control does it."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0
        """0: it does not wait."""

    def on_stored(self, name: str) -> None:
        """It is on disk."""
        raise NotImplementedError

    def on_not_stored(self, reason: str) -> None:
        """It is not."""
        raise NotImplementedError


class Stores:
    """Requests that wait for control to have stored them."""

    __slots__ = ("_send", "_waiting")

    def __init__(self) -> None:
        self._waiting: Waiting[Storable] = Waiting(MAX_WAITING)
        self._send: Callable[[frames.Store], bool] | None = None

    def connect(self, send: Callable[[frames.Store], bool] | None) -> None:
        """Where frames for control go; None once it is gone, and with it everything that is not on disk."""
        self._send = send
        if send is None:
            for storable in self._waiting.all():
                storable.on_not_stored("control is gone")

    def takes(self, request: RequestHead, keep: Store) -> bool:
        """Whether such a request may be stored, and there is room for it."""
        if self._send is None or self._waiting.full or request.method not in keep.methods:
            return False
        return request.special_value(SHOAL_REPLAY) is None

    def store(self, storable: Storable, keep: Store, id: str, record: bytes) -> None:
        """Hand a request over, all of which has come. The answer comes by `answer`, or never, and then its deadline."""
        storable.number = number = self._waiting.add(storable)
        frame = frames.Store(number, id, frames.Topic(**keep.order), record)
        if not number or self._send is None or not self._send(frame):
            self.forget(storable)
            storable.on_not_stored("control has enough to do")

    def answer(self, number: int, name: str, reason: str) -> None:
        """Control's answer; empty reason: it is stored."""
        storable = self._waiting.take(number)
        if storable is None:
            return
        storable.number = 0
        if reason:
            storable.on_not_stored(reason)
        else:
            storable.on_stored(name)

    def forget(self, storable: Storable) -> None:
        """It ended before its answer."""
        if storable.number:
            self._waiting.forget(storable.number)
            storable.number = 0


def record_of(
    request: RequestHead,
    keep: Store,
    id: str,
    *,
    introduction: Introduction | None = None,
    service: str,
    caller: str,
    request_id: bytes,
    pieces: list[bytes],
) -> bytes:
    """What stands in the topic: one JSON object (docs/topics.md). `introduction`: what becomes of its token;
    `pieces`: the body."""
    fields = [
        field
        for field in request.fields
        if field.code < REBUILT
        and field.code not in (CONTENT_LENGTH, EXPECT)
        and field.name not in request.connection
        and field.name not in keep.without
    ]
    lines = [b"%b: %b\r\n" % (field.name, field.value) for field in fields]
    target = request.target
    if introduction is not None:
        lines, target = introduction.fields(lines), introduction.target(target)
    parted = [line.decode("latin-1").partition(": ") for line in lines]
    headers = [[name, value.removesuffix("\r\n")] for name, _, value in parted]
    if all(name != "x-request-id" for name, _ in headers):
        headers.append(["x-request-id", request_id.decode("latin-1")])
    told: dict[str, Any] = {
        "id": id,
        "service": service,
        "at": round(time.time(), 3),
        "caller": caller,
        "method": request.method.decode(),
        "target": target.decode("latin-1"),
        "headers": headers,
    }
    body = b"".join(pieces)
    try:
        told["body"] = body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = base64.b64encode(body).decode()
    return msgspec.json.encode(told)
