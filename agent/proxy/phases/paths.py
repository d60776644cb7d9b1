# mypyc: compiled
"""`path`: as what place a request's path is taken, before anything else looks at it."""

from __future__ import annotations

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Settle, Verdict
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.table.lasting import Lasting
from policies.kinds.path import decide as path
from policies.kinds.path.decide import Refused
from policies.kinds.path.document import PathPolicy


class Paths(Phase):
    """Settles what is sent and judged, or refuses."""

    __slots__ = ("_policy", "compiled")

    def __init__(self, state: Lasting, in_force: InForce | None, compiled: path.Compiled) -> None:
        """`in_force`: None for the built-in default."""
        super().__init__("path", "path", state, in_force or InForce("", 0, "enforce", PathPolicy()))
        self._policy = in_force
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """As what it is taken, where that is not what was sent."""
        found = self.compiled.decide(subject.request.target)
        if found is None:
            return None
        if isinstance(found, Refused):
            return Refuse(Refusal(400, "path", found.reason, unsent=True))
        return Settle(found.target, found.place)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """What was made of it."""
        sent = f"sent as {_text(subject.request.target)}"
        if isinstance(verdict, Settle):
            return entry(self._policy, "path", "path", f"judged as {_text(verdict.place)}", sent)
        if isinstance(verdict, Refuse):
            return entry(self._policy, "path", "path", "refused", f"{sent}: {verdict.refusal.reason}")
        return entry(self._policy, "path", "path", "judged as it was sent", sent)


def _text(target: bytes) -> str:
    return target.partition(b"?")[0][:200].decode("latin-1")
