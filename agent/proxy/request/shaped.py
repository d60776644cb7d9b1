# mypyc: compiled
"""A caller's exchange as policies shape it: copied elsewhere, answered slowly on purpose, with a session's cookie."""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.reactor import Timed
from agent.proxy.messages.cookies import may_set
from agent.proxy.messages.head import RequestHead, ResponseHead
from agent.proxy.phases.verdict import Copies
from agent.proxy.request import mirroring
from agent.proxy.request.attempt import Party
from agent.proxy.request.exchange import Exchange
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer

TICK_S: Final = 0.05


class Throttle(Timed):
    """An answer's body, passed on slowly on purpose: what a fault policy makes of it. Holds what may not be sent yet;
    the upstream is not read from while there is any."""

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


class Shaped(Exchange):
    """What a request to an instance of one's own host has none of."""

    __slots__ = ("_mirror", "_sets_cookie", "_throttle")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self._mirror: mirroring.Mirror | None = None
        self._sets_cookie: str | None = None
        self._throttle: Throttle | None = None

    def copy(self, copies: Copies) -> None:
        """Collect for them."""
        plan = self.plan
        assert plan is not None and plan.shadow is not None
        self._mirror = mirroring.begin(self, copies.orders, plan.shadow.compiled)

    def begin_session(self, balancer: Balancer, endpoint: Endpoint) -> None:
        """The answer will say where its next request goes."""
        self._sets_cookie = balancer.sticky_cookie(endpoint)

    # The request.

    def on_request_data(self, data: bytes) -> None:
        """A piece of the body."""
        if self._mirror is not None:
            self._mirror.feed(data)
        super().on_request_data(data)

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        if self._mirror is not None:
            self._mirror.on_request_end(self.trailing(trailers) if trailers else trailers)
        super().on_request_end(trailers)

    # The answer.

    def extra_response_fields(self, head: ResponseHead) -> list[bytes]:
        """With the cookie of a session that begins, and with that of a user who has a side of a split from now on."""
        extra = super().extra_response_fields(head)
        forward = self.forward
        if forward is not None and forward.cookie is not None:
            cookie = forward.cookie.encode("latin-1")
            if may_set(head, cookie):
                extra.append(b"set-cookie: %b\r\n" % cookie)
        if self._sets_cookie is not None:
            extra.append(b"set-cookie: %b\r\n" % self._sets_cookie.encode("latin-1"))
        return extra

    def begin_answer(self, head: ResponseHead, extra: list[bytes], body: bytes, complete: bool) -> None:
        """Its head, and all of the body if it came along."""
        if self._mirror is not None:
            self._mirror.on_primary(head, body)
        hold = self.hold
        if hold is None or not hold.bytes_per_s or (complete and not body):
            super().begin_answer(head, extra, body, complete)
            return
        self._throttle = throttle = Throttle(self, hold.bytes_per_s)
        super().begin_answer(head, extra, b"", False)
        if complete:
            self._part_from_upstream()
            throttle.feed(body)
            throttle.end([])

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        if self._mirror is not None:
            self._mirror.on_primary_data(data)
        if self._throttle is not None:
            self._throttle.feed(data)
        else:
            self.pass_body(data)

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        if self._throttle is None:
            self.end_answer(trailers)
            return
        self._part_from_upstream()
        self._throttle.end(trailers)

    def _part_from_upstream(self) -> None:
        if self.attempt is not None:
            self.attempt.release(reusable=self.request_sent)

    def on_end(self) -> None:
        """They refer to each other: garbage that only a collection would find."""
        self._throttle = None
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.on_end(self.why, self.reactor.now - self.started)
