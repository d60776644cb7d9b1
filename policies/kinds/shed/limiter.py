# mypyc: compiled
"""How much a service may have under way on this host: a limit that finds itself, and who goes first when it is reached.

The adaptive limit is of the family of TCP Vegas. Of M requests under way, M x (1 - base / latency) stand in a queue, if
`base` is what the service takes without one. Between `a` and `2a` of them the limit stays; below it grows, above it
shrinks. `a` is the square root of the limit: a larger crowd may have more of a queue, though less of one each.

Why not a gradient to a moving average (Netflix's Gradient2): under a lasting overload the average follows the queue,
and the limit drifts up with it. Why not Envoy's way, the concurrency cut to 3 from time to time to measure the minimum:
that refuses requests where nothing is wrong. Here a base that is out of date shows by itself: when the limit has shrunk
by a quarter and the latency has not followed, the queue was none of ours; the service takes longer now, and that is the
new base. A shrinking limit is the experiment, and it costs a quarter of the limit once.

Laws
- Only what the limit has a part in moves it: it grows only while at least three quarters of it are used.
- The least important go first: each priority may fill its own part of the limit, and the most important one all of it.
- What fails, or is given up, says nothing about latency.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import math
from typing import Final

from policies.together import LET_IN, Gauge

WINDOW_S: Final = 0.1
"""The least time, and ..."""
SAMPLES: Final = 10
"""... the least number of answers that the limit is moved by."""
LONG_S: Final = 1.0
"""After this time fewer answers do."""
USED: Final = 0.75
STALE: Final = 0.75
"""The limit has shrunk to this part ..."""
FOLLOWED: Final = 0.9
"""... and the latency only to this part, or less far: then the base is out of date."""
RISE: Final = 1.002
"""By how much the base is doubted each window: 2% a second at most."""
PARTS: Final = [1.0, 0.95, 0.9, 0.75, 0.5]
"""Of the limit, by priority: critical, high, normal, low, bulk."""
_BACK: Final = 0.05


class Figures:
    """The figures; 0 turns one off."""

    __slots__ = ("cpu_percent", "fixed", "initial", "least", "most", "most_load", "queue_s")

    def __init__(
        self,
        *,
        fixed: int = 0,
        initial: int = 20,
        least: int = 2,
        most: int = 1000,
        queue_s: float = 0.0,
        cpu_percent: float = 0.0,
        most_load: float = 0.0,
    ) -> None:
        self.fixed = fixed
        """A limit that does not move; 0: it finds itself."""
        self.initial = initial
        self.least = least
        self.most = most
        self.queue_s = queue_s
        """More waiting than this shrinks the limit, however few wait."""
        self.cpu_percent = cpu_percent
        """Of the host; beyond it less and less is let in."""
        self.most_load = most_load
        """Of an instance's own word."""


