# mypyc: compiled
"""`ratelimit`: how many requests may pass, on one side: out of the caller's agent, or in to the instance."""

from __future__ import annotations

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, header_lines
from agent.proxy.table.lasting import Book, Lasting
from policies.kinds.ratelimit.buckets import Compiled
from policies.kinds.ratelimit.limit import Limited, Quota, fields


class Limits(Phase):
    """Refuses what is one too many."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: Compiled, book: Book | None = None) -> None:
        super().__init__("ratelimit", "admit", state, in_force, book=book)
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """Takes from every limit that the request matches, or from none."""
        buckets = self.book.buckets
        if buckets is None:
            return None
        limited = self.compiled.decide(buckets, subject.view, subject.reactor.now)
        if not self.audit:
            subject.left = _less(subject.left, buckets.left) if limited is None else None
        return None if limited is None else _refuse(limited)

    def peek(self, subject: Subject) -> Verdict | None:
        """Takes nothing."""
        buckets = self.book.buckets
        if buckets is None:
            return None
        limited = self.compiled.peek(buckets, subject.view, subject.reactor.now)
        return None if limited is None else _refuse(limited)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which one refuses it."""
        if isinstance(verdict, Refuse):
            return self.entry(f"refused by {verdict.what}", verdict.refusal.reason)
        return self.entry("goes on", f"within its limits: {', '.join(self.compiled.names) or 'none'}")


def _less(one: Quota | None, other: Quota | None) -> Quota | None:
    """Of two sides' limits the one that leaves less."""
    return other if one is None or (other is not None and other.remaining < one.remaining) else one


def _refuse(limited: Limited) -> Refuse:
    body = limited.body.encode() if limited.body else None
    refusal = Refusal(limited.status, "ratelimit", limited.reason, unsent=True)
    return Refuse(refusal, header_lines(fields(limited)), body, what=limited.name)
