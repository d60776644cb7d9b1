# mypyc: compiled
"""The story of a request, once it is decided where it goes: send, relay, fail.

An Exchange is one request and its answer. Who may pass, and where to, is its walk's (`agent.proxy.request.walk`); how
it ends is in `ending`. What only callers do is in `shaped` (copies, slow answers, sessions) and `outbound` (retries,
hedges, ways out); what only the agent beside the instance does, in `inbound`. Streams of both sides call it when
something happened (`on_…`).

Laws
- The plan is read once, at the start. A swap in the middle of a request changes nothing for it.
- Nothing is sent twice unless policies.kinds.retry allows it for this very request.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages import answers, flags, words
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import (
    PROXY_AUTHORIZATION,
    REQUEST_ID,
    SHOAL_CALLER,
    SHOAL_DEADLINE,
    SHOAL_DEADLINE_BY,
    SHOAL_EXPLAIN,
    SHOAL_SHADOW,
    VIA,
    RequestHead,
    ResponseHead,
)
from agent.proxy.messages.origin import origins
from agent.proxy.messages.outgoing import count_forward, hops
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.verdict import Refuse, TurnAway, Verdict, outcome, what
from agent.proxy.report import story
from agent.proxy.report.stats import count
from agent.proxy.request.attempt import Attempt
from agent.proxy.request.ending import Ending
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.outliers import outcome_of_failure
from agent.proxy.table.plan import Plan
from agent.proxy.table.pressure import note_load, note_shed
from agent.proxy.table.service import Service
from policies.decision import Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.outlier import ejector
from policies.kinds.retry.policy import Failure
from policies.kinds.timeout import decide as timing

MAX_HOPS: Final = 10
"""Agents that one request may pass before it is taken for a loop."""
SAME_S: Final = 0.05
"""Between two hosts' views of one deadline: the way from one to the other, and what timers are late."""
_NOTHING: Final[list[bytes]] = []


