# mypyc: compiled
"""A policy that guards, and of which nobody can say what was in force before it was refused: no request passes it.

Which kinds guard is the catalogue's word (`fails_closed`); one phase serves all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.story import Entry, InForce
from agent.proxy.table.lasting import Lasting
from policies.language.document import Document


class Closed(NamedTuple):
    """A policy without a content."""

    kind: str
    key: str
    """The pattern that it was put for."""
    revision: int
    reason: str


class Shut(Phase):
    """Refuses everything."""

    __slots__ = ("reason",)

    def __init__(self, state: Lasting, closed: Closed) -> None:
        in_force = InForce(closed.key, closed.revision, "enforce", Document())
        super().__init__(closed.kind, "admit", state, in_force)
        self.guards = True
        self.reason = closed.reason

    def decide(self, subject: Subject) -> Verdict | None:
        """No."""
        return Refuse(Refusal(503, self.kind, self.reason, 1, unsent=True), what="not known")

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which key, and why."""
        return self.entry("refused", self.reason)
