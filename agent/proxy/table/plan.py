# mypyc: compiled
"""The compiled answer for one service: what is not configured is not in it, and costs nothing.

The order of a request's way is the order of these rows, and stands nowhere else; within a row it is that of the
catalogue.

    leaving     of the service that calls, and nothing else  egress, where no service of the mesh is asked for
    paths       of the service that is asked for, and of     path
                the one that it leads to, before all others
    outbound    of the service that is asked for             guards of the caller's side, ratelimit, fault, route
    towards     of the service that this leads to            breaker
    departing   of the service that was asked for            shadow
    inbound     of the instance's, by the agent beside it    ratelimit, guards of the callee's side, shed

In between an endpoint is picked (balance), and after it tried (timeout, retry, outlier). A policy that guards, and that
nobody knows the content of, stands in its row like any other, and lets nothing pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent.proxy.phases.breakers import Breakers
from agent.proxy.phases.closed import Closed, Shut
from agent.proxy.phases.copies import Copying
from agent.proxy.phases.faults import Faults
from agent.proxy.phases.guards import Guards
from agent.proxy.phases.limits import Limits
from agent.proxy.phases.paths import Paths
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.routes import Routes
from agent.proxy.phases.sheds import Sheds
from agent.proxy.report.story import InForce, Policies
from agent.proxy.table.lasting import Lasting
from policies.catalogue import KINDS
from policies.decision import Guard, Subset
from policies.endpoint import Endpoint
from policies.kind import Kind, Scope, Side
from policies.kinds.balance import decide as balance
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.decide import Balancer, asked_entries
from policies.kinds.balance.document import Balance
from policies.kinds.balance.entries import UNBOUNDED, Entries
from policies.kinds.breaker import decide as breaker
from policies.kinds.breaker.document import Breaker
from policies.kinds.fault import decide as fault
from policies.kinds.fault.document import FaultPolicy
from policies.kinds.outlier import decide as outlier
from policies.kinds.outlier import ejector
from policies.kinds.outlier.document import Outlier
from policies.kinds.path import decide as path
from policies.kinds.path.document import PathPolicy
from policies.kinds.ratelimit import decide as ratelimit
from policies.kinds.ratelimit.document import RateLimit
from policies.kinds.retry import decide as retry
from policies.kinds.retry.document import Retry
from policies.kinds.route import decide as route
from policies.kinds.route.document import Route
from policies.kinds.shadow import decide as shadow
from policies.kinds.shadow.document import Shadow
from policies.kinds.shed import decide as shed
from policies.kinds.shed.document import Shed
from policies.kinds.timeout import decide as timeout
from policies.kinds.timeout.document import Timeout
from policies.language.document import Document

# Kinds that this page knows by name. Any other that requests meet is a guard (policies.decision.Guard).
_KNOWN: Final = frozenset(
    ("path", "ratelimit", "fault", "route", "timeout", "breaker", "outlier", "shed", "balance", "retry", "shadow")
)
GUARDS: Final = tuple([kind for kind in KINDS if kind.side is not Side.ASIDE and kind.name not in _KNOWN])


class Ejection:
    """The figures of an `outlier` document, and whether they are only watched."""

    __slots__ = ("audit", "rules")

    def __init__(self, rules: ejector.Figures, audit: bool) -> None:
        self.rules = rules
        self.audit = audit


class Plan:
    """Never changes; a change is a new one."""

    __slots__ = (
        "_balance",
        "_entries",
        "_groups",
        "_states",
        "_zone",
        "asked",
        "balancer",
        "bounds_whole_request",
        "breaker",
        "budget",
        "departing",
        "endpoints",
        "inbound",
        "keeping_out",
        "leaving",
        "limits",
        "local",
        "outbound",
        "outlier",
        "paths",
        "policies",
        "retry",
        "revision",
        "route",
        "service",
        "shadow",
        "shed",
        "timeouts",
        "towards",
    )

    def __init__(
        self,
        state: Lasting,
        revision: int,
        endpoints: Sequence[Endpoint],
        policies: Policies,
        *,
        host: str,
        zone: str,
        share: float,
        entries: Entries = UNBOUNDED,
        compiled: Compiled | None = None,
        closed: Sequence[Closed] = (),
        before: Plan | None = None,
    ) -> None:
        """`compiled`: what came of documents for patterns, which are the same for all their services.

        `closed`: policies that nobody knows the content of, and that let nothing pass until somebody does.
        `before`: of the same policies, which are not compiled again.
        """
        compiled = Compiled() if compiled is None else compiled
        self.service = state.name
        self.revision = revision
        self.endpoints = tuple(endpoints)
        self.policies = policies
        self.local = {e.id: e for e in endpoints if e.agent == host}
        self.budget = state.budget
        self._zone = zone
        self._states = state.states
        self._balance: Balance | None = _enforced(policies, "balance", Balance)
        self._entries = entries
        self.asked = asked_entries(self._balance) if self._balance is not None and endpoints else 0
        """How many entries its ring or table asks for."""
        if before is None:
            for each in state.states.values():
                each.forget_drawn()
        self._groups: dict[Subset | None, Balancer] = {}
        self.balancer = self.group(None)
        if before is not None:
            self._take_over(before)
            return
        self._compile_phases(state, policies, share, compiled, closed)
        self.outlier: Ejection | None = None
        rules = _asked(policies, "outlier", Outlier)
        if rules is not None:
            self.outlier = Ejection(
                compiled.once("outlier", policies, outlier.compile), policies["outlier"].mode == "audit"
            )
        self.keeping_out = self._keeping_out()
        """Which policies keep endpoints out, as bits: when one of them goes, those that are out come in at once."""
        times: Timeout | None = _enforced(policies, "timeout", Timeout)
        self.timeouts = timeout.compile(times)
        self.bounds_whole_request = times is not None and times.request is not None
        self.retry = retry.compile(_enforced(policies, "retry", Retry))
        state.budget.configure(self.retry)

    def _compile_phases(
        self, state: Lasting, policies: Policies, share: float, compiled: Compiled, closed: Sequence[Closed]
    ) -> None:
        once = compiled.once
        met: dict[str, Phase] = {}
        self.paths = _paths(state, policies, once)
        self.limits: ratelimit.Sides | None = None
        guarding: Phase | None = None
        if _asked(policies, "ratelimit", RateLimit) is not None:
            self.limits = limits = once("ratelimit", policies, ratelimit.compile)
            if limits.caller.limits or not limits.service.limits:
                met["ratelimit"] = Limits(state, policies["ratelimit"], limits.caller)
            if limits.service.limits:
                guarding = Limits(state, policies["ratelimit"], limits.service)
        self.breaker: Breakers | None = None
        if _asked(policies, "breaker", Breaker) is not None:
            self.breaker = Breakers(state, policies["breaker"], once("breaker", policies, breaker.compile))
        if _asked(policies, "fault", FaultPolicy) is not None:
            met["fault"] = Faults(state, policies["fault"], once("fault", policies, fault.compile))
        self.route: Routes | None = None
        routing = _asked(policies, "route", Route)
        if routing is not None:
            asked = None if route.is_drawn(routing) else once("route", policies, route.predicates)
            found = route.compile(routing, Scope(state.name), asked)
            met["route"] = self.route = Routes(state, policies["route"], found)
        copied = _asked(policies, "shadow", Shadow)
        self.shadow = Copying(state, policies["shadow"], shadow.compile(copied, Scope(state.name))) if copied else None
        self.shed: Sheds | None = None
        let_in = _asked(policies, "shed", Shed)
        part = share if state.together is None else 1.0
        if let_in is not None:
            met["shed"] = self.shed = Sheds(state, policies["shed"], shed.compile(let_in, Scope(state.name, part)))
        for kind in GUARDS:
            if kind.name in policies:
                scope = Scope(state.name, share)
                met[kind.name] = Guards(
                    kind.name, state, policies[kind.name], _guard(kind, policies[kind.name].document, scope)
                )
        for each in closed:
            met[each.kind] = Shut(state, each)
            if each.kind == "ratelimit":
                guarding = met[each.kind]
        whole = self.breaker if self.breaker is not None and self.breaker.compiled.service is not None else None
        self.leaving = _in_order(met, Side.LEAVING)
        self.outbound = _in_order(met, Side.CALLER)
        self.towards = _configured(whole)
        self.departing = _configured(self.shadow)
        self.inbound = _configured(guarding) + _in_order(met, Side.CALLEE)

    def _keeping_out(self) -> int:
        ejects = self.outlier is not None and not self.outlier.audit
        breaks = self.breaker is not None and not self.breaker.audit and self.breaker.compiled.endpoint is not None
        return (1 if ejects else 0) | (2 if breaks else 0)

    def _take_over(self, before: Plan) -> None:
        """All that follows from policies alone."""
        self.paths, self.leaving = before.paths, before.leaving
        self.outbound, self.towards = before.outbound, before.towards
        self.departing, self.inbound = before.departing, before.inbound
        self.limits, self.breaker, self.route = before.limits, before.breaker, before.route
        self.shadow, self.shed, self.outlier = before.shadow, before.shed, before.outlier
        self.keeping_out = before.keeping_out
        self.timeouts, self.bounds_whole_request = before.timeouts, before.bounds_whole_request
        self.retry = before.retry

    def group(self, subset: Subset | None) -> Balancer:
        """The balancer over a subset of the endpoints; made when first asked for."""
        balancer = self._groups.get(subset)
        if balancer is None:
            state = self._states.get(subset)
            if state is None:
                state = self._states[subset] = BalanceState()
            chosen = self.endpoints if subset is None else [e for e in self.endpoints if subset.selects(e)]
            part = len(chosen) / max(1, len(self.endpoints))
            balancer = balance.make(
                self._balance, chosen, zone=self._zone, state=state, entries=self._entries, part=part
            )
            self._groups[subset] = balancer
        return balancer

    def forget_entries(self) -> None:
        """Rings and tables get another number of entries, at their next pick."""
        if self.asked:
            for balancer in self._groups.values():
                balancer.forget()


class Compiled:
    """What came of documents for patterns: one of them may come with a thousand services."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[Document, Any]] = {}

    def once(self, kind: str, policies: Policies, make: Callable[[Any], Any]) -> Any:
        """A document compiled; the same one when it was compiled before. Never changed by those who use it."""
        policy = policies[kind]
        if "*" not in policy.key:
            return make(policy.document)
        known = self._made.get((kind, policy.key))
        if known is None or known[0] is not policy.document:
            known = self._made[kind, policy.key] = (policy.document, make(policy.document))
        return known[1]


