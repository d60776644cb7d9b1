# mypyc: compiled
"""What a worker consults: for each service one compiled plan, swapped by one assignment.

Laws
- A request reads its plan once. Plans never change; a change is a new plan.
- What was learnt about a service and its endpoints (loads, budgets, positions, counters) lives in Service, beside the
  plans, and survives them.
- Plans are compiled as their frames come in and swapped together at the commit: a revision is applied whole, and the
  swap itself does no work.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from agent.frames import EndpointFrame, PolicyFrame
from agent.proxy.answers import Refusal
from agent.proxy.reactor import Timed
from agent.proxy.stats import ServiceStats
from policies.catalogue import parse
from policies.decision import Decision, Forward, Subset
from policies.endpoint import Endpoint, Load
from policies.kind import Scope
from policies.kinds.balance import decide as balance
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.decide import Balancer, asked_entries
from policies.kinds.balance.document import Balance
from policies.kinds.balance.entries import UNBOUNDED, Entries
from policies.kinds.breaker import decide as breaker
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.breaker.document import Breaker
from policies.kinds.fault import decide as fault
from policies.kinds.fault.document import FaultPolicy
from policies.kinds.outlier import decide as outlier
from policies.kinds.outlier import ejector
from policies.kinds.outlier.document import Outlier
from policies.kinds.outlier.ejector import Ejector, Record
from policies.kinds.ratelimit import buckets
from policies.kinds.ratelimit import decide as ratelimit
from policies.kinds.ratelimit.buckets import Buckets
from policies.kinds.ratelimit.document import RateLimit
from policies.kinds.retry import decide as retry
from policies.kinds.retry.budget import Budget
from policies.kinds.retry.document import Retry
from policies.kinds.retry.quantile import Recent
from policies.kinds.route import decide as route
from policies.kinds.route.document import Route
from policies.kinds.shadow import decide as shadow
from policies.kinds.shadow.document import Shadow
from policies.kinds.shed import decide as shed
from policies.kinds.shed.document import Shed
from policies.kinds.shed.limiter import Limiter
from policies.kinds.timeout import decide as timeout
from policies.kinds.timeout.document import Timeout
from policies.language.document import Document, Invalid
from policies.language.names import parse_service
from policies.request import RequestView

_HOSTS: Final = 65536
_HOST_BYTES: Final = 400
"""No service's name is as long, and what was asked for is remembered."""
T = TypeVar("T")


class InForce(NamedTuple):
    """A policy that applies to a service: where it stands, and what it says."""

    key: str
    revision: int
    mode: str
    document: Document


class Phase(Generic[T]):
    """A compiled document, and whether it is only watched."""

    __slots__ = ("audit", "compiled")

    def __init__(self, compiled: T, audit: bool) -> None:
        self.compiled = compiled
        self.audit = audit


class RoutePhase:
    """The compiled route of a service."""

    __slots__ = ("_compiled", "audit")

    def __init__(self, document: Route, service: str, matches: Any) -> None:
        self._compiled = route.compile(document, Scope(service), matches)
        self.audit = document.mode == "audit"

    def decide(self, request: RequestView, rng: random.Random) -> Decision:
        """Where the request goes."""
        return route.decide(self._compiled, request, rng)


