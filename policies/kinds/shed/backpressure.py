# mypyc: compiled
"""What of the requests for a service can still succeed while what it calls has no room: sheds load, or has its breaker
open. Whatever is let in beyond that fails, and what was done for it, here and behind, was for nothing: of a request
that needs ten calls the ninth is refused.

It is a window, as a sender's in a network: so many requests may be under way that need what has no room. One that fails
for that reason makes it smaller, one that succeeds a little larger, in such a proportion that one in twenty fails
(`SHARE`): fewer, and it would not be found out that there is more room; more, and work is wasted. A window and no rate,
since what is behind is used best by a few requests that are always under way, and since those make way for one another:
the next is let in when one is through.

Laws
- A request fails for want of room when the service answers 5xx while one of its own calls was refused for that reason.
  What does without the call, and is answered well, is let in whole. Whoever leaves while there is no room, after half
  the time that a good answer takes or more, counts like one that failed: it waited for others.
- Not all requests need what has no room. They are told apart by branch: what the path begins with (`branch`). Only of
  branches that failed for want of room lately is anything refused.
- What is refused fails at once, so it would make way for the next to fail, which takes the room from those that got
  through half of their calls: its place stays taken for as long as a good request has its own.
- With less than one place (all fails, or many workers share a little) one request goes in from time to time, at least
  one in PROBE_S, to find out.
- Where load is more than there is room for, the less important make way: they are let in as far as the more important
  leave room, and leave the last place to those.
- As long as no call is refused nothing is, and nothing is counted but what is under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from policies.hashing import hash64
from policies.kinds.shed.common import Common

SHARE: Final = 0.05
"""Of those let in, so many may fail for want of room."""
STEP: Final = 2.0
"""By how many places the window is moved, in all, by one that failed and those that succeeded for it."""
CUT: Final = 0.7
"""Of the window is left at least, however many fail of those that were under way together: one overload, not many."""
SURE: Final = 40
"""So many that succeeded in a row say that there is much more room; ..."""
SURE_EACH: Final = 8.0
"""... of a small window so many for each place."""
SURE_FEW: Final = 3
"""The same, where there is less than one place."""
LEAST: Final = 0.01
"""Of a place."""
PROBE_S: Final = 1.0
OVER_S: Final = 30.0
"""So long after the last that failed for want of room all are let in again, if the window is not used up."""
LOOK_S: Final = 0.25
"""So often it is looked at how many come, by priority."""
SPAN_S: Final = 4.0
"""What came so long ago counts a third."""
MORE: Final = 1.1
"""So much more than was let in lately is shared out among priorities: the window is the limit, and no share; ..."""
MORE_WHEN_FREE: Final = 3.0
"""... so much, where the window was not full."""
LOOP_S: Final = 0.02
"""Workers look at their clocks once a turn of their loops."""
LEFT: Final = 0.1
"""Of the window, beside one place, is left to the more important."""
BRANCHES: Final = 256
PRIORITIES: Final = 5
REFUSED_AT: Final = 4
"""The word that says when a call of the service was refused last for want of room, in monotonic seconds. (`Common` goes
by it when it needs a place.)"""
_NEEDS: Final = 0.02
"""Where a larger part fails for want of room, the branch needs it."""
_KNOWN: Final = 64
"""So many of a branch say how many of it fail; fewer, as long as no more have come."""
_PARTS: Final = 3
_MOST_HELD: Final = 4096


def branch(place: str) -> int:
    """Which branch of a service a path belongs to: its first two names, but those with digits, which are of things."""
    kept = ""
    number = 0
    for name in place.split("/", _PARTS + 1)[1 : _PARTS + 1]:
        if number < 2 and not any(c.isdigit() for c in name):
            kept += "/" + name
            number += 1
    return hash64(kept) % BRANCHES


class Backpressure:
    """One service's, in one worker: each finds its own window, as callers on several hosts do."""

    __slots__ = (
        "_active",
        "_came",
        "_common",
        "_credit",
        "_entered_at",
        "_flight",
        "_flight_at",
        "_full",
        "_good_s",
        "_held",
        "_in_a_row",
        "_let_in",
        "_looked_at",
        "_needs",
        "_new",
        "_new_in",
        "_part",
        "_seen",
        "_then",
        "_under_way",
        "called",
        "last",
        "window",
    )

    def __init__(self, common: Common | None = None) -> None:
        """`common`: what workers share, since a request may come in by one, and its calls go out by another; without it
        this one is alone."""
        self._common = common if common is not None else Common()
        self.window = 0.0
        """So many of the branches concerned may be under way; 0: all may."""
        self.called = ""
        """What had no room for a call of the service, last; as far as it was this worker's."""
        self.last = -1.0
        """When a request failed last for that reason."""
        self._active = [0] * BRANCHES
        self._needs = [0.0] * BRANCHES
        """The part of a branch's requests that fails for want of room; 0: nothing is known."""
        self._seen = [0] * BRANCHES
        """Requests of a branch, up to _KNOWN."""
        self._under_way = 0
        """Of the branches concerned."""
        self._held: deque[float] = deque()
        """Until when the places of those are taken that failed."""
        self._good_s = 0.0
        """What one takes that succeeds."""
        self._in_a_row = 0
        self._flight_at = 0.0
        self._flight = 0.0
        """When the first failed of those that were under way together, and the window then."""
        self._then = 0.0
        """The window, when one failed last."""
        self._entered_at = 0.0
        self._looked_at = 0.0
        self._new = [0] * PRIORITIES
        self._new_in = [0] * PRIORITIES
        self._came = [0.0] * PRIORITIES
        self._let_in = [0.0] * PRIORITIES
        """Lately, by priority."""
        self._full = False
        """Whether the window was, since that was looked at."""
        self._part = [1.0] * PRIORITIES
        self._credit = [0.0] * PRIORITIES

    @property
    def under_way(self) -> int:
        """Requests of the branches concerned."""
        return self._under_way if self.window > 0.0 else 0

    def _taken(self, now: float) -> int:
        """Places."""
        taken = self._under_way
        for until in self._held:
            if until > now:
                taken += 1
        return taken

    def concerns(self, branch: int) -> bool:
        """Whether a branch needs what has no room."""
        return self.window > 0.0 and self._needs[branch] > _NEEDS

    def governs(self, branch: int) -> bool:
        """Whether it is this window that says how many requests of a branch there may be, and no limit on what the
        service bears itself: as long as requests fail for want of room behind it, it is not the service that is slow.
        Not so any more when the window has grown by as much again, and twice, and still none fails."""
        return self.concerns(branch) and self._in_a_row < SURE + 2.0 * self._then

    def ask(self, branch: int, priority: int, now: float) -> str:
        """Whether a request may come in: empty when it may, and then `enter` counts it; else why not."""
        if self.window <= 0.0 or not self.concerns(branch):
            return ""
        if now - self._looked_at >= LOOK_S:
            self._look(now)
        refused = self.peek(branch, priority, now)
        if self._taken(now) + 2.0 + self._left_to_others(priority) > self.window:
            self._full = True
        self._new[priority] += 1
        part = self._part[priority]
        if part < 1.0:
            self._credit[priority] = min(self._credit[priority] + part, 1.0 + part)
        return refused

    def peek(self, branch: int, priority: int, now: float) -> str:
        """What `ask` would say; nothing is counted."""
        if self.window <= 0.0 or not self.concerns(branch):
            return ""
        window = self.window
        taken = self._taken(now)
        if window < 1.0:
            if not taken and now - self._entered_at >= min((self._good_s or PROBE_S) / window, PROBE_S):
                return ""
        elif taken + 1 + self._left_to_others(priority) <= window:
            part = self._part[priority]
            if part >= 1.0 or self._credit[priority] + part >= 1.0:
                return ""
        what = f"{self.called}, which it calls," if self.called else "what it calls"
        return f"{what} has no room: {taken} requests that need it are under way, of {window:.2g} that can succeed"

    def _left_to_others(self, priority: int) -> float:
        """Places that are kept free for those that are more important, if such come."""
        if self.window < 2.0:
            return 0.0
        for more in range(priority):
            if self._came[more] >= 1.0:
                return 1.0 + LEFT * self.window
        return 0.0

    def enter(self, branch: int, priority: int, now: float) -> None:
        """One comes in."""
        self._active[branch] += 1
        if self.window > 0.0 and self.concerns(branch):
            self._under_way += 1
            self._entered_at = now
            self._new_in[priority] += 1
            self._credit[priority] = max(self._credit[priority] - 1.0, 0.0)

    def refuse_call(self, called: str, now: float) -> None:
        """A call of the service's own was refused: what it is for has no room."""
        self.called = called
        self._common.find()
        self._common.write(REFUSED_AT, now)

    def leave(self, branch: int, age_s: float, now: float, status: int) -> None:
        """One is through, after so long; `status` 0: nobody waits for it any more, -1: what became of it says
        nothing."""
        if not self._active[branch]:
            return
        self._active[branch] -= 1
        if self._seen[branch] < _KNOWN:
            self._seen[branch] += 1
        if self.window > 0.0 and self.concerns(branch):
            self._under_way -= 1
        if status >= 500 and self._was_refused(now - age_s):
            self._fail(branch, age_s, self._good_s, now)
        elif status < 0 or (self.window <= 0.0 and self._needs[branch] <= 0.0):
            return
        elif status:
            self._note(branch, 0.0)
            if status < 500 and self.concerns(branch):
                self._succeed(age_s, now)
        elif self.governs(branch) and age_s >= 0.5 * self._good_s:
            self._fail(branch, age_s, 2.0 * age_s, now)

    def _was_refused(self, began: float) -> bool:
        """Whether a call was, since then."""
        refused_at = self._common.read(REFUSED_AT) if self._common.find() else 0.0
        return refused_at > 0.0 and refused_at >= began - LOOP_S

    def _note(self, branch: int, failed: float) -> None:
        """Learn of a branch; those of it that are under way count as it does."""
        before = self.concerns(branch)
        known = self._needs[branch]
        self._needs[branch] = known + (failed - known) / self._seen[branch]
        after = self.concerns(branch)
        if after and not before:
            self._under_way += self._active[branch]
        elif before and not after:
            self._under_way -= self._active[branch]

    def _fail(self, branch: int, age_s: float, takes_s: float, now: float) -> None:
        """One failed for want of room; its place stays taken until it is so old as `takes_s` says."""
        self._note(branch, 1.0)
        if self.window <= 0.0:
            if self._needs[branch] <= SHARE:
                return
            self._begin()
        if not self.concerns(branch):
            return
        self.last = now
        self._in_a_row = 0
        self._then = self.window
        if self.window >= 1.0 and takes_s > age_s and len(self._held) < _MOST_HELD:
            self._held.append(now - age_s + takes_s)
        if now - age_s >= self._flight_at:
            self._flight_at = now
            self._flight = self.window
        less = self.window * 0.6 if self.window < 1.0 else self.window - STEP * (1.0 - SHARE)
        self.window = max(less, self._flight * CUT, LEAST)

    def _begin(self) -> None:
        """From now on it is counted who needs what has no room."""
        self._held.clear()
        self._part = [1.0] * PRIORITIES
        self._came = [0.0] * PRIORITIES
        self._let_in = [0.0] * PRIORITIES
        self._new = [0] * PRIORITIES
        self._new_in = [0] * PRIORITIES
        self.window = float(max(sum(self._active), 1))
        self._under_way = 0
        for n in range(BRANCHES):
            if self.concerns(n):
                self._under_way += self._active[n]

    def _succeed(self, age_s: float, now: float) -> None:
        self._good_s += (age_s - self._good_s) * (0.1 if self._good_s else 1.0)
        self._in_a_row += 1
        window = self.window
        if window < 1.0:
            self.window = window * (2.0 if self._in_a_row >= SURE_FEW else 1.0 + SHARE)
        elif self._taken(now) + 2 > 0.75 * window:
            self.window = window + (1.0 if self._in_a_row >= min(SURE, SURE_EACH * window) else STEP * SHARE)
        elif now - self.last >= OVER_S:
            self.window = 0.0
            self._needs = [0.0] * BRANCHES

    def _look(self, now: float) -> None:
        """How many come, and who of them may be let in."""
        held = self._held
        while held and held[0] <= now:
            held.popleft()
        fade = max(0.0, 1.0 - min(now - self._looked_at, SPAN_S) / SPAN_S)
        self._looked_at = now
        for n in range(PRIORITIES):
            self._came[n] = self._came[n] * fade + self._new[n]
            self._new[n] = 0
        more = MORE if self._full else MORE_WHEN_FREE
        self._full = False
        room, more_important = 0.0, 0.0
        for n in range(PRIORITIES):
            self._let_in[n] = self._let_in[n] * fade + self._new_in[n]
            self._new_in[n] = 0
            room += more * self._let_in[n]
        for n in range(PRIORITIES):
            came = self._came[n]
            self._part[n] = 1.0 if more_important < 1.0 or room >= came else max(room, 0.0) / came
            room -= self._let_in[n]
            more_important += came
