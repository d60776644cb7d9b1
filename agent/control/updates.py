"""The way of a change: followed in etcd, folded into the table, sent to the workers, and seen by who cares.

The table counts from the first update on: for a host with instances of its own once these are in it, and, while etcd
is away, as it was on disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
import trio

from agent.control.audit.security import SecurityRecords
from agent.control.events.events import Events
from agent.control.host.clock import text_of
from agent.control.host.here import Here
from agent.control.identity.identity import AgentIdentity
from agent.control.instances.registrar import Registrar
from agent.control.instances.registration import Identity
from agent.control.issuers.issuers import Issuers
from agent.control.mesh.distrust.doubts import KEEP_S, Losses
from agent.control.mesh.distrust.source import Source
from agent.control.mesh.distrust.suspect_probe import Found, probe_suspects
from agent.control.mesh.documents.in_force import Place
from agent.control.mesh.documents.last_good import History, Writer
from agent.control.mesh.documents.reading import Put, Read, read_ahead
from agent.control.mesh.view import MeshView
from agent.control.workers.fleet import Fleet
from registry.keys import Room
from registry.mirror import Mirror, Update
from registry.records import LastGood
from registry.store import Change

DISK_GRACE_S: Final = 2.0
"""How long to wait for etcd before a table from disk counts as the table."""
FORGET_EVERY_S: Final = 5.0
SETTLE_S: Final = 2.0
"""How long the first table waits for this host's own instances to be in it, with a verdict."""
log = structlog.get_logger()