class Plan:
    """The compiled answer for one service. What is not configured is None, and costs nothing."""

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
        "endpoints",
        "fault",
        "keeping_out",
        "limits",
        "local",
        "needs_view",
        "outlier",
        "policies",
        "retry",
        "revision",
        "route",
        "service",
        "shadow",
        "shed",
        "timeouts",
    )

    def __init__(
        self,
        service: Service,
        revision: int,
        endpoints: Sequence[Endpoint],
        policies: Mapping[str, InForce],
        *,
        host: str,
        zone: str,
        share: float,
        entries: Entries = UNBOUNDED,
        compiled: Compiled | None = None,
    ) -> None:
        """`compiled`: what came of documents for patterns, which are the same for all their services."""
        compiled = Compiled() if compiled is None else compiled
        self.service = service.name
        self.revision = revision
        self.endpoints = tuple(endpoints)
        self.policies = policies
        self.local = {e.id: e for e in endpoints if e.agent == host}
        self.budget = service.budget
        self._zone = zone
        self._states = service.states
        self._balance = _enforced(policies, "balance", Balance)
        self._entries = entries
        self.asked = asked_entries(self._balance) if self._balance is not None and endpoints else 0
        """How many entries its ring or table asks for."""
        self._groups: dict[Subset | None, Balancer] = {}
        self.balancer = self.group(None)
        routing = policies.get("route")
        self.route = None
        if routing is not None and isinstance(routing.document, Route):
            self.route = RoutePhase(routing.document, service.name, compiled.once("route", policies, route.predicates))
        self.limits: Phase[buckets.Compiled] | None = None
        document, audit = _document(policies, "ratelimit", RateLimit)
        if document is not None:
            self.limits = Phase(compiled.once("ratelimit", policies, ratelimit.compile), audit)
        self.fault: Phase[fault.Compiled] | None = None
        document, audit = _document(policies, "fault", FaultPolicy)
        if document is not None:
            self.fault = Phase(compiled.once("fault", policies, fault.compile), audit)
        self.breaker: Phase[breaker.Compiled] | None = None
        document, audit = _document(policies, "breaker", Breaker)
        if document is not None:
            self.breaker = Phase(compiled.once("breaker", policies, breaker.compile), audit)
        self.shadow: Phase[shadow.Compiled] | None = None
        document, audit = _document(policies, "shadow", Shadow)
        if document is not None:
            self.shadow = Phase(shadow.compile(document, Scope(service.name)), audit)
        self.shed: Phase[shed.Compiled] | None = None
        document, audit = _document(policies, "shed", Shed)
        if document is not None:
            self.shed = Phase(shed.compile(document, Scope(service.name, share)), audit)
        self.outlier: Phase[ejector.Figures] | None = None
        document, audit = _document(policies, "outlier", Outlier)
        if document is not None:
            self.outlier = Phase(compiled.once("outlier", policies, outlier.compile), audit)
        ejects = self.outlier is not None and not self.outlier.audit
        breaks = self.breaker is not None and not self.breaker.audit and self.breaker.compiled.endpoint is not None
        self.keeping_out = (1 if ejects else 0) | (2 if breaks else 0)
        """Which policies keep endpoints out, as bits: when one of them goes, those that are out come in at once."""
        self.needs_view = (
            self.route is not None or self.balancer.needs_key or self.limits is not None or self.fault is not None
        )
        times = _enforced(policies, "timeout", Timeout)
        self.timeouts = timeout.compile(times)
        self.bounds_whole_request = times is not None and times.request is not None
        retries = _enforced(policies, "retry", Retry)
        self.retry = retry.compile(retries)
        service.budget.configure(self.retry)

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

    def once(self, kind: str, policies: Mapping[str, InForce], make: Callable[[Any], Any]) -> Any:
        """A document compiled; the same one when it was compiled before. Never changed by those who use it."""
        policy = policies[kind]
        if "*" not in policy.key:
            return make(policy.document)
        known = self._made.get((kind, policy.key))
        if known is None or known[0] is not policy.document:
            known = self._made[kind, policy.key] = (policy.document, make(policy.document))
        return known[1]


def _enforced(policies: Mapping[str, InForce], name: str, kind: type[Any]) -> Any:
    policy = policies.get(name)
    if policy is None or policy.mode == "audit" or not isinstance(policy.document, kind):
        return None
    return policy.document


def _document(policies: Mapping[str, InForce], name: str, kind: type[Any]) -> tuple[Any, bool]:
    """The document of a kind that is asked about requests, if there is one, and whether it is only watched."""
    policy = policies.get(name)
    if policy is None or not isinstance(policy.document, kind):
        return None, False
    return policy.document, policy.mode == "audit"


