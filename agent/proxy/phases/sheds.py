# mypyc: compiled
"""`shed`: what is let in when there is too much.

Laws
- Decided where the load is: by the agent that hands the request to an instance of its own host, before it does.
- Whoever is not let in is told so (503, Retry-After, x-shoal-shed). Callers' agents take it for what it is: no failure
  of the endpoint, nothing to try again, but a reason to take the next way out.
"""

from __future__ import annotations

from agent.proxy.phases.phase import ATTEMPT, Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import TurnAway, Verdict
from agent.proxy.report.story import Entry, InForce
from agent.proxy.table.lasting import Book, Lasting
from policies.kinds.shed import decide as shed


class Sheds(Phase):
    """Turns away what the instances of this host cannot take."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: shed.Compiled, book: Book | None = None) -> None:
        super().__init__("shed", "admit", state, in_force, book=book, holds=ATTEMPT)
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """Counts what it lets in, until it ended."""
        limiter = self.book.limiter
        if limiter is None:
            return None
        reason = limiter.enter(self.compiled.priority(subject.view), subject.reactor.now)
        return TurnAway(reason, self.compiled.retry_after_s) if reason else None

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        limiter = self.book.limiter
        if limiter is None:
            return None
        reason = limiter.peek(self.compiled.priority(subject.view))
        return TurnAway(reason, self.compiled.retry_after_s) if reason else None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Let in, or not."""
        if isinstance(verdict, TurnAway):
            return self.entry("not let in", verdict.reason)
        limiter = self.book.limiter
        limit = f"; {limiter.under_way} under way, of {limiter.limit:.0f}" if limiter is not None else ""
        return self.entry("let in", f"within the limit{limit}")

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """Good answers move the limit, and so does what none came of in a long time."""
        limiter = self.book.limiter
        if limiter is None:
            return
        now = subject.reactor.now
        if latency_s < 0.0:
            limiter.abandon()
        elif not status:
            limiter.give_up(latency_s, now)
        elif status >= 500:
            limiter.fail(latency_s, now)
        else:
            limiter.leave(latency_s, now)
