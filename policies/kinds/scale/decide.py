# mypyc: interpreted, because control asks it, and no request waits for that
"""What advice a document gives, of the figures of a service: how many instances, and why, in words.

    advisor = Advisor(compile(document), instances=3, now=0.0)
    advice = advisor.advise(Seen(...), now=2.0)

Laws
- Targets say how many are needed; conditions, whether there should be more or fewer than there are. The most that any
  of them asks for counts, and nothing is taken away while one of them asks for more.
- Load that jumps is followed at once, by the short window, and nothing is taken away until it has been calm for the
  length of the long one.
- What is taken away must not be asked for again by what is left: figures of one instance are reckoned with fewer of
  them, and have to stay below a target or a condition by a margin. So one value never asks for both.
- Where figures are not whole (agents are missing, nobody has counted long enough), nothing is taken away: what is not
  seen looks as if it was not there.
- A condition steps from what there is, once it is what was advised: who is slow to follow is not told to go on.
- Advice does not follow what there is, for it would undo itself before it was followed; where they differ and nothing
  asks for either, the reason says so.
- Time is handed in, seconds of any clock that only goes forward.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from policies.kind import ANYWHERE, Scope
from policies.kinds.scale.document import LATENCIES, MOST, SHARED, Condition, Scale
from policies.language.duration import seconds

TOLERANCE: Final = 0.1
"""How far from a target nothing is done."""
ROOM: Final = 0.05
"""How much more than is needed is left, where there may be fewer."""
MARGIN: Final = 0.8
"""Of what is above in `up`: what may be left of it when there are fewer."""
HALF: Final = 0.5
"""Of what is above in `up`, without anything in `down`: below it there may be fewer."""
IDLE_S: Final = 180.0
"""For so long, then."""


class Figures(NamedTuple):
    """Of a service, of one window; a mean where it is of one moment. None: nobody knows."""

    rate: float | None = None
    """Requests a second; this and what follows of all instances together."""
    in_flight: float | None = None
    pending: float | None = None
    cpu: float | None = None
    p50: float | None = None
    """Seconds."""
    p90: float | None = None
    p99: float | None = None
    shed: float | None = None
    """Share."""


class Seen(NamedTuple):
    """What is so."""

    instances: int
    """That are registered, and not on their way out."""
    ready: int
    """That requests are sent to."""
    stable: Figures
    panic: Figures
    whole: bool = True
    """Whether every agent was heard, and has counted for the long window."""
    why_not: str = ""


class Advice(NamedTuple):
    """How many there should be."""

    replicas: int
    before: int
    """What was advised before; the same: nothing new."""
    reason: str
    panic: bool = False


class Wanted(NamedTuple):
    """What one target or condition asks for."""

    replicas: int
    reason: str


class Compiled:
    """A document, in numbers."""

    __slots__ = (
        "cool_down_s",
        "cool_up_s",
        "down",
        "least",
        "most",
        "panic_at",
        "panic_s",
        "stable_s",
        "target",
        "up",
    )

    def __init__(self, document: Scale) -> None:
        self.least = document.min
        self.most = document.max
        self.target = document.target.values()
        self.up = [_rule(condition) for condition in document.up]
        self.down = [_rule(condition) for condition in document.down]
        self.stable_s = seconds(document.stable)
        self.panic_s = seconds(document.panic)
        self.panic_at = document.panic_at
        self.cool_up_s = seconds(document.cooldown.up)
        self.cool_down_s = seconds(document.cooldown.down)

    def within(self, replicas: int) -> int:
        """From least to most."""
        return max(self.least, min(self.most, replicas))


class Rule(NamedTuple):
    """A condition, in numbers."""

    values: dict[str, float]
    for_s: float
    step: int


def _rule(condition: Condition) -> Rule:
    return Rule(condition.values(), seconds(condition.for_), condition.step)


def compile(document: Scale, scope: Scope = ANYWHERE) -> Compiled:
    """In numbers."""
    return Compiled(document)


class Advisor:
    """Of one service: what was advised, and since when things are as they are. Outlives its document."""

    def __init__(self, rules: Compiled, instances: int, now: float, advised: int = 0) -> None:
        """`advised`: by who told before; 0: nobody, and what there is counts as advised."""
        self._rules = rules
        self.advised = rules.within(advised or instances)
        self.panic = False
        self._calm_from = now
        """Since when load has not jumped."""
        self._went_up = self._went_down = now - rules.cool_up_s if not advised else now
        self._since: dict[tuple[str, int], float] = {}
        """By condition: since when it holds."""
        self._needed: deque[tuple[float, int]] = deque()
        """What targets asked for lately, as far as it may still be the most: when, and how many."""

    def configure(self, rules: Compiled) -> None:
        """Another document."""
        self._rules = rules
        self._since.clear()

    def advise(self, seen: Seen, now: float) -> Advice:
        """By what is so now; asked every few seconds."""
        before, rules = self.advised, self._rules
        ready = max(1, seen.ready)
        targets = self._targets(seen.stable, ready)
        self._look_for_jumps(seen, ready, now)
        if self.panic:
            targets += self._targets(seen.panic, ready, "of the last moments: ")
        needed = max((each.replicas for each in targets), default=0)
        self._remember(needed, now)
        higher = [each for each in (*targets, *self._steps_up(seen, ready, now)) if each.replicas > self.advised]
        lower = self._lower(seen, ready, now, needed)
        reason = ""
        if higher:
            most = max(higher, key=lambda each: each.replicas)
            wanted = rules.within(most.replicas)
            reason = most.reason
            if wanted < most.replicas:
                reason += f"; {most.replicas} would be needed, and max is {rules.most}"
            if wanted > self.advised and now - self._went_up < rules.cool_up_s and not self.panic:
                wanted, reason = self.advised, f"{reason}; went up {now - self._went_up:.0f} s ago"
            if wanted > self.advised:
                self._move(wanted, now)
        elif lower is not None:
            reason = lower.reason
            held = self._held(seen, now)
            if held:
                reason = f"{reason}, but {held}"
            elif lower.replicas < self.advised:
                self._move(lower.replicas, now)
        clamped = rules.within(self.advised)
        if clamped != self.advised:
            reason = f"{self.advised} is not from min ({rules.least}) to max ({rules.most})"
            self._move(clamped, now)
        return Advice(self.advised, before, reason or self._calm(targets, seen.instances), self.panic)

    def _move(self, to: int, now: float) -> None:
        if to > self.advised:
            self._went_up = now
        else:
            self._went_down = now
        self.advised = to
        self._since.clear()

    # Targets.

    def _targets(self, figures: Figures, ready: int, lead: str = "") -> list[Wanted]:
        found = []
        for name, value in self._rules.target.items():
            total = getattr(figures, name)
            if total is not None:
                exact = _needed(total, value)
                replicas = self._replicas(exact)
                found.append(Wanted(replicas, f"{lead}{_word(name)} {total:.4g} needs {replicas} of {value:g} each"))
        return found

    def _replicas(self, exact: float) -> int:
        """For what `exact` instances are needed: no fewer than leave some room, so that chance does not ask for one
        more as soon as one is gone."""
        if abs(exact / self.advised - 1) <= TOLERANCE:
            return self.advised
        if exact > self.advised:
            return math.ceil(exact - 1e-9)
        return min(self.advised, max(1, math.ceil(exact * (1 + ROOM) - 1e-9)))

    def _look_for_jumps(self, seen: Seen, ready: int, now: float) -> None:
        jumped = any(
            (getattr(seen.panic, name) or 0.0) / value >= self._rules.panic_at * ready
            for name, value in self._rules.target.items()
        )
        if jumped:
            self.panic, self._calm_from = True, now
        elif now - self._calm_from >= self._rules.stable_s:
            self.panic = False

    def _remember(self, needed: int, now: float) -> None:
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now, needed))
        while now - self._needed[0][0] > self._rules.cool_down_s:
            self._needed.popleft()

    # Conditions.

    def _steps_up(self, seen: Seen, ready: int, now: float) -> list[Wanted]:
        if seen.instances < self.advised:  # not followed yet
            return []
        found = []
        for number, rule in enumerate(self._rules.up):
            held_s = self._holds("up", number, self._above(rule, seen.panic, ready), now)
            if held_s is not None and held_s >= rule.for_s:
                reason = f"{self._said(rule, seen.panic, ready)}, above {_values(rule)} for {held_s:.0f} s"
                found.append(Wanted(self.advised + rule.step, reason))
        return found

    def _steps_down(self, seen: Seen, ready: int, now: float) -> Wanted | None:
        rules = self._rules
        if not rules.up and not rules.down:
            return None
        if rules.down:
            for number, rule in enumerate(rules.down):
                held_s = self._holds("down", number, self._below(rule.values, seen.stable, ready), now)
                if held_s is not None and held_s >= rule.for_s:
                    reason = f"{self._said(rule, seen.stable, ready)}, below {_values(rule)} for {held_s:.0f} s"
                    return Wanted(self.advised - rule.step, reason)
            return None
        idle = all(
            self._below({name: HALF * value for name, value in rule.values.items()}, seen.stable, ready)
            for rule in rules.up
        )
        held_s = self._holds("idle", 0, idle, now)
        if held_s is not None and held_s >= IDLE_S:
            return Wanted(self.advised - 1, f"below half of what is above in `up`, for {held_s:.0f} s")
        return None

    def _holds(self, side: str, number: int, holds: bool, now: float) -> float | None:
        if not holds:
            self._since.pop((side, number), None)
            return None
        return now - self._since.setdefault((side, number), now)

    def _above(self, rule: Rule, figures: Figures, ready: int) -> bool:
        found = [_of_one(figures, name, ready) for name in rule.values]
        return all(
            value is not None and value > above for value, above in zip(found, rule.values.values(), strict=True)
        )

    def _below(self, values: Mapping[str, float], figures: Figures, ready: int) -> bool:
        """What nobody knows because nothing came is below everything."""
        for name, below in values.items():
            value = _of_one(figures, name, ready)
            if value is None and name not in (*LATENCIES, "shed"):
                return False
            if value is not None and value >= below:
                return False
        return True

    def _said(self, rule: Rule, figures: Figures, ready: int) -> str:
        return ", ".join(_figure(name, _of_one(figures, name, ready)) for name in rule.values)

    # Fewer.

    def _lower(self, seen: Seen, ready: int, now: float, needed: int) -> Wanted | None:
        """What there could be fewer."""
        rules = self._rules
        step = self._steps_down(seen, ready, now)
        if rules.target:
            if any(getattr(seen.stable, name) is None for name in rules.target):
                return None
            most = max(count for _, count in self._needed)
            if most >= self.advised or needed >= self.advised:
                return None
            found = Wanted(max(most, 1), f"no more than {most} were needed for {rules.cool_down_s:.0f} s")
            if step is not None and step.replicas < found.replicas:
                found = Wanted(found.replicas, step.reason)
        elif step is not None:
            found = step
        else:
            return None
        left = rules.within(max(found.replicas, self._bearable(seen)))
        return Wanted(left, found.reason) if left < self.advised else None

    def _bearable(self, seen: Seen) -> int:
        """How few bear what there is, by a margin, so that nothing asks for more again."""
        least = 1
        for rule in self._rules.up:
            for name, above in rule.values.items():
                total = getattr(seen.stable, name)
                if total is None or above <= 0:
                    continue
                if name in SHARED:
                    least = max(least, math.ceil(_needed(total, MARGIN * above) - 1e-9))
                elif total > MARGIN * above:
                    least = max(least, self.advised)
        return least

    def _held(self, seen: Seen, now: float) -> str:
        """Why nothing is taken away now; empty: it may be."""
        if not seen.whole:
            return f"figures are not whole: {seen.why_not or 'some agents are missing'}"
        if self.panic:
            return "load has jumped a moment ago"
        lately = min(now - self._went_up, now - self._went_down)
        if lately < self._rules.cool_down_s:
            return f"advice is {max(0.0, lately):.0f} s old, and stands for {self._rules.cool_down_s:.0f} s"
        return ""

    def _calm(self, targets: list[Wanted], there: int) -> str:
        found = "; ".join(each.reason for each in targets) or "nothing asks for more or fewer"
        if there == self.advised:
            return found
        return f"{found}; what was advised before stands, {self.advised}, and there {_are(there)}"


def _needed(total: float, each: float) -> float:
    """How many have it together; of a value next to nothing it is no number, and more than there may ever be."""
    return min(total / each, 10.0 * MOST) if each > 0 else 10.0 * MOST


def _of_one(figures: Figures, name: str, ready: int) -> float | None:
    value: float | None = getattr(figures, name)
    return value / ready if value is not None and name in SHARED else value


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _word(name: str) -> str:
    return name.replace("_", " ")


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return f"{_word(name)} not known"
    if name in LATENCIES:
        return f"{name} {1000 * value:.3g} ms"
    return f"{_word(name)} {value:.3g}" + (" an instance" if name in SHARED else "")


def _values(rule: Rule) -> str:
    shown = [f"{1000 * value:.3g} ms" if name in LATENCIES else f"{value:g}" for name, value in rule.values.items()]
    return " and ".join(shown)
