# mypyc: compiled
"""Phases are asked about a request as it walks its way, and what they say is done; or only told, by `explain`.

Laws
- One method asks phases, tells of them, and has them counted (`meet`).
- Of a document that is only watched nothing is done, whatever it says. It is asked right behind what is in force, of
  which nothing has been done yet: both judge the same request.

Whose token a request has (`Known`):

- A claim is one service's. What the documents of the service that was asked for have verified holds for its own other
  documents (limits, faults, routes, copies); where the request goes to another, that one's documents verify anew, and
  where there are none, no claim holds.
- The agent beside the instance believes no other: it verifies with the documents of the instance's service, and what an
  instance is told of people is what it has verified.
- What only the mesh says is taken out of a head before anything of the service's documents looks at it.
- The token goes with a request to where it has to be verified. Past that, and to where nobody verifies it, it goes only
  if every document says so that has anything to say.
"""

from __future__ import annotations

from agent.proxy.engine.reactor import Reactor
from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.presented import Introduction
from agent.proxy.phases.phase import ATTEMPT, Both, Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Consult, Copies, Refuse, Verdict
from agent.proxy.report import story
from agent.proxy.report.story import Explained
from agent.proxy.runtime import Runtime
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.decision import Forward, Limits, Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.shed.decide import Store


class Detours:
    """What has come of a request that did not go straight; most have none."""

    __slots__ = ("fallbacks", "tried", "ways")

    def __init__(self) -> None:
        self.tried: list[Endpoint] = []
        """Endpoints that are not to be picked again."""
        self.fallbacks = 0
        self.ways = 0
        """Ways out of an overload that were looked at."""


