# mypyc: compiled
"""The compiled answer for one service: what is not configured is not in it, and costs nothing.

The order of a request's way is the order of these rows, and stands nowhere else; within a row it is that of the
catalogue.

    resolving   of the service that is asked for, and of     isolation
                the one that it leads to: is it there, for
                who calls?
    leaving     of the service that calls, and nothing else  egress, where no service of the mesh is asked for
    paths       of the service that is asked for, and of     path
                the one that it leads to, before all others
    knowing     of the service that is asked for, and of     authn: whose token it has. All that follows may ask for
                the one that it leads to                     its claims
    outbound    of the service that is asked for             guards of the caller's side, ratelimit, fault, route
    towards     of the service that this leads to            authz, where callers' agents ask it as well; breaker
    departing   of the service that was asked for            shadow
    inbound     of the instance's, by the agent beside it    guards of the callee's side (tls, authn, authz), ratelimit,
                                                             shed

In between an endpoint is picked (balance), and after it tried (timeout, retry, outlier). A policy that guards, and that
nobody knows the content of, stands in its row like any other, and lets nothing pass. A document that is only watched
stands beside what is in force of its kind (`Phase.beside`), or alone in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.proxy.messages.presented import Presented
from agent.proxy.phases.closed import Closed
from agent.proxy.phases.guards import Authentication
from agent.proxy.phases.paths import Paths
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.routes import Routes
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Verdict
from agent.proxy.report.story import InForce, Policies
from agent.proxy.table.asked import Asked, Compiled, document_of
from agent.proxy.table.lasting import Book, Lasting
from policies.catalogue import KINDS
from policies.decision import Subset
from policies.endpoint import Endpoint
from policies.kind import Side
from policies.kinds.balance import decide as balance
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.decide import Balancer, asked_entries
from policies.kinds.balance.document import Balance
from policies.kinds.balance.entries import UNBOUNDED, Entries
from policies.kinds.path import decide as path
from policies.kinds.retry import decide as retry
from policies.kinds.retry.document import Retry
from policies.kinds.route import decide as route
from policies.kinds.route.document import Route
from policies.kinds.timeout import decide as timeout
from policies.kinds.timeout.decide import Timeouts
from policies.kinds.timeout.document import Timeout
from policies.stranger import Stranger

NO_POLICIES: Final[dict[str, InForce]] = {}


class Plan:
    """Never changes; a change is a new one."""

    __slots__ = (
        "_balance",
        "_entries",
        "_groups",
        "_states",
        "_zone",
        "accounts",
        "asked",
        "auditing",
        "balancer",
        "bounds_whole_request",
        "breaker",
        "budget",
        "departing",
        "endpoints",
        "enforced",
        "exports",
        "guards",
        "imported",
        "inbound",
        "judges",
        "keeping_out",
        "knowing",
        "leaving",
        "limits",
        "local",
        "longest",
        "outbound",
        "outlier",
        "paths",
        "policies",
        "presented",
        "resolving",
        "retry",
        "revision",
        "service",
        "shadow",
        "shed",
        "timeouts",
        "tls",
        "towards",
        "traces",
        "tracing",
        "watched",
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
        audits: Policies = NO_POLICIES,
        before: Plan | None = None,
    ) -> None:
        """`compiled`: what came of documents for patterns, which are the same for all their services.

        `closed`: policies that nobody knows the content of, and that let nothing pass until somebody does.
        `audits`: documents that are only watched. `before`: of the same policies, which are not compiled again.
        """
        compiled = Compiled() if compiled is None else compiled
        self.service = state.name
        self.revision = revision
        self.endpoints = tuple(endpoints)
        self.imported = bool(self.endpoints) and bool(self.endpoints[0].expected)
        """Whether they are gateways of another mesh."""
        self.policies = policies
        self.local = {e.id: e for e in endpoints if e.agent == host}
        self.budget = state.budget
        self._zone = zone
        self._states = state.states
        self._balance: Balance | None = document_of(policies, "balance", Balance)
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
        self.enforced = asked = Asked(state, policies, share, compiled, closed)
        self.watched = Asked(state, audits, share, compiled, book=state.audits or Book()) if audits else None
        """What is asked of documents that are only watched."""
        self._line_up(state, asked, self.watched)
        self.presented = _presented(asked, self.watched)
        """What instances are told of who is calling; None: no document says anything."""
        for phase in self.outbound:
            if isinstance(phase, Routes):
                phase.presented = self.presented
        self.limits, self.breaker, self.outlier = asked.limits, asked.breaker, asked.ejection
        self.shadow, self.shed = asked.shadow, asked.shed
        self.auditing = asked.auditing
        """What is recorded of its requests; None: no document says anything of it."""
        watched = self.watched
        self.accounts = asked.auditing is not None or (watched is not None and watched.auditing is not None)
        """Whether any document says so, be it one that is only watched."""
        self.tracing = asked.tracing
        """What becomes of its requests' traces; None: they go on as they are."""
        self.traces = asked.tracing is not None or (watched is not None and watched.tracing is not None)
        """Whether any document says something of them, be it one that is only watched."""
        self.exports = asked.exports
        """Hosts that take callers of other trust domains in."""
        self.judges = asked.judges if self.watched is None else (*asked.judges, *self.watched.judges)
        """Who may have to be asked about requests, besides what is decided here."""
        self.tls = asked.tls
        """Whether hops are TLS, for those who call this service and for its own agents; None: no document is for it."""
        self.keeping_out = self._keeping_out()
        """Which policies keep endpoints out, as bits: when one of them goes, those that are out come in at once."""
        times: Timeout | None = document_of(policies, "timeout", Timeout)
        self.timeouts = timeout.compile(times)
        self.longest = _longest(self.timeouts, document_of(policies, "route", Route))
        """The longest times that a rule or the policy gives."""
        self.bounds_whole_request = times is not None and times.request is not None
        self.retry = retry.compile(document_of(policies, "retry", Retry))
        state.budget.configure(self.retry)

    def _line_up(self, state: Lasting, asked: Asked, watched: Asked | None) -> None:
        """The rows, each phase with the one beside it that only watches."""
        met, serving, whole = asked.met, asked.serving, asked.whole
        shadow: Phase | None = asked.shadow
        paths = asked.paths or Paths(state, None, path.compile(None))
        if watched is not None:
            met = {**watched.met, **met}
            for kind, phase in asked.met.items():
                phase.beside = watched.met.get(kind)
            serving = _beside(serving, watched.serving)
            whole = _beside(whole, watched.whole)
            shadow = _beside(shadow, watched.shadow)
            paths.beside = watched.paths
        self.paths: tuple[Paths, ...] = (paths,)
        self.resolving = _in_order(met, Side.BOTH)
        self.leaving = _in_order(met, Side.LEAVING)
        self.knowing = _configured(asked.knowing)
        self.outbound = _in_order(met, Side.CALLER)
        self.towards = _configured(asked.early, whole)
        self.departing = _configured(shadow)
        self.inbound = _coming_in(met, serving)
        self.guards = tuple([phase for phase in self.inbound if phase.guards and not phase.audit])
        """Those that say who may be served at all, and that are enforced."""

    def _keeping_out(self) -> int:
        each = self.breaker is not None and self.breaker.compiled.endpoint is not None
        return (1 if self.outlier is not None else 0) | (2 if each else 0)

    def _take_over(self, before: Plan) -> None:
        """All that follows from policies alone."""
        self.paths, self.leaving, self.resolving = before.paths, before.leaving, before.resolving
        self.knowing, self.presented = before.knowing, before.presented
        self.outbound, self.towards = before.outbound, before.towards
        self.departing, self.inbound, self.guards = before.departing, before.inbound, before.guards
        self.enforced, self.watched = before.enforced, before.watched
        self.limits, self.breaker = before.limits, before.breaker
        self.shadow, self.shed, self.outlier = before.shadow, before.shed, before.outlier
        self.tls, self.exports = before.tls, before.exports
        self.judges = before.judges
        self.auditing, self.accounts = before.auditing, before.accounts
        self.tracing, self.traces = before.tracing, before.traces
        self.keeping_out = before.keeping_out
        self.timeouts, self.bounds_whole_request = before.timeouts, before.bounds_whole_request
        self.longest = before.longest
        self.retry = before.retry

    def is_there(self, subject: Subject) -> bool:
        """Whether the service is, for whoever calls: where nobody asked for it by name, and requests might be led to
        it. Counts nothing."""
        if subject.stranger is not None and not self.is_exported(subject.stranger):
            return False
        return all(phase.audit or phase.peek(subject) is None for phase in self.resolving)

    def is_exported(self, stranger: Stranger) -> bool:
        """Whether documents let somebody be taken in where he was; whom they let pass, phases say. What is imported
        would be called there as by ourselves, and is exported to nobody."""
        return stranger.gateway in self.exports and not self.imported

    def trusts(self, source: str) -> bool:
        """Whether tokens count here by keys that are fetched from a source."""
        known = self.enforced.met.get("authn")
        return isinstance(known, Authentication) and any(source in level.compiled.sources for level in known.levels)

    def keeps_out(self, subject: Subject) -> Verdict | None:
        """What a guard of the service says against what nobody called for: a copy. Counts nothing."""
        for phase in self.guards:
            verdict = phase.peek(subject)
            if verdict is not None:
                return verdict
        return None

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


