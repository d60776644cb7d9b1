# mypyc: compiled
"""Circuit breakers: closed while a service answers, open while it does not, half-open to find out.

Laws
- What is counted is what was let through, and what the service did of it; who is refused counts for nothing.
- What was let through before a change of state says nothing about what came after it: an old answer that fails late
  neither opens a breaker again nor takes the place of a request that is to find out.
- Open ends by time alone, and then by real requests: a few at once, and several good ones in a row before it is closed.
  One that takes longer than the open time no longer keeps the next one out: a stream of hours must not hold the door.
- Each opening in a row lasts twice as long as the last, never longer than a maximum, with jitter, so that breakers of
  many workers do not probe in step.
- Limits on what is under way refuse without opening: they are full, and that is all that is known. That of connections
  refuses where none may wait for one; else it is kept where connections are made (`agent.proxy.table.connections`).
  What is under way from other workers of the agent counts, too.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import random
from typing import Final

from policies.kinds.breaker.figures import Figures
from policies.together import PENDING, REQUESTS, RETRIES, Gauge

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"
_SLOTS: Final = 10
_JITTER: Final = 0.2
_FEW: Final = 8
FORGIVE: Final = 10.0
"""After so many open times without another opening the next one is short again."""
_SAME_S: Final = 1e-6
"""What rounding may make of two times that are the same."""


class Transition:
    """A breaker changed its state."""

    __slots__ = ("after", "before", "open_s", "reason")

    def __init__(self, before: str, after: str, reason: str, open_s: float = 0.0) -> None:
        self.before = before
        self.after = after
        self.reason = reason
        self.open_s = open_s
        """For how long it is open; 0 in the other states."""


class Circuit:
    """One breaker. Outlives the documents that give it its rules."""

    __slots__ = (
        "_ended",
        "_failures",
        "_good",
        "_now",
        "_old",
        "_openings",
        "_pending_transition",
        "_probed",
        "_requests",
        "_retries",
        "_row",
        "_rules",
        "_slot",
        "_slot_s",
        "_slow",
        "_together",
        "_until",
        "active",
        "reason",
        "since",
        "state",
        "usual_s",
    )

    def __init__(self, rules: Figures) -> None:
        self._rules = rules
        self._together: Gauge | None = None
        """Where what is under way is counted over all workers; None: nothing limits it, or this one is alone."""
        self._slot_s = rules.window_s / _SLOTS
        self._requests = [0] * _SLOTS
        """Let through, by when that was; the others by when they ended."""
        self._ended = [0] * _SLOTS
        self._failures = [0] * _SLOTS
        self._slow = [0] * _SLOTS
        self._slot = 0
        self._now = 0.0
        self._row = 0
        """Failures in a row while closed."""
        self._good = 0
        """Successes in a row while half-open."""
        self._old = 0
        """Of those under way: let through before the state was what it is."""
        self._probed = 0.0
        """When the last one was let through while half-open."""
        self._openings = 0
        """Without a lasting recovery in between."""
        self._retries = 0
        self._until = 0.0
        self._pending_transition: Transition | None = None
        self.active = 0
        self.state = CLOSED
        self.reason = ""
        """Why it is in its state."""
        self.since = 0.0
        self.usual_s = 0.0
        """How long good answers take, on average over the last few; 0 before the first."""

    def configure(self, rules: Figures) -> None:
        """Take other figures. What was counted stays, unless the window is another; open, it is so no longer than they
        allow, and where nothing opens it any more it closes."""
        if rules.window_s != self._rules.window_s:
            self._slot_s = rules.window_s / _SLOTS
            self._clear()
            self._slot = int(self._now / self._slot_s)
        self._rules = rules
        if self.state is CLOSED:
            return
        self._until = min(self._until, self.since + rules.max_open_s)
        if not rules.trips():
            self._close("its policy opens it no more")

    def count_together(self, gauge: Gauge | None) -> None:
        """From now on what limits allow is of all workers; None: of this one."""
        before, self._together = self._together, gauge
        if before is not None and before is not gauge:
            before.set(REQUESTS, 0)
            before.set(RETRIES, 0)
        if gauge is not None:
            gauge.set(REQUESTS, self.active)
            gauge.set(RETRIES, self._retries)

    def enter(self, now: float, rng: random.Random, pending: int) -> str:
        """Ask for a request to be let through: empty when it is, and then it is counted until `leave` or `abandon`;
        else why not. `pending` are those that wait for a connection now."""
        rules = self._rules
        if now > self._now:
            self._advance(now)
        if self.state is not CLOSED:
            refused = self._enter_unclosed(rules)
            if refused:
                return refused
        together = self._together
        if together is not None:
            together.set(REQUESTS, self.active + 1)
        refused = self._full(rules, pending)
        if not refused and rules.max_requests_in_window and self.state is CLOSED:
            if self._total(self._requests) >= rules.max_requests_in_window:
                self._open(self._too_many(rules), rng)
                refused = self._refusal()
            else:
                self._requests[self._slot % _SLOTS] += 1
        if refused:
            if together is not None:
                together.set(REQUESTS, self.active)
            return refused
        self.active += 1
        if self.state is HALF_OPEN:
            self._probed = self._now
        return ""

    def peek(self, now: float, rng: random.Random, pending: int) -> str:
        """What `enter` would say; nothing is moved and nothing counted."""
        rules = self._rules
        now = now if now > self._now else self._now
        state, active = self.state, self.active
        if state is OPEN:
            if now < self._until:
                return f"open for another {max(self._until - now, 0.0):.1f} s: {self.reason}"
            state = HALF_OPEN  # all that are under way were let through before it
        elif state is HALF_OPEN:
            probing = active - self._old
            if probing >= rules.probes and now - self._probed < rules.open_s:
                return f"half-open: {probing} requests find out whether it answers again"
        full = self._full(rules, pending)
        if full:
            return full
        allowed = rules.max_requests_in_window
        if allowed and state is CLOSED and self._requests_at(now) >= allowed:
            return f"open for another {self._next_open_s(now, rng):.1f} s: {self._too_many(rules)}"
        return ""

    def _requests_at(self, now: float) -> int:
        """Let through within the window that ends at `now`."""
        passed = int(now / self._slot_s) - self._slot
        return sum([self._requests[(self._slot - n) % _SLOTS] for n in range(max(_SLOTS - max(passed, 0), 0))])

    def _full(self, rules: Figures, pending: int) -> str:
        active = self.active
        together = self._together
        none_waits = rules.max_connections > 0 and not rules.max_pending
        if together is not None:
            if rules.max_active or none_waits:
                active += together.elsewhere(REQUESTS)
            if rules.max_pending:
                pending += together.elsewhere(PENDING)
        if rules.max_active and active >= rules.max_active:
            return f"{active} requests are in flight, as many as there may be"
        if rules.max_pending and pending >= rules.max_pending:
            return f"{pending} requests wait for a connection, as many as there may be"
        if none_waits and active >= rules.max_connections:
            return f"all of {rules.max_connections} connections are busy, and there may be no more"
        return ""

    def _too_many(self, rules: Figures) -> str:
        return f"{rules.max_requests_in_window} requests within {rules.window_s:g} s"

    def _enter_unclosed(self, rules: Figures) -> str:
        if self.state is OPEN:
            if self._now < self._until:
                return self._refusal()
            self._turn(HALF_OPEN, "its time is over: a few requests find out")
            self._good = 0
        probing = self.active - self._old
        if probing >= rules.probes and self._now - self._probed < rules.open_s:
            return f"half-open: {probing} requests find out whether it answers again"
        return ""

    def _refusal(self) -> str:
        return f"open for another {max(self._until - self._now, 0.0):.1f} s: {self.reason}"

    def leave(
        self, ok: bool, latency_s: float, now: float, rng: random.Random, inside_s: float = -1.0
    ) -> Transition | None:
        """A request that was let through has ended. `latency_s` is what the service took, `inside_s` how long ago it
        was let through, where that is longer. Returns a change of state, if that made one."""
        if now > self._now:
            self._advance(now)
        old = self._old > 0 and self._ends_old(max(latency_s, inside_s))
        self._one_less()
        if not old:
            self._learn(ok, latency_s, rng)
        return self.take_transition()

    def prove(
        self, ok: bool, latency_s: float, now: float, rng: random.Random, inside_s: float = -1.0
    ) -> Transition | None:
        """As `leave`, of a request that goes on, and is given back by `abandon` then."""
        if now > self._now:
            self._advance(now)
        if not self._old or self._now - max(latency_s, inside_s) >= self.since - _SAME_S:
            self._learn(ok, latency_s, rng)
        return self.take_transition()

    def _learn(self, ok: bool, latency_s: float, rng: random.Random) -> None:
        """From what was let through since the state is what it is."""
        rules = self._rules
        slow = rules.slow_rate > 0 and latency_s > rules.slow_s
        if ok:
            self.usual_s += (latency_s - self.usual_s) / _FEW if self.usual_s else latency_s
        if self.state is OPEN:
            return
        if self.state is HALF_OPEN:
            self._judge_probe(ok and not slow, rng)
        else:
            slot = self._slot % _SLOTS
            self._ended[slot] += 1
            if ok:
                self._row = 0
            else:
                self._row += 1
                self._failures[slot] += 1
            if slow:
                self._slow[slot] += 1
            if slow or not ok:
                self._judge(rules, rng)

    def abandon(self, now: float, inside_s: float = 0.0) -> None:
        """A request that was let through ended, `inside_s` later, without telling anything: its client went away."""
        if now > self._now:
            self._advance(now)
        if self._old:
            self._ends_old(inside_s)
        self._one_less()

    def _one_less(self) -> None:
        if self.active:
            self.active -= 1
            if self._together is not None:
                self._together.set(REQUESTS, self.active)

    def _ends_old(self, latency_s: float) -> bool:
        """Whether the request that ends was let through before the state was what it is; counted when so."""
        if self._old < self.active and self._now - latency_s >= self.since - _SAME_S:
            return False
        self._old -= 1
        return True

    def _judge_probe(self, good: bool, rng: random.Random) -> None:
        if not good:
            self._open("a request that was to find out failed", rng)
            return
        self._good += 1
        if self._good >= self._rules.successes:
            self._close(f"{self._good} good answers in a row")

    def _judge(self, rules: Figures, rng: random.Random) -> None:
        if rules.consecutive and self._row >= rules.consecutive:
            self._open(f"{self._row} failures in a row", rng)
            return
        if not (rules.error_rate or rules.slow_rate):
            return
        ended = self._total(self._ended)
        if ended < rules.min_requests:
            return
        failures, slow = self._total(self._failures), self._total(self._slow)
        if rules.error_rate and failures >= rules.error_rate * ended:
            self._open(f"{failures} of {ended} requests failed within {rules.window_s:g} s", rng)
        elif rules.slow_rate and slow >= rules.slow_rate * ended:
            self._open(f"{slow} of {ended} requests took longer than {rules.slow_s:g} s", rng)

    def _open(self, reason: str, rng: random.Random) -> None:
        if self._forgiven(self._now):
            self._openings = 0
        open_s = self._next_open_s(self._now, rng)
        self._openings += 1
        self._until = self._now + open_s
        self._turn(OPEN, reason, open_s)

    def _forgiven(self, now: float) -> bool:
        return self.state is CLOSED and now - self.since > FORGIVE * self._rules.open_s

    def _next_open_s(self, now: float, rng: random.Random) -> float:
        """For how long it is open when it opens at `now`."""
        rules = self._rules
        openings = 0 if self._forgiven(now) else self._openings
        open_s = min(rules.open_s * 2.0 ** min(openings, 30), rules.max_open_s)
        open_s *= 1 + _JITTER * (2 * rng.random() - 1)
        return 2 * rules.max_open_s - open_s if open_s > rules.max_open_s else open_s

    def _close(self, reason: str) -> None:
        self._turn(CLOSED, reason)
        self._row = 0
        self._clear()

    def _turn(self, state: str, reason: str, open_s: float = 0.0) -> None:
        before = self.state
        if self._pending_transition is not None:
            before = self._pending_transition.before
        self._pending_transition = Transition(before, state, reason, open_s)
        self.state = state
        self.reason = reason
        self.since = self._now
        self._old = self.active

    def take_transition(self) -> Transition | None:
        """The change of state that has not been told yet."""
        transition, self._pending_transition = self._pending_transition, None
        return transition

    # Retries under way.

    @property
    def retry_is_free(self) -> bool:
        """Whether another retry may be under way."""
        most = self._rules.max_retries
        elsewhere = self._together.elsewhere(RETRIES) if most and self._together is not None else 0
        return not most or self._retries + elsewhere < most

    def may_retry(self) -> bool:
        """Whether another retry may be under way; counted when so, until `retry_ended`."""
        self._count_retries(self._retries + 1)
        if not self.retry_is_free:
            self._count_retries(self._retries)
            return False
        self._retries += 1
        return True

    def retry_ended(self) -> None:
        """One less."""
        if self._retries:
            self._retries -= 1
            self._count_retries(self._retries)

    def _count_retries(self, count: int) -> None:
        if self._together is not None:
            self._together.set(RETRIES, count)

    def retry_after_s(self, now: float) -> float:
        """When to come back: what the rules say, or when it is no longer open; a second where neither is known."""
        if self._rules.retry_after_s:
            return self._rules.retry_after_s
        if self.state is OPEN:
            return max(self._until - max(now, self._now), 0.0)
        return 1.0

    # The window.

    def _advance(self, now: float) -> None:
        self._now = now
        slot = int(now / self._slot_s)
        if slot == self._slot:
            return
        passed = slot - self._slot
        if passed >= _SLOTS:
            self._clear()
        else:
            for n in range(1, passed + 1):
                at = (self._slot + n) % _SLOTS
                self._requests[at] = 0
                self._ended[at] = 0
                self._failures[at] = 0
                self._slow[at] = 0
        self._slot = slot

    def _clear(self) -> None:
        for at in range(_SLOTS):
            self._requests[at] = 0
            self._ended[at] = 0
            self._failures[at] = 0
            self._slow[at] = 0

    def _total(self, counts: list[int]) -> int:
        total = 0
        for count in counts:
            total += count
        return total