class Hands(Subject):
    """Of a walk."""

    __slots__ = ("_at", "entered", "explained", "held", "row")

    def __init__(self, request: RequestHead, reactor: Reactor) -> None:
        super().__init__(request, reactor)
        self.entered: Phase | None = None
        """A breaker that counts the request."""
        self.held: Phase | None = None
        """An inbound phase that counts the attempt about to be made."""
        self.explained: Explained | None = None
        self.row: tuple[Phase, ...] = ()
        """The inbound phases that it goes past,"""
        self._at = 0
        """and the next of them."""

    def pass_by(self, row: tuple[Phase, ...]) -> bool:
        """Past phases that judge the path that the instance is sent; False: no further."""
        self.row, self._at = row, 0
        return self.pass_on()

    def pass_on(self) -> bool:
        """From the one where it stands."""
        while self._at < len(self.row):
            if not self.meet(self.row[self._at]):
                return False
            self._at += 1
        return True

    def meet(self, phase: Phase) -> bool:
        """Ask a phase, tell of it, count it, and do what it says: whether the request goes on."""
        if phase.audit:
            self._watch(phase, None)
            return True
        verdict = self.ask(phase)
        while isinstance(verdict, Consult):
            if not self.consult(verdict):
                return False
            verdict = self.ask(phase)
        if self.explained is not None:
            self.explained.append(phase.tell(self, verdict))
        if phase.beside is not None:
            self._watch(phase.beside, verdict)
        if verdict is None:
            if phase.holds:
                self._hold(phase)
            return True
        if phase.counts:
            self.count(phase, verdict)
        return self.carry_out(verdict)

    def _watch(self, phase: Phase, done: Verdict | None) -> None:
        """Ask a phase that acts on nothing. `done`: what the one that is in force says."""
        verdict = self.ask(phase)
        while isinstance(verdict, Consult):
            if not self.consult_aside(phase, done, verdict):
                return
            verdict = self.ask(phase)
        if self.explained is not None:
            self.explained.append(phase.tell(self, verdict))
        self.count_audit(phase, done, verdict)
        if verdict is None and phase.holds:
            self._hold(phase)

    def _hold(self, phase: Phase) -> None:
        """A phase counts what it has let pass."""
        if phase.holds == ATTEMPT:
            self.held = phase if self.held is None else Both(phase, self.held)
        else:
            self.entered = phase if self.entered is None else Both(phase, self.entered)

    def note_verdict(self, kind: str, what: str) -> None:
        """A phase had something to say: for its record, if it has one."""

    def note_rule(self, rule: str) -> None:
        """A route was taken: for its record."""

    def carry_out(self, verdict: Verdict) -> bool:
        """Do what a phase says; whether the request goes on."""
        raise NotImplementedError

    @property
    def inbound(self) -> bool:
        """Whether it comes in, to an instance of this host."""
        raise NotImplementedError

    def begin_line(self) -> bytes:
        """Of a trace that begins, as `SpanRing.begin` says it."""
        raise NotImplementedError

    def ask(self, phase: Phase) -> Verdict | None:
        """What a phase says."""
        raise NotImplementedError

    def consult(self, consult: Consult) -> bool:
        """Ask somebody whom a phase depends on: whether he has answered already; else the request waits here."""
        raise NotImplementedError

    def consult_aside(self, phase: Phase, done: Verdict | None, consult: Consult) -> bool:
        """The same for a phase that is only watched: the request goes on, and it is counted when the answer comes."""
        raise NotImplementedError

    def count(self, phase: Phase, verdict: Verdict) -> None:
        """It had something to say."""
        raise NotImplementedError

    def count_audit(self, phase: Phase, done: Verdict | None, verdict: Verdict | None) -> None:
        """What is only watched would have done something else, or the same."""
        raise NotImplementedError

    def count_way(self, outcome: str) -> None:
        """A way out was taken."""
        raise NotImplementedError

    def wait(self, delay_s: float) -> bool:
        """Go on in so long; False: at once."""
        raise NotImplementedError

    def enter(self, endpoint: Endpoint, circuit: Circuit, now: float) -> str:
        """Ask an endpoint's breaker: empty when it lets the request pass."""
        raise NotImplementedError

    def retime(self, limits: Limits) -> None:
        """A rule has times of its own."""

    def let_go(self) -> None:
        """What counts on an attempt that is not made after all does so no longer."""
        raise NotImplementedError

    def part(self) -> None:
        """What comes of it says nothing of the service whose breaker let it pass."""
        raise NotImplementedError

    def copy(self, copies: Copies) -> None:
        """Send copies along."""
        raise NotImplementedError

    def begin_session(self, balancer: Balancer, endpoint: Endpoint) -> None:
        """The client's further requests belong to this endpoint."""

    def depart(self, plan: Plan, balancer: Balancer) -> None:
        """Its way is decided: to one of the balancer's endpoints."""
        raise NotImplementedError

    def send(self, endpoint: Endpoint) -> None:
        """To an endpoint that nothing speaks against."""
        raise NotImplementedError

    def waits_for_record(self, plan: Plan) -> bool:
        """Whether it goes on only when its audit record is on disk; or was refused, since there is none."""
        return False

    def refuse(self, refuse: Refuse) -> None:
        """Answer in the mesh's own name."""
        raise NotImplementedError

    def answer_directly(self, action: Redirect | Respond) -> None:
        """Answer as a route says."""
        raise NotImplementedError

    def store(self, way: Store) -> bool:
        """Store it, if it is one that may be."""
        raise NotImplementedError

    @property
    def can_repeat(self) -> bool:
        """Whether all of the request is there to be sent again."""
        raise NotImplementedError


