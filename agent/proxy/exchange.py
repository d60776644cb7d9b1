# mypyc: compiled
"""The story of a request: admit, route, pick an endpoint, send, relay, observe.

An Exchange is one request and its answer. Policies are asked by it, in this file, in this order, and answer with
values; they are never wrapped around it. Downstream and upstream connections call it when something happened (`on_…`).

Laws
- The plan is read once, at the start. A swap in the middle of a request changes nothing for it.
- Each request ends exactly once, in `_end`: counted, recorded, its endpoint's load given back.
- Nothing is sent twice unless policies.kinds.retry allows it for this very request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from agent.proxy import answers, choosing, guards, hedging, mirroring, peers, retries, shedding, story, words
from agent.proxy.answers import Refusal
from agent.proxy.attempt import Attempt
from agent.proxy.framing import chunk, last_chunk
from agent.proxy.head import (
    CHUNKED,
    EXPECT,
    NO_BODY,
    PROXY_AUTHORIZATION,
    REQUEST_ID,
    SHOAL_CALLER,
    SHOAL_DEADLINE,
    SHOAL_ENDPOINT,
    SHOAL_EXPLAIN,
    SHOAL_NO_RETRY,
    SHOAL_SHED,
    SHOAL_UNSENT,
    VIA,
    RequestHead,
    ResponseHead,
    forwarded_fields,
)
from agent.proxy.reactor import INFINITY, Timed
from agent.proxy.stats import count
from agent.proxy.throttle import Throttle
from agent.proxy.tunnel import Tunnel
from agent.proxy.view import HeadView
from policies.decision import Forward, Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.fault.decide import Injected
from policies.kinds.outlier import ejector
from policies.kinds.retry import decide as retrying
from policies.kinds.retry.decide import Again
from policies.kinds.retry.policy import Failure
from policies.kinds.shed.decide import Store
from policies.kinds.shed.limiter import Limiter
from policies.kinds.timeout import decide as timing

if TYPE_CHECKING:
    from agent.proxy.downstream import Downstream
    from agent.proxy.table import Plan, Service
    from agent.proxy.upstream import Upstream
    from agent.proxy.worker import Worker

MAX_HOPS: Final = 10
"""Agents that one request may pass before it is taken for a loop."""
_NOTHING: Final[list[bytes]] = []
_DEFAULT_RETRY: Final = retrying.compile(None)


class Exchange(Timed):
    """One request on its way. Created by its downstream connection, which it outlives by nothing."""

    __slots__ = (
        "_asked",
        "_delayed",
        "_fallbacks",
        "_idle_s",
        "_injected",
        "_kept",
        "_kept_bytes",
        "_sets_cookie",
        "_throttle",
        "attempt",
        "attempts",
        "balancer",
        "bytes_in",
        "bytes_out",
        "caller",
        "counts_retry",
        "down",
        "endpoint",
        "entered",
        "explained",
        "forward",
        "hedge",
        "keeping",
        "key",
        "let_in",
        "mirror",
        "no_retry",
        "plan",
        "request",
        "request_id",
        "request_sent",
        "response_began",
        "retry",
        "service",
        "started",
        "status",
        "target",
        "tried",
        "tunnel",
        "view",
        "ways_tried",
        "whole_deadline",
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
        self.target: Service | None = None
        """The service whose endpoints are tried: the request's own, or where its route leads."""
        self.entered: Service | None = None
        """The service whose breaker counts the request."""
        self.endpoint: Endpoint | None = None
        """The last that was tried."""
        self.attempt: Attempt | None = None
        """Under way, or the one whose answer is relayed."""
        self.hedge: Attempt | None = None
        """A second one under way beside it; the first answer wins."""
        self.mirror: mirroring.Mirror | None = None
        self.let_in: Limiter | None = None
        """For the attempt that is about to be made."""
        self.ways_tried = 0
        """Ways out of an overload."""
        self.keeping: Store | None = None
        """It is stored instead of served, as soon as all of it is there."""
        self.tunnel: Tunnel | None = None
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
        self.forward: Forward | None = None
        self.balancer: Balancer | None = None
        self.key: int | None = None
        self.retry = _DEFAULT_RETRY
        self.counts_retry = False
        """Whether the breaker counts it as a retry under way."""
        self._delayed = False
        """Waiting, because a fault policy says so."""
        self._injected: Injected | None = None
        self._throttle: Throttle | None = None
        self._fallbacks = 0
        self._asked = False
        """It is another agent's question, and goes to no service."""
        self.no_retry = False
        """What failed was tried again already, here or nearer to the failure: those before us should not."""
        self.tried: list[Endpoint] = []
        self._kept: list[bytes] | None = None if self.request_sent else []
        """Body pieces, in wire form, that a later attempt needs again; None once there were too many, or no body."""
        self._kept_bytes = 0
        self.whole_deadline = INFINITY
        self._idle_s = 300.0
        self.response_began = False
        self._sets_cookie: str | None = None

    # Admit and route.

    def start(self) -> None:
        """Find the service, take its plan, and let every phase have its say."""
        request = self.request
        if request.has_words:
            words.disbelieve(request, self.down.sender)
        if self.down.inbound and request.host == peers.HOST:
            self._begin_question()
            return
        service = self.worker.table.find(request.host)
        refusal = self._read_own_fields()
        if service is None:
            self.refuse(refusal or story.no_service(request.host))
            return
        self.service = service
        self.plan = plan = service.plan
        service.stats.active += 1
        if not self.down.inbound:
            count(service.stats.callers, self.caller)
        self._begin_clock(plan)
        if refusal is not None:
            self.refuse(refusal)
        elif self.down.inbound:
            self._deliver(plan)
        else:
            self._choose(plan)

    def _begin_question(self) -> None:
        """Another agent asks this one something: control answers it."""
        self._asked = True
        self.request_id = self.worker.next_request_id()
        if self.down.sender != words.AGENT:
            self.refuse(Refusal(403, "agent", "agents of this mesh may ask that, from where they are registered"))
            return
        self.down.arm(self.started + self.worker.peers.answer_s)
        if self.request_sent:
            self.worker.peers.ask(self, b"")

    def answer_peer(self, status: int, body: bytes) -> None:
        """Control's answer."""
        self._answer(status, [b"content-type: application/msgpack\r\n"], body)

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
                    self.whole_deadline = self.started + remaining_s
            elif code == SHOAL_EXPLAIN:
                self.explained = []
            elif code == VIA:
                hops += field.value.count(b"shoal")
            elif code == PROXY_AUTHORIZATION and not inbound:
                caller = self.worker.callers.caller(field.value)
                if isinstance(caller, Refusal):
                    return caller
                self.caller = caller
            elif code == SHOAL_CALLER:
                self.caller = field.value.decode("ascii", "replace")
        if not self.request_id:
            self.request_id = self.worker.next_request_id()
        if hops >= MAX_HOPS:
            return Refusal(508, "agent", f"the request passed {hops} agents: it goes in a circle", unsent=True)
        return None

    def _begin_clock(self, plan: Plan) -> None:
        timeouts = plan.timeouts
        self._idle_s = timeouts.idle_s or INFINITY
        if plan.bounds_whole_request and timeouts.request_s:
            self.whole_deadline = min(self.whole_deadline, self.started + timeouts.request_s)
        self._arm_phase(self.started)

    def _arm_phase(self, now: float) -> None:
        """The client side's deadline for what comes next: the rest of the body, the answer's head, or its body."""
        plan = self.plan
        if plan is None:
            return  # waiting for the table, with a deadline of its own
        if self.response_began or not self.request_sent:
            phase_s = self._idle_s
        else:
            phase_s = plan.timeouts.request_s or INFINITY
        deadline = now + phase_s
        whole = self.whole_deadline
        self.down.arm(whole if whole < deadline else deadline)

    def _choose(self, plan: Plan) -> None:
        """Outbound: which of the service's instances, or which answer of the mesh's own."""
        self.retry = plan.retry
        if plan.needs_view or self.explained is not None:
            self.view = HeadView(self.request, self.caller)
        if plan.limits is not None and guards.limit(self):
            return
        if plan.fault is not None:
            self._injected = injected = guards.inject(self)
            if injected is not None and injected.delay_s > 0:
                self._delayed = True
                self.worker.reactor.wheel.arm(self, self.started + injected.delay_s)
                return
        self._proceed()

    def _proceed(self) -> None:
        """Past rate limits, and past what a fault policy makes of its delays."""
        plan, injected = self.plan, self._injected
        assert plan is not None
        if injected is not None and (injected.reset or injected.abort is not None):
            self._abort(injected)
        elif plan.route is None:
            self._direct(None)
        else:
            self._route(plan)

    def _abort(self, injected: Injected) -> None:
        if injected.abort is None:
            self.refuse(Refusal(503, "fault", injected.reason, unsent=True), silently=True)
            self.down.abort()
            return
        extra = story.header_lines(injected.abort.headers)
        self.refuse(Refusal(injected.abort.status, "fault", injected.reason, unsent=True), extra, injected.abort.body)

    def _direct(self, forward: Forward | None) -> None:
        """To the service that a route's decision leads to (None: the request's own), if its breaker allows it."""
        service = self.service
        assert service is not None
        self.forward = forward
        target: Service | Refusal = service
        if forward is not None:
            if forward.retry is not None:
                self.retry = forward.retry
            target = self.worker.table.target(service, forward)
        if isinstance(target, Refusal):
            self.refuse(target)
            return
        if target.plan.breaker is not None and not guards.admits(self, target):
            return
        self.target = target
        balancer = target.plan.balancer if forward is None else target.plan.group(forward.subset)
        self.balancer = balancer
        if balancer.needs_key:
            if self.view is None:
                self.view = HeadView(self.request, self.caller)
            self.key = balancer.key(self.view)
        plan = self.plan
        assert plan is not None
        if plan.shadow is not None and not self.attempts:
            mirroring.begin(self, plan.shadow.compiled, plan.shadow.audit)
        plan.budget.deposit(self.started)
        self._attempt()

    def fall_back(self, target: Service, fallback: Forward, reason: str) -> None:
        """A breaker is open: to where its policy leads instead."""
        self._fallbacks += 1
        if self._fallbacks > guards.MAX_FALLBACKS:
            self.refuse(Refusal(503, "breaker", f"{reason}; and so on along its fallbacks", 1, unsent=True))
            return
        service = fallback.service or target.name
        before = self.forward or fallback
        self._direct(msgspec.structs.replace(before, service=service, subset=fallback.subset))

    def _route(self, plan: Plan) -> None:
        view = self.view
        assert plan.route is not None and view is not None
        decision = plan.route.decide(view, self.worker.rng)
        if self.explained is not None:
            self.explained.append(story.routed(plan, decision))
        action = decision.action
        if plan.route.audit:
            assert self.service is not None
            count(self.service.stats.audit, "route")
            self._direct(None)
        elif isinstance(action, Forward):
            self._direct(action)
        else:
            self._answer_from_route(action)

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
        self._try_endpoint(endpoint, gated=False)

    # Try an endpoint.

    def _attempt(self) -> None:
        """Pick an endpoint that was not tried yet, and send."""
        balancer, plan = self.balancer, self.plan
        assert balancer is not None and plan is not None
        now = self.worker.reactor.now
        endpoint = None
        if balancer.sticky and not self.tried:
            endpoint = self._stick(balancer)
        sticky = endpoint is not None
        if endpoint is None:
            endpoint = balancer.pick(self.key, now, self.worker.rng, self.tried)
            if balancer.sticky and endpoint is not None:
                self._sets_cookie = balancer.sticky_cookie(endpoint)
        if endpoint is None:
            self.refuse(story.no_endpoint(plan, self.forward))
            return
        gated = endpoint.load.circuit is not None
        if not choosing.usable(self, endpoint, now):
            found = choosing.passing_over(self, balancer, endpoint, now)
            sticky = sticky and found is endpoint
            gated = gated and found is not endpoint
            endpoint = found
        if self.explained is not None:
            self.explained.append(story.balanced(plan, balancer, endpoint, sticky=sticky))
        self._try_endpoint(endpoint, gated)

    def _stick(self, balancer: Balancer) -> Endpoint | None:
        if self.view is None:
            self.view = HeadView(self.request, self.caller)
        return balancer.sticky_endpoint(self.view)

    def _try_endpoint(self, endpoint: Endpoint, gated: bool) -> None:
        self.endpoint = endpoint
        target = self.target or self.service
        if target is not None and target.plan.shed is not None:
            reason = shedding.let_in(self, target, endpoint)
            if reason:
                if gated and endpoint.load.circuit is not None:
                    endpoint.load.circuit.abandon(self.worker.reactor.now)
                shedding.turn_away(self, target, reason)
                return
        self.attempts += 1
        self.attempt = attempt = Attempt(self, endpoint, self.attempts, gated)
        hedge = self.retry.hedge
        if hedge is not None and self.attempts == 1 and self.service is not None:
            after_s = retrying.hedge_after_s(hedge, self.service.recent)
            if after_s is not None:
                self.worker.reactor.wheel.arm(self, attempt.began + after_s)
        attempt.start()

    def bounded(self, deadline: float) -> float:
        """A deadline, or the whole request's when that comes first."""
        return deadline if deadline < self.whole_deadline else self.whole_deadline

    # The request's body, for the attempts.

    def kept_body(self) -> list[bytes]:
        """The body as far as it has come, in wire form. What is too large to be sent again is not kept any longer."""
        kept = self._kept
        if not kept:
            return _NOTHING
        if not self._replayable:
            self._kept = None
            self._kept_bytes = 0
        return kept

    @property
    def _replayable(self) -> bool:
        return self._kept_bytes <= self.retry.max_body

    @property
    def can_repeat(self) -> bool:
        """Whether all of the request is there to be sent again."""
        return self.request.framing == NO_BODY or (self._kept is not None and self._replayable)

    def balance_reading(self, up: Upstream) -> None:
        """Read from the client as fast as the endpoint takes it."""
        if up.full:
            self.down.pause_reading()
        else:
            self.down.resume_reading()

    # The request's body, from downstream.

    def on_request_data(self, data: bytes) -> None:
        """A piece of the body."""
        self.bytes_in += len(data)
        if self._asked:
            if self.bytes_in > peers.MAX_BYTES or self._kept is None:
                self.refuse(Refusal(413, "agent", f"a question of more than {peers.MAX_BYTES} bytes"))
            else:
                self._kept.append(data)
            return
        if self.request.framing == CHUNKED:
            data = chunk(data)
        self._pass_on(data)
        if not self.response_began:
            self._arm_phase(self.worker.reactor.now)

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        self.request_sent = True
        if self._asked:
            self.worker.peers.ask(self, b"".join(self._kept or ()))
            return
        if self.request.framing == CHUNKED:
            self._pass_on(last_chunk(trailers))
        if self.mirror is not None:
            self.mirror.launch_soon()
        if self.keeping is not None:
            self.worker.stores.store(self, self.keeping)
        elif not self.response_began:
            self._arm_phase(self.worker.reactor.now)

    def _pass_on(self, data: bytes) -> None:
        if self.mirror is not None:
            self.mirror.feed(data)
        attempt = self.attempt
        sending = attempt is not None and attempt.sending
        kept = self._kept
        if kept is not None:
            self._kept_bytes += len(data)
            if sending and not self._replayable:
                self._kept = None
            else:
                kept.append(data)
        if not sending:
            if not self._replayable:
                if self.keeping is not None:
                    self.not_stored(f"a body of more than {self.retry.max_body} bytes")
                else:
                    self.down.pause_reading()
            return
        assert attempt is not None
        up = attempt.up
        if up is not None:
            up.write(data)
            if attempt.up is up and up.full:
                self.down.pause_reading()

    # The answer, from upstream.

    def on_informational(self, head: ResponseHead) -> None:
        """100 Continue, 103 Early Hints: passed on to those who know them."""
        if not self.request.http10:
            self.down.write(b"".join([head.status_line, *forwarded_fields(head), b"\r\n"]))

    def on_response(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        via = attempt.endpoint.via
        if head.status == 503 and not self.down.inbound and words.says(head, SHOAL_SHED, agent=via):
            self._on_shed(attempt, complete)
            return
        if attempt.limiter is not None:
            shedding.heard(attempt, head)
        if head.status in self.retry.watched:
            if self.hedge is not None:
                attempt.release(reusable=complete and self.request_sent)
                hedging.lose(self, attempt, guards.outcome_of(head.status))
                return
            if not self.down.inbound and self._tries_again(attempt, head, complete):
                return
        elif self.hedge is not None:
            hedging.win(self, attempt)
        self._relay(attempt, head, body, complete)

    def _on_shed(self, attempt: Attempt, complete: bool) -> None:
        """The endpoint's agent lets no more in: no fault of the endpoint, and nothing to try again."""
        attempt.release(reusable=complete and self.request_sent)
        attempt.give_back()
        if self.hedge is not None:
            hedging.lose(self, attempt, ejector.OK)
            return
        self.attempt = None
        shedding.elsewhere(self, f"{attempt.endpoint.service}/{attempt.endpoint.id} is overloaded")

    def divert(self, way: Forward) -> None:
        """To a way out of an overload."""
        before = self.forward or way
        self._direct(msgspec.structs.replace(before, service=way.service, subset=way.subset))

    def keep(self, way: Store) -> None:
        """A way out of an overload: store it, once all of it is there."""
        self.keeping = way
        self.deadline = INFINITY  # nothing is hedged any more
        if self.request_sent:
            self.worker.stores.store(self, way)
            return
        if self.request.special_value(EXPECT) is not None:
            self.down.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # nobody else will say so
        self.down.resume_reading()

    def whole_body(self) -> list[bytes]:
        """In wire form, of a request that `can_repeat`."""
        return self._kept or _NOTHING

    def stored(self, name: str) -> None:
        """It is on disk: say so."""
        keeping, service = self.keeping, self.service
        assert keeping is not None and service is not None
        count(service.stats.shed, "stored")
        self.why = f"stored as {name}"
        if self.explained is not None and self.plan is not None:
            self.explained.append(story.stored(self.plan, keeping, name))
        fields, body = answers.stored(name, service.name, keeping.url)
        self._answer(202, fields, body)

    def not_stored(self, reason: str) -> None:
        """It is not: to the next way out."""
        assert self.keeping is not None
        url, self.keeping = self.keeping.url, None
        shedding.elsewhere(self, f"overloaded, and not stored in {url}: {reason}")

    def part_from_breaker(self) -> None:
        """What comes of the request says nothing of the service whose breaker let it pass."""
        if self.entered is not None:
            guards.part(self, self.entered, retried=self.counts_retry)
            self.entered = None
            self.counts_retry = False

    def _tries_again(self, attempt: Attempt, head: ResponseHead, complete: bool) -> bool:
        """Whether a failure's answer is left unread for another attempt."""
        via = attempt.endpoint.via
        if words.says(head, SHOAL_NO_RETRY, agent=via):
            self.no_retry = True
        unsent = head.status == 503 and words.says(head, SHOAL_UNSENT, agent=via)
        verdict = retries.verdict(
            self,
            Failure.CONNECT if unsent else Failure.STATUS,
            f"answered {head.status}",
            sent=not unsent,
            status=head.status,
            after_s=retries.retry_after(head),
        )
        if not isinstance(verdict, Again):
            return False
        attempt.release(reusable=complete and self.request_sent)
        self._again(attempt, verdict.delay_s, guards.outcome_of(head.status))
        return True

    def _relay(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        self.response_began = True
        self._kept = None
        self.status = head.status
        attempt.observe(guards.outcome_of(head.status))
        if self.retry.hedge is not None and self.service is not None:
            self.service.recent.observe(self.worker.reactor.now - attempt.began)
        if self.mirror is not None:
            self.mirror.on_primary(head, body)
        extra = self._extra_response_fields(head)
        if self._injected is not None and self._injected.bytes_per_s and (body or not complete):
            self._throttle = Throttle(self, self._injected.bytes_per_s)
            self.down.send_response(head, extra, b"", False, self.forward)
            if complete:
                attempt.release(reusable=self.request_sent)
                self._throttle.feed(body)
                self._throttle.end([])
            return
        self.bytes_out += len(body)
        self.down.send_response(head, extra, body, complete, self.forward)
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
        if head.status >= 500:
            via = self.endpoint is not None and self.endpoint.via
            if self.no_retry or words.says(head, SHOAL_NO_RETRY, agent=via) or retries.fails_deeper(self):
                extra.append(b"x-shoal-no-retry: 1\r\n")
        return extra

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        if self.mirror is not None:
            self.mirror.on_primary_data(data)
        if self._throttle is not None:
            self._throttle.feed(data)
        else:
            self.pass_body(data)

    def pass_body(self, data: bytes) -> None:
        """To the client."""
        self.bytes_out += len(data)
        down = self.down
        down.send_body(data)
        attempt = self.attempt
        if attempt is not None and attempt.up is not None and down.full:
            attempt.up.pause_reading()
        self._arm_phase(self.worker.reactor.now)

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        if self._throttle is None:
            self.end_answer(trailers)
            return
        if self.attempt is not None:
            self.attempt.release(reusable=self.request_sent)
        self._throttle.end(trailers)

    def end_answer(self, trailers: list[bytes]) -> None:
        """All of it has been passed on."""
        self.down.end_body(trailers)
        self._complete()

    def _complete(self) -> None:
        if self.attempt is not None:
            self.attempt.release(reusable=self.request_sent)
        self._end()

    def on_drained(self) -> None:
        """The client took what was held for it: the upstream may go on."""
        if self.attempt is not None and self.attempt.up is not None:
            self.attempt.up.resume_reading()

    # What goes wrong.

    def on_failed(
        self, attempt: Attempt, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False
    ) -> None:
        """An attempt came to nothing: try again, if the policy allows it; else say so."""
        if self.response_began:
            attempt.observe(ejector.RESET)
            self._break_off("upstream closed in the middle of its answer")
            return
        outcome = guards.outcome_of_failure(failure)
        if self.hedge is not None:
            hedging.lose(self, attempt, outcome)
            return
        verdict = retries.verdict(self, failure, reason, sent=sent)
        if isinstance(verdict, Again):
            self._again(attempt, verdict.delay_s, outcome)
            return
        attempt.observe(outcome)
        reason = f"{reason}; {verdict.reason}"
        if timed_out:
            self.refuse(Refusal(504, "timeout", reason, unsent=not sent))
        elif not sent:
            self.refuse(Refusal(503, "endpoint", reason, retry_after_s=1, unsent=True))
        else:
            self.refuse(Refusal(502, "endpoint", reason))

    def on_bad_response(self, attempt: Attempt, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        if self.hedge is not None:
            hedging.lose(self, attempt, ejector.GATEWAY)
            return
        attempt.observe(ejector.GATEWAY)
        if self.response_began:
            self._break_off(reason)
        else:
            self.refuse(Refusal(502, "http", reason))

    def _break_off(self, why: str) -> None:
        """The answer cannot be brought to its end, and must not look as if it had been."""
        self.why = why
        self._end()
        self.down.abort()

    def _again(self, attempt: Attempt, delay_s: float, outcome: int) -> None:
        assert self.service is not None
        count(self.service.stats.failures, "retries")
        attempt.observe(outcome)
        self.attempt = None
        if self.retry.another_endpoint:
            self.tried.append(attempt.endpoint)
        if delay_s <= 0.0:
            self._attempt()
        else:
            self.worker.reactor.wheel.arm(self, self.worker.reactor.now + delay_s)

    def on_deadline(self, now: float) -> None:
        """The back-off before another attempt is over, or the time after which a second one may be made beside it."""
        if self.down.exchange is not self:
            return
        if self.keeping is not None:
            return
        if self._delayed:
            self._delayed = False
            self._proceed()
        elif self.attempt is None:
            self._attempt()
        elif not self.response_began and self.hedge is None:
            hedging.begin(self, self.attempt)

    def on_client_timeout(self) -> None:
        """The deadline of the whole request, or of its current phase, has passed."""
        limit = "its deadline" if self.whole_deadline <= self.worker.reactor.now else "the time allowed"
        attempt = self._cut()
        if self._asked:
            self.refuse(Refusal(504, "agent", "no answer in time"))
        elif self.plan is None:
            self.refuse(Refusal(503, "agent", "this agent has not learnt the mesh yet", 1, unsent=True))
        elif self.response_began:
            self._break_off(f"the answer did not come whole within {limit}")
        elif not self.request_sent and self.whole_deadline > self.worker.reactor.now:
            self.refuse(Refusal(408, "timeout", "the request's body stopped coming"))
        else:
            if attempt is not None:
                attempt.observe(ejector.TIMEOUT)
            self.refuse(Refusal(504, "timeout", f"no answer within {limit}", unsent=self.attempts == 0))

    def on_bad_request(self, status: int, reason: str) -> None:
        """The rest of the request cannot be read in one way only."""
        self._cut()
        if self.response_began:
            self._break_off(reason)
        else:
            self.refuse(Refusal(status, "http", reason))

    def on_client_gone(self) -> None:
        """The client closed: nobody waits for the answer."""
        self._cut()
        self.why = self.why or "the client went away"
        if not self.response_began:
            self.status = 0
        self._end()

    def _cut(self) -> Attempt | None:
        """Give up what is under way; returns it, for what there is to learn from it."""
        attempt, hedge = self.attempt, self.hedge
        if hedge is not None:
            hedge.cut()
            hedge.give_back()
            self.hedge = None
        if attempt is not None:
            attempt.cut()
        return attempt

    # Upgrade.

    def on_switched(self, attempt: Attempt, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        self.response_began = True
        self.status = 101
        attempt.observe(ejector.OK)
        self.tunnel = Tunnel(self)
        self.down.begin_tunnel(head)
        self.tunnel.touch()

    def end_tunnel(self) -> None:
        """Both sides are through."""
        self._cut()
        self._end()
        self.down.close_soon()

    # The end.

    def refuse(
        self,
        refusal: Refusal,
        extra: Sequence[bytes] = (),
        body: bytes | None = None,
        *,
        counted: bool = False,
        silently: bool = False,
    ) -> None:
        """Answer in the mesh's own name: with `extra` header lines, and `body` in place of the usual one. `counted`:
        somebody else has; `silently`: the answer is not sent."""
        if self.service is None:
            count(self.worker.refused, refusal.policy)
        elif not counted:
            count(self.service.stats.refused, refusal.policy)
        self.why = refusal.reason
        if self.explained is not None:
            self.explained.append(story.refused(self.plan, refusal))
        fields = answers.refusal_fields(refusal, typed=body is None)
        fields += extra
        if self.no_retry:
            fields.append(b"x-shoal-no-retry: 1\r\n")
        if body is None:
            body = answers.refusal_body(refusal, self.request_id)
        if silently:
            self.status = refusal.status
            self._end()
        else:
            self._answer(refusal.status, fields, body)

    def _answer(self, status: int, fields: list[bytes], body: bytes) -> None:
        self.status = status
        if self.explained is not None:
            fields.append(story.explain_field(self.explained, self.endpoint, self.down.inbound))
        self._cut()
        self.response_began = True
        self.down.send_own(status, fields, body)
        self._end()

    def _end(self) -> None:
        """Count, record, part. Nothing of this request happens afterwards."""
        down = self.down
        if down.exchange is not self:
            return
        down.exchange = None
        self.deadline = INFINITY
        if self.attempt is not None:
            self.attempt.give_back()
            self.attempt = None  # they refer to each other: garbage that only a collection would find
        self.tunnel = None
        if self.keeping is not None:
            self.worker.stores.forget(self)
        if self.entered is not None:
            guards.leave(self, self.entered, retried=self.counts_retry)
            self.entered = None
        worker = self.worker
        if self._asked:
            worker.peers.forget(self)
            down.on_exchange_end(self)
            return
        duration_s = worker.reactor.now - self.started
        if self.mirror is not None:
            mirror, self.mirror = self.mirror, None
            mirror.on_end(self.why, duration_s)
        service = self.service
        if service is not None:
            stats = service.stats
            stats.active -= 1
            stats.bytes_in += self.bytes_in
            stats.bytes_out += self.bytes_out
            stats.observe(self.status, duration_s)
        worker.record(self, duration_s)
        down.on_exchange_end(self)