class Exchange(Ending):
    """One request on its way. Made for its stream."""

    __slots__ = ("enough",)

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.enough = ""
        """Why there is no other try, once that was asked."""

    # The beginning.

    def start(self) -> None:
        """Find the service, take its plan, and let every phase have its say."""
        request = self.request
        if request.has_words:
            words.disbelieve(request, self.sender())
        service = self.find_service() if request.method != b"CONNECT" else None
        refusal = self._read_own_fields()
        if service is not None:
            self.set_off(service, refusal)
        elif refusal is not None:
            self.refuse(Refuse(refusal))
        else:
            self.on_no_service()

    def set_off(self, service: Service, refusal: Refusal | None) -> None:
        """To a service; by its plan as it is now."""
        self.service = service
        self.plan = plan = service.plan
        service.stats.active += 1
        self.begin_clock(plan)
        taps = self.runtime.recorder.taps
        if taps is not None:
            self.begin_tap(taps, plan)
        if plan.traces:
            self.begin_trace(plan)
        if (plan.resolving or self.stranger is not None) and refusal is None and not self.resolve(plan):
            return
        if self.request.max_forwards >= 0:
            if not self.request.max_forwards:
                self._answer_as_last()
                return
            count_forward(self.request)
        self.begin(plan, refusal)

    def _answer_as_last(self) -> None:
        """An OPTIONS or TRACE that nobody may hand on any more is for us (RFC 9110 section 7.6.2)."""
        if self.request.method == b"OPTIONS":
            self.answer(200, [b"server: shoal\r\n", answers.ALLOW], b"")
        else:
            self.refuse(Refuse(Refusal(405, "http", "Max-Forwards: 0, and agents echo no TRACE", unsent=True)))

    def sender(self) -> int:
        """Who it is for what its requests may say."""
        peer = self.down.peer
        credentials = self.request.special_value(PROXY_AUTHORIZATION)
        return peer.sender if self.inbound else peer.sender | self.runtime.callers.named(peer, credentials)

    def find_service(self) -> Service | None:
        """The one that is asked for."""
        return self.runtime.table.find(self.request.host)

    def on_no_service(self) -> None:
        """None of this name is in the mesh."""
        tunnel = self.request.method == b"CONNECT"
        self.refuse(Refuse(story.no_tunnel() if tunnel else story.no_service(self.request.host)))

    def begin(self, plan: Plan, refusal: Refusal | None) -> None:
        """On its way, or refused at once."""
        raise NotImplementedError

    def _read_own_fields(self) -> Refusal | None:
        """The fields of the request that are for the agent."""
        inbound = self.inbound
        peer = self.down.peer
        known = peer.known
        if known:
            self.caller = peer.caller
            if peer.local is not None and peer.local.refusal is not None:
                return peer.local.refusal
        agents = 0
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
                agents += hops(field.value)
            elif code == PROXY_AUTHORIZATION and not inbound and self.stranger is None:
                caller = self.runtime.callers.caller(field.value, peer.local)
                if isinstance(caller, Refusal):
                    return caller
                self.caller = caller
            elif code == SHOAL_CALLER:
                self.stranger = peer.hands_on(field.value)
                if self.stranger is None and not known:
                    self.caller = field.value.decode("ascii", "replace")
            elif code == SHOAL_SHADOW and self.runtime.recorder.wanted:
                self.note_verdict("shadow", f"a copy, for {field.value.decode('latin-1')}")
        if not self.request_id:
            self.request_id = self.runtime.next_request_id()
        if agents >= MAX_HOPS:
            return Refusal(508, "agent", f"the request passed {agents} agents: it goes in a circle", unsent=True)
        return None

    # What its walk has done for good.

    def ask(self, phase: Phase) -> Verdict | None:
        """Ask."""
        return phase.decide(self)

    def count(self, phase: Phase, verdict: Verdict) -> None:
        """Count."""
        state = phase.state
        state.stats.note_met(phase.kind, what(verdict))
        if self.runtime.recorder.wanted:
            self.note_verdict(phase.kind, what(verdict))
        if isinstance(verdict, TurnAway):
            note_shed(self.reactor, state, verdict.reason)

    def count_audit(self, phase: Phase, done: Verdict | None, verdict: Verdict | None) -> None:
        """Count; and where it would have been something else, say so in the request's record: that has the caller."""
        was, would = outcome(done), outcome(verdict)
        phase.state.stats.note_audit(phase.kind, phase.in_force.key, was, would)
        if was != would and self.runtime.recorder.wanted:
            self.note_verdict("audit", f"{phase.kind}/{phase.in_force.key}: {would}")

    def count_way(self, outcome: str) -> None:
        """Count."""
        assert self.service is not None
        count(self.service.stats.shed, outcome)

    def enter(self, endpoint: Endpoint, circuit: Circuit, now: float) -> str:
        """Ask its breaker, which counts the attempt when it lets it pass."""
        target = self.target
        assert target is not None
        reason = circuit.enter(now, self.rng, 0)
        target.tell_transition(endpoint.id, circuit.take_transition(), audit=False)
        return reason

    def let_go(self) -> None:
        """Give back what counts on an attempt that is not made."""
        held, self.held = self.held, None
        if held is not None:
            held.ended(self, 0, -1.0)
        if self.gated and self.endpoint is not None:
            self.gated = False
            circuit = self.endpoint.load.circuit
            if circuit is not None:
                circuit.abandon(self.reactor.now)

    def part(self) -> None:
        """Nothing is learnt of the service that was entered."""
        entered, self.entered = self.entered, None
        if entered is not None:
            entered.ended(self, 0, -1.0)

    def send(self, endpoint: Endpoint) -> None:
        """Try it."""
        self.attempts += 1
        if self.attempts == 1 or self.tried_at < self.entered_at:
            self.tried_at = self.reactor.now
        self.attempt = attempt = self.new_attempt(endpoint)
        self.before_start(attempt)
        attempt.start()

    def before_start(self, attempt: Attempt) -> None:
        """It is about to be tried."""

    def answer_directly(self, action: Redirect | Respond) -> None:
        """By itself."""
        fields, body, status = story.direct_answer(action)
        self.why = "route"
        self.answer(status, fields, body)

    # The answer, from upstream.

    def on_response(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        raise NotImplementedError

    def note_load(self, head: ResponseHead) -> None:
        """An instance's own word about its load, if it has one."""
        if self.target is not None:
            note_load(self.target, head)

    def relay(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """Pass an answer on."""
        self.status = head.status
        far = attempt.far
        if far:
            self.flag, self.why = far, words.far_reason(head, self.enough)
        else:
            self.answered_at = self.reactor.now
        if far and far == flags.CLIENT_DEADLINE:
            self._count_late(attempt)
            self.give_up(attempt)
        else:
            attempt.observe(self.outcome(attempt, head), whole=complete)
            self.prove(head.status)
        self.begin_answer(head, self.extra_response_fields(head), body, complete)

    def extra_response_fields(self, head: ResponseHead) -> list[bytes]:
        """What the mesh adds to an answer."""
        extra = [b"via: 1.0 shoal\r\n" if head.http10 else b"via: 1.1 shoal\r\n"]
        if self.explained is not None:
            self.tell_why(extra)
        if self.left is not None:
            extra.append(self.left.lines())
        if head.status >= 400:
            if self._was_tried(head):
                extra.append(self.mark_tried())
            if self.attempt is not None and self.attempt.endpoint.via:
                extra += self._passed_on(head)
        return extra

    def _passed_on(self, head: ResponseHead) -> list[bytes]:
        """Of another agent's refusal: who meets a request first counts what it comes to, whoever has said it."""
        policy = words.far_policy(head)
        if not policy:
            return _NOTHING
        if self.service is not None:
            count(self.service.stats.refused, policy)
        return words.passed_on(head, policy, self.attempts, self.enough)

    def _was_tried(self, head: ResponseHead) -> bool:
        """Whether nobody need try again what failed: all tries were made, here or nearer to the failure."""
        attempt = self.attempt
        if self.no_retry or attempt is None or head.status < 500:
            return self.no_retry
        return self.tried_deeper(attempt.endpoint, head)

    def tried_deeper(self, endpoint: Endpoint, head: ResponseHead) -> bool:
        """Whether an endpoint's failure was tried again already, nearer to it: it says so; or a call that the service
        made for this very request through this agent came to nothing, all tries made. Services pass no header of ours
        on, but their agent knows; where it is another's, it says so."""
        if words.says_tried(head, self.request_id, agent=endpoint.via):
            return True
        if endpoint.via:
            return False
        given_up, began, now = self.runtime.given_up, self.started, self.reactor.now
        for origin in origins(self.request, self.request_id):
            if given_up.holds(endpoint.service, origin, began, now):
                return True
        return False

    # What goes wrong.

    def on_failed(
        self, attempt: Attempt, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False
    ) -> None:
        """An attempt came to nothing, and there is no other."""
        if self.response_began:
            reason = "upstream closed in the middle of its answer"
            self._break_off(reason, flags.SERVICE_CUT, attempt, ejector.RESET)
            return
        attempt.observe(outcome_of_failure(failure))
        if timed_out:
            self.prove(504)
            flag = flags.SERVICE_TIMEOUT if sent else flags.SERVICE_CONNECT_TIMEOUT
            self.refuse(Refuse(Refusal(504, "timeout", reason, unsent=not sent, flag=flag)))
        elif not sent:
            whose, flag = "endpoint", flags.SERVICE_CONNECT
            if attempt.insecure:
                whose, flag = "tls", flags.SERVICE_INSECURE
            if attempt.unable:
                whose, flag = "agent", flags.AGENT_UNABLE
                self.part()
            self.refuse(Refuse(Refusal(503, whose, reason, retry_after_s=1, unsent=True, flag=flag)))
        else:
            self.refuse(Refuse(Refusal(502, "endpoint", reason)))

    def on_bad_response(self, attempt: Attempt, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        if self.response_began:
            self._break_off(reason, flags.SERVICE_BROKEN, attempt, ejector.GATEWAY)
            return
        if self.service is not None:
            count(self.service.stats.failures, flags.BAD_RESPONSE)
        attempt.observe(ejector.GATEWAY)
        self.prove(502)
        self.refuse(Refuse(Refusal(502, "http", reason)))

    def _break_off(self, why: str, flag: str, failed: Attempt | None = None, outcome: int = ejector.OK) -> None:
        """The answer cannot be brought to its end, and must not look as if it had been; `failed`: by the endpoint's
        fault."""
        if failed is not None:
            self.break_proof(failed, outcome)
        self.why, self.flag = why, flag
        self.down.abort()  # first: the end alone would close the connection as behind a whole answer
        self.end()

    def on_client_timeout(self) -> None:
        """The deadline of the whole request, or of its current phase, has passed."""
        limit = "its deadline" if self.whole_deadline <= self.reactor.now else "the time allowed"
        whole = self.whole_deadline <= self.reactor.now
        held_up = self.is_held_up
        attempt = self.cut()
        if self.plan is None:
            reason, flag = "this agent has not learnt the mesh yet", flags.AGENT_NO_TABLE
            self.refuse(Refuse(Refusal(503, "agent", reason, 1, unsent=True, flag=flag)))
        elif self.response_began:
            failed = None if whole or self.switched or self.down.full else attempt
            flag = flags.CLIENT_SLOW if self.down.full else self._late() if whole else flags.SERVICE_CUT
            if not (self.down.full or self.switched):
                self.note_late()
            self._break_off(self.unfinished(limit), flag, failed, ejector.TIMEOUT)
        elif not self.request_sent and not whole and not held_up:
            self.refuse(Refuse(Refusal(408, "timeout", "the request's body stopped coming")))
        else:
            self.give_up(attempt, late=not whole)
            waits = attempt is not None and attempt.waits
            if attempt is not None and not waits:
                self.note_late()
                self._count_late(attempt)
            reason = f"{'no connection was free' if waits else 'no answer'} within {limit}"
            flag = flags.SERVICE_BUSY if waits else self._late()
            self.refuse(Refuse(Refusal(504, "timeout", reason, unsent=self.attempts == 0, flag=flag)))

    def _count_late(self, attempt: Attempt) -> None:
        """Its time is over, whoever has put it."""
        if self.service is not None:
            count(self.service.stats.failures, attempt.what(Failure.TIMEOUT))

    def _late(self, early_s: float = 0.0) -> str:
        """Whose fault it is that there is no answer yet: who called may have asked for less than documents allow.
        `early_s`: by what will be over so soon."""
        asked = (
            self.asked_deadline <= self.reactor.now + early_s and self.request.special_value(SHOAL_DEADLINE_BY) is None
        )
        return flags.CLIENT_DEADLINE if asked else flags.SERVICE_TIMEOUT

    def on_bad_request(self, status: int, reason: str) -> None:
        """The rest of the request cannot be read in one way only."""
        self.cut()
        if self.response_began:
            self._break_off(reason, flags.CLIENT_MALFORMED)
        else:
            self.refuse(Refuse(Refusal(status, "http", reason)))

    def on_client_gone(self) -> None:
        """The client closed: nobody waits for the answer."""
        attempt = self.cut()
        if not self.response_began:
            self.give_up(attempt)
        if not self.why:
            if self.inbound and self.down.peer.agent:
                self._on_given_up(attempt)
            else:
                self.why, self.flag = "the client went away", flags.CLIENT_GONE
        self.end()

    def _on_given_up(self, attempt: Attempt | None) -> None:
        """By the calling agent, which knows why. Where the time that it told is as good as over, so does this one: both
        look at their clocks at the same moment, and either may be the first."""
        now = self.reactor.now
        if self.whole_deadline - now <= SAME_S < now - self.started:
            self.why, self.flag = "no answer within its deadline, says the calling agent", self._late(SAME_S)
            self.note_late()
            if attempt is not None:
                self._count_late(attempt)
        else:
            self.why, self.flag = "the calling agent gave this try up", flags.AGENT_CANCELLED

    def on_cut(self) -> None:
        """This agent gives the client's connection up, by no wish of its own."""
        if not self.why:
            self.why, self.flag = "this agent closed the connection", flags.AGENT_CUT
        self.on_client_gone()
