"""Load shapes, and how many instances are advised for them: by the kind `scale`, and by Knative's published rules.

    python -m tests.policies.kinds.scale.simulate_scale

A service whose instances do so many requests at a time, each in the same time; what there is too much of waits. Who
follows the advice starts an instance in some seconds, and stops one at once. Knative's rules, as its pages tell them:
the mean of requests under way over 60 s, of which 70 % of what an instance can do are the target; 6 s where that makes
200 % of what is there, until it has not for 60 s, and no fewer meanwhile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, NamedTuple

from policies.kinds.scale.decide import Advisor, Figures, Seen, compile
from policies.kinds.scale.document import Condition, Cooldown, Scale, Target

STEP_S: Final = 2
AT_ONCE: Final = 10
"""Requests that an instance does at a time."""
WORK_S: Final = 0.1
START_S: Final = 6
UTILISED: Final = 0.7
MOST: Final = 60


class Shape(NamedTuple):
    """Requests a second, by time."""

    name: str
    length_s: int
    rate: Callable[[float, Random], float]


def _spike(at: float, rng: Random) -> float:
    return 1500.0 if 600 <= at < 660 else 200.0


def _ramp(at: float, rng: Random) -> float:
    return 100.0 + 1900.0 * min(1.0, max(0.0, at - 300) / 900)


def _day(at: float, rng: Random) -> float:
    """A day in 4 hours."""
    return 1000.0 - 800.0 * math.cos(2 * math.pi * at / 14400)


def _noise(at: float, rng: Random) -> float:
    return max(0.0, rng.gauss(700.0, 140.0))


def _sawtooth(at: float, rng: Random) -> float:
    """Around the value at which one instance more is needed, again and again."""
    return 700.0 + 60.0 * (2 * ((at / 120) % 1) - 1)


SHAPES: Final = (
    Shape("spike", 1800, _spike),
    Shape("ramp", 1800, _ramp),
    Shape("daily wave", 14400, _day),
    Shape("flat with noise", 3600, _noise),
    Shape("sawtooth", 3600, _sawtooth),
)

TARGET: Final = Scale(max=MOST, target=Target(in_flight=UTILISED * AT_ONCE))
THRESHOLD: Final = Scale(
    max=MOST, up=(Condition(in_flight=8, for_="10s", step=2),), cooldown=Cooldown(up="10s", down="2m")
)


class Told(NamedTuple):
    """What came of it."""

    advised: list[int]
    """Every STEP_S."""
    instances: list[int]
    waited: list[float]
    """Requests that wait, likewise."""

    @property
    def changes(self) -> int:
        """How often advice changed."""
        return sum(a != b for a, b in zip(self.advised, self.advised[1:], strict=False))

    def turns(self, within_s: float) -> int:
        """How often it went the other way within a time: flapping."""
        found, last = 0, (0, -math.inf)
        for n, (a, b) in enumerate(zip(self.advised, self.advised[1:], strict=False)):
            if a != b:
                way = 1 if b > a else -1
                found += way != last[0] and STEP_S * n - last[1] < within_s and last[0] != 0
                last = (way, STEP_S * n)
        return found

    @property
    def instance_hours(self) -> float:
        """That it costs."""
        return sum(self.instances) * STEP_S / 3600

    @property
    def waiting_share(self) -> float:
        """Of the time, in which requests wait."""
        return sum(waits > 1 for waits in self.waited) / len(self.waited)


class Window:
    """The mean of the last seconds."""

    def __init__(self, length_s: float) -> None:
        self._kept: deque[float] = deque(maxlen=int(length_s // STEP_S))

    def add(self, value: float) -> float:
        self._kept.append(value)
        return sum(self._kept) / len(self._kept)


def there_at_first(shape: Shape) -> int:
    """Instances, so that a shape begins with what it needs."""
    return max(1, math.ceil(shape.rate(0.0, Random(0)) * WORK_S / (UTILISED * AT_ONCE)))


Advise = Callable[[float, float, float, int, int, float], int]
"""Under way by the long and the short window, the rate, instances, those that are ready, and when: what is advised."""


def by_document(document: Scale, instances: int) -> Advise:
    advisor = Advisor(compile(document), instances, 0.0)

    def advise(stable: float, panic: float, rate: float, instances: int, ready: int, now: float) -> int:
        figures = Figures(rate=rate, in_flight=stable, pending=0.0)
        return advisor.advise(Seen(instances, ready, figures, figures._replace(in_flight=panic)), now).replicas

    return advise


def by_knative(instances: int) -> Advise:
    panics_until, most_in_panic = -math.inf, 0

    def advise(stable: float, panic: float, rate: float, instances: int, ready: int, now: float) -> int:
        nonlocal panics_until, most_in_panic
        target, there = UTILISED * AT_ONCE, max(1, ready)
        wanted_stable = max(math.ceil(stable / target), math.floor(there / 2), 1)
        wanted_panic = max(math.ceil(panic / target), 1)
        if wanted_panic / there >= 2.0:
            most_in_panic = most_in_panic if now < panics_until else 0
            panics_until = now + 60
        if now < panics_until:
            most_in_panic = max(most_in_panic, wanted_panic, there)
            return min(MOST, most_in_panic)
        return min(MOST, wanted_stable)

    return advise


def simulate(shape: Shape, make: Callable[[int], Advise], seed: int = 1) -> Told:
    advise = make(there_at_first(shape))
    rng = Random(seed)
    stable, panic, rates = Window(60), Window(6), Window(60)
    starting: list[float] = []
    ready, queue = there_at_first(shape), 0.0
    told = Told([], [], [])
    for now in range(0, shape.length_s, STEP_S):
        came = shape.rate(now, rng)
        ready += sum(at <= now for at in starting)
        starting = [at for at in starting if at > now]
        done = min(queue + came * STEP_S, ready * AT_ONCE / WORK_S * STEP_S)
        queue = queue + came * STEP_S - done
        under_way = done / STEP_S * WORK_S + queue
        wanted = advise(
            stable.add(under_way), panic.add(under_way), rates.add(came), ready + len(starting), ready, float(now)
        )
        there = ready + len(starting)
        if wanted > there:
            starting += [now + START_S] * (wanted - there)
        elif wanted < there:
            starting = starting[: max(0, wanted - ready)]
            ready = min(ready, wanted)
        told.advised.append(wanted)
        told.instances.append(ready + len(starting))
        told.waited.append(queue)
    return told


WAYS: Final[dict[str, Callable[[int], Advise]]] = {
    "scale, target": partial(by_document, TARGET),
    "scale, threshold": partial(by_document, THRESHOLD),
    "Knative's rules": by_knative,
}


def picture(values: list[int], width: int = 60) -> str:
    """A line of a chart: the most of each part of the time."""
    most = max(*values, 1)
    parts = [values[n * len(values) // width : (n + 1) * len(values) // width] for n in range(width)]
    return "".join(" .:-=+*#%@"[min(9, 9 * max(part) // most)] for part in parts)


def main() -> None:
    for shape in SHAPES:
        print(f"\n{shape.name}, {shape.length_s / 60:.0f} min")
        rng = Random(1)
        load = [int(shape.rate(now, rng)) for now in range(0, shape.length_s, STEP_S)]
        print(f"  {'requests a second':18} {picture(load)}  most {max(load)}")
        for name, make in WAYS.items():
            told = simulate(shape, make)
            print(
                f"  {name:18} {picture(told.advised)}  {min(told.advised)} to {max(told.advised)}, "
                f"{told.changes} changes, {told.turns(180)} turns within 3 min, "
                f"{told.instance_hours:.1f} instance hours, requests wait {100 * told.waiting_share:.1f}% of the time"
            )


if __name__ == "__main__":
    main()
