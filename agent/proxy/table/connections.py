# mypyc: compiled
"""Connections to a service's endpoints: how many there are, how many there may be, and who waits for one.

Laws
- There are never more than there may be, of all workers of the agent together: who wants one more says so first, and
  then looks at the others (`policies.together`).
- Who waits gets the next that is free to its endpoint, or the place of one that is free to another; in the order in
  which they came. Who is given up waits no longer.
- A worker whose connections are idle closes one after the other, as long as requests of another worker wait.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.connection import Connection, Tally
from agent.proxy.engine.reactor import INFINITY, Reactor, Timed
from agent.proxy.stream import ResponseHandler
from policies.together import CONNECTIONS, PENDING, WAITING, Gauge

LOOK_EVERY_S: Final = 0.02
"""How often a worker looks whether another's connections have become fewer, or its requests wait."""


class Connections(Tally):
    """Of one service, from one worker."""

    __slots__ = ("_idle", "_together", "_waiting", "_waking", "_watch")

    def __init__(self) -> None:
        super().__init__()
        self._together: Gauge | None = None
        self._idle: dict[Connection, None] = {}
        """Those that are free, as long as there may not be any number."""
        self._waiting: dict[ResponseHandler, None] = {}
        self._waking = False
        self._watch: _Watch | None = None

    def limit(self, most: int) -> bool:
        """There may be so many from now on; 0: any number. Returns whether those that are free now are to be closed,
        which nobody has told it of."""
        before, self.most = self.most, most
        if not most:
            self._idle.clear()
        return most > 0 and not before and self.open > 0

    def count_together(self, gauge: Gauge | None) -> None:
        """From now on others are told; None: nobody is."""
        before, self._together = self._together, gauge
        if before is not None and before is not gauge:
            for figure in (PENDING, CONNECTIONS, WAITING):
                before.set(figure, 0)
        self.changed()

    @property
    def pending(self) -> int:
        """Requests that wait for a connection: for one that is being made, or for one that is free."""
        return self.connecting + len(self._waiting)

    def changed(self) -> None:
        """Tell the others."""
        gauge = self._together
        if gauge is not None:
            gauge.set(PENDING, self.pending)
            gauge.set(CONNECTIONS, self.open + self.connecting)
            gauge.set(WAITING, len(self._waiting))

    # As many as there may be.

    @property
    def over(self) -> bool:
        """Whether there are more than there may be."""
        return self._count(0) > self.most

    def _count(self, more: int) -> int:
        own = self.open + self.connecting + more
        gauge = self._together
        if gauge is None:
            return own
        gauge.set(CONNECTIONS, own)
        return own + gauge.elsewhere(CONNECTIONS)

    def has_room(self) -> bool:
        """Whether there may be one more: to be made at once."""
        if self._count(1) <= self.most:
            return True
        self.changed()
        return False

    @property
    def full(self) -> bool:
        """Whether who comes now would have to wait."""
        return self.most > 0 and (self.crowded or (not self._idle and self._count(0) >= self.most))

    def make_room(self) -> bool:
        """Close one that is free, for another; False: there is none."""
        if not self._idle:
            return False
        next(iter(self._idle)).close()
        return True

    # Who waits.

    @property
    def crowded(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def wait(self, handler: ResponseHandler, reactor: Reactor) -> None:
        """Until it hears `on_room`, and leaves."""
        self._waiting[handler] = None
        self.changed()
        self._look(reactor)

    def leave(self, handler: ResponseHandler) -> None:
        """It waits no longer."""
        self._waiting.pop(handler, None)
        self.changed()

    def wake(self) -> None:
        """Something has changed: ask those that wait, as long as there is a connection for them."""
        if self._waking:
            return  # what one of them does is seen by the next
        self._waking = True
        try:
            while self._waiting:
                if not next(iter(self._waiting)).on_room():
                    break
        finally:
            self._waking = False

    def on_idle(self, connection: Connection) -> None:
        """One of them is free."""
        self._idle[connection] = None
        self.wake()
        if self._together is not None and self._idle:
            self._look(connection.reactor)

    def on_taken(self, connection: Connection) -> None:
        """One that was free is not."""
        self._idle.pop(connection, None)

    def on_gone(self, connection: Connection) -> None:
        """One of them is closed, or somebody else's."""
        self._idle.pop(connection, None)
        self.wake()

    # Other workers.

    def _look(self, reactor: Reactor) -> None:
        if self._watch is None:
            self._watch = _Watch(self, reactor)
        if self._watch.deadline == INFINITY:
            reactor.wheel.arm(self._watch, reactor.now + LOOK_EVERY_S)

    def look(self) -> bool:
        """At the others. Returns whether to look again."""
        self.wake()
        gauge = self._together
        if self._waiting or gauge is None:
            return bool(self._waiting)
        if gauge.elsewhere(WAITING) and self._count(0) >= self.most:
            self.make_room()
        return bool(self._idle)


class _Watch(Timed):
    """Looks, as long as there is a reason to."""

    __slots__ = ("_connections", "_reactor")

    def __init__(self, connections: Connections, reactor: Reactor) -> None:
        super().__init__()
        self._connections = connections
        self._reactor = reactor

    def on_deadline(self, now: float) -> None:
        """Look."""
        if self._connections.look() and self.deadline == INFINITY:
            self._reactor.wheel.arm(self, now + LOOK_EVERY_S)
