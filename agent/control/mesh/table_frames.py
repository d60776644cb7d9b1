"""The table as workers get it: whole, once there is one, and then each change."""

from __future__ import annotations

from collections.abc import Iterable

from agent.control.mesh.table import Table
from agent.frames import Commit, ToWorker, said_once


class TableFrames:
    """Frames of one table; both kinds end with a commit."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.known = False
        """Whether the table counts: before that workers are told nothing, and have callers wait."""

    def whole(self) -> list[ToWorker]:
        """For who has nothing yet; empty while nothing is known."""
        if not self.known:
            return []
        frames = said_once(self._table.frame(name) for name in self._table.services)
        return [*frames, self._table.agents_frame(), self._commit(self._table.revision)]

    def changed(self, touched: Iterable[str], revision: int) -> list[ToWorker]:
        """For who has everything but the last change."""
        frames = said_once(self._table.frame(name) for name in touched)
        if self._table.moved:
            frames.append(self._table.agents_frame())
        return [*frames, self._commit(revision)]

    def _commit(self, revision: int) -> Commit:
        return Commit(revision, len(self._table.agents))
