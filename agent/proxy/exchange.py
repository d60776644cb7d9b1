"""The story of a request: admit, route, pick an endpoint, send, relay, observe.

An Exchange is one request and its answer. Policies are asked by it, in this file, in this order, and answer with
values; they are never wrapped around it. Downstream and upstream connections call it when something happened (`on_…`).

Laws
- The plan is read once, at the start. A swap in the middle of a request changes nothing for it.
- Each request ends exactly once, in `_end`: counted, recorded, its endpoint's load given back.
- Nothing is sent twice unless policies.retry allows it for this very request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.proxy import answers, story
from agent.proxy.answers import Refusal
from agent.proxy.framing import chunk, last_chunk
from agent.proxy.head import (
    CHUNKED,
    NO_BODY,
    PROXY_AUTHORIZATION,
    REQUEST_ID,
    SHOAL_CALLER,
    SHOAL_DEADLINE,
    SHOAL_ENDPOINT,
    SHOAL_EXPLAIN,
    SHOAL_UNSENT,
    VIA,
    Field,
    RequestHead,
    ResponseHead,
    forwarded_fields,
)
from agent.proxy.reactor import INFINITY, Timed
from agent.proxy.stats import count
from agent.proxy.upstream import Upstream
from agent.proxy.view import HeadView
from policies import balance as balancing
from policies import retry as retrying
from policies import timeout as timing
from policies.endpoint import Endpoint
from policies.retry import Again, Enough, Failure
from policies.route import Forward, Redirect, Respond

if TYPE_CHECKING:
    from agent.proxy.downstream import Downstream
    from agent.proxy.table import Plan, Service
    from agent.proxy.worker import Worker

MAX_HOPS: Final = 10
"""Agents that one request may pass before it is taken for a loop."""
TUNNEL_IDLE_S: Final = 3600.0
REFUSED_S: Final = 1.0
"""For how long an endpoint that refused a connection is passed over, while there is another."""
PASS_OVER: Final = 16
_CALLER_DECIDES: Final = Enough("the calling agent decides about another try")


class Exchange(Timed):
    """One request on its way. Created by its downstream connection, which it outlives by nothing."""

    __slots__ = (
        "_balancer",
        "_forward",
        "_held",
        "_held_bytes",
        "_idle_s",
        "_key",
        "_response_began",
        "_sets_cookie",
        "_tried",
        "_try_began",
        "_trying",
        "_whole_deadline",
        "attempts",
        "bytes_in",
        "bytes_out",
        "caller",
        "down",
        "endpoint",
        "explained",
        "plan",
        "request",
        "request_id",
        "request_sent",
        "service",
        "started",
        "status",
        "up",
        "view",
        "why",
        "worker",
    )

    def __init__(self, worker: Worker, down: Downstream, request: RequestHead) -> None:
        super().__init__()
        self.worker = worker
        self.down = down
        self.request = request
        self.started = worker.reactor.now
        self.service: Service | None = None
        self.plan: Plan | None = None
        self.endpoint: Endpoint | None = None
        self.up: Upstream | None = None
        self.view: HeadView | None = None
        self.explained: story.Explained | None = None
        self.caller = ""
        self.request_id = b""
        self.attempts = 0
        self.status = 0
        self.why = ""
        """What ended it, other than an endpoint's answer."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.request_sent = request.framing == NO_BODY
        self._forward: Forward | None = None
        self._balancer: balancing.Balancer | None = None
        self._key: int | None = None
        self._tried: list[Endpoint] = []
        self._held: list[bytes] | None = None if self.request_sent else []
        """Body pieces, in wire form, that a later attempt needs again; None once there were too many, or no body."""
        self._held_bytes = 0
        self._whole_deadline = INFINITY
        self._idle_s = 300.0
        self._try_began = 0.0
        self._trying = False
        """Whether the endpoint's load counts this request."""
        self._response_began = False
        self._sets_cookie: str | None = None

    # Admit and route.

    def start(self) -> None:
        """Find the service, take its plan, and let every phase have its say."""
        request = self.request
        service = self.worker.table.find(request.host)
        refusal = self._read_own_fields()
        if service is None:
            self.refuse(refusal or story.no_service(request.host))
            return
        self.service = service
        self.plan = plan = service.plan
        service.stats.active += 1
        self._begin_clock(plan)
        if refusal is not None:
            self.refuse(refusal)
        elif self.down.inbound:
            self._deliver(plan)
        else:
            self._choose(plan)

    def _read_own_fields(self) -> Refusal | None:
        """The fields of the request that are for the agent."""
        inbound = self.down.inbound
        hops = 0
        for field in self.request.special:
            code = field.code
            if code == REQUEST_ID:
                self.request_id = field.value
            elif code == SHOAL_DEADLINE:
                remaining_s = timing.remaining_s(field.value.decode("latin-1"))
                if remaining_s is not None:
                    self._whole_deadline = self.started + remaining_s
            elif code == SHOAL_EXPLAIN and (self.down.loopback or inbound):
                self.explained = []
            elif code == VIA:
                hops += field.value.count(b"shoal")
            elif code == PROXY_AUTHORIZATION and not inbound:
                caller = self.worker.callers.caller(field.value)
                if isinstance(caller, Refusal):
                    return caller
                self.caller = caller
            elif code == SHOAL_CALLER and inbound:
                self.caller = field.value.decode("latin-1")
        if not self.request_id:
            self.request_id = self.worker.next_request_id()
        if hops >= MAX_HOPS:
            return Refusal(508, "agent", f"the request passed {hops} agents: it goes in a circle", unsent=True)
        return None

    def _begin_clock(self, plan: Plan) -> None:
        timeouts = plan.timeouts
        self._idle_s = timeouts.idle_s or INFINITY
        if plan.bounds_whole_request and timeouts.request_s:
            self._whole_deadline = min(self._whole_deadline, self.started + timeouts.request_s)
        self._arm_phase(self.started)

    def _arm_phase(self, now: float) -> None:
        """The client side's deadline for what comes next: the rest of the body, the answer's head, or its body."""
        plan = self.plan
        if plan is None:
            return  # waiting for the table, with a deadline of its own
        if self._response_began or not self.request_sent:
            phase_s = self._idle_s
        else:
            phase_s = plan.timeouts.request_s or INFINITY
        deadline = now + phase_s
        whole = self._whole_deadline
        self.down.arm(whole if whole < deadline else deadline)

    def _choose(self, plan: Plan) -> None:
        """Outbound: which of the service's instances, or which answer of the mesh's own."""
        if plan.needs_view or self.explained is not None:
            self.view = HeadView(self.request, self.caller)
        if plan.route is None:
            self._balancer = plan.balancer
        elif not self._route(plan):
            return
        balancer = self._balancer
        assert balancer is not None
        if balancer.needs_key and self.view is None:
            self.view = HeadView(self.request, self.caller)
        if balancer.needs_key and self.view is not None:
            self._key = balancer.key(self.view)
        plan.budget.deposit(self.started)
        self._attempt()

    def _route(self, plan: Plan) -> bool:
        view = self.view
        assert plan.route is not None and view is not None
        decision = plan.route.decide(view, self.worker.rng)
        if self.explained is not None:
            self.explained.append(story.routed(plan, decision))
        if plan.route.audit:
            assert self.service is not None
            count(self.service.stats.audit, "route")
            self._balancer = plan.balancer
            return True
        action = decision.action
        if not isinstance(action, Forward):
            self._answer_from_route(action)
            return False
        self._forward = action
        target = self.worker.table.group(plan, action)
        if isinstance(target, Refusal):
            self.refuse(target)
            return False
        self._balancer = target
        return True

    def _answer_from_route(self, action: Redirect | Respond) -> None:
        fields, body, status = story.direct_answer(action)
        self.why = "route"
        self._answer(status, fields, body)

    def _deliver(self, plan: Plan) -> None:
        """Inbound: the instance that the calling agent picked; or any of this host's, for a caller without agent."""
        wanted = self.request.special_value(SHOAL_ENDPOINT)
        endpoint = self.worker.table.local_endpoint(plan, wanted, self.started, self.worker.rng)
        if isinstance(endpoint, Refusal):
            self.refuse(endpoint)
            return
        self._try_endpoint(endpoint)

    # Try an endpoint.

    def _attempt(self) -> None:
        """Pick an endpoint that was not tried yet, and send."""
        balancer, plan = self._balancer, self.plan
        assert balancer is not None and plan is not None
        now = self.worker.reactor.now
        endpoint = None
        if balancer.sticky and not self._tried:
            endpoint = self._stick(balancer)
        sticky = endpoint is not None
        if endpoint is None:
            endpoint = balancer.pick(self._key, now, self.worker.rng, self._tried)
            if balancer.sticky and endpoint is not None:
                self._sets_cookie = balancer.sticky_cookie(endpoint)
        if endpoint is None:
            self.refuse(story.no_endpoint(plan, self._forward))
            return
        if endpoint.load.refused_until > now:
            endpoint = self._passing_over(balancer, endpoint, now)
            sticky = False
        if self.explained is not None:
            self.explained.append(story.balanced(plan, balancer, endpoint, sticky=sticky))
        self._try_endpoint(endpoint)

    def _passing_over(self, balancer: balancing.Balancer, refusing: Endpoint, now: float) -> Endpoint:
        """Another endpoint than those that refused a connection a moment ago; the picked one when all have.

        Without this a dead instance costs its whole share in retries until its health check notices, and on a busy
        service the retry budget is gone before that.
        """
        avoid = [*self._tried, refusing]
        for _ in range(PASS_OVER):
            other = balancer.pick(self._key, now, self.worker.rng, avoid)
            if other is None or other in avoid:
                return refusing
            if other.load.refused_until <= now:
                return other
            avoid.append(other)
        return refusing

    def _stick(self, balancer: balancing.Balancer) -> Endpoint | None:
        if self.view is None:
            self.view = HeadView(self.request, self.caller)
        return balancer.sticky_endpoint(self.view)

    def _try_endpoint(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.attempts += 1
        self._trying = True
        endpoint.load.active += 1
        endpoint.load.requests += 1
        worker = self.worker
        now = worker.reactor.now
        self._try_began = now
        up = worker.pool.take(endpoint.dial, verify=self.request.method not in retrying.IDEMPOTENT_BYTES)
        if up is not None:
            self._send(up)
            return
        assert self.plan is not None
        self.up = up = Upstream(worker.reactor, worker.pool, endpoint.dial, self)
        worker.pool.connects += 1
        up.arm(self._bounded(now + (self.plan.timeouts.connect_s or INFINITY)))
        up.connect()

    def _bounded(self, deadline: float) -> float:
        return deadline if deadline < self._whole_deadline else self._whole_deadline

    def on_connected(self, up: Upstream) -> None:
        """The endpoint's connection is there."""
        self._send(up)

    def _send(self, up: Upstream) -> None:
        self.up = up
        plan = self.plan
        assert plan is not None
        try_s = plan.timeouts.try_s
        up.arm(self._try_began + try_s if try_s else INFINITY)
        head = self._request_head()
        held = self._held
        if held:
            head.extend(held)
            if not self._replayable:
                self._held = None
                self._held_bytes = 0
        up.send_request(self, b"".join(head))
        if self.up is up and not self.request_sent:
            if up.full:
                self.down.pause_reading()
            else:
                self.down.resume_reading()

    @property
    def _replayable(self) -> bool:
        plan = self.plan
        return plan is not None and self._held_bytes <= plan.retry.max_body

    def _request_head(self) -> list[bytes]:
        request, down, endpoint, forward = self.request, self.down, self.endpoint, self._forward
        assert endpoint is not None and self.plan is not None
        target = request.target
        if forward is not None and forward.target is not None:
            target = forward.target.encode("latin-1")
        lines = [b"%b %b HTTP/1.1\r\n" % (request.method, target)]
        lines += story.request_fields(request, forward)
        lines.append(down.trail(request))
        if request.special_value(REQUEST_ID) is None:
            lines.append(b"x-request-id: %b\r\n" % self.request_id)
        if request.framing == CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        if request.upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % request.upgrade)
        now = self.worker.reactor.now
        deadline = self._whole_deadline
        limit_s = self.plan.timeouts.request_s
        if limit_s and now + limit_s < deadline:
            deadline = now + limit_s
        if deadline != INFINITY:
            lines.append(b"x-shoal-deadline: %d\r\n" % max(1, int((deadline - now) * 1000)))
        if endpoint.via:
            lines.append(story.addressed_to(endpoint, self.caller))
        elif self.caller:
            lines.append(b"x-shoal-caller: %b\r\n" % self.caller.encode())
        if self.attempts > 1:
            lines.append(b"x-shoal-attempt: %d\r\n" % self.attempts)
        lines.append(b"\r\n")
        return lines

    # The request's body, from downstream.

    def on_request_data(self, data: bytes) -> None:
        """A piece of the body."""
        self.bytes_in += len(data)
        if self.request.framing == CHUNKED:
            data = chunk(data)
        self._pass_on(data)
        if not self._response_began:
            self._arm_phase(self.worker.reactor.now)

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        self.request_sent = True
        if self.request.framing == CHUNKED:
            self._pass_on(last_chunk(trailers))
        if not self._response_began:
            self._arm_phase(self.worker.reactor.now)

    def _pass_on(self, data: bytes) -> None:
        up = self.up
        sending = up is not None and up.exchange is self and up.sent
        held = self._held
        if held is not None:
            self._held_bytes += len(data)
            if sending and not self._replayable:
                self._held = None
            else:
                held.append(data)
        if sending:
            assert up is not None
            up.write(data)
            if self.up is up and up.full:
                self.down.pause_reading()
        elif not self._replayable:
            self.down.pause_reading()

    # The answer, from upstream.

    def on_informational(self, head: ResponseHead) -> None:
        """100 Continue, 103 Early Hints: passed on to those who know them."""
        if not self.request.http10:
            self.down.write(b"".join([head.status_line, *forwarded_fields(head), b"\r\n"]))

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        up, plan, endpoint = self.up, self.plan, self.endpoint
        assert up is not None and plan is not None and endpoint is not None
        status = head.status
        if status in plan.retry_statuses and not self.down.inbound:
            unsent = status == 503 and endpoint.via and _has(head.special, SHOAL_UNSENT)
            verdict = self._verdict(
                Failure.CONNECT if unsent else Failure.STATUS,
                f"answered {status}",
                sent=not unsent,
                status=status,
                after_s=_retry_after(head),
            )
            if isinstance(verdict, Again):
                self.up = None
                up.release(reusable=complete and self.request_sent)
                self._again(verdict.delay_s)
                return
        self._relay(head, body, complete)

    def _relay(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        self._response_began = True
        self._held = None
        self.status = head.status
        self._observe_try(head.status < 500)
        extra = self._extra_response_fields(head)
        self.bytes_out += len(body)
        self.down.send_response(head, extra, body, complete, self._forward)
        if complete:
            self._complete()
        else:
            self._arm_phase(self.worker.reactor.now)

    def _extra_response_fields(self, head: ResponseHead) -> list[bytes]:
        extra = [b"via: 1.1 shoal\r\n"]
        if self._sets_cookie is not None:
            extra.append(b"set-cookie: %b\r\n" % self._sets_cookie.encode("latin-1"))
        if self.explained is not None:
            extra.append(story.explain_field(self.explained, self.endpoint, self.down.inbound))
        if self.down.inbound:
            unsent = head.status == 503 and _has(head.special, SHOAL_UNSENT)
            if unsent:
                extra.append(b"x-shoal-unsent: 1\r\n")
        return extra

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        self.bytes_out += len(data)
        down = self.down
        down.send_body(data)
        up = self.up
        if up is not None and down.full:
            up.pause_reading()
        self._arm_phase(self.worker.reactor.now)

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        self.down.end_body(trailers)
        self._complete()

    def _complete(self) -> None:
        up = self.up
        self.up = None
        if up is not None:
            up.release(reusable=self.request_sent)
        self._end()

    def on_drained(self) -> None:
        """The client took what was held for it: the upstream may go on."""
        if self.up is not None:
            self.up.resume_reading()

    # What goes wrong.

    def on_upstream_lost(self, up: Upstream, reason: str, connecting: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole."""
        self.up = None
        if self._response_began:
            self.why = "upstream closed in the middle of its answer"
            self._observe_try(False)
            self._end()
            self.down.abort()
            return
        sent = not connecting and up.sent
        kind = Failure.CONNECT if connecting else Failure.RESET
        reason = f"cannot connect to {_address(up)}: {reason}" if connecting else f"{_address(up)}: {reason}"
        self._failed(kind, reason, sent=sent)

    def on_try_timeout(self, up: Upstream, connecting: bool) -> None:
        """This attempt took longer than one may."""
        self.up = None
        if connecting:
            self._failed(Failure.CONNECT, f"cannot connect to {_address(up)} in time", sent=False, timed_out=True)
        else:
            self._failed(Failure.TIMEOUT, f"{_address(up)} did not answer in time", sent=True, timed_out=True)

    def on_bad_response(self, up: Upstream, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        self.up = None
        if self._response_began:
            self.why = reason
            self._end()
            self.down.abort()
            return
        self._observe_try(False)
        self.refuse(Refusal(502, "http", f"a broken answer from {_address(up)}: {reason}"))

    def _failed(self, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False) -> None:
        """An attempt came to nothing: try again, if the policy allows it; else say so."""
        verdict = self._verdict(failure, reason, sent=sent)
        if isinstance(verdict, Again):
            self._again(verdict.delay_s)
            return
        self._observe_try(False)
        reason = f"{reason}; {verdict.reason}"
        if timed_out:
            self.refuse(Refusal(504, "timeout", reason, unsent=not sent))
        elif not sent:
            self.refuse(Refusal(503, "endpoint", reason, retry_after_s=1, unsent=True))
        else:
            self.refuse(Refusal(502, "endpoint", reason))

    def _verdict(
        self, failure: Failure, reason: str, *, sent: bool, status: int | None = None, after_s: float | None = None
    ) -> Again | Enough:
        """What policies.retry says of a failed attempt. The inbound hop never tries again: the caller's agent does."""
        plan, service = self.plan, self.service
        assert plan is not None and service is not None
        count(service.stats.failures, failure.name.lower())
        if failure is Failure.CONNECT and self.endpoint is not None:
            self.endpoint.load.refused_until = self.worker.reactor.now + REFUSED_S
        if self.down.inbound:
            return _CALLER_DECIDES
        now = self.worker.reactor.now
        verdict = retrying.decide(
            plan.retry,
            method=self.request.method.decode(),
            attempts=self.attempts,
            failure=failure,
            status=status,
            sent=sent,
            replayable=self.request.framing == NO_BODY or (self._held is not None and self._replayable),
            budget=plan.budget,
            now=now,
            rng=self.worker.rng,
            retry_after_s=after_s,
            remaining_s=None if self._whole_deadline == INFINITY else self._whole_deadline - now,
        )
        if self.explained is not None:
            self.explained.append(story.retried(plan, failure, reason, verdict))
        return verdict

    def _again(self, delay_s: float) -> None:
        assert self.service is not None and self.endpoint is not None
        count(self.service.stats.failures, "retries")
        self._observe_try(False)
        self._tried.append(self.endpoint)
        if delay_s <= 0.0:
            self._attempt()
        else:
            self.worker.reactor.wheel.arm(self, self.worker.reactor.now + delay_s)

    def on_deadline(self, now: float) -> None:
        """The back-off before another attempt is over."""
        if self.down.exchange is self and self.up is None:
            self._attempt()

    def on_client_timeout(self) -> None:
        """The deadline of the whole request, or of its current phase, has passed."""
        limit = "its deadline" if self._whole_deadline <= self.worker.reactor.now else "the time allowed"
        self._cut_upstream()
        if self.plan is None:
            self.refuse(Refusal(503, "agent", "this agent has not learnt the mesh yet", 1, unsent=True))
        elif self._response_began:
            self.why = f"the answer did not come whole within {limit}"
            self._end()
            self.down.abort()
        elif not self.request_sent and self._whole_deadline > self.worker.reactor.now:
            self.refuse(Refusal(408, "timeout", "the request's body stopped coming"))
        else:
            self._observe_try(False)
            self.refuse(Refusal(504, "timeout", f"no answer within {limit}", unsent=self.attempts == 0))

    def on_bad_request(self, status: int, reason: str) -> None:
        """The rest of the request cannot be read in one way only."""
        self._cut_upstream()
        if self._response_began:
            self.why = reason
            self._end()
            self.down.abort()
        else:
            self.refuse(Refusal(status, "http", reason))

    def on_client_gone(self) -> None:
        """The client closed: nobody waits for the answer."""
        self._cut_upstream()
        self.why = self.why or "the client went away"
        if not self._response_began:
            self.status = 0
        self._end()

    def _cut_upstream(self) -> None:
        up, self.up = self.up, None
        if up is not None:
            up.exchange = None
            up.close()

    # Upgrade.

    def on_switched(self, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        self._response_began = True
        self.status = 101
        self._observe_try(True)
        self.down.begin_tunnel(head)
        self._touch_tunnel()

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        self.bytes_out += len(data)
        self.down.write(data)
        if self.up is not None and self.down.full:
            self.up.pause_reading()
        self._touch_tunnel()

    def on_client_tunnel_data(self, data: bytes) -> None:
        """Bytes from the client."""
        up = self.up
        if up is None:
            return
        self.bytes_in += len(data)
        up.write(data)
        if self.up is up and up.full:
            self.down.pause_reading()
        self._touch_tunnel()

    def on_tunnel_eof(self, *, from_upstream: bool) -> None:
        """One side has said all it has to say. The other may finish; when both have, it is over."""
        if self.down.half_close(from_upstream=from_upstream):
            self._cut_upstream()
            self._end()
            self.down.close_soon()
        elif not from_upstream and self.up is not None:
            self.up.finish_writing()

    def _touch_tunnel(self) -> None:
        if not self.down.closed:
            self.down.arm(self.worker.reactor.now + TUNNEL_IDLE_S)

    # The end.

    def refuse(self, refusal: Refusal) -> None:
        """Answer in the mesh's own name."""
        if self.service is not None:
            count(self.service.stats.refused, refusal.policy)
        else:
            count(self.worker.refused, refusal.policy)
        self.why = refusal.reason
        if self.explained is not None:
            self.explained.append(story.refused(self.plan, refusal))
        body = answers.refusal_body(refusal, self.request_id)
        self._answer(refusal.status, answers.refusal_fields(refusal), body)

    def _answer(self, status: int, fields: list[bytes], body: bytes) -> None:
        self.status = status
        if self.explained is not None:
            fields.append(story.explain_field(self.explained, self.endpoint, self.down.inbound))
        self._cut_upstream()
        self._response_began = True
        self.down.send_own(status, fields, body)
        self._end()

    def _observe_try(self, ok: bool) -> None:
        """How the current try went, for the balancer. A failed one is over: its load is given back here."""
        endpoint = self.endpoint
        if endpoint is None or not self._trying:
            return
        load = endpoint.load
        now = self.worker.reactor.now
        observe = balancing.observe if self._balancer is None else self._balancer.observe
        observe(load, now - self._try_began, ok, now)
        if ok:
            load.successes += 1
        else:
            load.failures += 1
            self._give_back(endpoint)

    def _give_back(self, endpoint: Endpoint) -> None:
        if self._trying:
            self._trying = False
            endpoint.load.active -= 1

    def _end(self) -> None:
        """Count, record, part. Nothing of this request happens afterwards."""
        down = self.down
        if down.exchange is not self:
            return
        down.exchange = None
        self.deadline = INFINITY
        if self.endpoint is not None:
            self._give_back(self.endpoint)
        worker = self.worker
        duration_s = worker.reactor.now - self.started
        service = self.service
        if service is not None:
            stats = service.stats
            stats.active -= 1
            stats.bytes_in += self.bytes_in
            stats.bytes_out += self.bytes_out
            stats.observe(self.status, duration_s)
        worker.record(self, duration_s)
        down.on_exchange_end(self)


def _has(fields: list[Field], code: int) -> bool:
    return any(field.code == code for field in fields)


def _retry_after(head: ResponseHead) -> float | None:
    for field in head.fields:
        if field.name == b"retry-after" and field.value.isdigit():
            return float(field.value[:6])
    return None


def _address(up: Upstream) -> str:
    return f"{up.dial[0]}:{up.dial[1]}"
