"""A limit for all agents under a skewed load that moves, in fake time: what passes, against what should.

    python -m tests.policies.kinds.ratelimit.simulate_shares

prints the table of docs/policies/ratelimit.md.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

from policies.kinds.ratelimit.buckets import Buckets, Compiled
from policies.kinds.ratelimit.limit import Limit
from policies.kinds.ratelimit.shares import GRANT_S, REPORT_S, Ledger, Member, Shared, owner
from policies.request import Request

LIMIT = "all"
RATE = 1000.0
BURST = 1000.0
TICK_S = 0.02
REQUEST = Request()


class Load(NamedTuple):
    """What is asked for: so much a second, `skew` of it of one agent, which is another one every `moves_s`."""

    agents: int = 5
    total: float = 3000.0
    skew: float = 0.8
    moves_s: float = 5.0

    def rate(self, agent: int, now: float) -> float:
        """Requests a second of one agent."""
        if agent == int(now / self.moves_s) % self.agents:
            return self.total * self.skew
        return self.total * (1 - self.skew) / (self.agents - 1)


class Bursts(Load):
    """All of it for `moves_s`, then nothing for as long, and so on: at one agent, another one each time; or, with a
    `skew` of 0, at all of them alike."""

    def rate(self, agent: int, now: float) -> float:
        """Requests a second of one agent."""
        turn, off = divmod(int(now / self.moves_s), 2)
        if off:
            return 0.0
        if not self.skew:
            return self.total / self.agents
        return self.total if agent == turn % self.agents else 0.0


class Outcome(NamedTuple):
    """What came of it."""

    passed: list[float]
    """When requests passed."""
    highest: float
    """The most that all shares together were, as a fraction of the limit."""

    def within(self, begin: float, end: float) -> int:
        """Requests that passed in a span of time."""
        return sum(begin <= at < end for at in self.passed)

    def errors(self, window_s: float, begin: float, end: float) -> list[float]:
        """Of every window that begins on a quarter of a second: by how much of the limit it was off."""
        starts = [begin + n / 4 for n in range(int((end - begin - window_s) * 4) + 1)]
        return [self.within(at, at + window_s) / (RATE * window_s) - 1 for at in starts]


class Agent:
    """One agent, whose workers take together."""

    def __init__(self, name: str, agents: int) -> None:
        self.name = name
        self.member = Member()
        self.ledger = Ledger()
        self.member.configure([LIMIT], agents)
        self.buckets = Buckets()
        self.buckets.begin(LIMIT, 1 / agents)

    def demand(self) -> float:
        """Requests, since ever."""
        return self.buckets.demand(LIMIT)

    def share_out(self, now: float) -> None:
        """To the workers."""
        self.buckets.set_share(LIMIT, self.member.share(LIMIT, now))
        self.buckets.meter(LIMIT).rest = self.member.rest(LIMIT, now)


class Simulation:
    """Reports are up to `delay_s` late each way, `lost` of them and of their answers never arrive, and the owner says
    nothing while it is `dead`."""

    def __init__(
        self,
        load: Load,
        seed: int,
        delay_s: float = 0.05,
        lost: float = 0.05,
        dead: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.load, self.rng, self.delay_s, self.lost, self.dead = load, random.Random(seed), delay_s, lost, dead
        names = [f"host{n}" for n in range(load.agents)]
        self.agents = [Agent(name, load.agents) for name in names]
        self.owner = self.agents[names.index(owner(LIMIT, names))]
        self.owner.ledger.configure({LIMIT: Shared(RATE)}, names, 0.0)
        self.limits = Compiled([Limit(LIMIT, RATE, BURST)])
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._passed: list[float] = []
        self._highest = 0.0

    def run(self, until: float) -> Outcome:
        """From nothing."""
        for n, agent in enumerate(self.agents):
            self._later(self.rng.random() * REPORT_S, lambda agent=agent: self._tick(agent))  # type: ignore[misc]
            self._ask(n, agent)
        while self._events and self._events[0][0] < until:
            self._now, _, act = heapq.heappop(self._events)
            act()
        return Outcome(self._passed, self._highest)

    def _later(self, after_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + after_s, next(self._order), act))

    def _ask(self, n: int, agent: Agent) -> None:
        rate = self.load.rate(n, self._now)
        if not rate:
            self._later(0.1, lambda: self._ask(n, agent))
            return
        if self._now and self.limits.decide(agent.buckets, REQUEST, self._now) is None:
            self._passed.append(self._now)
        self._later(self.rng.expovariate(rate), lambda: self._ask(n, agent))

    def _tick(self, agent: Agent) -> None:
        agent.share_out(self._now)
        self._highest = max(self._highest, sum(a.member.share(LIMIT, self._now) for a in self.agents))
        if agent.member.due(self._now):
            self._report(agent)
        self._later(TICK_S, lambda: self._tick(agent))

    def _report(self, agent: Agent) -> None:
        reports = agent.member.report({LIMIT: agent.demand()}, self._now)
        serial = agent.member.serial

        def arrive() -> None:
            if self.dead[0] <= self._now < self.dead[1]:
                return
            grants = self.owner.ledger.report(agent.name, reports, self._now)
            self._send(lambda: self._answer(agent, grants, serial))

        self._send(arrive)

    def _answer(self, agent: Agent, grants: dict[str, float], serial: int) -> None:
        agent.member.accept(grants, serial)
        agent.share_out(self._now)
        if agent.member.due(self._now):
            self._report(agent)

    def _send(self, act: Callable[[], None]) -> None:
        if self.rng.random() >= self.lost:
            self._later(self.rng.random() * self.delay_s, act)


def main() -> None:
    """Print the table."""
    print("| load | passed in 1 s | passed in 5 s | most in use |")
    print("| --- | --- | --- | --- |")
    for said, load, lost in (
        ("3,000/s, even", Load(skew=0.2), 0.05),
        ("3,000/s, 80% at one agent, another every 5 s", Load(), 0.05),
        ("the same, nothing lost", Load(), 0.0),
        ("the same, a fifth of all messages lost", Load(), 0.2),
        ("1,200/s, 80% at one agent, another every 5 s", Load(total=1200), 0.05),
        ("3,000/s, all but 4% at one agent, another every 2 s", Load(skew=0.96, moves_s=2), 0.05),
        ("a hundred agents, 3,000/s at one of them only", Load(100, skew=1.0, moves_s=60), 0.05),
        ("the same, another every 10 s", Load(100, skew=1.0, moves_s=10), 0.05),
    ):
        found = [Simulation(load, seed, lost=lost).run(31.0) for seed in range(10)]
        spans = []
        for window_s in (1.0, 5.0):
            errors = [error for outcome in found for error in outcome.errors(window_s, 3.0, 31.0)]
            spans.append(f"{100 * min(errors):+.1f}% to {100 * max(errors):+.1f}%")
        print(f"| {said} | {' | '.join(spans)} | {100 * max(outcome.highest for outcome in found):.2f}% |")
    found = [Simulation(Load(), seed, dead=(10.0, 30.0)).run(30.0) for seed in range(10)]
    for said, begin, end in (("first 4 s without the owner", 10.0, 10.0 + 4 * GRANT_S), ("after that", 14.0, 30.0)):
        errors = [error for outcome in found for error in outcome.errors(1.0, begin, end)]
        highest = 100 * max(outcome.highest for outcome in found)
        print(f"| {said} | {100 * min(errors):+.1f}% to {100 * max(errors):+.1f}% | | {highest:.2f}% |")


if __name__ == "__main__":
    main()