class Known(Hands):
    """Between whom a request is, and what is known of its people there."""

    __slots__ = ("_asked_claims", "_known_to", "forward", "plan", "runtime", "service", "target", "told")

    def __init__(self, runtime: Runtime, request: RequestHead) -> None:
        super().__init__(request, runtime.reactor)
        self.runtime = runtime
        self.service: Service | None = None
        self.plan: Plan | None = None
        """Of the service that was asked for; read once."""
        self.target: Service | None = None
        """The service whose endpoints are tried: the request's own, or where its route leads."""
        self.forward: Forward | None = None
        self.told: Introduction | None = None
        """What the endpoint is told of people that is picked; None: what the request itself says."""
        self._known_to: Service | None = None
        """Whose documents have verified the claims."""
        self._asked_claims: dict[str, str] | None = None
        """Those that hold for the service that was asked for."""

    def know(self, service: Service, plan: Plan) -> bool:
        """Whose token it has, by the documents of the service that was asked for; False: it was answered."""
        self._known_to = service
        if self.explained is not None:
            self.explained.extend(story.unknown(plan.policies, service.name, bool(plan.knowing), self.supposed))
        if not plan.knowing:
            return True
        self.disbelieve(plan)
        if not all(self.meet(phase) for phase in plan.knowing):
            return False
        self._asked_claims = self.claims
        return True

    def know_anew(self, service: Service) -> bool:
        """The same, by those of the service that it goes to, which sees what a route has made of it."""
        if service is self._known_to:
            return True
        plan = service.plan
        self._known_to = service
        self.bear(None)
        self.disbelieve(plan)
        if not plan.knowing:
            return True
        self.see_rewritten()
        passes = all(self.meet(phase) for phase in plan.knowing)
        self.forget_view()
        return passes

    def disbelieve(self, plan: Plan) -> None:
        """Take out what only the mesh says to a service."""
        self.hide(plan)
        if plan.presented is not None:
            plan.presented.strip(self.request)

    def hide(self, plan: Plan) -> None:
        """Have no policy see it, whatever a route makes of the request."""
        presented = plan.presented
        self.hidden = presented.names if presented is not None and presented.names else None

    def as_asked(self) -> dict[str, str] | None:
        """Have those claims hold that documents of the service have verified that was asked for; returns those that
        held."""
        held = self.claims
        self.bear(self._asked_claims)
        return held

    def begin_inbound(self, plan: Plan) -> None:
        """Before the phases of the agent beside an instance: nobody is known there."""
        self.disbelieve(plan)
        self.see_rewritten()
        self.bear(None)

    def supposes_known(self, service: Service) -> bool:
        """Whether a service's documents let pass whose token it has: nobody asked for that one, and a copy may go
        there. Its claims hold then. Counts nothing."""
        self.bear(None)
        knowing = service.plan.knowing
        if not knowing:
            return True
        if service is not self.service:
            self.see_rewritten()
        found = all(phase.peek(self) is None for phase in knowing)
        self.forget_view()
        return found

    def would_let_in(self, service: Service, endpoint: Endpoint) -> bool:
        """Whether its guards let a copy pass, to an instance of this host; of others' instances their agents ask."""
        if not service.plan.guards or not self.is_here(endpoint):
            return True
        self.hide(service.plan)
        self.see_rewritten()
        self.bear(None)
        verdict = service.plan.keeps_out(self)
        self.forget_view()
        if isinstance(verdict, Consult):  # a copy waits for nobody; the next one will find the answer
            self.runtime.judges.ask(verdict.judge, verdict.asked, None)
        return verdict is None

    def present(self, endpoint: Endpoint) -> None:
        """Make ready what an endpoint of the target is told of people, whose claims hold by now."""
        target, plan = self.target, self.plan
        assert target is not None and plan is not None
        if plan.presented is None and target.plan.presented is None:
            self.told = None
        else:
            self.told = self.telling(plan, target.plan, endpoint)

    def telling(self, asked: Plan, plan: Plan, endpoint: Endpoint) -> Introduction | None:
        """What an endpoint of some service is told, of a request to the service whose plan is `asked`."""
        presented = plan.presented
        if presented is None:
            before = asked.presented
            return before.told(None) if before is not None and before.removes else None
        if self.is_here(endpoint):
            return presented.told(self.claims)
        return presented.told(None) if endpoint.expected and presented.removes else None

    def introduction(self) -> Introduction | None:
        """What becomes of its token where it is kept, for whoever reads that."""
        presented = self.plan.presented if self.plan is not None else None
        return presented.told(None) if presented is not None else None

    def trailing(self, trailers: list[bytes]) -> list[bytes]:
        """Behind its body, less what only the mesh says."""
        for service in (self.service, self.target):
            presented = service.plan.presented if service is not None else None
            if trailers and presented is not None:
                trailers = presented.without(trailers)
        return trailers

    def is_secret(self, header: str) -> bool:
        """Whether a header, in lower case, has what proves who calls, and may not be written down."""
        for service in (self.service, self.target):
            presented = service.plan.presented if service is not None else None
            if presented is not None and header in presented.secrets:
                return True
        return False

    def recorded_target(self) -> bytes:
        """Path and query, as they may be written down."""
        found = self.request.target
        for service in (self.service, self.target):
            presented = service.plan.presented if service is not None else None
            if presented is not None:
                found = presented.recorded(found)
        return found

    def see_rewritten(self) -> None:
        """Have phases see the request as the instance does, where its route has rewritten it."""
        forward = self.forward
        if forward is not None and (
            forward.target is not None or forward.request_headers is not None or forward.host is not None
        ):
            self.see_as(forward)

    def is_here(self, endpoint: Endpoint) -> bool:
        """Whether no other agent stands before an instance."""
        return not endpoint.via and (not endpoint.agent or endpoint.agent == self.runtime.table.host)
