# mypyc: compiled
"""What was learnt of a service, and outlives every plan: loads, budgets, positions, counters, breakers, limiters.

A leaf: plans and their phases refer to it, it to none of them.
"""

from __future__ import annotations

from typing import Any

from agent.proxy.engine.reactor import Timed
from agent.proxy.report.news import News
from agent.proxy.report.signals import Room
from agent.proxy.report.stats import ServiceStats, count
from agent.proxy.table.connections import Connections
from policies.decision import Subset
from policies.endpoint import Load
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.breaker.circuit import Circuit, Transition
from policies.kinds.outlier.ejector import Ejector
from policies.kinds.ratelimit.buckets import Buckets
from policies.kinds.retry.budget import Budget
from policies.kinds.retry.quantile import Recent
from policies.kinds.shed.backpressure import Backpressure
from policies.kinds.shed.limiter import Limiter
from policies.kinds.trace.decide import Begun
from policies.language.document import Document
from policies.together import Together


class Book:
    """What the documents of one service count in. Those that are only watched have one of their own."""

    __slots__ = ("begun", "buckets", "circuit", "ejector", "followed", "judge", "limiter")

    def __init__(self) -> None:
        self.begun = Begun()
        self.followed = Begun()
        self.buckets: Buckets | None = None
        self.circuit: Circuit | None = None
        self.ejector: Ejector | None = None
        self.judge: Timed | None = None
        """Who calls the ejector, at intervals."""
        self.limiter: Limiter | None = None
        """Of its instances on this host, as far as this worker hands them requests."""


class Lasting(Book):
    """Of one service, in one worker."""

    __slots__ = (
        "asking",
        "audits",
        "backpressure",
        "budget",
        "copying",
        "loads",
        "name",
        "news",
        "recent",
        "relief",
        "shed_at",
        "states",
        "stats",
        "tally",
        "together",
    )

    def __init__(self, name: str, news: News, together: Together | None = None, room: Room | None = None) -> None:
        """`together`: what the workers of the agent count together; without it this one is alone. `room`: for what is
        told apart of all its services."""
        super().__init__()
        self.audits: Book | None = None
        """Where there are documents that are only watched."""
        self.asking: dict[str, tuple[Document, Any]] = {}
        """By mode and pattern: documents of `authz` that have somebody asked, and what they compile to."""
        self.name = name
        self.together = together
        self.news = news
        self.stats = ServiceStats(room)
        self.budget = Budget()
        self.recent = Recent()
        """Latencies of answers, in seconds; kept where a hedge needs them."""
        self.loads: dict[str, Load] = {}
        self.states: dict[Subset | None, BalanceState] = {}
        self.tally = Connections()
        """Connections to its endpoints."""
        self.copying = 0
        """Copies of its requests that are under way."""
        self.backpressure: Backpressure | None = None
        """Of its instances on this host, while what they call has no room."""
        self.shed_at = 0.0
        self.relief: Timed | None = None
        """While load is shed."""

    def tell_transition(self, endpoint: str, transition: Transition | None, *, audit: bool) -> None:
        """Count and tell that a breaker changed its state. `endpoint` is empty for that of the service."""
        if transition is None:
            return
        if not audit:
            count(self.stats.transitions, transition.after)
        self.news.add(
            "breaker", self.name, endpoint, transition.before, transition.after, transition.reason, audit=audit
        )
