# mypyc: compiled
"""Counters of one worker, as plain integers; control adds the workers up and renders them.

A histogram is a list of integers and a bisection: an observation costs a fraction of a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

MOST_PEERS: Final = 100
"""That are told apart."""
MOST_RULES: Final = 1000
"""Of one service, with their verdicts."""
OTHER_RULES: Final = "others\tothers\tothers"


class ServiceStats:
    """What was seen of one service, from this worker. Outlives every plan."""

    __slots__ = (
        "active",
        "audit",
        "authenticated",
        "authorized",
        "buckets",
        "bytes_in",
        "bytes_out",
        "callers",
        "copies",
        "duration_s",
        "ejections",
        "failures",
        "faults",
        "judged",
        "limited",
        "met",
        "outside",
        "plain",
        "refused",
        "requests",
        "shed",
        "transitions",
    )

    def __init__(self) -> None:
        self.requests = [0, 0, 0, 0, 0, 0]
        """By class of status: index 2 is 2xx. Index 0: the client went away before an answer."""
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.duration_s = 0.0
        self.active = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.refused: dict[str, int] = {}
        """By policy: answers that Shoal made itself."""
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
        count(self.plain, peer if peer in self.plain or len(self.plain) < MOST_PEERS else "others")

    def note_outside(self, domain: str) -> None:
        """A request of another trust domain was let in; those that can prove anything have a bundle here."""
        count(self.outside, domain)

    def note_authorized(self, what: str) -> None:
        """A rule decided."""
        found = self.authorized
        count(found, what if what in found or len(found) < MOST_RULES else OTHER_RULES)

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
            kind, document, done, would = words.split("\t")
            found[kind, document, done, would] = number
        return found

    def observe(self, status: int, duration_s: float) -> None:
        """A request that ended with a status, after so long."""
        self.requests[status // 100] += 1
        self.buckets[bisect_left(BOUNDS_S, duration_s)] += 1
        self.duration_s += duration_s

    def copied(self, outcome: str, number: int) -> None:
        """Copies of a request came to something: answered, failed, dropped, or their answers could not be compared."""
        self.copies[outcome] = self.copies.get(outcome, 0) + number

    def as_frame(self) -> dict[str, Any]:
        """What `ask metrics` answers for a service."""
        requests = {f"{n}xx": count for n, count in enumerate(self.requests) if n and count}
        if self.requests[0]:
            requests["gone"] = self.requests[0]
        return {
            "requests": requests,
            "duration_buckets": self.buckets,
            "duration_sum_s": self.duration_s,
            "active": self.active,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "refused": self.refused,
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
            "transitions": self.transitions,
            "ejections": self.ejections,
        }


def count(counters: dict[str, int], name: str) -> None:
    """Add one to a named counter."""
    counters[name] = counters.get(name, 0) + 1
