"""Keeps the table on disk: what an agent knew before it was restarted.

Laws
- A restart never opens a door (law 3): the last good policies are known before etcd is asked, so that a bad one in etcd
  does not find an agent that has forgotten what was good.
- Writing a large table must not be the cost of a small change (law 5): for each second of it there are SAVE_REST
  seconds without.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import trio

from agent.control.host import disk
from agent.control.mesh.distrust.source import DISK
from agent.control.mesh.documents.reading import read_ahead
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change

SAVE_EVERY_S: Final = 5.0
SAVE_REST: Final = 500.0


class SavedTable:
    """One table, and its file."""

    def __init__(self, table: Table, path: Path, keys: Keys, mesh: str) -> None:
        self._table = table
        self._keys = keys
        self._path = path
        self._mesh = mesh
        self._changed = trio.Event()
        self.saved_at = 0.0
        """Unix time (s) of the table that was read; 0 when there was none."""

    async def read(self) -> bool:
        """Fill the table, which is empty, from disk; False when nothing is there."""
        saved = await trio.to_thread.run_sync(disk.load_table, self._path, self._mesh)
        if saved is None:
            return False
        changes = [Change(*item) for item in saved.items]
        documents = await read_ahead(self._keys, changes)
        self._table.apply(changes, saved.revision, documents=documents, source=DISK)
        self._table.cluster, self._table.witness = saved.cluster, saved.witness
        self._table.distrusted.holding.known_revision = saved.known_revision
        self.saved_at = saved.saved_at
        return True

    def changed(self) -> None:
        """The table is another than the one on disk."""
        self._changed.set()

    async def run(self) -> None:
        """Write the table when it has changed, until cancelled."""
        while True:
            await self._changed.wait()
            await trio.sleep(SAVE_EVERY_S)
            self._changed = trio.Event()
            began = time.process_time()
            await trio.to_thread.run_sync(self._write, self._saved())
            await trio.sleep((time.process_time() - began) * SAVE_REST)

    def write(self) -> None:
        """Write it now."""
        self._write(self._saved())

    def _saved(self) -> disk.Saved:
        table = self._table
        known = table.distrusted.holding.known_revision
        items = list(table.saved())
        return disk.Saved(self._mesh, table.revision, time.time(), items, table.cluster, table.witness, known)

    def _write(self, saved: disk.Saved) -> None:
        disk.save_table(self._path, saved)
