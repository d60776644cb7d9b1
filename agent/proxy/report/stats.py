# mypyc: compiled
"""Counters of one worker, as plain integers; control adds the workers up and renders them. What each request is counted
in where it ends is in `signals`.

Law: what somebody else chooses (a path, a name, an address, a claim) names a counter only within a bound; what is
beyond is counted under the name `others`, which says how often that was.
"""

from __future__ import annotations

from typing import Any, Final

from agent.proxy.report.signals import OTHERS, Room, Signals

CLASSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx", "cancelled")
"""Of requests, by status."""
MOST_NAMES: Final = 1_000
"""Of one counter."""
MOST_PEERS: Final = 100
"""That are told apart."""


class ServiceStats:
    """What was seen of one service, from this worker. Outlives every plan."""

    __slots__ = (
        "active",
        "audit",
        "authenticated",
        "authorized",
        "bytes_in",
        "bytes_out",
        "callers",
        "copies",
        "ejections",
        "failures",
        "faults",
        "flagged",
        "judged",
        "limited",
        "met",
        "outside",
        "plain",
        "refused",
        "refused_second",
        "shed",
        "signals",
        "transitions",
    )

    def __init__(self, room: Room | None = None) -> None:
        """`room`: for what is told apart of all services of a worker; without one this service is alone."""
        self.signals = Signals(room)
        """Requests that ended."""
        self.active = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.refused: dict[str, int] = {}
        """By policy: answers of the mesh's own to requests that this agent met first, those of other agents that it
        passed on with them: all agents together have each once."""
        self.refused_second: dict[str, int] = {}
        """The same of what another agent has handed over, and counts itself."""
        self.failures: dict[str, int] = {}
        """Attempts that failed, by kind of failure, and `retries` for those that were tried again."""
        self.audit: dict[str, int] = {}
        """By kind, document, what was done and what would have been (`audited`): what watched documents were asked."""
        self.authenticated: dict[str, int] = {}
        """By document and verdict, with a tab between them: what `authn` found of tokens."""
        self.authorized: dict[str, int] = {}
        """By document, rule and verdict, with tabs between them: what each rule of `authz` decided."""
        self.judged: dict[str, int] = {}
        """By document, who was asked besides its rules, and how that went: asked, remembered or failed."""
        self.callers: dict[str, int] = {}
        """By calling service, as far as callers say who they are: requests."""
        self.copies: dict[str, int] = {}
        """By outcome: copies of requests that a shadow policy wanted."""
        self.shed: dict[str, int] = {}
        """By what became of them: requests that were not let in."""
        self.limited: dict[str, int] = {}
        """By limit: requests that were one too many."""
        self.faults: dict[str, int] = {}
        """By rule: requests that a fault was injected into."""
        self.flagged: dict[str, int] = {}
        """By flag and hop, with a tab between them: requests that got no whole answer of an instance."""
        self.plain: dict[str, int] = {}
        """By the host or address at the other end: requests in plain text, where policy would rather have TLS."""
        self.outside: dict[str, int] = {}
        """By trust domain: requests of callers of other meshes."""
        self.transitions: dict[str, int] = {}
        """By state: how often a breaker went there."""
        self.ejections: dict[str, int] = {}
        """By endpoint."""
        self.met: dict[str, dict[str, int]] = {
            "ratelimit": self.limited,
            "fault": self.faults,
            "breaker": self.refused,
            "shed": self.shed,
        }
        """By kind: where it is counted that a phase had something to say."""

    def note_met(self, kind: str, what: str) -> None:
        """A phase had something to say of a request."""
        counters = self.met.get(kind)
        if counters is not None:
            count(counters, what)

    def note_plain(self, peer: str) -> None:
        """A request came or went in plain text."""
        count(self.plain, peer if peer in self.plain or len(self.plain) < MOST_PEERS else OTHERS)

    def note_outside(self, domain: str) -> None:
        """A request of another trust domain was let in; those that can prove anything have a bundle here."""
        count(self.outside, domain)

    def note_authorized(self, what: str) -> None:
        """A rule decided."""
        count(self.authorized, what)

    def note_authenticated(self, what: str) -> None:
        """A token was judged, or there was none."""
        count(self.authenticated, what)

    def note_judged(self, what: str) -> None:
        """Somebody was asked besides the rules; there are as many of them as documents."""
        count(self.judged, what)

    def note_audit(self, kind: str, document: str, done: str, would: str) -> None:
        """A document that is only watched was asked."""
        count(self.audit, "\t".join((kind, document, done, would)))

    def audited(self) -> dict[tuple[str, str, str, str], int]:
        """By kind, document, what was done, and what would have been."""
        found: dict[tuple[str, str, str, str], int] = {}
        for words, number in self.audit.items():
            if words != OTHERS:
                kind, document, done, would = words.split("\t")
                found[kind, document, done, would] = number
        return found

    def copied(self, outcome: str, number: int) -> None:
        """Copies of a request came to something: answered, failed, dropped, or their answers could not be compared."""
        self.copies[outcome] = self.copies.get(outcome, 0) + number

    def as_frame(self) -> dict[str, Any]:
        """What `ask metrics` answers for a service."""
        signals = self.signals
        classes = signals.requests
        requests = {CLASSES[n]: count for n, count in enumerate(classes) if count}
        return {
            "requests": requests,
            "duration_buckets": signals.buckets,
            "duration_sum_s": signals.duration_s,
            "edges": signals.as_frame(),
            "exemplars": signals.exemplars_frame(),
            "folded": signals.folded,
            "active": self.active,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "refused": self.refused,
            "refused_second": self.refused_second,
            "failures": self.failures,
            "audit": self.audit,
            "authenticated": self.authenticated,
            "authorized": self.authorized,
            "judged": self.judged,
            "callers": self.callers,
            "copies": self.copies,
            "shed": self.shed,
            "limited": self.limited,
            "outside": self.outside,
            "plain": self.plain,
            "faults": self.faults,
            "flagged": self.flagged,
            "transitions": self.transitions,
            "ejections": self.ejections,
        }


def count(counters: dict[str, int], name: str) -> None:
    """Add one to a named counter; where there are too many names already, to that of the others."""
    known = counters.get(name)
    if known is not None:
        counters[name] = known + 1
    elif len(counters) < MOST_NAMES:
        counters[name] = 1
    else:
        counters[OTHERS] = counters.get(OTHERS, 0) + 1