class Limiter:
    """One service's, in one worker. Outlives the documents that give it its rules."""

    __slots__ = (
        "_began",
        "_count",
        "_mark_latency_s",
        "_mark_limit",
        "_now",
        "_peak",
        "_pressure",
        "_rules",
        "_sum_s",
        "_together",
        "active",
        "base_s",
        "latency_s",
        "limit",
    )

    def __init__(self, rules: Figures) -> None:
        self._rules = rules
        self._together: Gauge | None = None
        """Where what is let in is counted over all workers; None: this one's alone counts."""
        self.limit = float(rules.fixed or rules.initial)
        self.active = 0
        self.base_s = 0.0
        """What a request takes without a queue, as far as that is known."""
        self.latency_s = 0.0
        """Of the last window, on average."""
        self._now = 0.0
        self._began = 0.0
        self._count = 0
        self._sum_s = 0.0
        self._peak = 0
        """The most under way at a time in this window."""
        self._mark_limit = 0.0
        """The limit when it began to shrink, and ..."""
        self._mark_latency_s = 0.0
        """... the latency."""
        self._pressure = 1.0
        """Part of the limit that the host's CPU and the instances' own word leave."""

    def configure(self, rules: Figures) -> None:
        """Take other figures."""
        if rules.fixed:
            self.limit = float(rules.fixed)
        elif self._rules.fixed:
            self.limit = float(rules.initial)
        self._rules = rules
        if not rules.fixed:
            self.limit = min(max(self.limit, float(rules.least)), float(rules.most))
        if not rules.cpu_percent and not rules.most_load:
            self._pressure = 1.0

    def count_together(self, gauge: Gauge | None) -> None:
        """From now on the limit is of all workers, as a fixed one is; None: of this one."""
        before, self._together = self._together, gauge
        if before is not None and before is not gauge:
            before.set(LET_IN, 0)
        if gauge is not None:
            gauge.set(LET_IN, self.active)

    def enter(self, priority: int, now: float) -> str:
        """Ask for a request to be let in: empty when it is, and then it is counted until `leave` or `abandon`; else why
        not. `priority`: an index of PARTS."""
        if now > self._now:
            self._now = now
        together = self._together
        if together is not None:
            together.set(LET_IN, self.active + 1)
        refused = self.peek(priority)
        if refused:
            if together is not None:
                together.set(LET_IN, self.active)
            return refused
        self.active += 1
        if self.active > self._peak:
            self._peak = self.active
        return ""

    def peek(self, priority: int) -> str:
        """What `enter` would say; nothing is counted."""
        allowed = self.limit * PARTS[priority] * self._pressure
        active = self.active
        if self._together is not None:
            active += self._together.elsewhere(LET_IN)
        return self._refusal(active, allowed) if active >= allowed and active >= 1 else ""

    def _refusal(self, active: int, allowed: float) -> str:
        why = "" if self._pressure >= 1.0 else f", with {100 * self._pressure:.0f}% left by load"
        return f"{active} requests are under way, of {max(allowed, 1.0):.0f} for this priority{why}"

    def abandon(self) -> None:
        """One ended that says nothing."""
        if self.active:
            self.active -= 1
            if self._together is not None:
                self._together.set(LET_IN, self.active)

    def leave(self, latency_s: float, now: float) -> None:
        """One was answered well, after so long."""
        if now > self._now:
            self._now = now
        self.abandon()
        if not self._count:
            self._began = min(self._began or self._now, self._now)
        self._count += 1
        self._sum_s += latency_s
        passed_s = self._now - self._began
        if passed_s >= LONG_S or (passed_s >= WINDOW_S and self._count >= SAMPLES):
            self._move()

    def _move(self) -> None:
        self.latency_s = latency_s = self._sum_s / self._count
        peak = self._peak
        self._count = 0
        self._sum_s = 0.0
        self._began = self._now
        self._peak = self.active
        if not self.base_s or latency_s < self.base_s:
            self.base_s = latency_s
        else:
            self.base_s = min(self.base_s * RISE, latency_s)
        rules = self._rules
        if rules.fixed:
            return
        allowed = math.sqrt(self.limit)
        queued = peak * (1.0 - self.base_s / latency_s) if latency_s > 0 else 0.0
        too_long = rules.queue_s > 0 and latency_s - self.base_s > rules.queue_s
        if queued > 2.0 * allowed or too_long:
            self._shrink(latency_s, queued, allowed)
            return
        self._mark_limit = 0.0
        if queued < allowed and peak >= USED * self.limit * self._pressure:
            self.limit = min(self.limit + allowed, float(rules.most))

    def _shrink(self, latency_s: float, queued: float, allowed: float) -> None:
        if not self._mark_limit:
            self._mark_limit = self.limit
            self._mark_latency_s = latency_s
        elif self.limit <= STALE * self._mark_limit:
            if latency_s >= FOLLOWED * self._mark_latency_s:
                self.base_s = latency_s
                self.limit = self._mark_limit
                self._mark_limit = 0.0
                return
            self._mark_limit = self.limit
            self._mark_latency_s = latency_s
        less = max(self.limit * 0.85, self.limit - (queued - allowed))
        self.limit = max(less, float(self._rules.least))

    # What else says that it is too much.

    def note_cpu(self, percent: float) -> None:
        """The host's, since the last time; a few times a second."""
        if self._rules.cpu_percent:
            self._press(percent / self._rules.cpu_percent)

    def note_load(self, value: float) -> None:
        """An instance's own word."""
        if self._rules.most_load:
            self._press(value / self._rules.most_load)

    def _press(self, of_allowed: float) -> None:
        if of_allowed > 1.0:
            self._pressure = max(0.05, self._pressure * max(0.8, 1.0 / of_allowed))
        else:
            self._pressure = min(1.0, self._pressure + _BACK)
