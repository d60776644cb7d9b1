# mypyc: compiled
"""A phase: one document in force for a service, asked about each request that comes by.

Laws
- A phase decides and never acts: what it says is a value, and `agent.proxy.request.walk` does it, counts it, and tells
  of it. A document in audit mode is asked like any other.
- It is made once for a plan. Asking it allocates nothing where there is nothing to say.
- `peek` says what `decide` would, and moves and counts nothing.
"""

from __future__ import annotations

from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Verdict
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.table.lasting import Lasting


class Phase:
    """One of a plan's."""

    __slots__ = ("audit", "counts", "counts_in_audit", "holds", "in_force", "kind", "name", "state")

    def __init__(
        self,
        kind: str,
        name: str,
        state: Lasting,
        in_force: InForce,
        *,
        counts: bool = True,
        counts_in_audit: bool = False,
        holds: bool = False,
    ) -> None:
        self.kind = kind
        self.name = name
        """The step of a request's way that explanations show it under."""
        self.state = state
        self.in_force = in_force
        self.audit = in_force.mode == "audit"
        self.counts = counts
        """Whether what it says is counted; in audit mode it is, whatever this says."""
        self.counts_in_audit = counts_in_audit
        """Whether the kind's own figures have what would have been, too."""
        self.holds = holds
        """Whether what it lets pass it counts until `ended`."""

    def decide(self, subject: Subject) -> Verdict | None:
        """What becomes of a request; None: it goes on."""
        raise NotImplementedError

    def peek(self, subject: Subject) -> Verdict | None:
        """The same; nothing is moved and nothing counted. As it stands, for those whose `decide` moves nothing."""
        return self.decide(subject)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """The words of it, for explanations."""
        raise NotImplementedError

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """What it let pass is over: answered with a status, after so long; 0: nobody waited any longer for an answer.
        Where it says nothing how long it took, that is negative."""

    def proved(self, subject: Subject, status: int, latency_s: float) -> None:
        """The same of what goes on."""

    def entry(self, decision: str, reason: str) -> Entry:
        """One decision of this document's."""
        return entry(self.in_force, self.name, self.kind, decision, reason)
