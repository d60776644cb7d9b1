# mypyc: compiled
"""A kind that only says whether a request may pass: one phase for all of them."""

from __future__ import annotations

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.story import Entry, InForce
from agent.proxy.table.lasting import Lasting
from policies.decision import Guard


class Guards(Phase):
    """Refuses what one document does not let pass."""

    __slots__ = ("guard",)

    def __init__(self, kind: str, state: Lasting, in_force: InForce, guard: Guard) -> None:
        super().__init__(kind, "admit", state, in_force)
        self.guard = guard

    def decide(self, subject: Subject) -> Verdict | None:
        """As the document says."""
        denied = self.guard.decide(subject.view)
        if denied is None:
            return None
        refusal = Refusal(denied.status, self.kind, denied.reason, denied.retry_after_s, unsent=True)
        return Refuse(refusal, what=denied.rule)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Why not."""
        if isinstance(verdict, Refuse):
            return self.entry(f"refused by {verdict.what}", verdict.refusal.reason)
        return self.entry("goes on", "it may pass")
