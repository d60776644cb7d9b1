# mypyc: compiled
"""One service as a worker knows it: its plan, and all that outlives plans."""

from __future__ import annotations

from collections.abc import Mapping

from agent.frames import Part
from agent.proxy.report.news import News
from agent.proxy.report.signals import Room
from agent.proxy.report.story import Policies
from agent.proxy.table.asked import Asked
from agent.proxy.table.books import Keeper, adopt_judgement
from agent.proxy.table.lasting import Lasting
from agent.proxy.table.plan import Plan
from policies.endpoint import Endpoint, Judgement
from policies.kinds.shed.backpressure import Backpressure
from policies.kinds.shed.common import Common
from policies.together import Together


class Service(Lasting):
    """A request reads its plan once."""

    __slots__ = (
        "_configured",
        "_keeper",
        "_keeping_out",
        "_watching",
        "imported",
        "lets_go",
        "members",
        "plan",
        "rules_changed",
    )

    def __init__(self, name: str, news: News, together: Together | None = None, room: Room | None = None) -> None:
        super().__init__(name, news, together, room)
        self._keeper = Keeper(self, name, together)
        self._watching: Keeper | None = None
        """Of what is only watched, as long as there is such a document."""
        self.plan: Plan
        self.members: dict[str, Endpoint] = {}
        """The plan's endpoints, by id. Never changed; another plan has others."""
        self._keeping_out = 0
        self.imported = False
        """Whether its endpoints are gateways of another mesh."""
        self.lets_go = False
        """Whether its idle connections are to be closed: from now on they are counted."""
        self.rules_changed = False
        """Whether what is under way is to be judged anew: there are others, or there may be."""
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
        self.rules_changed = (
            bool(plan.guards) and self._configured is not None and plan.enforced is not self.plan.enforced
        )
        self.plan = plan
        self.imported = plan.imported
        self.members = members
        if len(self.loads) > len(members):
            self.loads = {key: load for key, load in self.loads.items() if key in members}
        self._keeper.adopt_limits(plan.enforced, share, agents)
        changed = self._configured is not plan.policies
        if joined or changed:
            self._configured = plan.policies
            self._adopt_connections(plan)
            self._keeper.adopt(plan.enforced)
            self._adopt_backpressure(plan)
            for load in self.loads.values():
                adopt_judgement(load, plan.enforced)
        if plan.watched is not None or self._watching is not None:
            self._adopt_audits(plan.watched, share, agents, joined or changed)

    def _adopt_connections(self, plan: Plan) -> None:
        self.tally.count_together(self._keeper.gauge(plan.enforced))
        whole = plan.breaker.compiled.service if plan.breaker is not None else None
        self.lets_go = self.tally.limit(whole.max_connections if whole is not None else 0) or self.lets_go

    def _adopt_backpressure(self, plan: Plan) -> None:
        if plan.shed is None or not plan.shed.compiled.backpressure:
            self.backpressure = None
        elif self.backpressure is None:
            self.backpressure = Backpressure(Common(self.together, f"{self.name} calls"))

    def _adopt_audits(self, watched: Asked | None, share: float, agents: int, changed: bool) -> None:
        """What is only watched counts for itself, in places of its own."""
        keeper = self._watching
        if watched is not None and keeper is None:
            keeper = self._watching = Keeper(watched.book, f"{self.name}\0audit", self.together)
        if keeper is None:
            return
        keeper.adopt_limits(watched, share, agents)
        if changed:
            keeper.adopt(watched)
            for load in self.loads.values():
                load.watched = None if watched is None else load.watched or Judgement()
                if load.watched is not None:
                    adopt_judgement(load.watched, watched)
        self.audits = watched.book if watched is not None else None
        if watched is None:
            self._watching = None

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
            if part is None or not self._keeper.counts_together(limit):
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
            if limit.name in tokens and self._keeper.counts_together(limit):
                self.buckets.meter(limit.name).give(limit, tokens[limit.name], now)
