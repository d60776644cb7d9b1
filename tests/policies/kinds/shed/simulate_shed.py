"""A service under more load than it can bear, with and without an adaptive limit, in fake time.

    python -m tests.policies.kinds.shed.simulate_shed

The service has so many hands, each busy for a while with a request; what waits for a hand stands in a queue. Clients
wait for a while and then go away, which most services do not notice: they do the work for nobody. The agent has so many
workers, and each client comes to one of them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from policies.kinds.shed.common import Common
from policies.kinds.shed.figures import Figures
from policies.kinds.shed.limiter import Limiter
from policies.together import CHANGES, OWNERS, WORDS, Gauge, Together


class Scene(NamedTuple):
    """What happens: requests a second, seconds of work each, and hands, at a time."""

    name: str
    rate: Callable[[float], float]
    work_s: Callable[[float], float]
    hands: Callable[[float], int] = lambda t: 16
    seconds: float = 40.0
    patience_s: float = 1.0
    workers: int = 1
    begin: float = 5.0
    """From when on it is counted: about what a service needs to answer twenty."""
    notices: bool = False
    """Whether the service stops its work on what nobody waits for."""
    hangs: float = 0.0
    """Part of requests that is never answered, and takes no hand."""
    spread: Callable[[random.Random], float] = lambda rng: 0.5 + rng.random()
    """Of the work: a draw with the mean 1."""


class Outcome(NamedTuple):
    """What came of it, from `begin` on."""

    good: int
    """Answered while the client was still there."""
    capacity: float
    """As many as could have been."""
    latencies_s: list[float]
    """Of accepted requests; those that were given up count as the client's patience."""
    refused: int
    queue: int
    """The longest."""

    @property
    def goodput(self) -> float:
        """Part of the capacity that was of use."""
        return self.good / self.capacity

    def percentile_s(self, part: float) -> float:
        ordered = sorted(self.latencies_s) or [0.0]
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def small(capacity: int, hands: int, *, load: float = 3.0, patience: float = 10.0, workers: int = 1) -> Scene:
    """A service of so many requests a second, asked for `load` times as many, by clients that wait for `patience` times
    the work."""
    work_s = hands / capacity
    by, whose = _count(hands, "hand"), _count(workers, "worker")
    name = f"{capacity}/s by {by}, asked {load * capacity:g}/s, patience {patience * work_s:g} s, {whose}"
    return Scene(
        name,
        lambda t: load * capacity,
        lambda t: work_s,
        lambda t: hands,
        seconds=max(60.0, 220.0 / capacity),
        begin=max(5.0, 20.0 / capacity),
        patience_s=patience * work_s,
        workers=workers,
    )


