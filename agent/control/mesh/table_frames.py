"""The table as workers get it: whole at first, and then what changed.

Laws
- What a worker is told is the table as it is by then, at one revision, and ends with a commit: what changed several
  times since it took something last it hears of once.
- The cost of a change is that of the change: of a service that a worker has it is told the instances that changed, and
  documents only where others are in force.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.control.mesh.service import Service
from agent.control.mesh.table import Table
from agent.control.mesh.touched import Touch, Touched
from agent.frames import Change, Commit, EndpointFrame, Gone, ToWorker
from agent.portions import SLICE, said_once


class TableFrames:
    """Frames of one table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._feeds: set[Feed] = set()
        self.known = False
        """Whether the table counts: before that workers are told nothing, and have callers wait."""

    def feed(self) -> Feed:
        """For a worker that has nothing yet."""
        feed = Feed(self, self._table)
        self._feeds.add(feed)
        return feed

    def forget(self, feed: Feed) -> None:
        """Its worker is gone."""
        self._feeds.discard(feed)

    def changed(self) -> None:
        """The table did."""
        table = self._table
        for feed in self._feeds:
            feed.due.add(table.untold)
            feed.moved |= table.moved
        table.untold = Touched()


class Feed:
    """What one worker is told."""

    def __init__(self, frames: TableFrames, table: Table) -> None:
        self._frames = frames
        self._table = table
        self.due = Touched()
        """What it has not been told of."""
        self.moved = True
        """Whether an agent came, went, or lives elsewhere."""
        self._has: set[str] | None = None
        """Services that it was told of; None: it was told nothing."""
        self._revision = -1

    def take(self, *, parts: bool) -> list[ToWorker]:
        """What it has to be told now, up to a commit; nothing while there is nothing new. `parts`: it understands
        `Change`."""
        table = self._table
        if not self._frames.known:
            return []
        if self._has is None:
            self._has, self.due = set(), Touched()
            for name in table.services:
                self.due.service(name).whole = True
        elif not self.due.services and not self.moved and self._revision == table.revision:
            return []
        due, self.due = self.due, Touched()
        has = self._has
        made = said_once(each for name, touch in due.services.items() for each in self._told(name, touch, has, parts))
        if self.moved:
            made.append(table.agents_frame())
        self.moved, self._revision = False, table.revision
        return [*made, Commit(table.revision, len(table.agents))]

    def close(self) -> None:
        """The worker is gone."""
        self._frames.forget(self)

    def _told(self, name: str, touch: Touch, has: set[str], parts: bool) -> Iterator[ToWorker]:
        service = self._table.services.get(name)
        if service is None or not service.known:
            if name in has:
                has.discard(name)
                yield Gone(name)
        elif touch.whole or not parts or name not in has:
            has.add(name)
            yield self._table.frame(name)
        else:
            yield from self._changes(name, service, touch)

    def _changes(self, name: str, service: Service, touch: Touch) -> Iterator[Change]:
        table = self._table
        found = {identity: table.endpoint(name, service, identity) for identity in sorted(touch.instances)}
        gone = [identity for identity, endpoint in found.items() if endpoint is None]
        put: list[EndpointFrame] = [endpoint for endpoint in found.values() if endpoint is not None]
        while len(put) > SLICE:
            yield Change(name, table.revision, put[:SLICE], more=True)
            put = put[SLICE:]
        if touch.policies:
            yield Change(name, table.revision, put, gone, table.in_force.of(name), table.audits.of(name))
        else:
            yield Change(name, table.revision, put, gone)
