# mypyc: compiled
"""The engine: sockets in a private level-triggered epoll set, callbacks run in place by one Trio task.

Why not `trio.lowlevel.wait_readable` on each socket: it re-arms the descriptor and switches tasks for every wait,
which costs more than the whole rest of a proxied request. Here each socket is registered once; Trio waits for the
epoll set's own descriptor, and everything that is ready is served from there.

Laws
- A callback never blocks and never awaits. What is rare and slow is an ordinary Trio task.
- A callback may close any connection, its own or another's; one that was closed earlier in a batch gets no call.
  A descriptor number used again within a batch may get a call too many: so a callback that finds nothing to read
  goes back quietly.
- A callback that raises is a bug: it is logged, and costs that one connection, nothing else.
- What all connections hold together has one bound. Near it each may hold less; beyond it those go that have held
  something for longest, which are the slowest.
"""

from __future__ import annotations

import heapq
import logging
import select
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP

_BATCH: Final = 256
_SPINS: Final = 32
"""Polls in a row before other Trio tasks get their turn."""

log = logging.getLogger("shoal.worker")


class Timed:
    """Something with a deadline. A timer that moved later costs nothing until its old slot comes up."""

    __slots__ = ("deadline", "stands_at")

    def __init__(self) -> None:
        self.deadline = INFINITY
        """Seconds on the monotonic clock; INFINITY: none."""
        self.stands_at = INFINITY
        """When the earliest slot of the wheel in which this stands comes up."""

    def on_deadline(self, now: float) -> None:
        """Called once `deadline` has passed; it is INFINITY again by then."""
        raise NotImplementedError


RECEIVE_BYTES: Final = 256 * 1024
HIGH_WATER_BYTES: Final = 256 * 1024
TIGHT_RECEIVE_BYTES: Final = 64 * 1024
TIGHT_HIGH_WATER_BYTES: Final = 32 * 1024
"""From a quarter of the bound for all on."""
MOST_HELD_BYTES: Final = 128 * 1024 * 1024

INFINITY: Final = float("inf")
TICKS_PER_S: Final = 100


class Wheel:
    """Coarse timers (10 ms), in place of a cancel scope for each request.

    A deadline that only ever moves later (an idle connection that is used again) is one attribute written; the object
    stays in the slot where it stands and is moved on when that slot comes up. It stands in one slot at most, and in
    none once it is forgotten: what is over is not kept for as long as it might have waited.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._slots: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []
        self._sooner = trio.Event()

    def arm(self, timed: Timed, deadline: float) -> None:
        """Have `timed.on_deadline` called soon after `deadline`, in place of any earlier wish."""
        timed.deadline = deadline
        if deadline >= timed.stands_at:  # the usual case, and that of no deadline at all
            return
        tick = int(deadline * TICKS_PER_S) + 1
        at = tick / TICKS_PER_S
        if at >= timed.stands_at:
            return
        self._take_out(timed)
        timed.stands_at = at
        slot = self._slots.get(tick)
        if slot is not None:
            slot[timed] = None
            return
        self._slots[tick] = {timed: None}
        heapq.heappush(self._ticks, tick)
        if self._ticks[0] == tick:
            self._sooner.set()

    def forget(self, timed: Timed) -> None:
        """It is over: nothing is called any more."""
        timed.deadline = INFINITY
        self._take_out(timed)

    def _take_out(self, timed: Timed) -> None:
        if timed.stands_at != INFINITY:
            slot = self._slots.get(round(timed.stands_at * TICKS_PER_S))
            if slot is not None:
                slot.pop(timed, None)
            timed.stands_at = INFINITY

    def expire(self, now: float) -> None:
        """Call everything that is due at `now`."""
        due = int(now * TICKS_PER_S)
        while self._ticks and self._ticks[0] <= due:
            tick = heapq.heappop(self._ticks)
            for timed in self._slots.pop(tick):
                if timed.stands_at != tick / TICKS_PER_S:
                    continue  # one before it in this slot had it forgotten, or armed anew
                timed.stands_at = INFINITY
                if timed.deadline > now:
                    self.arm(timed, timed.deadline)
                else:
                    timed.deadline = INFINITY
                    try:
                        timed.on_deadline(now)
                    except Exception:
                        log.exception("a timer failed: %r", timed)

    async def run(self) -> None:
        """Owns the passing of time; ends by cancellation."""
        while True:
            self._sooner = trio.Event()
            if not self._ticks:
                await self._sooner.wait()
                continue
            wait_s = self._ticks[0] / TICKS_PER_S - time.monotonic()
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._sooner.wait()
            else:
                await trio.lowlevel.checkpoint()
            self._reactor.now = now = time.monotonic()
            self.expire(now)


class Holder(Timed):
    """Something that holds bytes for others."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        """Bytes, as the buffers count them."""

    def abort(self) -> None:
        """Give it up; what it holds is dropped."""
        raise NotImplementedError


class Buffers:
    """What is held in one worker."""

    __slots__ = ("_holders", "cut_off", "high_water", "most", "piece", "total")

    def __init__(self) -> None:
        self.total = 0
        """Bytes held now."""
        self.most = MOST_HELD_BYTES
        self.cut_off = 0
        """Connections that were closed because all held too much, since ever."""
        self.high_water = HIGH_WATER_BYTES
        """What one connection may hold before whoever feeds it is asked to pause."""
        self.piece = RECEIVE_BYTES
        """What is read at once."""
        self._holders: OrderedDict[Holder, None] = OrderedDict()
        """Who holds something without a break for longest is first."""

    def grow(self, holder: Holder, size: int) -> None:
        """It holds more."""
        if not holder.held:
            self._holders[holder] = None
        holder.held += size
        self.total += size
        if self.total > self.most // 4:
            self.high_water = TIGHT_HIGH_WATER_BYTES
            self.piece = TIGHT_RECEIVE_BYTES

    def shrink(self, holder: Holder, size: int) -> None:
        """It holds less."""
        holder.held -= size
        self.total -= size
        if not holder.held:
            self._holders.pop(holder, None)
        if self.total < self.most // 8:
            self.high_water = HIGH_WATER_BYTES
            self.piece = RECEIVE_BYTES

    def relieve(self) -> None:
        """Give up as many as it takes."""
        while self.total > self.most and self._holders:
            holder, _ = self._holders.popitem(last=False)
            self.cut_off += 1
            holder.abort()
            if holder.held:
                self.shrink(holder, holder.held)


class Reactor:
    """The private epoll set. `now` is the monotonic time of the event that is being served."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self.wheel = Wheel(self)
        self.buffers = Buffers()
        self.now = time.monotonic()

    def add(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Have `callback(events)` called whenever `fd` is ready. Also when it is broken, asked or not."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on a descriptor."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Give the epoll set back."""
        self._epoll.close()

    async def run(self) -> None:
        """Serve until cancelled."""
        poll = self._epoll.poll
        monotonic = time.monotonic
        find = self._callbacks.get
        fd = self._epoll.fileno()
        buffers = self.buffers
        while True:
            await trio.lowlevel.wait_readable(fd)
            for _ in range(_SPINS):
                ready = poll(0, _BATCH)
                if not ready:
                    break
                for number, events in ready:
                    callback = find(number)
                    if callback is not None:
                        self.now = monotonic()
                        try:
                            callback(events)
                        except Exception:
                            log.exception("a callback failed; its connection is closed")
                            self._give_up(callback)
                        if buffers.total > buffers.most:
                            buffers.relieve()

    def _give_up(self, callback: Callable[[int], None]) -> None:
        owner = getattr(callback, "__self__", None)
        if owner is not None:
            owner.abort()
