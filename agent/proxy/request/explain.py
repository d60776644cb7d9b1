# mypyc: compiled
"""What would happen to a request: it walks the way of a real one (`agent.proxy.request.walk`), peeks where that one
asks, and sends nothing. Neither a count nor anybody's turn nor the next random number is other than before.

With a seed each decision draws from numbers of its own, made of the seed and of what is decided, and so does whose turn
it is: a decision more moves no other one, and what a document changes is all that two explanations of one seed differ
by, as long as nothing else changes in between.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from agent.proxy.http1.asked_head import request_of
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import BadHead, RequestHead
from agent.proxy.messages.outgoing import request_fields
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Heard
from agent.proxy.phases.verdict import Consult, Copies, Refuse, Verdict
from agent.proxy.proof.securing import lane_to, proven_caller, unsafe, wanted_of
from agent.proxy.report import story
from agent.proxy.report.spans import prepared
from agent.proxy.request.attempt import REFUSED_S
from agent.proxy.request.audit.foretold import foretold
from agent.proxy.request.leaving import caller_of, is_named, may_leave
from agent.proxy.request.tracing.drawing import suppose
from agent.proxy.request.walk import Walk
from agent.proxy.runtime import Runtime
from agent.proxy.table.plan import Plan
from agent.questions import Explain
from policies.claim import supposed
from policies.decision import Forward, Redirect, Respond
from policies.endpoint import Endpoint, Load
from policies.kinds.balance.decide import Balancer
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.retry import decide as retrying
from policies.kinds.retry.budget import Budget
from policies.kinds.retry.decide import Enough
from policies.kinds.retry.policy import Failure
from policies.kinds.shed.decide import Store
from policies.language.trust import SCHEME
from policies.stranger import Stranger


def explain(runtime: Runtime, asked: Explain, heard: Sequence[Heard] = ()) -> dict[str, Any] | Consult:
    """The same by what was heard so far; or who has to be asked first."""
    try:
        request = request_of(asked, runtime.heads)
    except BadHead as bad:
        return {"decisions": [story.entry(None, "http", "", "answer 400", bad.reason)], "endpoint": None, "status": 400}
    explanation = Explanation(
        runtime,
        request,
        caller=asked.caller,
        address=asked.address,
        inbound=asked.inbound,
        shed=asked.shed,
        gateway=asked.gateway,
    )
    explanation.draw_by(asked.seed)
    explanation.in_the_clear = asked.plain
    explanation.operated = asked.shows_claims
    if asked.claims is not None:
        explanation.assumed = {name: supposed(text) for name, text in asked.claims.items()}
    for each in heard:
        explanation.hear(each.judge, each.asked, each.answer)
    explanation.tell()
    if explanation.missing is not None:
        return explanation.missing
    return explanation.as_answer()


class Explanation(Walk):
    """A way that nobody goes."""

    __slots__ = (
        "_address",
        "_attempts",
        "_budget",
        "_counts_retry",
        "_instance",
        "_refused",
        "_refusing",
        "_rng",
        "_seed",
        "_shed",
        "assumed",
        "decisions",
        "in_the_clear",
        "missing",
        "operated",
        "status",
    )

    def __init__(
        self,
        runtime: Runtime,
        request: RequestHead,
        *,
        caller: str = "",
        address: str = "",
        inbound: str | None = None,
        shed: dict[str, str] | None = None,
        gateway: str = "",
    ) -> None:
        """`caller`: a service, or the SPIFFE id of somebody of another trust domain, whom `gateway` let in (empty: this
        host)."""
        super().__init__(runtime, request)
        self._rng = random.Random()
        self._rng.setstate(runtime.rng.getstate())
        self._seed: int | None = None
        self.request_sent = True
        if caller.startswith(SCHEME):
            self.stranger = Stranger(caller, gateway or runtime.table.host)
        else:
            self.caller = caller
        self.decisions: story.Explained = []
        self.explained = self.decisions
        self.status: int | None = None
        """Of an answer that the mesh would give itself."""
        self.in_the_clear = False
        """Whether it would come from another host in plain text."""
        self.missing: Consult | None = None
        """Somebody has to be asked, before it is known what comes next."""
        self.assumed: dict[str, str] | None = None
        """Claims that it is supposed to have."""
        self.operated = False
        """Whether it is told to who operates."""
        self._attempts = 0
        self._budget = Budget()
        """The plan's, as it would be."""
        self._counts_retry = False
        self._refusing: list[tuple[Load, float]] = []
        """Endpoints that a request would have found refusing, and until when they did before."""
        self._refused: Refuse | None = None
        self._address = address
        self._instance = inbound
        self._shed = shed or {}

    @property
    def supposed(self) -> dict[str, str] | None:
        """As who asks says."""
        return self.assumed

    @property
    def shows_claims(self) -> bool:
        """As control says."""
        return self.operated

    @property
    def inbound(self) -> bool:
        """Whether another agent picked."""
        return self._instance is not None

    @property
    def address(self) -> str:
        """Of whoever would connect."""
        return self._address

    @property
    def vouched(self) -> str:
        """That address; of a program of this host, where it leaves from here and nobody says another."""
        if not self._address:
            return "" if self.inbound else self.runtime.vouching.own_of("127.0.0.1")
        return self.runtime.vouching.own_of(self._address)

    @property
    def proven(self) -> str:
        """A caller is taken for a service of the mesh, as his credentials would say."""
        return ""

    @property
    def trust_domain(self) -> str:
        """The mesh's."""
        return self.runtime.security.trust_domain

    @property
    def in_plain_text(self) -> bool:
        """As the agent that would make the hop says."""
        return self.in_the_clear

    @property
    def rng(self) -> random.Random:
        """What a request would draw now; of a seed, what is drawn for this decision."""
        return self._rng

    def draw_by(self, seed: int | None) -> None:
        """None: as the next request would."""
        self._seed = seed
        self._draw_for("trace")

    def _draw_for(self, what: str) -> None:
        if self._seed is not None:
            self._rng = random.Random(f"{self._seed} {what}")

    def tell(self) -> None:
        """Walk."""
        service = self.runtime.table.find(self.request.host)
        if service is None:
            if self.inbound or caller_of(self) is None:
                self.refuse(Refuse(story.no_service(self.request.host)))
            elif may_leave(self):
                self._leave()
            return
        self.service = service
        self.plan = plan = service.plan
        if plan.tracing is not None:
            policy = plan.policies.get("trace")
            self.decisions.append(suppose(self, policy, plan.tracing, service, of_agent=self.inbound))
        if (plan.resolving or self.stranger is not None) and not self.resolve(plan):
            return
        if self._instance is not None:
            self.come_in(self._instance.encode("latin-1", "replace") or None)
            return
        self.retry = plan.retry
        self.go_out()

    def _leave(self) -> None:
        found = self.runtime.foreign.find(self.request.host, is_named(self), self.reactor.now)
        if isinstance(found, Refusal):
            self.refuse(Refuse(found))
        else:
            self.decisions.append(story.leaves(self.request.host))

    def as_answer(self) -> dict[str, Any]:
        """For control."""
        endpoint = self.endpoint if self.status is None else None
        told: dict[str, Any] = {"decisions": self.decisions, "endpoint": None, "status": self.status}
        if endpoint is None or self.is_here(endpoint):
            plan = self.target.plan if self.target is not None else self.plan
            told["record"] = foretold(plan, self._refused, self.status)
        if endpoint is not None:
            told["endpoint"] = story.picked(endpoint)
            if endpoint.via and not endpoint.expected:
                told["hop"] = self._hop(endpoint)
        return told

    def _hop(self, endpoint: Endpoint) -> Explain:
        """What the endpoint's agent would be asked, to go on from there."""
        request, forward = self.request, self.forward
        tls = wanted_of(self.target, endpoint, self.stranger)
        proven = proven_caller(self.runtime, endpoint, self.caller, tls)
        target = request.target.decode("latin-1")
        if forward is not None and forward.target is not None:
            target = forward.target
        sent = request_fields(request, forward)
        if self.told is not None:
            sent, target = self.told.fields(sent), self.told.target(target.encode("latin-1")).decode("latin-1")
        lines = [line.decode("latin-1").rstrip("\r\n") for line in sent]
        fields = [[name, value.strip()] for name, _, value in (line.partition(":") for line in lines)]
        host = next((value for name, value in fields if name.lower() == "host"), "")
        return Explain(
            url=f"http://{host}{target}",
            method=request.method.decode(),
            caller=(self.caller if proven is None else proven) if self.stranger is None else self.stranger.id,
            gateway="" if self.stranger is None else self.stranger.gateway,
            address=self.vouched,
            plain=proven is None,
            headers=[field for field in fields if field[0].lower() != "host"],
            inbound=f"{endpoint.service}/{endpoint.id}",
            claims=self.assumed,
            shows_claims=self.operated,
            seed=self._seed,
        )

    def begin_line(self) -> bytes:
        """That of the next request; of a seed, what is drawn for it."""
        return self.runtime.spans.next_begun() if self._seed is None else prepared(self._rng)[0]

    def ask(self, phase: Phase) -> Verdict | None:
        """Peek. What is only watched draws what that draws which is in force."""
        self._draw_for(f"{phase.kind} {phase.state.name}")
        return phase.peek(self)

    def take_over(self, forward: Forward) -> Forward:
        """Drawn for itself."""
        self._draw_for("others")
        return super().take_over(forward)

    def come_in(self, wanted: bytes | None) -> None:
        """Of this host's instances, where none is named."""
        self._draw_for("inbound")
        super().come_in(wanted)

    def try_next(self) -> None:
        """Each try is drawn for itself."""
        target = self.target
        self._draw_for(f"balance {target.name if target is not None else ''} {self._attempts}")
        super().try_next()

    def consult(self, consult: Consult) -> bool:
        """Not on the way."""
        self.missing = consult
        return False

    def consult_aside(self, phase: Phase, done: Verdict | None, consult: Consult) -> bool:
        """Neither."""
        self.missing = self.missing or consult
        return False

    def count(self, phase: Phase, verdict: Verdict) -> None:
        """Nothing."""

    def count_audit(self, phase: Phase, done: Verdict | None, verdict: Verdict | None) -> None:
        """Nothing."""

    def count_way(self, outcome: str) -> None:
        """Nothing."""

    def wait(self, delay_s: float) -> bool:
        """Not at all."""
        return False

    def enter(self, endpoint: Endpoint, circuit: Circuit, now: float) -> str:
        """Peek; what it draws is no part of what is drawn for the pick."""
        picking = self._rng
        self._draw_for(f"breaker {endpoint.id}")
        try:
            return circuit.peek(now, self.rng, 0)
        finally:
            self._rng = picking

    def let_go(self) -> None:
        """Nothing was taken."""
        self.held = None
        self.gated = False

    def part(self) -> None:
        """Nothing was entered."""
        self.entered = None

    def copy(self, copies: Copies) -> None:
        """It was told."""

    def depart(self, plan: Plan, balancer: Balancer) -> None:
        """With everybody's turn as it was."""
        turns = balancer.mark()
        if self._seed is not None:
            balancer.forget_turns()
        self._budget = plan.budget.copy()
        self._budget.deposit(self.started)
        try:
            self.try_next()
        finally:
            balancer.reset(turns)
            while self._refusing:
                load, until = self._refusing.pop()
                load.refused_until = until

    def send(self, endpoint: Endpoint) -> None:
        """It would be; unless it may not in plain text, or the agent before it is known to refuse it."""
        self._attempts += 1
        tls = wanted_of(self.target, endpoint, self.stranger)
        if tls is not None and (tls.origin is not None or not self.inbound):
            found = lane_to(self.runtime, endpoint, self.caller, tls)
            if isinstance(found, str):
                self._on_unsafe(endpoint, unsafe(endpoint, found, tls))
                return
        reason = self._shed.get(f"{endpoint.service}/{endpoint.id}")
        if reason is not None and not self.inbound:
            self.elsewhere(reason)

    def _on_unsafe(self, endpoint: Endpoint, reason: str) -> None:
        """It would not be sent there: another endpoint would be tried, as after any connection that cannot be made."""
        plan, now = self.plan, self.reactor.now
        assert plan is not None
        if self.inbound:
            self.refuse(Refuse(Refusal(503, "tls", reason, 1, unsent=True)))
            return
        load = endpoint.load
        self._refusing.append((load, load.refused_until))
        load.refused_until = now + REFUSED_S
        self._draw_for(f"retry {self._attempts}")
        counting = self.entered.state.circuit if self.entered is not None and not self._counts_retry else None
        found = retrying.decide(
            self.retry,
            method=self.request.method.decode(),
            attempts=self._attempts,
            failure=Failure.CONNECT,
            status=None,
            sent=False,
            replayable=self.can_repeat,
            budget=self._budget,
            now=now,
            rng=self.rng,
            breaker_free=counting is None or counting.retry_is_free,
        )
        self.decisions.append(story.retried(plan.policies, Failure.CONNECT, reason, found))
        if isinstance(found, Enough):
            self.refuse(Refuse(Refusal(503, "tls", f"{reason}; {found.reason}", 1, unsent=True)))
            return
        self._counts_retry = self._counts_retry or counting is not None
        if found.elsewhere:
            self.detours.tried.append(endpoint)
        self.try_next()

    def refuse(self, refuse: Refuse) -> None:
        """This would be the answer."""
        self._refused = refuse
        refusal: Refusal = refuse.refusal
        policies: story.Policies = self.plan.policies if self.plan is not None else {}
        self.decisions.append(story.refused(policies, refusal, refuse.by))
        self.status = refusal.status

    def answer_directly(self, action: Redirect | Respond) -> None:
        """This would be the answer."""
        self.status = action.status

    def store(self, way: Store) -> bool:
        """It would be, if it may."""
        if not self.runtime.stores.takes(self.request, way) or self.plan is None or self.stranger is not None:
            return False
        self.decisions.append(story.stored(self.plan.policies, "", way.url))
        self.status = 202
        return True

    @property
    def can_repeat(self) -> bool:
        """There is no body that could be too large."""
        return True
