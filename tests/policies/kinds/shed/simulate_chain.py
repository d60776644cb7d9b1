"""A chain A → B → C in fake time, where C has a third of what is asked of it: A and B with `backpressure`, with an
adaptive limit alone, and with neither. C has an adaptive limit.

    python -m tests.policies.kinds.shed.simulate_chain

Every service has hands and a queue before them. B makes its calls of C one behind the other with work of its own
between them, or all at once, and answers 503 when one of them is refused; A calls B once.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from policies.kinds.shed.backpressure import Backpressure, branch
from policies.kinds.shed.figures import Figures
from policies.kinds.shed.limiter import Limiter

BACKPRESSURE = "backpressure"
SHED = "shed"
NOTHING = "nothing"
NEEDS, FREE = branch("/orders/17"), branch("/home")


class Chain(NamedTuple):
    """What is asked of it."""

    name: str
    capacity: float
    """Calls a second that C can bear."""
    calls: int = 1
    """Of C, for a request."""
    hands: int = 10
    """Of C."""
    at_once: bool = False
    """All calls of a request, and not one behind the other."""
    load: float = 3.0
    """What is asked, of what C can bear."""
    patience_s: float = 1000.0
    """After so long a caller goes; nobody notices who works for it."""
    slow: tuple[float, float] = (0.0, 1000.0)
    """From when to when C has no more than that; else it has ten times as much."""
    dead: tuple[float, float] = (0.0, 0.0)
    """From when to when C's breaker is open."""
    important: float = 0.0
    """Part of the requests that are critical."""
    free: float = 0.0
    """For each request that needs C so many come that do not."""
    workers: int = 1
    """Of B's agent."""
    seconds: float = 90.0
    begin: float = 20.0


class Outcome(NamedTuple):
    """What came of it from `begin` on."""

    good: int
    important: int
    """Of the good ones."""
    important_came: int
    free: int
    """Of those that do not need C, so many were answered."""
    free_came: int
    possible: float
    queue: int
    """The longest, of any service."""
    at_last: float
    """Part of those of the last ten seconds that were answered."""

    @property
    def goodput(self) -> float:
        """Of what C can bear."""
        return self.good / self.possible


CHAINS = (
    Chain("100/s, 1 call", 100),
    Chain("100/s, 3 calls", 100, calls=3),
    Chain("300/s, 10 calls", 300, calls=10),
    Chain("20/s by 1 hand, 3 calls", 20, calls=3, hands=1),
    Chain("20/s by 10 hands, 5 calls", 20, calls=5),
    Chain("100/s, 2 calls at once", 100, calls=2, at_once=True),
    Chain("100/s, 3 calls, callers that wait 1 s", 100, calls=3, patience_s=1.0),
    Chain("20/s by 4 hands, 5 calls, callers that wait 2.5 s", 20, calls=5, hands=4, patience_s=2.5),
    Chain("100/s, 3 calls, asked 10 times as much", 100, calls=3, load=10.0),
    Chain("100/s, 3 calls, a quarter critical", 100, calls=3, important=0.25),
    Chain("100/s, 3 calls, as many requests need none", 100, calls=3, free=1.0),
    Chain("100/s, 3 calls, 4 workers", 100, calls=3, workers=4),
    Chain("100/s, 3 calls, for 40 s", 100, calls=3, slow=(30.0, 70.0), seconds=110.0),
)


class Service:
    """Hands, a queue before them, and who is let in."""

    def __init__(self, hands: int, work_s: float, *, how: str, workers: int = 1) -> None:
        self.hands = hands
        self.work_s = work_s
        self.limiter = Limiter(Figures(fixed=1_000_000) if how == NOTHING else Figures())
        self.backpressure = [Backpressure() for _ in range(workers)] if how == BACKPRESSURE else []
        self.queue: deque[Callable[[], None]] = deque()
        self.busy = 0
        self.number = 0

    def worker(self) -> Backpressure | None:
        """Whose turn it is."""
        self.number += 1
        return self.backpressure[self.number % len(self.backpressure)] if self.backpressure else None

    def refuse_call(self, now: float) -> None:
        """One of its calls was refused; its workers know that together."""
        for one in self.backpressure:
            one.refuse_call("c.production", now)