def _paths(state: Lasting, policies: Policies, once: Callable[[str, Policies, Any], Any]) -> tuple[Paths, ...]:
    """What is in force, and before it what is only watched: that sees paths as they were sent."""
    document = _asked(policies, "path", PathPolicy)
    found = Paths(state, policies["path"], once("path", policies, path.compile)) if document is not None else None
    if found is not None and not found.audit:
        return (found,)
    default = Paths(state, None, path.compile(None))
    return (default,) if found is None else (found, default)


def _guard(kind: Kind, document: Document, scope: Scope) -> Guard:
    make = kind.compile
    assert make is not None, f"policies/kinds/{kind.name}/decide.py makes nothing that could be asked"
    found: Guard = make(document, scope)
    return found


def _in_order(met: Mapping[str, Phase], side: Side) -> tuple[Phase, ...]:
    """As in the catalogue."""
    if not met:
        return ()
    return tuple([met[kind.name] for kind in KINDS if kind.side is side and kind.name in met])


def _configured(*phases: Phase | None) -> tuple[Phase, ...]:
    return tuple([phase for phase in phases if phase is not None])


def _enforced(policies: Policies, name: str, kind: type[Any]) -> Any:
    policy: InForce | None = policies.get(name)
    return None if policy is None or policy.mode == "audit" else _asked(policies, name, kind)


def _asked(policies: Policies, name: str, kind: type[Any]) -> Any:
    """The document of a kind that is asked about requests, if there is one, also where it is only watched."""
    policy: InForce | None = policies.get(name)
    return policy.document if policy is not None and isinstance(policy.document, kind) else None