class Updates:
    """Etcd's, to everybody."""

    def __init__(
        self,
        here: Here,
        mesh: MeshView,
        events: Events,
        registrar: Registrar,
        fleet: Fleet,
        identity: AgentIdentity,
        issuers: Issuers,
        security: SecurityRecords,
    ) -> None:
        self._here = here
        self._mesh = mesh
        self._events = events
        self._registrar = registrar
        self._fleet = fleet
        self._identity = identity
        self._issuers = issuers
        self._sources_of = -1
        """How often documents that name issuers had changed when it was looked at last."""
        self._security = security
        self.mirror = Mirror(here.store, *here.keys.watched, self.on_update, prepare=self._read_ahead)
        self._documents: Mapping[Put, Read] = {}
        """Of the update that comes next."""
        self._found: Mapping[Place, LastGood] = {}
        """Last good states that it asks for, and that only etcd's history told."""
        self._history = History(here.store, here.keys, mesh.table)
        self._last_good = Writer(here.store, here.keys, mesh.table, self._history, self._learn)
        self._first = trio.Event()
        """Set with the first update."""

    def start(self, nursery: trio.Nursery) -> None:
        """Follow etcd."""
        table = self._mesh.table
        if table.cluster:
            self.mirror.expect(table.cluster, table.revision, table.witness)
        nursery.start_soon(self.mirror.run)
        nursery.start_soon(self._settle)
        nursery.start_soon(self._fall_back_to_disk)
        nursery.start_soon(self._forget_departed)
        nursery.start_soon(probe_suspects, self._mesh.table, self._on_probed)
        nursery.start_soon(self._mesh.saved.run)
        nursery.start_soon(self._mesh.rejections.run)
        nursery.start_soon(self._mesh.audit_rejections.run)
        nursery.start_soon(self._mesh.held.run)
        nursery.start_soon(self._last_good.run)
        nursery.start_soon(self._identity.run)

    async def _read_ahead(self, changes: Sequence[Change]) -> None:
        self._documents = await read_ahead(self._here.keys, changes, self._mesh.table.audits.stands)
        self._found = await self._history.of_changes(changes, self._documents)

    def on_update(self, update: Update) -> None:
        """The mirror's call: fold, and send what was touched."""
        mesh, whole = self._mesh, update.resync and not self._first.is_set()
        documents, self._documents = self._documents, {}
        found, self._found = self._found, {}
        known, before = mesh.table.revision, self._security.before(update.changes)
        touched = mesh.table.apply(
            update.changes,
            update.revision,
            whole=whole,
            documents=documents,
            found=found,
            now_s=trio.current_time(),
            losses=Losses.DOUBTED if update.another else self._losses(whole),
            source=Source(update.another, update.resync, self._heard_at() if update.another else ""),
        )
        if self._fleet.revision:  # the first table waits for what else has to be there
            others = self._documents_of(update.changes)
            self._fleet.convergence.hear(mesh.table.revision, time.monotonic(), others, time.time())
        mesh.table.cluster, mesh.table.witness = self.mirror.cluster_id, self.mirror.witness
        self._registrar.published.follow()
        self.follow_issuers()
        self._publish()
        if not mesh.frames.known and not self._registrar.local:
            self.open()
        for change in update.changes:
            self._here.holder.hear(change)
        self._identity.hear(update.changes, resync=update.resync, another=bool(update.another))
        self._drop_expelled()
        self._security.take(update.changes, before, whole=update.resync, known=known)
        self._events.take(update, touched, cluster=self.mirror.cluster_id)
        self._first.set()
        mesh.saved.changed()
        self._registrar.refresh()
        mesh.rejections.refresh()
        mesh.audit_rejections.refresh()
        mesh.held.refresh()
        self._last_good.refresh()

    def _documents_of(self, changes: Sequence[Change]) -> list[str]:
        """Which were put and removed, as people name them."""
        rooms = {self._here.keys.room(Room.POLICIES): "", self._here.keys.room(Room.AUDITS): "audits/"}
        return [
            f"{named}{change.key[len(room) :]}{'' if change.value is not None else ' removed'}"
            for change in changes
            for room, named in rooms.items()
            if change.key.startswith(room)
        ]

    def _heard_at(self) -> str:
        """When etcd was heard of last, in this process or the one before."""
        last = self.mirror.state.last_contact
        return text_of(time.time() - (time.monotonic() - last) if last else self._mesh.saved.saved_at)

    def _losses(self, whole: bool) -> Losses:
        """Whom a table from disk knew that nobody used since may have left in order long ago."""
        unused = whole and not self._mesh.frames.known
        if unused and time.time() - self._mesh.saved.saved_at > KEEP_S:
            return Losses.BELIEVED
        return Losses.JUDGED

    def _learn(self, found: Mapping[Place, LastGood]) -> None:
        """What etcd's history told later."""
        self._mesh.table.learn(found)
        self.follow_issuers()
        self._publish()
        self._mesh.rejections.refresh()
        self._last_good.refresh()

    def follow_issuers(self) -> None:
        """Documents may name other issuers: keys of theirs that are on disk are with the workers first."""
        count = self._mesh.table.changes["authn"]
        if count != self._sources_of:
            self._sources_of = count
            self._issuers.follow()

    def open(self) -> None:
        """The first table: from now on the workers serve, and are sent every change."""
        self._mesh.frames.known = True
        self._fleet.feed()

    def _publish(self) -> None:
        self._mesh.frames.changed()
        self._fleet.feed()

    async def first_within_grace(self) -> bool:
        """Whether etcd tells of the mesh soon enough; returns once it has."""
        with trio.move_on_after(DISK_GRACE_S):
            await self._first.wait()
        return self._first.is_set()

    async def _settle(self) -> None:
        """A restarted agent knows its own instances before its workers answer for them; callers wait meanwhile."""
        await self._first.wait()
        with trio.move_on_after(SETTLE_S):
            while not self._registrar.stands():  # noqa: ASYNC110 - a verdict may change nothing that could wake us
                await trio.sleep(0.02)
        if not self._mesh.frames.known:
            self.open()

    async def _fall_back_to_disk(self) -> None:
        """etcd may be away when we start: then the last table that we had is the table."""
        if await self.first_within_grace():
            return
        saved_at = self._mesh.saved.saved_at
        if saved_at and not self._mesh.frames.known:
            log.warning("etcd is away; starting with the table on disk", age_s=round(time.time() - saved_at))
            self.open()

    async def _forget_departed(self) -> None:
        """Names that did not come back are 404 again."""
        while True:
            await trio.sleep(FORGET_EVERY_S)
            if self._mesh.table.forget_departed(trio.current_time()):
                self._publish()

    def _drop_expelled(self) -> None:
        """Of a host that was put out nothing is suspected to live: whoever answers there is not who was meant."""
        expelled = self._identity.expelled
        self._mesh.table.suspects.miss_no_more(expelled)
        gone = self._mesh.table.suspects.of_hosts(expelled) if expelled else []
        if gone:
            self._on_probed((gone, []))

    def _on_probed(self, found: Found) -> None:
        """Believe the deletion of those that are gone, and dial the others where they answer."""
        gone, alive = found
        table = self._mesh.table
        touched: set[str] = set()
        dropped: list[Identity] = []
        for identity in gone:
            if identity in table.suspects:
                dropped.append(identity)
            touched |= table.drop_suspect(*identity, trio.current_time())
        for identity, place in alive:
            touched |= table.dial_suspect(*identity, place)
        if touched or table.moved:
            self._publish()
            table.moved = False
            self._mesh.saved.changed()
        self._events.detector.suspects_gone(dropped, self.mirror.cluster_id)