class Simulation:
    """One run."""

    def __init__(self, chain: Chain, how: str, seed: int) -> None:
        self.chain = chain
        self.rng = random.Random(seed)
        self.a = Service(1000, 0.005, how=how)
        self.b = Service(1000, 0.005, how=how, workers=chain.workers)
        self.c = Service(chain.hands, chain.hands / chain.capacity, how=SHED)
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = 0.0
        self.good = self.important = self.important_came = self.free = self.free_came = self.longest = 0
        self.last = [0, 0]

    def run(self) -> Outcome:
        """To the end."""
        chain = self.chain
        rate = chain.load * chain.capacity / chain.calls
        self.arrive(rate, NEEDS)
        if chain.free:
            self.arrive(rate * chain.free, FREE)
        while self.events and self.events[0][0] < chain.seconds:
            self.now, _, act = heapq.heappop(self.events)
            act()
        steps = [chain.begin + n / 10 for n in range(int((chain.seconds - chain.begin) * 10))]
        possible = sum(min(rate, self.bears(t)) for t in steps) / 10
        at_last = self.last[0] / max(self.last[1], 1)
        return Outcome(
            self.good, self.important, self.important_came, self.free, self.free_came, possible, self.longest, at_last
        )

    def bears(self, t: float) -> float:
        """Requests a second that C can bear."""
        chain = self.chain
        if chain.dead[0] <= t < chain.dead[1]:
            return 0.0
        return chain.capacity * (1 if chain.slow[0] <= t < chain.slow[1] else 10) / chain.calls

    def later(self, after_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + after_s, next(self.order), act))

    def serve(self, service: Service, then: Callable[[], None]) -> None:
        """By one of its hands, in its turn."""
        service.queue.append(then)
        self.longest = max(self.longest, len(service.queue))
        self.take(service)

    def take(self, service: Service) -> None:
        while service.busy < service.hands and service.queue:
            service.busy += 1
            then = service.queue.popleft()
            slow = self.chain.slow[0] <= self.now < self.chain.slow[1]
            work_s = service.work_s if service is not self.c or slow else service.work_s / 10

            def done(then: Callable[[], None] = then) -> None:
                service.busy -= 1
                then()
                self.take(service)

            self.later(work_s * (0.5 + self.rng.random()), done)

    def ask(
        self,
        service: Service,
        place: int,
        priority: int,
        then: Callable[[bool, bool], None],
        body: Callable[[Callable[[bool], None]], None],
    ) -> None:
        """`then` hears whether it went well, and whether it was not let in."""
        began, one = self.now, service.worker()
        if one is not None and one.ask(place, priority, began):
            then(False, True)
            return
        governed = one is not None and one.governs(place)
        if not governed and service.limiter.enter(priority, began):
            then(False, True)
            return
        if one is not None:
            one.enter(place, priority, began)

        over = False

        def end(ok: bool | None) -> None:
            """None: nobody waits any more, and the service goes on."""
            nonlocal over
            if over:
                return
            over = True
            age_s, limiter = self.now - began, service.limiter
            if not governed:
                (limiter.leave if ok else limiter.fail if ok is not None else limiter.give_up)(age_s, self.now)
            if one is not None:
                one.leave(place, age_s, self.now, 200 if ok else 503 if ok is not None else 0)
            then(bool(ok), False)

        if service is self.a and self.chain.patience_s < 1000.0:
            self.later(self.chain.patience_s, lambda: end(None))
        self.serve(service, lambda: body(end))

    def call(
        self,
        caller: Service,
        service: Service,
        place: int,
        priority: int,
        then: Callable[[bool], None],
        body: Callable[[Callable[[bool], None]], None],
    ) -> None:
        """By way of the caller's agent."""

        def over(ok: bool, refused: bool) -> None:
            if refused:
                caller.refuse_call(self.now)
            then(ok)

        if service is self.c and self.chain.dead[0] <= self.now < self.chain.dead[1]:
            over(False, True)
        else:
            self.ask(service, place, priority, over, body)

    def arrive(self, rate: float, place: int) -> None:
        """One, and then the next."""
        chain = self.chain
        self.later(self.rng.expovariate(rate), lambda: self.arrive(rate, place))
        priority = 0 if self.rng.random() < chain.important else 2
        came = self.now
        counted, last = came >= chain.begin, came >= chain.seconds - 10.0
        if place == FREE:
            self.free_came += counted
        else:
            self.important_came += counted and not priority
            self.last[1] += last

        def answered(ok: bool, refused: bool) -> None:
            if not ok or not counted or self.now - came > chain.patience_s:
                return
            if place == FREE:
                self.free += 1
            else:
                self.good += 1
                self.important += not priority
                self.last[0] += last

        def in_b(end: Callable[[bool], None]) -> None:
            if place == FREE:
                end(True)
            elif chain.at_once:
                self.all_at_once(priority, end)
            else:
                self.one_by_one(priority, end, chain.calls)

        def in_a(end: Callable[[bool], None]) -> None:
            self.call(self.a, self.b, place, priority, end, in_b)

        self.ask(self.a, place, priority, answered, in_a)

    def one_by_one(self, priority: int, end: Callable[[bool], None], left: int) -> None:
        """B's calls of C, and its own work between them."""

        def then(ok: bool) -> None:
            if ok:
                self.serve(self.b, lambda: self.one_by_one(priority, end, left - 1))
            else:
                end(False)

        if left:
            self.call(self.b, self.c, NEEDS, priority, then, lambda done: done(True))
        else:
            end(True)

    def all_at_once(self, priority: int, end: Callable[[bool], None]) -> None:
        """Of which all have to succeed."""
        answers: list[bool] = []

        def then(ok: bool) -> None:
            answers.append(ok)
            if len(answers) == self.chain.calls:
                end(all(answers))

        for _ in range(self.chain.calls):
            self.call(self.b, self.c, NEEDS, priority, then, lambda done: done(True))


def simulate(chain: Chain, how: str, seed: int = 1) -> Outcome:
    """One run."""
    return Simulation(chain, how, seed).run()


def main() -> None:
    """Print the table of docs/policies/shed.md."""
    print("| C can bear, and calls for a request | A and B with `backpressure` | with `{}` | with neither |")
    print("| --- | --- | --- | --- |")
    for chain in CHAINS:
        found = [simulate(chain, how) for how in (BACKPRESSURE, SHED, NOTHING)]
        print(f"| {chain.name} | {' | '.join(f'{100 * each.goodput:.0f}%' for each in found)} |")
        if chain.important:
            parts = [f"{100 * each.important / each.important_came:.0f}%" for each in found]
            print(f"| ... of the critical ones were answered | {' | '.join(parts)} |")
        if chain.free:
            parts = [f"{100 * each.free / each.free_came:.0f}%" for each in found]
            print(f"| ... of those that need none were answered | {' | '.join(parts)} |")


if __name__ == "__main__":
    main()