class Service:
    """One service as this worker knows it: its plan, and all that outlives plans."""

    __slots__ = (
        "_keeping_out",
        "buckets",
        "budget",
        "circuit",
        "connecting",
        "connections",
        "copying",
        "ejector",
        "judge",
        "limiter",
        "loads",
        "name",
        "plan",
        "recent",
        "relief",
        "shed_at",
        "states",
        "stats",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.stats = ServiceStats()
        self.budget = Budget()
        self.recent = Recent()
        """Latencies of answers, in seconds; kept where a hedge needs them."""
        self.loads: dict[str, Load] = {}
        self.states: dict[Subset | None, BalanceState] = {}
        self.plan: Plan
        self.connecting = 0
        """Connections to its endpoints that are being made."""
        self.connections = 0
        """Those that are there, idle ones included."""
        self.copying = 0
        """Copies of its requests that are under way."""
        self.circuit: Circuit | None = None
        self.buckets: Buckets | None = None
        self.ejector: Ejector | None = None
        self.judge: Timed | None = None
        self.limiter: Limiter | None = None
        """Of its instances on this host, as far as this worker hands them requests."""
        self.shed_at = 0.0
        self.relief: Timed | None = None
        """While load is shed."""
        self._keeping_out = 0

    def adopt(self, plan: Plan, share: float, agents: int) -> None:
        """Take a plan into force. What guards have counted stays, as long as there is a document for them. `share` is
        this worker's part of what its agent may let pass; `agents` are those that share the limits of the mesh."""
        if self._keeping_out & ~plan.keeping_out:
            for load in self.loads.values():
                load.refused_until = 0.0
        self._keeping_out = plan.keeping_out
        self.plan = plan
        if len(self.loads) > len(plan.endpoints):
            kept = {endpoint.id for endpoint in plan.endpoints}
            self.loads = {key: load for key, load in self.loads.items() if key in kept}
        self._adopt_breaker(plan)
        if plan.limits is None:
            self.buckets = None
        else:
            if self.buckets is None:
                self.buckets = Buckets(share)
            self.buckets.configure(plan.limits.compiled.names)
            for limit in plan.limits.compiled.limits:
                if limit.shared:
                    self.buckets.begin(limit.name, share / agents)
        if plan.shed is None:
            self.limiter = None
        elif self.limiter is None:
            self.limiter = Limiter(plan.shed.compiled.rules)
        else:
            self.limiter.configure(plan.shed.compiled.rules)
        if plan.outlier is None:
            self.ejector = None
            for load in self.loads.values():
                load.record = None
        else:
            if self.ejector is None:
                self.ejector = Ejector(plan.outlier.compiled)
            self.ejector.configure(plan.outlier.compiled)
            for load in self.loads.values():
                load.record = load.record or Record()

    def _adopt_breaker(self, plan: Plan) -> None:
        whole = plan.breaker.compiled.service if plan.breaker is not None else None
        each = plan.breaker.compiled.endpoint if plan.breaker is not None else None
        if whole is None:
            self.circuit = None
        elif self.circuit is None:
            self.circuit = Circuit(whole)
        else:
            self.circuit.configure(whole)
        for load in self.loads.values():
            if each is None:
                load.circuit = None
            elif load.circuit is None:
                load.circuit = Circuit(each)
            else:
                load.circuit.configure(each)


class Table:
    """Every service of the mesh. Filled by `stage` and `gone`, made so by `commit`."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.revision = 0
        self.ready = False
        self.host = ""
        self.zone = ""
        self.share = 1.0
        """This worker's part of what the agent may let pass."""
        self.unjudged: list[Service] = []
        """Services that have an ejector and, as yet, nobody who calls it."""
        self._by_host: dict[bytes, Service | None] = {}
        self._staged: dict[str, tuple[Service, Plan] | None] = {}
        self._wide: dict[tuple[str, str], tuple[bytes, Document | Invalid]] = {}
        """Policies for patterns, as parsed: one of them may come with a thousand services."""
        self._compiled = Compiled()
        self._entries = Entries()

    # The way of a change.

    def stage(
        self,
        name: str,
        revision: int,
        endpoints: Sequence[EndpointFrame],
        policies: Mapping[str, PolicyFrame],
        now: float,
    ) -> list[dict[str, Any]]:
        """Compile a service's new plan, to be swapped in at the commit. Returns what had to be refused."""
        staged = self._staged.get(name)
        service = self.services.get(name) or (staged[0] if staged else Service(name))
        in_force, refused = self._documents(policies)
        made = [self._endpoint(service, frame, now) for frame in endpoints]
        plan = Plan(
            service,
            revision,
            made,
            in_force,
            host=self.host,
            zone=self.zone,
            share=self.share,
            entries=self._entries,
            compiled=self._compiled,
        )
        self._staged[name] = (service, plan)
        return refused

    def _documents(self, policies: Mapping[str, PolicyFrame]) -> tuple[dict[str, InForce], list[dict[str, Any]]]:
        in_force: dict[str, InForce] = {}
        refused: list[dict[str, Any]] = []
        for kind, frame in policies.items():
            document = self._parse(kind, frame)
            if isinstance(document, Invalid):
                refused.append({"kind": kind, "key": frame.key, "path": document.path, "reason": document.reason})
            else:
                in_force[kind] = InForce(frame.key, frame.revision, document.mode, document)
        return in_force, refused

    def _parse(self, kind: str, frame: PolicyFrame) -> Document | Invalid:
        if "*" not in frame.key:
            return parse(kind, frame.key, frame.text)
        known = self._wide.get((kind, frame.key))
        if known is not None and not frame.text:
            return known[1]
        if known is None or known[0] != frame.text:
            known = self._wide[kind, frame.key] = (frame.text, parse(kind, frame.key, frame.text))
        return known[1]

    def _endpoint(self, service: Service, frame: EndpointFrame, now: float) -> Endpoint:
        load = service.loads.get(frame.id)
        if load is None:
            # Endpoints that come with the first table were there before; only a newcomer is spared at first.
            load = service.loads[frame.id] = Load(
                now if self.ready and service.name in self.services else -float("inf")
            )
        endpoint = Endpoint(
            service.name,
            frame.id,
            frame.address,
            frame.port,
            version=frame.version,
            zone=frame.zone,
            weight=frame.weight,
            metadata=frame.metadata or None,
            healthy=frame.healthy,
            draining=frame.draining,
            suspect=frame.suspect,
            agent=frame.agent,
            dial=(frame.dial_address, frame.dial_port),
            via=frame.via,
            load=load,
        )
        before = self.services.get(service.name)
        if before is not None and frame.healthy and _was_unhealthy(before.plan, frame.id):
            load.healthy_since = now
        return endpoint

    def gone(self, name: str) -> None:
        """Forget a service at the commit."""
        self._staged[name] = None

    def commit(self, revision: int, agents: int = 1) -> None:
        """Swap in everything that is staged. `agents` are in the mesh."""
        names_changed = False
        for name, staged in self._staged.items():
            before = self.services.get(name)
            asked = before.plan.asked if before is not None else 0
            if staged is None:
                names_changed |= self.services.pop(name, None) is not None
                self._entries.change(asked, 0)
                continue
            service, plan = staged
            self._entries.change(asked, plan.asked)
            service.adopt(plan, self.share, agents)
            if service.ejector is not None and service.judge is None:
                self.unjudged.append(service)
            if name not in self.services:
                self.services[name] = service
                names_changed = True
        self._staged = {}
        if self._entries.recount():
            for service in self.services.values():
                service.plan.forget_entries()
        if names_changed:
            self._by_host.clear()
        self.revision = revision
        self.ready = True

    # The way of a request.

    def find(self, host: bytes) -> Service | None:
        """The service that a Host names: `pets.production`, any case, with or without a port."""
        if len(host) > _HOST_BYTES:
            return None
        try:
            return self._by_host[host]
        except KeyError:
            service = self.services.get(service_name(host))
            if len(self._by_host) >= _HOSTS:
                self._by_host.clear()
            self._by_host[host] = service
            return service

    def target(self, service: Service, forward: Forward) -> Service | Refusal:
        """The service whose endpoints a route's decision leads to: its own, or another."""
        if forward.service is None or forward.service == service.name:
            return service
        other = self.services.get(forward.service)
        if other is None:
            reason = f"the route leads to {forward.service}, and no such service is in this mesh"
            return Refusal(503, "route", reason, 1, unsent=True)
        return other

    def local_endpoint(self, plan: Plan, wanted: bytes | None, now: float, rng: random.Random) -> Endpoint | Refusal:
        """This host's instance that the inbound listener is asked for; any of the service's, when none is named."""
        if wanted is not None:
            service, _, identity = wanted.decode("latin-1").rpartition("/")
            endpoint = plan.local.get(identity) if service == plan.service else self._local(service, identity)
            if endpoint is None:
                return Refusal(503, "endpoint", f"{service}/{identity} is not on this host", 1, unsent=True)
            return Endpoint(
                endpoint.service, endpoint.id, endpoint.address, endpoint.port, agent=endpoint.agent, load=endpoint.load
            )
        candidates = [e for e in plan.local.values() if e.healthy and not e.draining] or list(plan.local.values())
        if not candidates:
            return Refusal(503, "endpoint", f"no instance of {plan.service} is on this host", 1, unsent=True)
        return rng.choice(candidates)

    def _local(self, service: str, identity: str) -> Endpoint | None:
        known = self.services.get(service)
        return known.plan.local.get(identity) if known is not None else None


def _was_unhealthy(plan: Plan, identity: str) -> bool:
    return any(endpoint.id == identity and not endpoint.healthy for endpoint in plan.endpoints)


def service_name(host: bytes) -> str:
    """The canonical service name in a Host; empty when there is none in it."""
    text = host.decode("latin-1")
    if text[:1] == "[":
        return ""
    try:
        return parse_service(text.partition(":")[0].rstrip("."))
    except ValueError:
        return ""
