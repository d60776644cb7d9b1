# mypyc: compiled
"""What clients of one listener may take, and who makes way when it is full.

Laws
- Each listener has its own, so that whoever floods one of them locks nobody out of the other.
- Outsiders, who are neither agents nor of this host, have a part of it: what is left is for those. One address of
  theirs has half of that part at most.
- Where it is full, those make way by whom nothing is under way, the oldest first: connections that never had a whole
  head, then those between two requests. No request is cut for a newcomer, and none but an outsider makes way for one.
- None of it costs a request anything: books are kept for each connection, not for each request.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.connection import Connection, Wire
from agent.proxy.engine.reactor import READ, Reactor

OUTSIDERS_PERCENT: Final = 75
"""Of a listener's connections."""
ADDRESS_PERCENT: Final = 50
"""Of the outsiders' part, for one address of theirs."""
LOOKED_AT: Final = 64
"""Connections, for one that may make way. Those that may not go to the end, so that the next search goes on."""


class Guest(Connection):
    """A client's connection, which has a place in a budget as long as it is open."""

    __slots__ = ("_unread", "address", "budget", "newer", "older", "outsider", "queue")

    def __init__(self, reactor: Reactor, sock: Wire, budget: Budget, address: str, *, outsider: bool) -> None:
        super().__init__(reactor, sock)
        self._unread = 0
        self.budget = budget
        self.address = address
        self.outsider = outsider
        """As it was when it came: who is an agent changes."""
        self.older: Guest | None = None
        self.newer: Guest | None = None
        """Its neighbours there."""
        self.queue = budget.hold(self)
        """Where it stands among those that may have to make way."""

    def count_unread(self, size: int) -> None:
        """So much came, and nobody has taken it yet."""
        more = size - self._unread
        if more and not self.closed:
            self._unread = size
            if more > 0:
                self.reactor.buffers.grow(self, more)
            else:
                self.reactor.buffers.shrink(self, -more)

    @property
    def waits(self) -> bool:
        """Whether nothing is under way by it."""
        raise NotImplementedError

    def make_way(self) -> None:
        """Close, for another."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take no more than what is under way: the next answer is the last."""
        raise NotImplementedError

    def judge_anew(self) -> None:
        """Rules have changed: what is under way by it may not be allowed any more."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Read what has come already: its head may be there, and not have been looked at yet."""
        if self.reads:
            self.on_event(READ)


class Queue:
    """Guests, the oldest first. Their links are their own: a dictionary's entry would be as large as they are."""

    __slots__ = ("newest", "oldest")

    def __init__(self) -> None:
        self.oldest: Guest | None = None
        self.newest: Guest | None = None

    def add(self, guest: Guest) -> None:
        """At the end."""
        newest = self.newest
        guest.older = newest
        if newest is None:
            self.oldest = guest
        else:
            newest.newer = guest
        self.newest = guest

    def remove(self, guest: Guest) -> None:
        """One that stands here."""
        older, newer = guest.older, guest.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        guest.older = guest.newer = None

    def first(self, most: int) -> list[Guest]:
        """The oldest, and so many."""
        found: list[Guest] = []
        guest = self.oldest
        while guest is not None and len(found) < most:
            found.append(guest)
            guest = guest.newer
        return found


class _Kind:
    """The connections of outsiders, or those of the others."""

    __slots__ = ("kept", "new")

    def __init__(self) -> None:
        self.new = Queue()
        """They never had a whole head."""
        self.kept = Queue()


class Budget:
    """What clients of one listener, the outbound or the inbound one, may take in this worker."""

    __slots__ = ("_addresses", "_others", "_outsiders", "inbound", "made_way", "open", "outsiders", "waiting")

    def __init__(self, *, inbound: bool) -> None:
        self.inbound = inbound
        self.open = 0
        """Connections."""
        self.outsiders = 0
        """Those of them that outsiders made."""
        self.made_way = 0
        """Connections that were closed for others, since ever."""
        self.waiting = 0
        """Requests that wait for the first table."""
        self._addresses: dict[str, int] = {}
        """Connections of outsiders, by where they come from."""
        self._outsiders = _Kind()
        self._others = _Kind()

    def has_room(self, most: int, address: str, *, outsider: bool) -> bool:
        """Whether another connection may come, of `most` that there may be: others make way for it, if they can."""
        if outsider:
            part = max(1, most * OUTSIDERS_PERCENT // 100)
            if self._addresses.get(address, 0) >= max(1, part * ADDRESS_PERCENT // 100):
                if not self._make_room(self._outsiders, address):
                    return False
            elif self.outsiders >= part and not self._make_room(self._outsiders):
                return False
        if self.open < most or self._make_room(self._outsiders):
            return True
        return not outsider and self._make_room(self._others)

    def _make_room(self, kind: _Kind, address: str = "") -> bool:
        """Close one that waits; of those at an address, if one is given. False: there is none."""
        for guests in (kind.new, kind.kept):
            for guest in guests.first(LOOKED_AT):
                if guest.closed:
                    continue  # by what another was just told
                if guest.waits and (not address or guest.address == address):
                    guest.catch_up()
                    if guest.closed:
                        return True
                    if guest.waits:
                        self.made_way += 1
                        guest.make_way()
                        return True
                if guests is kind.kept:
                    guests.remove(guest)
                    guests.add(guest)
        return False

    def _kind(self, guest: Guest) -> _Kind:
        return self._outsiders if guest.outsider else self._others

    def hold(self, guest: Guest) -> Queue:
        """It came. Returns where it stands now."""
        queue = self._kind(guest).new
        queue.add(guest)
        self.open += 1
        if guest.outsider:
            self.outsiders += 1
            self._addresses[guest.address] = self._addresses.get(guest.address, 0) + 1
        return queue

    def head_came(self, guest: Guest) -> None:
        """Its first, and whole."""
        kept = self._kind(guest).kept
        if guest.queue is not kept:
            guest.queue.remove(guest)
            kept.add(guest)
            guest.queue = kept

    def leave(self, guest: Guest) -> None:
        """It closed."""
        guest.queue.remove(guest)
        self.open -= 1
        if guest.outsider:
            self.outsiders -= 1
            left = self._addresses.get(guest.address, 0) - 1
            if left > 0:
                self._addresses[guest.address] = left
            else:
                self._addresses.pop(guest.address, None)
