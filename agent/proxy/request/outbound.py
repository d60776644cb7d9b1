# mypyc: compiled
"""What a caller's agent does: another try, a second one beside the first, a way out of an overload.

Laws
- What is free is asked before anything is taken: an attempt that is not made costs no budget, and no breaker counts it.
- Whoever is not let in by an instance's agent (`x-shoal-shed`) is no failure of the endpoint, and nothing to try again,
  but a reason to take the next way out.
"""

from __future__ import annotations

from agent.proxy.control.storing import Storable, record_of
from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages import answers, flags, words
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import EXPECT, REQUEST_ID, SHOAL_SHED, RequestHead, ResponseHead
from agent.proxy.messages.origin import origins
from agent.proxy.phases.verdict import Refuse
from agent.proxy.report import story
from agent.proxy.report.stats import count
from agent.proxy.request.attempt import REFUSED_S, Attempt
from agent.proxy.request.leaving import Leaving
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.outliers import outcome_of_failure
from agent.proxy.table.plan import Plan
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.outlier import ejector
from policies.kinds.retry import decide as retrying
from policies.kinds.retry.decide import Again, Enough
from policies.kinds.retry.policy import Failure
from policies.kinds.shed.decide import Store


class Outbound(Leaving):
    """A request of a caller on this host."""

    __slots__ = ("_counts_retry", "_no_retry", "_storing", "_waits", "hedge")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.hedge: Attempt | None = None
        """A second one under way beside it; the first answer wins."""
        self._counts_retry = False
        """Whether the breaker counts it as a retry under way."""
        self._no_retry = False
        self._waits = False
        """Because a fault policy says so."""
        self._storing: _Storing | None = None
        """It is stored instead of served, as soon as all of it is there."""

    def begin(self, plan: Plan, refusal: Refusal | None) -> None:
        """Out."""
        assert self.service is not None
        count(self.service.stats.callers, self.caller)
        if refusal is not None:
            self.refuse(Refuse(refusal))
            return
        self.retry = plan.retry
        self.go_out()

    def wait(self, delay_s: float) -> bool:
        """On purpose."""
        self._waits = True
        self.reactor.wheel.arm(self, self.reactor.now + delay_s)
        return True

    def depart(self, plan: Plan, balancer: Balancer) -> None:
        """A request for the retry budget to know of, and its first try."""
        plan.budget.deposit(self.started)
        self.try_next()

    def before_start(self, attempt: Attempt) -> None:
        """If it takes long, another may be made beside it."""
        hedge = self.retry.hedge
        if hedge is not None and self.attempts == 1 and self.service is not None:
            after_s = retrying.hedge_after_s(hedge, self.service.recent)
            if after_s is not None:
                self.reactor.wheel.arm(self, attempt.began + after_s)

    def on_deadline(self, now: float) -> None:
        """A wait on purpose, or the back-off before another attempt, is over; or the first attempt takes long."""
        if self.over or self._storing is not None:
            return
        if self._waits:
            self._waits = False
            self.go_on()
        elif self.attempt is None:
            self.try_next()
        elif not self.response_began and self.hedge is None:
            self._hedge(self.attempt, now)

    # The answer.

    def on_response(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        if head.status == 503 and words.says(head, SHOAL_SHED, agent=attempt.endpoint.via):
            self._on_shed(attempt, complete)
            return
        if attempt.held is not None:
            self.note_load(head)
        attempt.refused = head.status == 429
        if head.status in self.retry.watched and attempt.far != flags.CLIENT_DEADLINE:
            failure = self.failure(attempt, head)
            if self.hedge is not None and (failure is not Failure.STATUS or head.status in self.retry.statuses):
                if not self.tried_deeper(attempt.endpoint, head):
                    self.heed(attempt, head)
                attempt.release(reusable=complete and self.request_sent)
                self._lose(attempt, self.outcome(attempt, head), attempt.what(failure))
                return
            if self.hedge is None and self._tries_again(attempt, head, failure, complete):
                return
        if self.hedge is not None:
            self._win(attempt)
        if self.retry.hedge is not None and self.service is not None:
            self.service.recent.observe(self.reactor.now - attempt.began)
        self.relay(attempt, head, body, complete)

    def _on_shed(self, attempt: Attempt, complete: bool) -> None:
        """The endpoint's agent lets no more in."""
        attempt.release(reusable=complete and self.request_sent)
        if self.balancer is not None:
            self.balancer.observe(attempt.endpoint.load, attempt.waited_s(), False, self.reactor.now)
        attempt.give_back()
        if self.hedge is not None:
            self._lose(attempt, ejector.OK, "")
            return
        self.attempt = None
        self.elsewhere(f"{attempt.endpoint.service}/{attempt.endpoint.id} is overloaded")

    # Another try.

    @property
    def no_retry(self) -> bool:
        """Whether all tries that there may be of what failed were made."""
        return self._no_retry

    def mark_tried(self) -> bytes:
        """And this agent knows it, should the caller fail for that reason: as far as it said what it calls for."""
        if self.caller:
            for origin in origins(self.request, self.request.special_value(REQUEST_ID) or b""):
                self.runtime.given_up.note(self.caller, origin, self.reactor.now)
        return words.tried(self.request_id)

    def _tries_again(self, attempt: Attempt, head: ResponseHead, failure: Failure, complete: bool) -> bool:
        """Whether a failure's answer is left unread for another attempt."""
        unsent = failure is Failure.CONNECT
        deeper = not unsent and self.tried_deeper(attempt.endpoint, head)
        verdict = self._verdict(
            attempt,
            failure,
            f"answered {head.status}",
            sent=not unsent,
            status=head.status,
            after_s=None if unsent or deeper else self.heed(attempt, head),
            deeper=deeper,
        )
        if not isinstance(verdict, Again):
            return False
        attempt.release(reusable=complete and self.request_sent)
        self._again(attempt, verdict, self.outcome(attempt, head))
        return True

    def on_failed(
        self, attempt: Attempt, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False
    ) -> None:
        """An attempt came to nothing: try again, if the policy allows it; else say so."""
        if not self.response_began:
            if self.hedge is not None:
                self._lose(attempt, outcome_of_failure(failure), attempt.what(failure))
                return
            verdict = self._verdict(attempt, failure, reason, sent=sent)
            if isinstance(verdict, Again):
                self._again(attempt, verdict, outcome_of_failure(failure))
                return
            reason = f"{reason}; {verdict.reason}"
        super().on_failed(attempt, failure, reason, sent=sent, timed_out=timed_out)

    def on_bad_response(self, attempt: Attempt, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        if self.hedge is not None:
            self._lose(attempt, ejector.GATEWAY, flags.BAD_RESPONSE)
        else:
            super().on_bad_response(attempt, reason)

    def _verdict(
        self,
        attempt: Attempt,
        failure: Failure,
        reason: str,
        *,
        sent: bool,
        status: int | None = None,
        after_s: float | None = None,
        deeper: bool = False,
    ) -> Again | Enough:
        """What policies.kinds.retry says of a failed attempt."""
        plan, service = self.plan, self.service
        assert plan is not None and service is not None
        count(service.stats.failures, attempt.what(failure))
        now = self.reactor.now
        if failure is Failure.CONNECT and not attempt.unable:
            attempt.endpoint.load.refused_until = now + REFUSED_S
        due = self.due if self.request_sent else self.whole_deadline
        counting = self.entered.state.circuit if self.entered is not None and not self._counts_retry else None
        found = retrying.decide(
            self.retry,
            method=self.request.method.decode(),
            attempts=self.attempts,
            failure=failure,
            status=status,
            sent=sent,
            replayable=self.can_repeat,
            budget=plan.budget,
            now=now,
            rng=self.rng,
            retry_after_s=after_s,
            elsewhere=after_s is not None and self._has_other(attempt.endpoint, now),
            remaining_s=None if due == INFINITY else due - now,
            tried_deeper=deeper,
            breaker_free=counting is None or counting.retry_is_free,
        )
        self.enough = "" if isinstance(found, Again) else found.reason
        if isinstance(found, Again):
            if counting is not None:
                self._counts_retry = counting.may_retry()
        elif self.attempts > 1 or found.final:
            self._no_retry = True
        if self.explained is not None:
            self.explained.append(story.retried(plan.policies, failure, reason, found))
        return found

    def _has_other(self, failed: Endpoint, now: float) -> bool:
        """Whether there is another endpoint that this request was not tried at."""
        return self.balancer is not None and self.balancer.has_other([*self.tried, failed], now)

    def _again(self, attempt: Attempt, again: Again, outcome: int) -> None:
        assert self.service is not None
        delay_s = again.delay_s
        count(self.service.stats.failures, "retries")
        attempt.observe(outcome)
        attempt.give_back()  # a 409 that is tried again is no failure of the endpoint's
        self.attempt = None
        if again.elsewhere:
            self.detours.tried.append(attempt.endpoint)
        if delay_s <= 0.0:
            self.try_next()
        else:
            self.reactor.wheel.arm(self, self.reactor.now + delay_s)

    # A second attempt beside the first.

    def _hedge(self, attempt: Attempt, now: float) -> None:
        """The first takes long: another beside it, where that cannot do work twice."""
        plan, balancer, service, target = self.plan, self.balancer, self.service, self.target
        assert plan is not None and balancer is not None and service is not None and target is not None
        if (
            not self.request_sent
            or target.tally.full
            or not retrying.may_hedge(
                self.retry,
                method=self.request.method.decode(),
                attempts=self.attempts,
                replayable=self.can_repeat,
                budget=plan.budget,
                now=now,
            )
        ):
            return
        avoid = [*self.tried, attempt.endpoint]
        endpoint = balancer.pick(self.key(balancer), now, self.rng, avoid)
        if endpoint is None or endpoint in avoid:
            return
        inbound = target.plan.inbound if self.is_here(endpoint) else ()
        self.begin_inbound(target.plan)
        if any(not phase.audit and phase.peek(self) is not None for phase in inbound):
            return
        if not self.try_enter(endpoint, now):
            return
        for phase in inbound:
            if not phase.audit and phase.decide(self) is None and phase.holds:  # what is watched judges requests
                self.held = phase
        plan.budget.try_withdraw(now)
        count(service.stats.failures, "hedges")
        if self.explained is not None:
            self.explained.append(story.hedged(plan.policies, attempt.endpoint, endpoint, now - attempt.began))
        self.attempts += 1
        self.present(endpoint)
        self.hedge = hedge = self.new_attempt(endpoint)
        hedge.start()

    def _lose(self, attempt: Attempt, outcome: int, what: str) -> None:
        """Of two attempts under way one failed (`what`: how, for counters): the other goes on alone."""
        if what and self.service is not None:
            count(self.service.stats.failures, what)
        attempt.observe(outcome)
        attempt.give_back()
        self.detours.tried.append(attempt.endpoint)
        if self.hedge is not attempt:
            self.attempt = self.hedge
        self.hedge = None

    def _win(self, attempt: Attempt) -> None:
        """Of two attempts under way one has its answer: nobody waits for the other."""
        first, hedge = self.attempt, self.hedge
        self.attempt, self.hedge = attempt, None
        self.endpoint = attempt.endpoint
        if hedge is attempt and first is not None:
            assert self.service is not None
            count(self.service.stats.failures, "hedges_won")
            first.outrun()
        elif hedge is not None:
            hedge.cut()
            hedge.give_back()

    def on_drained(self) -> None:
        """The client took what was held for it: whoever answers may go on."""
        super().on_drained()
        if self.hedge is not None and self.hedge.up is not None:
            self.hedge.up.resume_reading()

    def cut(self) -> Attempt | None:
        """Give up what is under way; returns the first, for what there is to learn from it."""
        hedge, self.hedge = self.hedge, None
        if hedge is not None:
            hedge.cut()
            hedge.give_back()
        return super().cut()

    # Stored instead of served.

    def store(self, way: Store) -> bool:
        """A way out of an overload: store it, once all of it is there."""
        if not self.can_repeat or not self.runtime.stores.takes(self.request, way):
            return False
        self._storing = _Storing(self, way)
        self.deadline = INFINITY  # nothing is hedged any more
        if self.request_sent:
            self._storing.hand_over()
        else:
            if self.request.special_value(EXPECT) is not None:
                self.down.send_continue()  # nobody else will say so
            self.down.resume_reading()
        return True

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        super().on_request_end(trailers)
        if self._storing is not None:
            self._storing.hand_over()

    def on_too_large(self) -> None:
        """More of the body than is kept, and nobody takes it yet."""
        if self._storing is not None:
            self.not_stored(f"a body of more than {self.retry.max_body} bytes")
        else:
            super().on_too_large()

    def stored(self, name: str, url: str) -> None:
        """It is on disk: say so."""
        service, plan = self.service, self.plan
        assert service is not None and plan is not None
        count(service.stats.shed, "stored")
        self.why = f"stored as {name}"
        if self.explained is not None:
            self.explained.append(story.stored(plan.policies, name, url))
        fields, body = answers.stored(name, service.name, url)
        self.answer(202, fields, body)

    def not_stored(self, reason: str) -> None:
        """It is not: to the next way out."""
        storing, self._storing = self._storing, None
        if storing is not None:
            self.runtime.stores.forget(storing)
            self.elsewhere(f"overloaded, and not stored in {storing.way.url}: {reason}")

    # The end.

    def part(self) -> None:
        """Nothing is learnt of the service that was entered."""
        self._end_retry()
        super().part()

    def on_end(self) -> None:
        """It is about to be over."""
        super().on_end()
        self._end_retry()
        storing, self._storing = self._storing, None
        if storing is not None:
            self.runtime.stores.forget(storing)
            storing.end()

    def _end_retry(self) -> None:
        if self._counts_retry:
            self._counts_retry = False
            circuit = self.entered.state.circuit if self.entered is not None else None
            if circuit is not None:
                circuit.retry_ended()


class _Storing(Storable):
    """A request that is being stored."""

    __slots__ = ("_exchange", "way")

    def __init__(self, exchange: Outbound, way: Store) -> None:
        super().__init__()
        self._exchange: Outbound | None = exchange
        self.way = way

    def hand_over(self) -> None:
        """All of it is there."""
        exchange = self._exchange
        assert exchange is not None and exchange.service is not None
        id = exchange.runtime.next_request_id().decode()
        record = record_of(
            exchange.request,
            self.way,
            id,
            introduction=exchange.introduction(),
            service=exchange.service.name,
            caller=exchange.caller,
            request_id=exchange.request_id,
            pieces=exchange.kept_body(),
        )
        exchange.runtime.stores.store(self, self.way, id, record)

    def end(self) -> None:
        """The request is over."""
        self._exchange = None

    def on_stored(self, name: str) -> None:
        """It is on disk."""
        if self._exchange is not None:
            self._exchange.stored(name, self.way.url)

    def on_not_stored(self, reason: str) -> None:
        """It is not."""
        if self._exchange is not None:
            self._exchange.not_stored(reason)
