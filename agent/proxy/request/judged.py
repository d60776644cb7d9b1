# mypyc: compiled
"""What a request tells of the service that it was for, and of the endpoint that it was tried at: their breakers and
ejectors hear it; and what is noted for the access log meanwhile.

Laws
- Counted is what the service did, and all of it. How long its client takes to send, or to read, is no part of it, nor
  is what is done to a request on purpose; an answer that breaks off or stops flowing is.
- A client that gives up proves nothing, by leaving or by a deadline of its own, unless it was kept waiting: for a
  second, and for three times as long as good answers take.
- What counts is counted once: when the answer has come whole, or as soon as it has flowed for long enough.

It is judged itself, too, once more: when rules change that it has passed (`judge_anew`). What is not allowed any more
ends, by the agent that hands it to the instance.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages import flags, words
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import RequestHead, ResponseHead
from agent.proxy.messages.retry_after import retry_after_s
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.verdict import Consult, Refuse, Verdict
from agent.proxy.report.access import MAX_NOTE
from agent.proxy.request.attempt import Attempt
from agent.proxy.request.relay import Relay
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.connections import Connections
from agent.proxy.table.outliers import hangs, observe, outcome_of, spare, usual_s
from policies.kinds.authz.judge import Answer, Asked, Judge
from policies.kinds.outlier import ejector
from policies.kinds.retry.policy import Failure

MOST_NOTES: Final = 16
"""Of what phases said, and of tries that failed, in one record."""
OUTCOMES: Final = {
    ejector.SERVER_ERROR: "it failed",
    ejector.GATEWAY: "a broken answer",
    ejector.CONNECT: "no connection",
    ejector.RESET: "broken off",
    ejector.TIMEOUT: "no answer in time",
}
"""How tries fail, for people."""
FAR_OUTCOMES: Final = {
    flags.SERVICE_CONNECT: ejector.CONNECT,
    flags.SERVICE_CONNECT_TIMEOUT: ejector.CONNECT,
    flags.SERVICE_RESET: ejector.RESET,
    flags.SERVICE_TIMEOUT: ejector.TIMEOUT,
    flags.SERVICE_BROKEN: ejector.GATEWAY,
}
"""And as the agent beside an instance tells it of one that it has not got an answer of."""

FAR_FAILURES: Final = {flags.SERVICE_RESET: Failure.RESET, flags.SERVICE_TIMEOUT: Failure.TIMEOUT}
"""How a try failed that the agent beside the instance tells the flag of."""

NO_ROOM: Final = ("shed", "breaker")
"""Whose refusals say that a service has no room."""


class Judged(Relay):
    """A request by which others are judged."""

    __slots__ = ("_failed", "_verdicts", "attempts", "flag", "hearing", "proof", "proof_s", "why")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.attempts = 0
        self.proof = 0
        """The status that its service's breaker is told; 0: what came of it says nothing of the service."""
        self.proof_s = 0.0
        """How long the service took, with all tries."""
        self.why = ""
        """What ended it, other than an endpoint's answer."""
        self.flag = ""
        """Whose fault that is (`agent.proxy.messages.flags`); empty: nobody's, or an instance has answered."""
        self._verdicts: list[str] | None = None
        """What phases have said of it, and"""
        self._failed: list[str] | None = None
        """which tries came to nothing; where anybody wants a record."""
        self.hearing: Hearing | None = None
        """It waits for somebody's answer on whom a phase depends."""

    def tally(self) -> Connections | None:
        """The service whose endpoints are tried."""
        return self.target.tally if self.target is not None else None

    def judge(self, attempt: Attempt, outcome: int, latency_s: float) -> None:
        """By its breaker, and beside the others."""
        if outcome != ejector.OK and self.runtime.recorder.wanted:
            self._note_failed(attempt, outcome)
        target, gated = self.target, attempt.gated
        if target is not None and (gated or target.ejector is not None or target.audits is not None):
            now = self.reactor.now
            observe(target, attempt.endpoint, outcome, latency_s, now, self.rng, gated, now - attempt.began)

    def outcome(self, attempt: Attempt, head: ResponseHead) -> int:
        """Of an answer; that of an agent whose instance was not reached is none of the instance's."""
        status, far = head.status, attempt.far
        if words.says_unsent(head, agent=attempt.endpoint.via):
            return ejector.CONNECT
        if far in FAR_OUTCOMES:
            return FAR_OUTCOMES[far]
        if status >= 500 and self.runtime.recorder.wanted:
            attempt.how = f"refused, {far}" if far else f"status {status}"
        return outcome_of(status)

    def failure(self, attempt: Attempt, head: ResponseHead) -> Failure:
        """How a try failed that was answered: as the agent beside the instance had it, so that the same happens as if
        instance and caller were on one host; else by its status."""
        if words.says_unsent(head, agent=attempt.endpoint.via):
            return Failure.CONNECT
        return FAR_FAILURES.get(attempt.far, Failure.STATUS)

    def heed(self, attempt: Attempt, head: ResponseHead) -> float | None:
        """What an instance asks for. When it says that it cannot serve (503), nobody else need find that out; any other
        status is about this request alone."""
        now = self.reactor.now
        after_s = retry_after_s(head, self.runtime.recorder.epoch + now)
        if after_s and head.status == 503 and self.target is not None:
            spare(self.target, attempt.endpoint, after_s, now)
        return after_s

    def prove(self, status: int) -> None:
        """It came to this, as far as the service is concerned."""
        if self.entered is None:
            return
        tried_at, sent_at = self.tried_at, self.sent_at
        self.proof = status
        if self.request_sent:
            self.proof_s = self.reactor.now - (sent_at if sent_at > tried_at else tried_at)

    def learn_of(self, refusal: Refusal) -> None:
        """What the mesh's own answer says: of the service, or to the one that calls it, if it is a call of one."""
        if refusal.policy == "endpoint":
            self.prove(refusal.status)
        elif refusal.policy in NO_ROOM and refusal.status >= 500 and self.caller and not self.inbound:
            calling = self.runtime.table.services.get(self.caller)
            if calling is not None and calling.backpressure is not None:
                called = self.service.name if self.service is not None else ""
                calling.backpressure.refuse_call(called, self.reactor.now)

    def count_as_good(self, attempt: Attempt) -> None:
        """Its answer has flowed for so long that it counts as good, whatever becomes of it."""
        attempt.judge(ejector.OK, attempt.latency_s)
        if self.entered is not None and self.proof:
            self.entered.proved(self, self.proof, self.proof_s)
            self.proof = 0

    def break_proof(self, attempt: Attempt, outcome: int) -> None:
        """An answer that had begun well does not come to its end."""
        attempt.observe(outcome)
        if self.proof and not self.switched:
            self.proof = 502

    def give_up(self, attempt: Attempt | None, *, late: bool = False) -> None:
        """Nobody waits any longer for an answer that has not begun. `late`: by no wish of the client's."""
        if not self.attempts or not (self.request_sent or late) or (attempt is not None and attempt.waits):
            return
        least_s = self._allowed_s() / 2
        now = self.reactor.now
        entered = self.entered
        waited_s = now - max(self.sent_at, self.tried_at)
        if late or (entered is not None and _kept_waiting(entered.usual_s(), waited_s, least_s)):
            self.prove(504)
        if attempt is None:
            return
        if late or _kept_waiting(usual_s(attempt.endpoint), attempt.waited_s(), least_s):
            attempt.observe(ejector.TIMEOUT)

    @property
    def is_held_up(self) -> bool:
        """Whether it is the endpoint that takes no more of the request, and not the client that sends none."""
        attempt = self.attempt
        return attempt is not None and attempt.up is not None and attempt.up.full

    def _allowed_s(self) -> float:
        """What the service's own document allows for all of a request, where that is over; else 0."""
        plan, now = self.plan, self.reactor.now
        forward = self.forward
        own = forward is not None and forward.limits is not None and forward.limits.request_s > 0
        if plan is None or not (plan.bounds_whole_request or own):
            return 0.0
        allowed_s = self.allowed_s
        return allowed_s if self.started + allowed_s <= now else 0.0

    def judge_anew(self) -> None:
        """Whether it may go on, by the rules of now."""
        target, endpoint = self.target, self.endpoint
        if self.over or target is None or endpoint is None or not target.rules_changed or not self.is_here(endpoint):
            return
        if self.hearing is None:  # else it is judged by the new ones as soon as it has its answer
            self.judge_again()

    def judge_again(self) -> None:
        """By the rules of now; and once more when somebody has answered on whom they depend."""
        target = self.target
        assert target is not None
        self.forget_view()
        self.begin_inbound(target.plan)  # documents of before have verified what held
        for phase in target.plan.guards:
            if phase.kind in ("authn", "authz"):
                verdict = phase.peek(self)
                while isinstance(verdict, Consult):
                    if not self._ask(verdict, Hearing(self, again=True)):
                        return
                    verdict = phase.peek(self)
                if isinstance(verdict, Refuse):
                    self._end_by(verdict)
                    return
        self.forget_view()

    # Asking somebody outside.

    def consult(self, consult: Consult) -> bool:
        """Whether he has answered already."""
        if self.endpoint is None or self.target is None:
            return False  # only those who are asked beside the instance depend on anybody
        return self._ask(consult, Hearing(self))

    def consult_aside(self, phase: Phase, done: Verdict | None, consult: Consult) -> bool:
        """Whether he has answered already."""
        answer = self.runtime.judges.ask(consult.judge, consult.asked, Watching(self, phase, done).on_answer)
        if answer is None:
            return False
        self.hear(consult.judge, consult.asked, answer)
        return True

    def _ask(self, consult: Consult, hearing: Hearing) -> bool:
        answer = self.runtime.judges.ask(consult.judge, consult.asked, hearing.on_answer)
        if answer is None:
            self.hearing = hearing
            return False
        self.hear(consult.judge, consult.asked, answer)
        return True

    def on_heard(self, *, again: bool) -> None:
        """Somebody has answered: it goes on from where it was."""
        self.hearing = None
        if self.over:
            return
        if again:
            self.judge_again()
        else:
            self.deliver_on()

    def stop_hearing(self) -> None:
        """It is over before there was an answer."""
        hearing, self.hearing = self.hearing, None
        if hearing is not None:
            hearing.end()
            if not hearing.again:
                self.let_go()

    def _end_by(self, verdict: Refuse) -> None:
        """It was allowed, and is not any more."""
        target = self.target
        assert target is not None
        if verdict.by is not None and verdict.refusal.policy == "authz":
            target.stats.note_authorized(f"{verdict.by.key}\t{verdict.what}\tended")
        elif verdict.by is not None:
            target.stats.note_authenticated(f"{verdict.by.key}\tended")
        self.on_cut_off(verdict)
        refusal, said = verdict.refusal, verdict.said
        if not self.response_began:
            told = said._replace(unsent=False) if said is not None else None
            self.refuse(Refuse(refusal._replace(unsent=False), what=verdict.what, by=verdict.by, said=told))
            return
        self.why, self.flag = f"{refusal.reason}, since its rules have changed", refusal.whose
        self.down.abort()
        self.end()

    def on_cut_off(self, verdict: Refuse) -> None:
        """It was let in, and is not any more."""

    # For its line in the access log.

    def note_rule(self, rule: str) -> None:
        """A route was taken: what most requests have to say, made once a rule."""
        if self._verdicts is None:
            self._verdicts = [self.runtime.recorder.of_rule(rule)]
        else:
            self.note_verdict("route", rule)

    def note_verdict(self, kind: str, what: str) -> None:
        """A phase had something to say."""
        if self._verdicts is None:
            self._verdicts = []
        if len(self._verdicts) < MOST_NOTES:
            self._verdicts.append(f"{kind}: {what}"[:MAX_NOTE])

    def _note_failed(self, attempt: Attempt, outcome: int) -> None:
        if self._failed is None:
            self._failed = []
        if len(self._failed) < MOST_NOTES:
            how = attempt.how or OUTCOMES.get(outcome, "failed")
            self._failed.append(f"{attempt.endpoint.id}: {how}"[:MAX_NOTE])


