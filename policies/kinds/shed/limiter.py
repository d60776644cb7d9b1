# mypyc: compiled
"""How much a service may have under way on this host: a limit that finds itself, and who goes first when it is reached.

The adaptive limit is of the family of TCP Vegas. Of M requests under way, M x (1 - base / latency) stand in a queue, if
`base` is what the service takes without one. Between `a` and `2a` of them the limit stays; below it grows, above it
shrinks. `a` is the square root of M: a larger crowd may have more of a queue, though less of one each.

Impatient callers hide a queue: nobody hears how long it would have taken, and the service goes on working for those who
left. So a request that was given up is a sample of at least its age: its time counts, and it is no answer. And it
counts as under way until the service has answered one that came later: else each that leaves lets another in, and a
queue grows that nobody sees.

Why not a gradient to a moving average (Netflix's Gradient2): under a lasting overload the average follows the queue,
and the limit drifts up with it. Why not Envoy's way, the concurrency cut to 3 from time to time to measure the minimum:
that refuses requests where nothing is wrong. Here a base that is out of date shows by itself: when the limit has shrunk
by a quarter, and fewer are answered well for it, then the queue was none of ours; the service takes longer now, and
that is the new base. A shrinking limit is the experiment, and it costs a quarter of the limit once. For the same reason
a limit that has long been full and has not moved is tried out, by turns a quarter less and a third more: a base that
was taken from a queue falls, one that was too low rises, and neither does for want of evidence.

Laws
- The limit is of the agent: its workers count together what is under way, and what they have learnt (`common`).
- Only what the limit has a part in moves it: it grows only while at least three quarters of it are used.
- It is moved by what ended after the move before has had its effect, which takes as long as a request does.
- The least important go first: each priority may fill its own part of the limit, and the most important one all of it.
- What fails says nothing, but that it took so long; what is given up sooner than it could have been answered, nothing.
- However many were given up, `least` more are let in: so it is found out that the service answers again.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from policies.kinds.shed.common import (
    ADRIFT,
    BASE_S,
    BEGAN,
    CALM,
    GOOD,
    LATENCY_S,
    LIMIT,
    LOST,
    MARK_LIMIT,
    MARK_LOST,
    MARK_RATE,
    NEWEST,
    PEAK,
    TIME_S,
    USUAL,
    Common,
)
from policies.kinds.shed.figures import Figures
from policies.together import LET_IN, Gauge

WINDOW_S: Final = 0.1
"""The least time, and ..."""
SAMPLES: Final = 10
"""... the least number of requests that the limit is moved by."""
LONG_S: Final = 1.0
"""After this time ..."""
FEW: Final = 3
"""... so many do; as at first, when nothing is known."""
SYNC_S: Final = 0.01
"""For so long a worker knows and sums up by itself."""
USED: Final = 0.75
STALE: Final = 0.75
"""The limit has shrunk to this part ..."""
FOLLOWED: Final = 0.85
"""... and no more than this part of what was answered well before still is: then the base is out of date."""
SURELY: Final = 0.6
"""... or this one, where it is few that say so."""
RISE: Final = 1.002
"""By how much the base is doubted each window: 2% a second at most."""
TRIED: Final = 16.0
"""After so many windows without a move another limit is tried out."""
ADRIFT_MOST: Final = 0.25
"""Of the limit: where more than these were given up, what is answered says nothing of the limit."""
MANY: Final = 0.1
"""When so large a part is given up, beyond what is usual, there is a queue."""
PARTS: Final = [1.0, 0.95, 0.9, 0.75, 0.5]
"""Of the limit, by priority: critical, high, normal, low, bulk."""
_BACK: Final = 0.05
_GIVEN_UP: Final = 1 << 24
"""In the word of those let in each that was given up counts so much, and each that is waited for one."""


class Limiter:
    """One service's, in one worker. Outlives the documents that give it its rules."""

    __slots__ = (
        "_began",
        "_common",
        "_given_up",
        "_good",
        "_limit",
        "_newest",
        "_now",
        "_peak",
        "_pressure",
        "_read_at",
        "_rules",
        "_time_s",
        "_together",
        "active",
    )

    def __init__(self, rules: Figures, common: Common | None = None) -> None:
        """`common`: what workers share; without it this one is alone."""
        self._rules = rules
        self._together: Gauge | None = None
        """Where what is let in is counted over all workers; None: this one's alone counts."""
        self._common = common if common is not None else Common()
        self.active = 0
        """Let in, and waited for."""
        self._given_up: deque[float] = deque()
        """When those were let in that nobody waits for, and that the service may still be busy with."""
        self._now = 0.0
        self._read_at = -1.0
        """When what is common was read and written last; between it is known, and summed up, as follows."""
        self._limit = float(rules.fixed or rules.initial)
        self._began = 0.0
        self._good = 0
        self._time_s = 0.0
        self._newest = 0.0
        self._peak = 0
        self._pressure = 1.0
        """Part of the limit that the host's CPU and the instances' own word leave."""

    @property
    def limit(self) -> float:
        """Of all workers together."""
        rules = self._rules
        if rules.fixed:
            return float(rules.fixed)
        found = self._common.read(LIMIT) if self._common.find() else 0.0
        if not found:
            found = float(rules.initial)
        return min(max(found, float(rules.least)), float(rules.most))

    @property
    def under_way(self) -> int:
        """Those of all workers that are waited for."""
        return self.active + self._elsewhere() % _GIVEN_UP

    @property
    def given_up(self) -> int:
        """Those of all workers that nobody waits for, and that the service may still be busy with."""
        return len(self._given_up) + self._elsewhere() // _GIVEN_UP

    def _elsewhere(self) -> int:
        return self._together.elsewhere(LET_IN) if self._together is not None else 0

    def configure(self, rules: Figures) -> None:
        """Take other figures."""
        if rules.fixed:
            self._given_up.clear()
        elif self._rules.fixed:
            self._common.write(LIMIT, 0.0)
        self._rules = rules
        self._read_at = -1.0
        if not rules.cpu_percent and not rules.most_load:
            self._pressure = 1.0

    def count_together(self, gauge: Gauge | None) -> None:
        """From now on what is under way is counted over all workers; None: this one's alone."""
        before, self._together = self._together, gauge
        if before is not None and before is not gauge:
            before.set(LET_IN, 0)
        self._tell()

    def _tell(self) -> None:
        if self._together is not None:
            self._together.set(LET_IN, self.active + _GIVEN_UP * len(self._given_up))

    def enter(self, priority: int, now: float) -> str:
        """Ask for a request to be let in: empty when it is, and then it is counted until `leave`, `give_up`, `fail` or
        `abandon`; else why not. `priority`: an index of PARTS."""
        if now > self._now:
            self._now = now
        together = self._together
        if self._given_up:
            self._forget()
        if together is not None:
            together.set(LET_IN, self.active + 1 + _GIVEN_UP * len(self._given_up))
        elsewhere = self._elsewhere()
        refused = self._ask(priority, elsewhere)
        if refused:
            self._tell()
            return refused
        self.active += 1
        if not self._rules.fixed:
            self._note_peak(elsewhere)
        return ""

    def peek(self, priority: int) -> str:
        """What `enter` would say; nothing is counted."""
        return self._ask(priority, self._elsewhere())

    def _ask(self, priority: int, elsewhere: int) -> str:
        active = self.active + elsewhere % _GIVEN_UP
        given_up = len(self._given_up) + elsewhere // _GIVEN_UP
        rules = self._rules
        if not rules.fixed and self._now - self._read_at >= SYNC_S:
            self._sync()
        limit = float(rules.fixed) if rules.fixed else self._limit
        allowed = limit * PARTS[priority] * self._pressure
        if active + given_up < allowed or active < (1 if not given_up else rules.least * PARTS[priority]):
            return ""
        why = "" if self._pressure >= 1.0 else f", with {100 * self._pressure:.0f}% left by load"
        left = "" if not given_up else f", and {given_up} that nobody waits for any more"
        return f"{active} requests are under way{left}, of {max(allowed, 1.0):.0f} for this priority{why}"

    def _note_peak(self, elsewhere: int) -> None:
        total = self.active + len(self._given_up) + elsewhere % _GIVEN_UP + elsewhere // _GIVEN_UP
        if total > self._peak:
            self._peak = total
        if total <= 1 and not self._good:
            common = self._common
            if not common.read(GOOD) and not common.read(LOST):
                common.write(BEGAN, self._now)  # an idle service's next window begins with its next request
                self._began = self._now

    def _sync(self) -> None:
        """Add what was summed up to what is common, and read that."""
        common = self._common
        self._limit = self.limit
        if self._good:
            common.write(GOOD, common.read(GOOD) + self._good)
            common.write(TIME_S, common.read(TIME_S) + self._time_s)
            self._good, self._time_s = 0, 0.0
        if self._newest > common.read(NEWEST):
            common.write(NEWEST, self._newest)
        if self._peak > common.read(PEAK):
            common.write(PEAK, float(self._peak))
        self._peak = 0
        self._began = common.read(BEGAN)
        self._read_at = self._now

    def _forget(self) -> None:
        """What was let in before one that has been answered, the service is through with."""
        newest = max(self._newest, self._common.read(NEWEST) if self._common.find() else 0.0)
        given_up = self._given_up
        while given_up and given_up[0] < newest:
            given_up.popleft()

    # How it ended.

    def abandon(self) -> None:
        """One ended that says nothing."""
        if self.active:
            self.active -= 1
            self._tell()

    def leave(self, latency_s: float, now: float) -> None:
        """One was answered well, after so long."""
        self._end(latency_s, now, good=True)

    def fail(self, age_s: float, now: float) -> None:
        """One came to nothing, after so long: the service is through with it."""
        self._end(age_s, now, good=False)

    def give_up(self, age_s: float, now: float) -> None:
        """Nobody waits for one any more, after so long; whether the service still works on it is not known."""
        if self.active and not self._rules.fixed:
            if len(self._given_up) >= self.limit:
                self._given_up.popleft()
            self._given_up.append(max(now, self._now) - age_s)
            if self._common.find() and self.given_up > self._common.read(ADRIFT):
                self._common.write(ADRIFT, float(self.given_up))
        self._end(age_s, now, good=False)

    def _end(self, age_s: float, now: float, *, good: bool) -> None:
        if now > self._now:
            self._now = now
        self.abandon()
        if self._rules.fixed:
            return
        came = self._now - age_s
        if good:
            if came > self._newest:
                self._newest = came
            if self._now >= self._began:
                self._good += 1
                self._time_s += age_s
            if self._now - self._read_at < SYNC_S:
                return
            self._sync()
        else:
            self._sync()
            if not self._note_lost(age_s, came):
                return
        common = self._common
        passed_s = self._now - self._began
        if passed_s >= WINDOW_S:
            count = common.read(GOOD) + common.read(LOST)
            if count >= (1 if not common.read(BASE_S) else SAMPLES if passed_s < LONG_S else FEW):
                self._move(passed_s)
                self._sync()

    def _note_lost(self, age_s: float, came: float) -> bool:
        """Whether it says anything: that it took longer than an answer does, since the limit is what it is."""
        common = self._common
        if age_s < common.read(BASE_S) or came < self._began - common.read(LATENCY_S) or self._now < self._began:
            return False
        common.write(LOST, common.read(LOST) + 1.0)
        common.write(TIME_S, common.read(TIME_S) + age_s)
        return True

    # The limit.

    def _move(self, passed_s: float) -> None:
        """The window is over: as many requests as are enough were let in and ended in it."""
        common, rules = self._common, self._rules
        good, lost, time_s = common.read(GOOD), common.read(LOST), common.read(TIME_S)
        limit = self.limit
        peak = max(min(common.read(PEAK), limit), 1.0)
        used = peak >= USED * limit * self._pressure
        rate = good / passed_s
        part = lost / max(good + lost, 1.0)
        latency_s = time_s / good if good else 0.0
        clean = common.read(ADRIFT) <= ADRIFT_MOST * limit
        self._begin_window()
        base_s = self._learn_base(latency_s, 1.0 if used else RISE)
        if used and self._judge(limit, rate, part, latency_s, clean, good + lost >= SAMPLES):
            return
        allowed = math.sqrt(peak)
        queued = peak * (1.0 - base_s / latency_s) if latency_s > 0.0 else peak
        too_long = rules.queue_s > 0.0 and latency_s - base_s > rules.queue_s
        leaving = part - self._usually_lost(part)
        if queued > 2.0 * allowed or too_long or leaving > MANY:
            most = min(limit, peak / USED)
            less = most * (0.5 if leaving > 0.5 else 0.85)
            if not too_long and leaving <= MANY:
                less = max(less, most - (queued - allowed))
            if common.read(MARK_LIMIT) <= 0.0:
                self._mark(most, rate, part)
            self._set(less)
        elif not used:
            common.write(MARK_LIMIT, 0.0)
        elif queued < allowed:
            common.write(MARK_LIMIT, 0.0)
            self._set(max(limit * 1.5 if queued < 0.5 * allowed else 0.0, limit + allowed))
        else:
            self._try_out(limit, rate, part)

    def _usually_lost(self, part: float) -> float:
        common = self._common
        usual = common.read(USUAL)
        if part < usual:
            usual = max(part, usual * 0.98)
            common.write(USUAL, usual)
        return usual

    def _set(self, limit: float) -> None:
        rules, common = self._rules, self._common
        common.write(LIMIT, min(max(limit, float(rules.least)), float(rules.most)))
        common.write(BEGAN, self._now + common.read(LATENCY_S))

    def _mark(self, limit: float, rate: float, part: float) -> None:
        common = self._common
        common.write(MARK_LIMIT, limit)
        common.write(MARK_RATE, rate)
        common.write(MARK_LOST, part)

    def _try_out(self, limit: float, rate: float, part: float) -> None:
        """What stays for long is doubted: by turns a quarter less, and a third more."""
        common = self._common
        calm = common.read(CALM) + 1.0
        common.write(CALM, calm)
        common.write(MARK_LIMIT, 0.0)
        if calm == TRIED:
            self._mark(limit, rate, part)
            self._set(limit * STALE)
        elif calm >= 2.0 * TRIED:
            self._mark(-limit, rate, part)
            common.write(CALM, 0.0)
            self._set(limit / STALE)

    def _judge(self, limit: float, rate: float, part: float, latency_s: float, clean: bool, enough: bool) -> bool:
        """What came of another limit than the one that is marked; True: the limit is as it should be for now."""
        common = self._common
        marked, before = common.read(MARK_LIMIT), common.read(MARK_RATE)
        if marked < 0.0:
            if not common.read(CALM):
                common.write(CALM, 1.0)  # the window that it rose in has answers of before
                return True
            common.write(MARK_LIMIT, 0.0)
            common.write(CALM, 0.0)
            if rate * FOLLOWED <= before:
                self._set(-marked)
                return True
            common.write(BASE_S, min(common.read(BASE_S) / STALE, latency_s))
        elif marked > 0.0 and limit <= STALE * marked:
            fewer = rate <= (FOLLOWED if enough else SURELY) * before and latency_s > 0.0
            if fewer and clean and part <= common.read(MARK_LOST) + MANY:
                common.write(BASE_S, latency_s)
                common.write(USUAL, part)
                common.write(MARK_LIMIT, 0.0)
                self._set(marked)
                return True
            if enough:
                common.write(MARK_LIMIT, 0.0)
        return False

    def _begin_window(self) -> None:
        common = self._common
        adrift = self.given_up
        common.write(ADRIFT, float(adrift))
        common.write(PEAK, float(self.under_way + adrift))
        common.write(BEGAN, self._now)
        for word in (GOOD, LOST, TIME_S):
            common.write(word, 0.0)

    def _learn_base(self, latency_s: float, rise: float) -> float:
        common = self._common
        base_s = common.read(BASE_S)
        if latency_s > 0.0:
            common.write(LATENCY_S, latency_s)
            base_s = latency_s if not base_s or latency_s < base_s else min(base_s * rise, latency_s)
            common.write(BASE_S, base_s)
        return base_s

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
