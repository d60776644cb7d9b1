# mypyc: compiled
"""A phase: one document in force for a service, asked about each request that comes by.

Laws
- A phase decides and never acts: what it says is a value, and `agent.proxy.request.walk` does it, counts it, and tells
  of it. One of a document that is only watched is asked like any other, and nothing is done: `audit`.
- What a phase counts stands in its `book`, and that of a watched document in another than what is in force.
- It is made once for a plan. Asking it allocates nothing where there is nothing to say.
- `peek` says what `decide` would, and moves and counts nothing.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Verdict
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.table.lasting import Book, Lasting

ATTEMPT: Final = 1
"""What it lets pass it counts until the attempt is over."""
REQUEST: Final = 2
"""Until the request is."""


class Phase:
    """One of a plan's."""

    __slots__ = (
        "audit",
        "beside",
        "book",
        "counts",
        "guards",
        "holds",
        "in_force",
        "kind",
        "name",
        "sees_rewritten",
        "state",
    )

    def __init__(
        self,
        kind: str,
        name: str,
        state: Lasting,
        in_force: InForce,
        *,
        book: Book | None = None,
        counts: bool = True,
        holds: int = 0,
    ) -> None:
        """`book`: None for the service's, of what is in force."""
        self.kind = kind
        self.name = name
        """The step of a request's way that explanations show it under."""
        self.state = state
        self.book: Book = state if book is None else book
        self.in_force = in_force
        self.audit = in_force.mode == "audit"
        self.beside: Phase | None = None
        """Of a document of the same kind that is only watched: it is asked about whatever this one is asked about."""
        self.guards = False
        """Whether it says who may be served at all, rather than how much or when."""
        self.sees_rewritten = False
        """Whether the caller's agent asks it about what the instance will see, rather than about what was asked for."""
        self.counts = counts
        """Whether what it says is counted; of a watched one it is, whatever this says."""
        self.holds = holds
        """Whether what it lets pass it counts until `ended`: ATTEMPT, REQUEST, or 0."""

    def decide(self, subject: Subject) -> Verdict | None:
        """What becomes of a request; None: it goes on."""
        raise NotImplementedError

    def peek(self, subject: Subject) -> Verdict | None:
        """The same; nothing is moved and nothing counted. As it stands, for those whose `decide` moves nothing."""
        return self.decide(subject)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """The words of it, for explanations."""
        raise NotImplementedError

    def usual_s(self) -> float:
        """What good answers take, as far as it knows; 0: it does not."""
        return 0.0

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """What it let pass is over: answered with a status, after so long; 0: nobody waited any longer for an answer.
        Where it says nothing how long it took, that is negative."""

    def proved(self, subject: Subject, status: int, latency_s: float) -> None:
        """The same of what goes on."""

    def entry(self, decision: str, reason: str) -> Entry:
        """One decision of this document's."""
        return entry(self.in_force, self.name, self.kind, decision, reason)


class Both(Phase):
    """What counts on a request for the document that is in force, which is the first, and for one that is watched."""

    __slots__ = ("_other", "_phase")

    def __init__(self, phase: Phase, other: Phase) -> None:
        super().__init__(phase.kind, phase.name, phase.state, phase.in_force, book=phase.book, holds=phase.holds)
        self._phase = phase
        self._other = other

    def usual_s(self) -> float:
        """As the first says."""
        return self._phase.usual_s()

    def ended(self, subject: Subject, status: int, latency_s: float) -> None:
        """For both."""
        self._phase.ended(subject, status, latency_s)
        self._other.ended(subject, status, latency_s)

    def proved(self, subject: Subject, status: int, latency_s: float) -> None:
        """For both."""
        self._phase.proved(subject, status, latency_s)
        self._other.proved(subject, status, latency_s)