class Hearing:
    """A request waits for an answer."""

    __slots__ = ("_exchange", "again")

    def __init__(self, exchange: Judged, *, again: bool = False) -> None:
        """`again`: it is on its way, and only judged anew."""
        self._exchange: Judged | None = exchange
        self.again = again

    def on_answer(self, judge: Judge, asked: Asked | None, answer: Answer | None) -> None:
        """It goes on."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if answer is not None:
                exchange.hear(judge, asked, answer)
            exchange.on_heard(again=self.again)

    def end(self) -> None:
        """It waits no longer."""
        self._exchange = None


class Watching:
    """What is only watched waits for an answer, while the request goes on."""

    __slots__ = ("_done", "_exchange", "_phase", "_view")

    def __init__(self, exchange: Judged, phase: Phase, done: Verdict | None) -> None:
        self._exchange = exchange
        self._phase = phase
        self._done = done
        self._view = exchange.view

    def on_answer(self, judge: Judge, asked: Asked | None, answer: Answer | None) -> None:
        """It is counted, or somebody else is asked."""
        exchange, phase = self._exchange, self._phase
        if answer is not None:
            exchange.hear(judge, asked, answer)
        before = exchange.see_with(self._view)
        verdict = phase.decide(exchange)
        exchange.see_with(before)
        while isinstance(verdict, Consult):
            found = exchange.runtime.judges.ask(verdict.judge, verdict.asked, self.on_answer)
            if found is None:
                return
            exchange.hear(verdict.judge, verdict.asked, found)
            exchange.see_with(self._view)
            verdict = phase.decide(exchange)
            exchange.see_with(before)
        exchange.count_audit(phase, self._done, verdict)


def _kept_waiting(usual_s: float, waited_s: float, least_s: float) -> bool:
    """`least_s`: half of what the operator allows, where that is what was over; 0: it is not."""
    return 0 < least_s <= waited_s or hangs(usual_s, waited_s)
