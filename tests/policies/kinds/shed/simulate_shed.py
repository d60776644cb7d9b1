"""A service under more load than it can bear, with and without an adaptive limit, in fake time.

    python -m tests.policies.kinds.shed.simulate_shed

The service has so many hands, each busy for a while with a request; what waits for a hand stands in a queue. Clients
wait for a second and then go away, which the service does not notice: it does the work for nobody.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from policies.kinds.shed.limiter import Figures, Limiter

PATIENCE_S = 1.0


class Scene(NamedTuple):
    """What happens: requests a second, and seconds of work each, at a time."""

    name: str
    rate: Callable[[float], float]
    work_s: Callable[[float], float]
    hands: int = 16
    seconds: float = 40.0


class Outcome(NamedTuple):
    """What came of it, from `begin` on."""

    good: int
    """Answered while the client was still there."""
    capacity: float
    """As many as could have been."""
    latencies_s: list[float]
    """Of accepted requests; those that were given up count as PATIENCE_S."""
    refused: int

    @property
    def goodput(self) -> float:
        """Part of the capacity that was of use."""
        return self.good / self.capacity

    def percentile_s(self, part: float) -> float:
        ordered = sorted(self.latencies_s) or [0.0]
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


SCENES = (
    Scene("overload x3", lambda t: 2400.0, lambda t: 0.02),
    Scene("a step in latency, x2", lambda t: 1200.0, lambda t: 0.02 if t < 20 else 0.04),
    Scene("a slow dependency for 10 s", lambda t: 1000.0, lambda t: 0.4 if 15 <= t < 25 else 0.02),
    Scene("bursts from idle", lambda t: 2400.0 if t % 10 >= 5 else 10.0, lambda t: 0.02),
    Scene("many hands, overload x3", lambda t: 6000.0, lambda t: 0.1, hands=200),
)


def simulate(scene: Scene, *, limited: bool, seed: int = 1, begin: float = 5.0) -> Outcome:
    """One run."""
    rng = random.Random(seed)
    limiter = Limiter(Figures())
    order = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    queue: deque[float] = deque()
    busy = 0
    good = refused = 0
    latencies: list[float] = []
    now = 0.0

    def later(after_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(events, (now + after_s, next(order), act))

    def arrive() -> None:
        nonlocal refused
        later(rng.expovariate(scene.rate(now)), arrive)
        if limited and limiter.enter(2, now):
            refused += now >= begin
            return
        queue.append(now)
        work()

    def work() -> None:
        nonlocal busy
        while busy < scene.hands and queue:
            busy += 1
            came = queue.popleft()
            mean_s = scene.work_s(now)
            later(mean_s * (0.5 + rng.random()), lambda came=came: finish(came))  # type: ignore[misc]

    def finish(came: float) -> None:
        nonlocal busy, good
        busy -= 1
        latency_s = now - came
        if now >= begin:
            good += latency_s <= PATIENCE_S
            latencies.append(min(latency_s, PATIENCE_S))
        if limited:
            if latency_s <= PATIENCE_S:
                limiter.leave(latency_s, now)
            else:
                limiter.abandon()
        work()

    arrive()
    while events and events[0][0] < scene.seconds:
        now, _, act = heapq.heappop(events)
        act()
    steps = [begin + n / 100 for n in range(int((scene.seconds - begin) * 100))]
    capacity = sum(min(scene.rate(t), scene.hands / scene.work_s(t)) for t in steps) / 100
    return Outcome(good, capacity, latencies, refused)


def main() -> None:
    """Print the table of docs/policies/shed.md."""
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


if __name__ == "__main__":
    main()
