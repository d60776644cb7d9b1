# mypyc: compiled
"""A kind that only says whether a request may pass: one phase for all of them, and for all levels of one."""

from __future__ import annotations

from collections.abc import Sequence

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, entry, no_service
from agent.proxy.table.lasting import Lasting
from policies.decision import Guard


class Level:
    """One document."""

    __slots__ = ("guard", "in_force")

    def __init__(self, in_force: InForce, guard: Guard) -> None:
        self.in_force = in_force
        self.guard = guard


class Guards(Phase):
    """Refuses what any of the documents does not let pass."""

    __slots__ = ("levels",)

    def __init__(self, kind: str, state: Lasting, in_force: InForce, levels: Sequence[Level]) -> None:
        """`levels`: the most specific first; more than one where the kind's documents of every level apply."""
        super().__init__(kind, "admit", state, in_force)
        self.levels = tuple(levels)

    def decide(self, subject: Subject) -> Verdict | None:
        """As the documents say."""
        view = subject.view
        for level in self.levels:
            denied = level.guard.decide(view)
            if denied is not None:
                refusal = Refusal(denied.status, self.kind, denied.reason, denied.retry_after_s, unsent=True)
                said = no_service(subject.request.host) if denied.hidden else None
                return Refuse(refusal, what=denied.rule, by=level.in_force, said=said)
        return None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Why not."""
        if isinstance(verdict, Refuse):
            return entry(verdict.by, self.name, self.kind, f"refused by {verdict.what}", verdict.refusal.reason)
        others = [level.in_force.key for level in self.levels if level.in_force is not self.in_force]
        return self.entry("goes on", f"it may pass, by {' and '.join(others)} too" if others else "it may pass")
