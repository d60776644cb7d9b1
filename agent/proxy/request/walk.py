# mypyc: compiled
"""The way of a request, from one decision to the next. The only place that asks phases, tells of them, has them
counted, and does what they say: requests and `explain` walk it alike, so that an explanation cannot be another story.

    both       whether the service is there at all, for who calls
               ─▶ what place the path is taken for: all that follows judges that one, and it is what is sent
    outbound   whose token it has ─▶ the phases of the service that was asked for ─▶ where that leads ─▶ its phases
               ─▶ an endpoint is picked ─▶ where it is on this host: inbound phases ─▶ send
    inbound    the instance that the calling agent picked ─▶ inbound phases ─▶ send

What a request and an explanation do differently are the methods of `hands`: an exchange asks phases for good, counts,
answers and sends; an explanation peeks, and tells.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.verdict import Copies, FallBack, Hold, Refuse, Settle, TurnAway, Verdict
from agent.proxy.proof.securing import tell, wanted_of
from agent.proxy.report import story
from agent.proxy.request.hands import Detours, Known
from agent.proxy.runtime import Runtime
from agent.proxy.table.places import Places, takes_over
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.decision import Decision, Forward, Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.retry import decide as retrying
from policies.kinds.shed.decide import Store
from policies.language.normal_path import is_plain

MAX_FALLBACKS: Final = 3
"""Fallbacks of fallbacks that a request may go through."""
PASS_OVER: Final = 16
"""Endpoints that something speaks against, until one is tried all the same."""
MARK: Final = b"x-shoal-shed: 1\r\n"

_DEFAULT_RETRY: Final = retrying.compile(None)
_NONE: Final[list[Endpoint]] = []
_NO_POLICIES: Final[dict[str, story.InForce]] = {}


class Walk(Known):
    """One request's way."""

    __slots__ = ("_detours", "_next", "balancer", "endpoint", "gated", "hold", "retry", "rule")

    def __init__(self, runtime: Runtime, request: RequestHead) -> None:
        super().__init__(runtime, request)
        self.balancer: Balancer | None = None
        self.endpoint: Endpoint | None = None
        """The last that was picked."""
        self.retry = _DEFAULT_RETRY
        self.rule = ""
        """The route's that was taken."""
        self.gated = False
        """Whether the picked endpoint's breaker counts the attempt about to be made."""
        self.hold: Hold | None = None
        """How it is held up on purpose, before it goes on and while it is answered."""
        self._next = 0
        """Of the outbound phases; one more than there are: it has departed."""
        self._detours: Detours | None = None

    # What phases say.

    def carry_out(self, verdict: Verdict) -> bool:
        """Do it; False: the request goes on no further from here, for it was answered, waits, or took another way."""
        if isinstance(verdict, Decision):
            self.rule = verdict.rule
            if self.runtime.recorder.wanted:
                self.note_rule(verdict.rule)
            return self._follow(verdict.action)
        if isinstance(verdict, Refuse):
            self.let_go()
            self.refuse(verdict)
        elif isinstance(verdict, Hold):
            self.hold = verdict
            if verdict.delay_s <= 0 or not self.wait(verdict.delay_s):
                return self._past_wait()
        elif isinstance(verdict, FallBack):
            self._fall_back(verdict)
        elif isinstance(verdict, TurnAway):
            self.let_go()
            self._turn_away(verdict)
        elif isinstance(verdict, Settle):
            self.request.target, self.request.place = verdict.target, verdict.place
            self.forget_view()
            return True
        elif isinstance(verdict, Copies):
            self.copy(verdict)
            return True
        return False

    def resolve(self, plan: Plan) -> bool:
        """Whether there is such a service, for whoever calls; False: it was answered that there is none."""
        stranger = self.stranger
        if stranger is not None and not plan.is_exported(stranger):
            reason = f"{plan.service} is not exported by way of {stranger.gateway or 'who hands it on'}"
            self.refuse(Refuse(Refusal(421, "export", reason, unsent=True)))
            return False
        return all(self.meet(phase) for phase in plan.resolving)

    def say(self, refuse: Refuse) -> Refusal:
        """Tell of an answer of the mesh's own; returns what the client is told."""
        said = refuse.said
        refusal = refuse.refusal if said is None else said
        if self.stranger is not None and (said is None or said.status == 404):
            refusal = story.outside(refusal, hidden=said is not None)
        if self.explained is not None:
            policies: story.Policies = _NO_POLICIES
            if refuse.said is not None:
                self.explained = []
            elif self.plan is not None:
                policies = self.plan.policies
            self.explained.append(story.refused(policies, refusal, refuse.by if refuse.said is None else None))
        return refusal

    def settle(self, plan: Plan) -> bool:
        """Take the path for what a service's policy says that it is; False: it is none that may be asked for."""
        if not is_plain(self.request.target):
            for phase in plan.paths:
                if not self.meet(phase):
                    return False
        return True

    def _follow(self, action: Forward | Redirect | Respond) -> bool:
        if not isinstance(action, Forward):
            self.answer_directly(action)
            return False
        self.forward = self.take_over(action) if action.others is not None else action
        if action.retry is not None:
            self.retry = action.retry
        if action.limits is not None:
            self.retime(action.limits)
        return True

    def take_over(self, forward: Forward) -> Forward:
        """To the others, where nobody there can serve its share."""
        service, plan = self.service, self.plan
        assert service is not None and plan is not None
        found = Places(self.runtime.table, service, self).instead(forward, self.view, self.rng)
        if found is None:
            return forward
        if self.explained is not None:
            self.explained.append(story.taken_over(plan.policies, service.name, forward, found, plan.presented))
        assert isinstance(found.action, Forward)
        return found.action

    def _past_wait(self) -> bool:
        then = self.hold.then if self.hold is not None else None
        return then is None or self.carry_out(then)

    # Outbound.

    def go_out(self) -> None:
        """To one of the service's instances, or to an answer of the mesh's own; from the phase where it stands."""
        service, plan = self.service, self.plan
        assert service is not None and plan is not None
        if self.explained is not None and not self._next:
            self.explained.append(
                story.found(plan.policies, service.name, len(plan.endpoints), self.runtime.table.revision)
            )
        if not self._next and not (self.settle(plan) and self.know(service, plan)):
            return
        phases = plan.outbound
        while self._next < len(phases):
            phase = phases[self._next]
            self._next += 1
            if not self.meet(phase):
                return
        self._direct()

    def go_on(self) -> None:
        """After a wait."""
        if self._past_wait():
            self.go_out()

    def _direct(self) -> None:
        """To the service that the route's decision leads to (None: the request's own), if its breaker allows it."""
        service, plan, forward = self.service, self.plan, self.forward
        assert service is not None and plan is not None
        target = service
        if forward is not None:
            found = self.runtime.table.target(service, forward, self)
            if isinstance(found, Refusal):
                self.refuse(Refuse(found))
                return
            target = found
            if target is not service and forward.target is None and not self.settle(target.plan):
                return
        if not self.know_anew(target) or not self._set_out(target.plan):
            return
        self.target = target
        balancer = target.plan.balancer if forward is None else target.plan.group(forward.subset)
        self.balancer = balancer
        if self._next <= len(plan.outbound):
            self._next = len(plan.outbound) + 1
            if plan.departing:
                held = self.as_asked()
                if not all(self.meet(phase) for phase in plan.departing):
                    return
                self.bear(held)
        if self.explained is not None:
            whole = plan.bounds_whole_request
            self.explained.extend(story.limits(plan.policies, plan.timeouts, self.retry, forward, whole=whole))
        self.depart(plan, balancer)

    def _set_out(self, plan: Plan) -> bool:
        """Past what is asked before anything goes to a service; False: no further."""
        for phase in plan.towards:
            if phase.sees_rewritten:
                self.see_rewritten()
                passes = self.meet(phase)
                self.forget_view()
                if not passes:
                    return False
            elif not self.meet(phase):
                return False
        return True

    def _fall_back(self, verdict: FallBack) -> None:
        self.part()
        detours = self.detours
        detours.fallbacks += 1
        if detours.fallbacks > MAX_FALLBACKS:
            reason = f"{verdict.reason}; and so on along its fallbacks"
            self.refuse(Refuse(Refusal(503, "breaker", reason, 1, unsent=True)))
            return
        way, before = verdict.forward, self.forward
        self._divert(way.service or (before.service if before is not None else None), way)

    def _divert(self, service: str | None, way: Forward) -> None:
        """To other instances, with what its route makes of it."""
        self.forward = msgspec.structs.replace(self.forward or way, service=service, subset=way.subset)
        self._direct()

    # Pick an endpoint.

    def try_next(self) -> None:
        """Pick an endpoint that was not tried yet, and deliver to it."""
        balancer, plan = self.balancer, self.plan
        assert balancer is not None and plan is not None
        now = self.reactor.now
        key, tried = self.key(balancer), self.tried
        endpoint = balancer.sticky_endpoint(self.view) if balancer.sticky and not tried else None
        sticky = endpoint is not None
        if endpoint is None:
            endpoint = balancer.pick(key, now, self.rng, tried)
            if endpoint is None:
                self.refuse(Refuse(story.no_endpoint(plan.service, self.forward)))
                return
            if balancer.sticky:
                self.begin_session(balancer, endpoint)
        refusing = not self.try_enter(endpoint, now)
        if refusing:
            picked = endpoint
            endpoint = self._passing_over(balancer, key, picked, now)
            refusing = endpoint is picked
            sticky = sticky and refusing
        if self.explained is not None:
            entry = story.balanced(plan.policies, balancer, endpoint, sticky=sticky, refusing=refusing)
            self.explained.append(entry)
        self.deliver(endpoint)

    def key(self, balancer: Balancer) -> int | None:
        """What says which endpoint it belongs to, where the balancer wants one."""
        if not balancer.needs_key:
            return None
        if self.forward is not None and self.forward.target is not None:
            self.forget_view()  # the instance's: a key is drawn from what was asked for
        return balancer.key(self.view)

    def try_enter(self, endpoint: Endpoint, now: float) -> bool:
        """Whether nothing speaks against an endpoint now; if so, its breaker counts on the request."""
        self.gated = False
        load = endpoint.load
        if load.refused_until > now:
            return False
        circuit = load.circuit
        if circuit is None:
            return True
        if not self.enter(endpoint, circuit, now):
            self.gated = True
            return True
        return False

    def _passing_over(self, balancer: Balancer, key: int | None, refusing: Endpoint, now: float) -> Endpoint:
        """Another endpoint than those that refused a connection a moment ago, were ejected, or whose breakers are open;
        the picked one when that goes for all.

        Without this a dead instance costs its whole share in retries until its health check notices, and on a busy
        service the retry budget is gone before that.
        """
        balancer.note_refusing(now)
        avoid = [*self.tried, refusing]
        for _ in range(PASS_OVER):
            other = balancer.pick(key, now, self.rng, avoid)
            if other is None or other in avoid:
                return refusing
            if self.try_enter(other, now):
                return other
            avoid.append(other)
        return refusing

    # Inbound: whoever calls, from this host or another.

    def come_in(self, wanted: bytes | None) -> None:
        """The instance that the calling agent picked; or any of this host's, for a caller without agent."""
        service, plan = self.service, self.plan
        assert service is not None and plan is not None
        table = self.runtime.table
        endpoint = table.local_endpoint(plan, wanted, self.reactor.now, self.rng)
        if isinstance(endpoint, Refusal):
            self.refuse(Refuse(endpoint))
            return
        self.target = target = table.services.get(endpoint.service) or service
        asks = target is not service and (target.plan.resolving or self.stranger is not None)
        if asks and not self.resolve(target.plan):
            return
        if self.settle(target.plan):
            self.deliver(endpoint)

    def deliver(self, endpoint: Endpoint) -> None:
        """Hand it on; past the inbound phases of its service, where the instance is one of this host's."""
        target = self.target
        assert target is not None
        self.endpoint = endpoint
        if target.plan.inbound and self.is_here(endpoint):
            self.begin_inbound(target.plan)
            if not self.pass_by(target.plan.inbound):
                return
        self._hand_over(target, endpoint)

    def _hand_over(self, target: Service, endpoint: Endpoint) -> None:
        self.present(endpoint)
        if self.explained is not None:
            self._tell_hop(target, endpoint)
        if target.plan.auditing is not None and self.waits_for_record(target.plan):
            return
        self.send(endpoint)

    def deliver_on(self) -> None:
        """After somebody was asked on whom a phase depends: from that phase on; by new ones, where there are any."""
        target, endpoint = self.target, self.endpoint
        assert target is not None and endpoint is not None
        if target.plan.inbound is not self.row:
            self.deliver(endpoint)
        elif self.pass_on():
            self._hand_over(target, endpoint)

    def _tell_hop(self, target: Service, endpoint: Endpoint) -> None:
        tls = wanted_of(target, endpoint, self.stranger)
        if endpoint.via or (tls is not None and (tls.origin is not None or not self.inbound)):
            assert self.explained is not None
            self.explained.append(tell(self.runtime, endpoint, self.caller, tls, target.plan.policies))

    def _turn_away(self, verdict: TurnAway) -> None:
        """It may not come in: tell the calling agent, or, where that is us, take a way out."""
        if self.inbound:
            self.refuse_shed(verdict.reason, verdict.retry_after_s)
        else:
            self.elsewhere(verdict.reason)

    # Ways out of an overload, at the caller's.

    def elsewhere(self, reason: str) -> None:
        """The next way out that leads somewhere, or the refusal."""
        plan, service = self.plan, self.service
        assert plan is not None and service is not None
        self.part()
        shed = plan.shed
        if shed is None:
            self.refuse_shed(reason, 1)
            return
        ways = shed.compiled.ways
        retry_after_s = shed.compiled.retry_after_s
        detours = self.detours
        while detours.ways < len(ways):
            way = ways[detours.ways]
            detours.ways += 1
            if isinstance(way, Store):
                if self.store(way):
                    return
            elif isinstance(way, Respond):
                self._tell_way(way, reason)
                self.count_way("answered")
                refusal = Refusal(way.status, "shed", reason, retry_after_s if way.status >= 500 else 0)
                self.refuse(Refuse(refusal, story.header_lines(way.headers), way.body or None))
                return
            elif self.can_repeat and takes_over(self.runtime.table, service, way, self):
                self._tell_way(way, reason)
                self.count_way("elsewhere")
                self._divert(way.service, way)
                return
        self.refuse_shed(reason, retry_after_s)

    def _tell_way(self, way: Forward | Respond, reason: str) -> None:
        if self.explained is not None and self.plan is not None:
            self.explained.append(story.way_out(self.plan.policies, way, reason))

    def refuse_shed(self, reason: str, retry_after_s: int) -> None:
        """Say that it is too much."""
        self.refuse(Refuse(Refusal(503, "shed", reason, retry_after_s), [MARK]))

    # What has been tried.

    @property
    def detours(self) -> Detours:
        """To be added to."""
        found = self._detours
        if found is None:
            found = self._detours = Detours()
        return found

    @property
    def tried(self) -> list[Endpoint]:
        """Endpoints that are not to be picked again."""
        return self._detours.tried if self._detours is not None else _NONE
