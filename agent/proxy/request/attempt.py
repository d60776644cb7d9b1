# mypyc: compiled
"""One try of a request at one endpoint: connect, send, listen; and what was learnt of the endpoint by it.

An Attempt belongs to its exchange, which decides; upstream connections call it when something happened. What it counts
on its endpoint's load it gives back exactly once. What attempts, copies, tunnels and throttles know of the exchange
that made them is a Party.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.dialling import Dialling
from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages.flags import kind_of
from agent.proxy.messages.head import ResponseHead, connected
from agent.proxy.messages.outgoing import request_fields, target_of
from agent.proxy.messages.words import far_flag
from agent.proxy.phases.phase import Phase
from agent.proxy.proof.securing import secure, unsafe, wanted_of
from agent.proxy.request.served import Served
from agent.proxy.stream import Upstream
from agent.proxy.table.connections import Connections
from agent.proxy.table.service import Service
from policies.endpoint import Endpoint
from policies.kinds.balance.ewma import observe
from policies.kinds.balance.penalty import penalise
from policies.kinds.outlier.ejector import CONNECT, OK
from policies.kinds.retry.policy import IDEMPOTENT_BYTES, Failure
from policies.kinds.tls.decide import Tls

REFUSED_S: Final = 1.0
"""For how long an endpoint that refused a connection is passed over, while there is another."""

UNSAID: Final = 0
"""Nothing."""
FAILED: Final = 1
"""It came to nothing, and took so long."""
GIVEN_UP: Final = 2
"""It would have taken longer: nobody waited."""


class Party(Served):
    """One between whose client and an endpoint things pass."""

    __slots__ = ()

    @property
    def response_began(self) -> bool:
        """Whether there is no way back."""
        raise NotImplementedError

    def kept_body(self) -> list[bytes]:
        """The body as far as it has come."""
        raise NotImplementedError

    def kept_trailers(self) -> list[bytes] | None:
        """What comes behind it; None: more of it is to come."""
        raise NotImplementedError

    def upstream(self) -> Upstream | None:
        """The connection that the answer comes by, if there is one now."""
        raise NotImplementedError

    # What came of an attempt.

    def on_response(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        raise NotImplementedError

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        raise NotImplementedError

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        raise NotImplementedError

    def on_switched(self, attempt: Attempt, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        raise NotImplementedError

    def on_upstream_data(self, data: bytes) -> None:
        """Bytes from the upstream, after a switch."""
        raise NotImplementedError

    def on_upstream_eof(self) -> None:
        """The upstream has said all it has to say, after a switch."""
        raise NotImplementedError

    def on_failed(
        self, attempt: Attempt, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False
    ) -> None:
        """It came to nothing."""
        raise NotImplementedError

    def on_bad_response(self, attempt: Attempt, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        raise NotImplementedError

    # The answer's body, to the client.

    def pass_body(self, data: bytes) -> None:
        """A piece."""
        raise NotImplementedError

    def end_answer(self, trailers: list[bytes]) -> None:
        """All of it has been passed on."""
        raise NotImplementedError

    def end_tunnel(self) -> None:
        """Both sides are through."""
        raise NotImplementedError

    # What is learnt of an endpoint.

    def tally(self) -> Connections | None:
        """Who counts the connections to it."""
        raise NotImplementedError

    def judge(self, attempt: Attempt, outcome: int, latency_s: float) -> None:
        """It came to an end, as far as its endpoint is concerned."""
        raise NotImplementedError


class Attempt(Dialling):
    """One try."""

    __slots__ = (
        "counted",
        "end",
        "endpoint",
        "exchange",
        "gated",
        "held",
        "insecure",
        "judged",
        "latency_s",
        "number",
        "refused",
        "told",
        "unable",
    )

    def __init__(self, exchange: Party, endpoint: Endpoint, number: int) -> None:
        super().__init__(exchange.request.method, exchange.request.upgrade, endpoint.dial, exchange.reactor.now)
        self.exchange = exchange
        self.endpoint = endpoint
        self.expected = endpoint.service if endpoint.agent and not endpoint.via else ""
        self.number = number
        """Counts from 1."""
        self.counted = True
        """Whether the endpoint's load counts this request."""
        self.gated = exchange.gated
        """Whether the endpoint's breaker does."""
        self.held = exchange.held
        """The inbound phase that let it in, and has to hear of its end."""
        exchange.gated = False
        exchange.held = None
        self.told = exchange.told
        self.judged = False
        """Whether breakers and ejectors were told how it went."""
        self.refused = False
        """Whether it said that it takes no more for now: no failure, but nothing that should attract more."""
        self.latency_s = -1.0
        """Until the head of a good answer; negative: there was none."""
        self.end = UNSAID
        """What its end says of how long the endpoint takes, where there is no good answer."""
        self.unable = False
        """Whether it failed at this host, and tells nothing of the endpoint."""
        self.insecure = False
        """Whether it was not made, for it would have been in plain text."""
        endpoint.load.active += 1
        endpoint.load.requests += 1

    @property
    def sending(self) -> bool:
        """Whether what comes of the request's body can be passed on at once."""
        up = self.up
        return up is not None and up.sent

    def start(self) -> None:
        """On a connection of the pool, or a new one; as soon as there may be one."""
        pool, tally = self.exchange.runtime.pool, self.exchange.tally()
        target = self.exchange.target
        tls = wanted_of(target, self.endpoint, self.exchange.stranger)
        if target is not None and tls is not None and not self._secure(target, tls):
            return
        if self.exchange.request.method == b"CONNECT":
            self.open_one(pool, tally)
        else:
            self.find_connection(pool, tally)

    def _secure(self, target: Service, tls: Tls) -> bool:
        """Find out by which connections it goes; False: by none, which the exchange has heard."""
        exchange = self.exchange
        if exchange.inbound and tls.origin is None:
            return True
        found = secure(exchange.runtime, target, self.endpoint, exchange.caller, tls)
        if not isinstance(found, str):
            self.lane = found
            return True
        self.insecure = True
        self.endpoint.load.refused_until = exchange.reactor.now + REFUSED_S
        exchange.on_failed(self, Failure.CONNECT, unsafe(self.endpoint, found, tls), sent=False)
        return False

    @property
    def verifies(self) -> bool:
        """What cannot be sent twice is not sent by a connection that may be closed."""
        return self.exchange.request.method not in IDEMPOTENT_BYTES

    def on_waited(self, now: float) -> None:
        """It has waited, and begins now."""
        if self.exchange.tried_at == self.began:
            self.exchange.tried_at = now
        self.began = now

    def connect(self, up: Upstream) -> None:
        """By this connection, which is not made yet."""
        exchange = self.exchange
        plan = exchange.plan
        assert plan is not None
        up.arm(self.began + (plan.timeouts.connect_s or INFINITY))
        up.connect(exchange.runtime.agents.source(self.dial[0]) if self.endpoint.via else "")

    def on_connected(self) -> None:
        """The endpoint's connection is there."""
        self.send(self.dialled(self.exchange.reactor.now))

    def send(self, up: Upstream) -> None:
        """The request, by this connection."""
        self.up = up
        exchange = self.exchange
        self.arm(self.began if exchange.request_sent else INFINITY)
        request, forward = exchange.request, exchange.forward
        if request.method == b"CONNECT":
            up.open_tunnel(self)
            exchange.on_switched(self, connected())
            return
        target, fields = target_of(request, forward), request_fields(request, forward, self.endpoint.remote)
        told = self.told
        if told is not None:
            target, fields = told.target(target), told.fields(fields)
        up.send_request(
            self,
            request,
            target,
            fields,
            exchange.lines_for(self.endpoint, self.number, exchange.left_s()),
            exchange.kept_body(),
            exchange.kept_trailers(),
        )
        if self.up is up and not exchange.request_sent:
            if up.full:
                self.hold_up()
            else:
                exchange.down.resume_reading()

    def arm(self, since: float) -> None:
        """Its time runs since then; INFINITY: not as long as the client is waited for."""
        up, try_s = self.up, self.exchange.try_s
        assert up is not None
        up.arm(since + try_s if try_s else INFINITY)

    def hold_up(self) -> None:
        """It takes no more of the request now: the client has to wait, and its own time runs."""
        self.exchange.down.pause_reading()
        if not self.exchange.response_began:
            self.arm(self.exchange.reactor.now)

    def on_drained(self) -> None:
        """What was held of the request is sent: its client may go on."""
        exchange = self.exchange
        exchange.down.resume_reading()
        if self.up is not None and not exchange.request_sent and not exchange.response_began:
            self.arm(INFINITY)

    # The answer.

    def on_informational(self, head: ResponseHead) -> None:
        """100 Continue, 103 Early Hints."""
        down = self.exchange.down
        down.send_informational(head)
        if down.full and self.up is not None:
            self.up.pause_reading()

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        if head.status >= 400 and self.endpoint.via:
            self.far = far_flag(head, ours=not self.endpoint.expected)
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
        self.exchange.on_upstream_data(data)

    def on_tunnel_eof(self) -> None:
        """The upstream has said all it has to say."""
        self.exchange.on_upstream_eof()

    # What goes wrong.

    def on_lost(self, reason: str, *, connecting: bool, sent: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole."""
        self.up = None
        address = self.address
        if connecting:
            self.exchange.on_failed(self, Failure.CONNECT, f"cannot connect to {address}: {reason}", sent=False)
        else:
            self.exchange.on_failed(self, Failure.RESET, f"{address}: {reason}", sent=sent)

    def on_unable(self, reason: str, *, elsewhere: bool) -> None:
        """This host could not even try to connect: nothing is learnt of the endpoint."""
        self.up = None
        self.unable = True
        if elsewhere:
            self.endpoint.load.refused_until = self.exchange.reactor.now + REFUSED_S
        reason = f"this agent cannot connect to {self.address}, by no fault of it: {reason}"
        self.exchange.on_failed(self, Failure.CONNECT, reason, sent=False)

    def on_timeout(self, *, connecting: bool) -> None:
        """This attempt took longer than one may."""
        self._give_up()
        self.up = None
        address = self.address
        kind, reason = Failure.TIMEOUT, f"{address} did not answer in time"
        if connecting:
            kind, reason = Failure.CONNECT, f"cannot connect to {address} in time"
        self.exchange.on_failed(self, kind, reason, sent=not connecting, timed_out=True)

    def on_bad_response(self, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        self.up = None
        self.exchange.on_bad_response(self, f"a broken answer from {self.address}: {reason}")

    def what(self, failure: Failure) -> str:
        """A failure's name, for counters."""
        return kind_of(self.far) or ("agent" if self.unable else failure.name.lower())

    # The end.

    def waited_s(self) -> float:
        """For how long the endpoint has had all of the request; 0 while it has not."""
        exchange = self.exchange
        if not exchange.request_sent or self.waits:
            return 0.0
        sent_at, began = exchange.sent_at, self.began
        return exchange.reactor.now - (sent_at if sent_at > began else began)

    def judge(self, outcome: int, latency_s: float) -> None:
        """Tell breakers and ejectors how it went, once."""
        if not self.judged:
            self.judged = True
            self.exchange.judge(self, outcome, latency_s)
            self.gated = False

    def observe(self, outcome: int, *, whole: bool = True) -> None:
        """How it went (outlier.ejector.OK, ...), for the balancer and the breakers. One that failed is over: its load
        is given back here. Not `whole`: a good answer has begun, and is judged when it ends."""
        if self.unable:
            self.give_back()
        if not self.counted:
            return
        exchange = self.exchange
        now = exchange.reactor.now
        load = self.endpoint.load
        ok = outcome == OK
        latency_s = self.waited_s()
        if whole or not ok:
            self.judge(outcome, latency_s)
        if exchange.balancer is None:
            observe(load, latency_s, ok, now)
        else:
            exchange.balancer.observe(load, latency_s, ok and not self.refused, now)
        load.took_s += latency_s
        if ok:
            self.latency_s = latency_s
            load.successes += 1
        else:
            load.failures += 1
            if self.end == UNSAID and outcome != CONNECT:
                self.end = FAILED
            self.give_back()

    def give_back(self) -> None:
        """The endpoint is through with it."""
        if self.counted:
            self.counted = False
            if not self.judged:
                if self.latency_s >= 0.0:
                    self.judge(OK, self.latency_s)  # nobody had anything to say against how it went on
                elif not self.unable:
                    self._note_cut()
            load = self.endpoint.load
            load.active -= 1
            held, self.held = self.held, None
            if held is not None:
                self._tell_end(held)
            if self.gated and load.circuit is not None:
                self.gated = False
                now = self.exchange.reactor.now
                load.circuit.abandon(now, now - self.began)

    def _tell_end(self, held: Phase) -> None:
        exchange = self.exchange
        if self.latency_s >= 0.0:
            held.ended(exchange, 200, self.latency_s)
        elif self.end == UNSAID:
            held.ended(exchange, 0, -1.0)
        elif self.end == GIVEN_UP:
            held.ended(exchange, 0, self.waited_s())
        else:
            held.ended(exchange, 502, exchange.reactor.now - self.began)

    def cut(self) -> None:
        """Give the connection up: nobody waits for its answer."""
        self._give_up()
        super().cut()

    def _give_up(self) -> None:
        """Where the endpoint has all of the request, it may be working on it."""
        up = self.up
        if up is not None and up.sent and self.exchange.request_sent:
            self.end = GIVEN_UP

    def _note_cut(self) -> None:
        """There was no answer that says how long it takes: slowness that nobody waits for must not look like speed."""
        balancer, waited_s = self.exchange.balancer, self.waited_s()
        if balancer is not None and waited_s > 0.0:
            balancer.observe_cut(self.endpoint.load, waited_s, self.exchange.reactor.now)

    def outrun(self) -> None:
        """Another was begun beside it, and answered first: it may go on for long at the endpoint."""
        penalise(self.endpoint.load, self.exchange.reactor.now)
        self.cut()
        self.give_back()
