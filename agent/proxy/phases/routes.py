# mypyc: compiled
"""`route`: which instances a request goes to, or which answer the mesh gives by itself."""

from __future__ import annotations

from agent.proxy.messages.presented import Presented
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Verdict
from agent.proxy.report.story import Entry, InForce, action
from agent.proxy.table.lasting import Lasting
from policies.decision import Decision
from policies.kinds.route import decide as route


class Routes(Phase):
    """Always has something to say."""

    __slots__ = ("compiled", "presented")

    def __init__(self, state: Lasting, in_force: InForce, compiled: route.Compiled) -> None:
        super().__init__("route", "route", state, in_force, counts=False)
        self.compiled = compiled
        self.presented: Presented | None = None
        """What may not be told of a path that it makes."""

    def decide(self, subject: Subject) -> Verdict | None:
        """The first rule that matches."""
        return self.compiled.decide(subject.view, subject.rng)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which rule, and where to; of a split the whole, whatever was drawn."""
        assert isinstance(verdict, Decision)
        reason = f"{verdict.rule}: {verdict.reason}"
        told = self.entry(action(self.state.name, verdict.action, self.presented), reason)
        if verdict.shares:
            told["shares"] = [each._asdict() for each in verdict.shares]
        return told
