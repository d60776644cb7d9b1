# mypyc: compiled
"""One service as a worker knows it: its plan, and all that outlives plans."""

from __future__ import annotations

from collections.abc import Mapping

from agent.frames import Part
from agent.proxy.report.news import News
from agent.proxy.report.story import Policies
from agent.proxy.table.lasting import Lasting
from agent.proxy.table.plan import Plan
from policies.endpoint import Endpoint
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.outlier.ejector import Ejector, Record
from policies.kinds.ratelimit.buckets import Buckets, together
from policies.kinds.ratelimit.cells import Cells
from policies.kinds.ratelimit.limit import Limit
from policies.kinds.shed.common import Common
from policies.kinds.shed.limiter import Limiter
from policies.together import Gauge, Together


class Service(Lasting):
    """A request reads its plan once."""

    __slots__ = ("_configured", "_gauge", "_keeping_out", "lets_go", "members", "plan")

    def __init__(self, name: str, news: News, together: Together | None = None) -> None:
        super().__init__(name, news, together)
        self._gauge = Gauge(together, name) if together is not None else None
        self.plan: Plan
        self.members: dict[str, Endpoint] = {}
        """The plan's endpoints, by id. Never changed; another plan has others."""
        self._keeping_out = 0
        self.lets_go = False
        """Whether its idle connections are to be closed: from now on they are counted."""
        self._configured: Policies | None = None
        """What loads and limiters were configured by."""

    def adopt(self, plan: Plan, members: dict[str, Endpoint], joined: bool, share: float, agents: int) -> None:
        """Take a plan into force. What was counted stays, as long as there is a document for it. `joined`: whether any
        of the members is new. `share` is this worker's part of what its agent may let pass; `agents` are those that
        share the limits of the mesh."""
        if self._keeping_out & ~plan.keeping_out:
            for load in self.loads.values():
                load.refused_until = 0.0
        self._keeping_out = plan.keeping_out
        self.plan = plan
        self.members = members
        if len(self.loads) > len(members):
            self.loads = {key: load for key, load in self.loads.items() if key in members}
        self._adopt_limits(plan, share, agents)
        if joined or self._configured is not plan.policies:
            self._configured = plan.policies
            self._adopt_breaker(plan)
            self._adopt_shed(plan)
            self._adopt_outlier(plan)

    def _adopt_limits(self, plan: Plan, share: float, agents: int) -> None:
        if plan.limits is None:
            self.buckets = None
            return
        if self.buckets is None:
            cells = Cells(self.together) if self.together is not None else None
            self.buckets = Buckets(1.0, self.name, cells)
        limits = plan.limits.limits
        self.buckets.configure({limit.name for limit in limits})
        for limit in limits:
            own = 1.0 if self._counts_together(limit) else share
            if limit.shared:
                self.buckets.begin(limit.name, own / agents)
            else:
                self.buckets.own(limit.name, own)

    def _counts_together(self, limit: Limit) -> bool:
        return self.together is not None and together(limit)

    def share_out(
        self, shares: Mapping[str, float], parts: Mapping[str, Part], keys: Mapping[str, dict[str, float]]
    ) -> None:
        """Parts of limits of the whole mesh: this worker's `shares`; the agent's `parts`, and those of some keys."""
        if self.buckets is None or self.plan.limits is None:
            return
        for limit in self.plan.limits.limits:
            if not limit.shared or limit.name not in shares:
                continue
            meter, part = self.buckets.meter(limit.name), parts.get(limit.name)
            if part is None or not self._counts_together(limit):
                self.buckets.set_share(limit.name, shares[limit.name])
                meter.rest, meter.keys = 0.0, {}
            else:
                self.buckets.set_share(limit.name, part.share)
                meter.least, meter.rest, meter.keys = part.least, part.rest, keys.get(limit.name, {})

    def give(self, tokens: Mapping[str, Mapping[str, float]], now: float) -> None:
        """Tokens for keys that have parts of their own: by limit."""
        if self.buckets is None or self.plan.limits is None:
            return
        for limit in self.plan.limits.limits:
            if limit.name in tokens and self._counts_together(limit):
                self.buckets.meter(limit.name).give(limit, tokens[limit.name], now)

    def _adopt_shed(self, plan: Plan) -> None:
        if plan.shed is None:
            if self.limiter is not None:
                self.limiter.count_together(None)
            self.limiter = None
            return
        rules = plan.shed.compiled.rules
        if self.limiter is None:
            self.limiter = Limiter(rules, Common(self.together, self.name))
        else:
            self.limiter.configure(rules)
        self.limiter.count_together(self._gauge)

    def _adopt_outlier(self, plan: Plan) -> None:
        if plan.outlier is None:
            self.ejector = None
            for load in self.loads.values():
                load.record = None
            return
        if self.ejector is None:
            self.ejector = Ejector(plan.outlier.rules)
        self.ejector.configure(plan.outlier.rules)
        for load in self.loads.values():
            load.record = load.record or Record()

    def _adopt_breaker(self, plan: Plan) -> None:
        whole = plan.breaker.compiled.service if plan.breaker is not None else None
        each = plan.breaker.compiled.endpoint if plan.breaker is not None else None
        gauge = self._gauge if whole is not None and whole.limits() else None
        self.tally.count_together(gauge)
        enforced = plan.breaker is not None and not plan.breaker.audit
        self.lets_go = self.tally.limit(whole.max_connections if whole is not None and enforced else 0) or self.lets_go
        if whole is None:
            if self.circuit is not None:
                self.circuit.count_together(None)
            self.circuit = None
        elif self.circuit is None:
            self.circuit = Circuit(whole)
        else:
            self.circuit.configure(whole)
        if self.circuit is not None:
            self.circuit.count_together(gauge)
        for load in self.loads.values():
            if each is None:
                load.circuit = None
            elif load.circuit is None:
                load.circuit = Circuit(each)
            else:
                load.circuit.configure(each)
