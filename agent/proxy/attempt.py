# mypyc: compiled
"""One try of a request at one endpoint: connect, send, listen; and what was learnt of the endpoint by it.

An Attempt belongs to its exchange, which decides; upstream connections call it when something happened. What it counts
on its endpoint's load it gives back exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.proxy import guards
from agent.proxy.outgoing import request_head
from agent.proxy.reactor import INFINITY
from agent.proxy.speaker import Speaker
from agent.proxy.upstream import Upstream
from policies.kinds.balance.ewma import observe
from policies.kinds.outlier.ejector import OK
from policies.kinds.retry.policy import IDEMPOTENT_BYTES, Failure

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.head import ResponseHead
    from policies.endpoint import Endpoint


class Attempt(Speaker):
    """One try."""

    __slots__ = ("began", "counted", "endpoint", "exchange", "gated", "latency_s", "limiter", "number")

    def __init__(self, exchange: Exchange, endpoint: Endpoint, number: int, gated: bool) -> None:
        super().__init__(exchange.request.method, exchange.request.upgrade)
        self.exchange = exchange
        self.endpoint = endpoint
        self.number = number
        """Counts from 1."""
        self.began = exchange.worker.reactor.now
        self.counted = True
        """Whether the endpoint's load counts this request."""
        self.gated = gated
        """Whether the endpoint's breaker does."""
        self.limiter = exchange.let_in
        """That let it in, and has to hear of its end."""
        exchange.let_in = None
        self.latency_s = -1.0
        """Until the head of a good answer; negative: there was none."""
        load = endpoint.load
        load.active += 1
        load.requests += 1

    @property
    def sending(self) -> bool:
        """Whether what comes of the request's body can be passed on at once."""
        up = self.up
        return up is not None and up.attempt is self and up.sent

    def start(self) -> None:
        """On a connection of the pool, or a new one."""
        exchange = self.exchange
        worker = exchange.worker
        dial = self.endpoint.dial
        up = worker.pool.take(dial, verify=exchange.request.method not in IDEMPOTENT_BYTES)
        if up is not None:
            self._send(up)
            return
        plan = exchange.plan
        assert plan is not None
        self.up = up = Upstream(worker.reactor, worker.pool, dial, self, exchange.target)
        worker.pool.connects += 1
        up.arm(exchange.bounded(self.began + (plan.timeouts.connect_s or INFINITY)))
        up.connect(worker.agents.source(dial[0]) if self.endpoint.via else "")

    def on_connected(self, up: Upstream) -> None:
        """The endpoint's connection is there."""
        self._send(up)

    def _send(self, up: Upstream) -> None:
        self.up = up
        exchange = self.exchange
        plan = exchange.plan
        assert plan is not None
        try_s = plan.timeouts.try_s
        up.arm(self.began + try_s if try_s else INFINITY)
        lines = request_head(exchange, self.endpoint, self.number)
        lines += exchange.kept_body()
        up.send_request(self, b"".join(lines))
        if self.up is up and not exchange.request_sent:
            exchange.balance_reading(up)

    def on_drained(self) -> None:
        """What was held of the request is sent: its client may go on."""
        self.exchange.down.resume_reading()

    # The answer.

    def on_informational(self, head: ResponseHead) -> None:
        """100 Continue, 103 Early Hints."""
        self.exchange.on_informational(head)

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        self.exchange.on_response(self, head, body, complete)

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        self.exchange.on_response_data(data)

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        self.exchange.on_response_end(trailers)

    def on_switched(self, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        self.exchange.on_switched(self, head)

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        tunnel = self.exchange.tunnel
        if tunnel is not None:
            tunnel.on_data(data)

    def on_tunnel_eof(self, *, from_upstream: bool) -> None:
        """The upstream has said all it has to say."""
        tunnel = self.exchange.tunnel
        if tunnel is not None:
            tunnel.on_eof(from_upstream=from_upstream)

    # What goes wrong.

    def on_lost(self, up: Upstream, reason: str, connecting: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole."""
        self.up = None
        address = f"{up.dial[0]}:{up.dial[1]}"
        if connecting:
            self.exchange.on_failed(self, Failure.CONNECT, f"cannot connect to {address}: {reason}", sent=False)
        else:
            self.exchange.on_failed(self, Failure.RESET, f"{address}: {reason}", sent=up.sent)

    def on_timeout(self, up: Upstream, connecting: bool) -> None:
        """This attempt took longer than one may."""
        self.up = None
        address = f"{up.dial[0]}:{up.dial[1]}"
        kind, reason = Failure.TIMEOUT, f"{address} did not answer in time"
        if connecting:
            kind, reason = Failure.CONNECT, f"cannot connect to {address} in time"
        self.exchange.on_failed(self, kind, reason, sent=not connecting, timed_out=True)

    def on_bad_response(self, up: Upstream, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        self.up = None
        self.exchange.on_bad_response(self, f"a broken answer from {up.dial[0]}:{up.dial[1]}: {reason}")

    # The end.

    def observe(self, outcome: int) -> None:
        """How it went (outlier.ejector.OK, ...), for the balancer and the guards. One that failed is over: its load
        is given back here."""
        if not self.counted:
            return
        exchange = self.exchange
        now = exchange.worker.reactor.now
        load = self.endpoint.load
        ok = outcome == OK
        target = exchange.target
        if target is not None and (self.gated or target.ejector is not None):
            guards.observe(self, target, outcome)
        if exchange.balancer is None:
            observe(load, now - self.began, ok, now)
        else:
            exchange.balancer.observe(load, now - self.began, ok, now)
        if ok:
            self.latency_s = now - self.began
            load.successes += 1
        else:
            load.failures += 1
            self.give_back()

    def give_back(self) -> None:
        """The endpoint is through with it."""
        if self.counted:
            self.counted = False
            load = self.endpoint.load
            load.active -= 1
            if self.limiter is not None:
                if self.latency_s >= 0.0:
                    self.limiter.leave(self.latency_s, self.exchange.worker.reactor.now)
                else:
                    self.limiter.abandon()
                self.limiter = None
            if self.gated and load.circuit is not None:
                self.gated = False
                load.circuit.abandon(self.exchange.worker.reactor.now)

    def release(self, *, reusable: bool) -> None:
        """Part from the connection, which others may use if the answer was read whole."""
        up, self.up = self.up, None
        if up is not None:
            up.release(reusable=reusable)

    def cut(self) -> None:
        """Give the connection up: nobody waits for its answer."""
        up, self.up = self.up, None
        if up is not None:
            up.attempt = None
            up.close()
