# mypyc: compiled
"""Phases are asked about a request as it walks its way, and what they say is done; or only told, by `explain`.

Laws
- One method asks phases, tells of them, and has them counted (`meet`).
- Of a document that is only watched nothing is done, whatever it says. It is asked right behind what is in force, of
  which nothing has been done yet: both judge the same request.
"""

from __future__ import annotations

from agent.proxy.engine.reactor import Reactor
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.phase import ATTEMPT, Both, Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Consult, Copies, Refuse, Verdict
from agent.proxy.report.story import Explained
from agent.proxy.table.plan import Plan
from policies.decision import Limits, Redirect, Respond
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

    def carry_out(self, verdict: Verdict) -> bool:
        """Do what a phase says; whether the request goes on."""
        raise NotImplementedError

    @property
    def inbound(self) -> bool:
        """Whether it comes in, to an instance of this host."""
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