def drop(capacity: int, hands: int, *, by_hands: bool, workers: int = 1, load: float = 0.9) -> Scene:
    """A service that can bear a tenth of it for half of the time."""
    work_s = hands / capacity

    def slow(t: float) -> bool:
        return 30 <= t < 60

    how = "hands" if by_hands else "speed"
    by, whose = _count(hands, "hand"), _count(workers, "worker")
    return Scene(
        f"{capacity}/s by {by}, asked {load * capacity:g}/s, with a tenth of its {how} for 30 s, {whose}",
        lambda t: load * capacity,
        lambda t: work_s * (10 if slow(t) and not by_hands else 1),
        lambda t: max(1, hands // 10) if slow(t) and by_hands else hands,
        seconds=90.0,
        patience_s=max(1.0, 100 * work_s) if not by_hands else max(1.0, 10 * work_s),
        workers=workers,
    )


SCENES = (
    Scene("overload x3", lambda t: 2400.0, lambda t: 0.02),
    Scene("a step in latency, x2", lambda t: 1200.0, lambda t: 0.02 if t < 20 else 0.04),
    Scene("a slow dependency for 10 s", lambda t: 1000.0, lambda t: 0.4 if 15 <= t < 25 else 0.02),
    Scene("bursts from idle", lambda t: 2400.0 if t % 10 >= 5 else 10.0, lambda t: 0.02),
    Scene("many hands, overload x3", lambda t: 6000.0, lambda t: 0.1, lambda t: 200, seconds=20.0),
)

IMPATIENT = (
    *[small(c, h) for c in (1, 2, 5, 10, 20, 50) for h in (1, 4)],
    *[small(c, 1, workers=8) for c in (1, 10, 50)],
    *[small(10, 1, load=load) for load in (1.2, 10.0)],
    *[small(10, 1, patience=5.0, workers=n) for n in (1, 4)],
    *[drop(100, 20, by_hands=b, workers=n) for b in (True, False) for n in (1, 4)],
    *[drop(50, 1, by_hands=False, workers=n) for n in (1, 4)],
    *[drop(1000, 20, by_hands=b, workers=4) for b in (True, False)],
    small(10, 1)._replace(name="10/s by 1 hand that notices who left, asked 30/s", notices=True),
    Scene("a fifth is never answered, at 80% of the load", lambda t: 800.0, lambda t: 0.02, hangs=0.2),
    Scene("everything hangs for 10 s", lambda t: 500.0, lambda t: 0.02, lambda t: 0 if 15 <= t < 25 else 16),
)
"""Callers that leave, small services, and a capacity that drops to a tenth. They wait for 10 times the work, or 5."""


def limiters(workers: int) -> list[Limiter]:
    """Of one agent."""
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    made = []
    for region in range(workers):
        words[OWNERS + region] = 100 + region
        words[CHANGES] += 1
        together = Together(words, region)
        limiter = Limiter(Figures(), Common(together, "pets"))
        limiter.count_together(Gauge(together, "pets"))
        made.append(limiter)
    return made


class Request:
    """One that was let in."""

    __slots__ = ("came", "left", "limiter", "over")

    def __init__(self, came: float, limiter: Limiter | None) -> None:
        self.came = came
        self.limiter = limiter
        self.left = False
        self.over = False


def simulate(
    scene: Scene,
    *,
    limited: bool,
    seed: int = 1,
    begin: float = 5.0,
    trace: Callable[[float, Limiter], None] | None = None,
) -> Outcome:
    """One run."""
    rng = random.Random(seed)
    of = limiters(scene.workers) if limited else []
    order = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    queue: deque[Request] = deque()
    busy = longest = 0
    good = refused = 0
    latencies: list[float] = []
    now = 0.0

    def later(after_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(events, (now + after_s, next(order), act))

    def arrive() -> None:
        nonlocal refused, longest
        later(rng.expovariate(scene.rate(now)), arrive)
        limiter = rng.choice(of) if limited else None
        if limiter is not None and limiter.enter(2, now):
            refused += now >= begin
            return
        request = Request(now, limiter)
        later(scene.patience_s, lambda: leave(request))
        if scene.hangs and rng.random() < scene.hangs:
            return
        queue.append(request)
        longest = max(longest, len(queue))
        work()

    def leave(request: Request) -> None:
        if request.over:
            return
        request.left = True
        if now >= begin:
            latencies.append(scene.patience_s)
        if request.limiter is not None:
            request.limiter.give_up(now - request.came, now)

    def work() -> None:
        nonlocal busy
        while busy < scene.hands(now) and queue:
            request = queue.popleft()
            if request.left and scene.notices:
                continue
            busy += 1
            later(scene.work_s(now) * scene.spread(rng), lambda request=request: finish(request))  # type: ignore[misc]

    def finish(request: Request) -> None:
        nonlocal busy, good
        busy -= 1
        request.over = True
        if not request.left:
            latency_s = now - request.came
            if now >= begin:
                good += 1
                latencies.append(latency_s)
            if request.limiter is not None:
                request.limiter.leave(latency_s, now)
                if trace is not None:
                    trace(now, request.limiter)
        work()

    arrive()
    while events and events[0][0] < scene.seconds:
        now, _, act = heapq.heappop(events)
        act()
    steps = [begin + n / 100 for n in range(int((scene.seconds - begin) * 100))]
    capacity = sum(min(scene.rate(t) * (1 - scene.hangs), scene.hands(t) / scene.work_s(t)) for t in steps) / 100
    return Outcome(good, capacity, latencies, refused, longest)


def main() -> None:
    """Print the tables of docs/policies/shed.md."""
    print("| | goodput, of what is possible | p50 | p99 of the accepted |")
    print("| --- | --- | --- | --- |")
    for scene in SCENES:
        for limited in (True, False):
            found = simulate(scene, limited=limited)
            how = "with" if limited else "without"
            print(
                f"| {scene.name}, {how} | {100 * found.goodput:.0f}% | {1000 * found.percentile_s(0.5):.0f} ms "
                f"| {1000 * found.percentile_s(0.99):.0f} ms |"
            )
    print("\n| | goodput with | without | p50 with | longest queue with | without |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scene in IMPATIENT:
        found, bare = simulate(scene, limited=True), simulate(scene, limited=False)
        print(
            f"| {scene.name} | {100 * found.goodput:.0f}% | {100 * bare.goodput:.0f}% "
            f"| {1000 * found.percentile_s(0.5):.0f} ms | {found.queue} | {bare.queue} |"
        )


if __name__ == "__main__":
    main()
