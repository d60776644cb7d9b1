# mypyc: compiled
"""`breaker`: when nothing is sent to a struggling service, and what callers get instead."""

from __future__ import annotations

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import REQUEST, Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import FallBack, Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, header_lines
from agent.proxy.table.lasting import Book, Lasting
from policies.decision import Forward
from policies.kinds.breaker import decide as breaker
from policies.kinds.breaker.circuit import CLOSED, HALF_OPEN, OPEN, Circuit


class Breakers(Phase):
    """The breaker of a service as a whole. Those of its endpoints are entered where one is picked."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: breaker.Compiled, book: Book | None = None) -> None:
        super().__init__("breaker", "breaker", state, in_force, book=book, holds=REQUEST)
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """Counts what it lets pass, until it ended."""
        circuit, tally = self.book.circuit, self.state.tally
        if circuit is None:
            return None
        subject.entered_at = now = subject.reactor.now
        reason = circuit.enter(now, subject.rng, tally.pending)
        self.state.tell_transition("", circuit.take_transition(), audit=self.audit)
        return self._refuse(circuit, reason, now) if reason else None

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        circuit, tally = self.book.circuit, self.state.tally
        if circuit is None:
            return None
        now = subject.reactor.now
        reason = circuit.peek(now, subject.rng, tally.pending)
        return self._refuse(circuit, reason, now) if reason else None

    def _refuse(self, circuit: Circuit, reason: str, now: float) -> Verdict:
        fallback = self.compiled.fallback
        if isinstance(fallback, Forward):
            return FallBack(fallback, reason)
        retry_after_s = max(1, int(circuit.retry_after_s(now) + 0.999)) if fallback.status >= 500 else 0
        refusal = Refusal(fallback.status, "breaker", reason, retry_after_s, unsent=True)
        return Refuse(refusal, header_lines(fallback.headers), fallback.body or None, counted=True)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """How it stands, and what it says."""
        if isinstance(verdict, FallBack):
            return self.entry(f"refused: {_state(verdict.reason)}", f"{verdict.reason}; its fallback takes over")
        if isinstance(verdict, Refuse):
            return self.entry(f"refused: {_state(verdict.refusal.reason)}", verdict.refusal.reason)
        circuit = self.book.circuit
        if circuit is None or circuit.state == CLOSED:
            return self.entry(CLOSED, "lets it pass")
        return self.entry(HALF_OPEN, f"lets it pass, to find out: {circuit.reason}")

    def usual_s(self) -> float:
        """As its circuit has learnt."""
        return self.book.circuit.usual_s if self.book.circuit is not None else 0.0

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """An answer is good or bad; what has none says nothing."""
        circuit = self.book.circuit
        if circuit is None:
            return
        now = subject.reactor.now
        inside_s = now - subject.entered_at
        if status:
            ok = not self.compiled.failure(status)
            self.state.tell_transition("", circuit.leave(ok, latency_s, now, subject.rng, inside_s), audit=self.audit)
        else:
            circuit.abandon(now, inside_s)

    def proved(self, subject: Subject, status: int, latency_s: float) -> None:
        """An answer that goes on for long."""
        circuit = self.book.circuit
        if circuit is not None:
            now, ok = subject.reactor.now, not self.compiled.failure(status)
            change = circuit.prove(ok, latency_s, now, subject.rng, now - subject.entered_at)
            self.state.tell_transition("", change, audit=self.audit)


def _state(reason: str) -> str:
    """Of a breaker that refuses: its reason begins with it, or else it is one of its limits."""
    return next((state for state in (OPEN, HALF_OPEN) if reason.startswith(state)), "full")