def _presented(asked: Asked, watched: Asked | None) -> Presented | None:
    if not asked.people and (watched is None or not watched.people):
        return None
    in_force = [document for document in asked.people if document.mode == "enforce"]
    return Presented(in_force, watched.people if watched is not None else asked.people)


def _longest(timeouts: Timeouts, document: Route | None) -> Timeouts:
    rules = [rule.timeout for rule in document.rules if rule.timeout is not None] if document is not None else []
    if not rules:
        return timeouts
    found = [route.limits_of(rule) for rule in rules]
    return msgspec.structs.replace(
        timeouts,
        request_s=max([timeouts.request_s, *[each.request_s for each in found]]) if timeouts.request_s else 0.0,
        try_s=max([timeouts.try_s, *[each.try_s for each in found]]) if timeouts.try_s else 0.0,
    )


def _in_order(met: Mapping[str, Phase], side: Side) -> tuple[Phase, ...]:
    """As in the catalogue."""
    if not met:
        return ()
    return tuple([met[kind.name] for kind in KINDS if kind.side is side and kind.name in met])


def _coming_in(met: Mapping[str, Phase], limits: Phase | None) -> tuple[Phase, ...]:
    """As in the catalogue: what is denied takes nothing from the service's limits."""
    found: list[Phase] = []
    for kind in KINDS:
        if kind.name == "ratelimit" and limits is not None:
            found.append(limits)
        elif kind.side is Side.CALLEE and kind.name in met:
            found.append(met[kind.name])
    return tuple(found)


def _beside(phase: Phase | None, watched: Phase | None) -> Phase | None:
    """Of a kind what is in force, where there is such a document, and what is only watched."""
    if phase is None:
        return watched
    phase.beside = watched
    return phase


def _configured(*phases: Phase | None) -> tuple[Phase, ...]:
    return tuple([phase for phase in phases if phase is not None])
