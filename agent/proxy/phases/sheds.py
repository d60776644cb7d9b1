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
from policies.kinds.shed.backpressure import BRANCHES, Backpressure
from policies.kinds.shed.backpressure import branch as branch_of
from policies.kinds.shed.limiter import Limiter


class Sheds(Phase):
    """Turns away what the instances of this host cannot take."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: shed.Compiled, book: Book | None = None) -> None:
        super().__init__("shed", "admit", state, in_force, book=book, holds=ATTEMPT)
        self.compiled = compiled

    @property
    def pressure(self) -> Backpressure | None:
        """Of what is in force; what is only watched judges by its limit alone."""
        return None if self.audit else self.state.backpressure

    def decide(self, subject: Subject) -> Verdict | None:
        """Counts what it lets in, until it ended."""
        limiter, pressure = self.book.limiter, self.pressure
        if limiter is None:
            return None
        now, priority = subject.reactor.now, self.compiled.priority(subject.view)
        if pressure is not None:
            return self._under_pressure(subject, limiter, pressure, priority)
        if not self.audit:
            subject.branch = -1
        reason = limiter.enter(priority, now)
        return TurnAway(reason, self.compiled.retry_after_s) if reason else None

    def _under_pressure(
        self, subject: Subject, limiter: Limiter, pressure: Backpressure, priority: int
    ) -> Verdict | None:
        """The same, where it counts that what the service calls may have no room."""
        now, branch = subject.reactor.now, branch_of(subject.view.path)
        reason = pressure.ask(branch, priority, now)
        if reason:
            return TurnAway(reason, self.compiled.retry_after_s, "backpressure")
        if subject.branch % BRANCHES != branch or subject.branch < 0:  # else a hedge: as the attempt beside it
            subject.branch = branch + BRANCHES if pressure.governs(branch) else branch
        if subject.branch < BRANCHES:
            reason = limiter.enter(priority, now)
            if reason:
                return TurnAway(reason, self.compiled.retry_after_s)
        pressure.enter(branch, priority, now)
        return None

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        limiter, pressure = self.book.limiter, self.pressure
        if limiter is None:
            return None
        priority = self.compiled.priority(subject.view)
        if pressure is not None:
            branch = branch_of(subject.view.path)
            reason = pressure.peek(branch, priority, subject.reactor.now)
            if reason:
                return TurnAway(reason, self.compiled.retry_after_s, "backpressure")
            if pressure.governs(branch):
                return None
        reason = limiter.peek(priority)
        return TurnAway(reason, self.compiled.retry_after_s) if reason else None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Let in, or not."""
        if isinstance(verdict, TurnAway):
            return self.entry("not let in", verdict.reason)
        limiter, pressure = self.book.limiter, self.pressure
        if pressure is not None and pressure.governs(branch_of(subject.view.path)):
            return self.entry("let in", f"one of {pressure.window:.2g} that can succeed; what it calls has no room")
        limit = f"; {limiter.under_way} under way, of {limiter.limit:.0f}" if limiter is not None else ""
        return self.entry("let in", f"within the limit{limit}")

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """Good answers move the limit, and so does what none came of in a long time."""
        limiter = self.book.limiter
        if limiter is None:
            return
        now, branch = subject.reactor.now, subject.branch
        pressure = self.pressure
        if pressure is not None and branch >= 0:
            pressure.leave(branch % BRANCHES, max(latency_s, 0.0), now, status if latency_s >= 0.0 else -1)
            if branch >= BRANCHES:
                return
        if latency_s < 0.0:
            limiter.abandon()
        elif not status:
            limiter.give_up(latency_s, now)
        elif status >= 500:
            limiter.fail(latency_s, now)
        else:
            limiter.leave(latency_s, now)
