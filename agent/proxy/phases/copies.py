# mypyc: compiled
"""`shadow`: which requests are copied elsewhere."""

from __future__ import annotations

from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Copies, Verdict
from agent.proxy.report.story import Entry, InForce
from agent.proxy.table.lasting import Lasting
from policies.kinds.shadow import decide as shadow


class Copying(Phase):
    """Orders copies, once the way of the request itself is decided."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: shadow.Compiled) -> None:
        super().__init__("shadow", "shadow", state, in_force, counts=False)
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """The samples that it is drawn for."""
        if subject.request.upgrade:
            return None
        orders = self.compiled.decide(subject.view, subject.rng)
        return Copies(orders) if orders else None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which copies; or which there may be of the next one."""
        if isinstance(verdict, Copies):
            return self.entry("copied", "; ".join(map(str, verdict.orders)))
        samples = "" if subject.request.upgrade else "; ".join(map(str, self.compiled.may(subject.view)))
        return self.entry("not copied", f"not drawn for {samples}" if samples else "no sample that it belongs to")
