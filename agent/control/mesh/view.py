"""What this host knows of the mesh, in memory, on disk, and for its workers."""

from __future__ import annotations

from agent.control.host.here import Here
from agent.control.host.own_ports import OwnPorts
from agent.control.mesh.places import Places
from agent.control.mesh.reports import HeldRecords, Rejections
from agent.control.mesh.saved_table import SavedTable
from agent.control.mesh.table import Table
from agent.control.mesh.table_frames import TableFrames


class MeshView:
    """The table, and what goes with it."""

    def __init__(self, here: Here) -> None:
        settings, keys = here.settings, here.keys
        places = Places()
        self.own = OwnPorts(here.listeners.places(here.address), places.agent_at)
        self.table = Table(keys, settings.host, self.own, places)
        self.frames = TableFrames(self.table)
        self.saved = SavedTable(self.table, settings.state_path / "table", keys, settings.mesh)
        self.held = HeldRecords(here.store, keys, self.table, settings.host)
        table, host = self.table, settings.host
        self.rejections = Rejections(here.store, table, host, table.in_force, table.rejections, keys.rejection)
        self.audit_rejections = Rejections(
            here.store, table, host, table.audits, table.audits.rejections, keys.audit_rejection
        )
