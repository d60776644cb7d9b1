"""Events of one agent: what stands in etcd of them, what becomes one, and their delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from agent.control.events.delivery import Delivery
from agent.control.events.detector import EventDetector, unrecorded
from agent.control.events.hook_http import HookClient
from agent.control.events.outbox.outbox import Outbox
from agent.control.mesh.table import Table
from agent.events import Event
from registry.keys import Keys
from registry.lease import Holder
from registry.mirror import Update
from registry.store import Store


class Events:
    """The three of them."""

    def __init__(
        self,
        table: Table,
        store: Store,
        keys: Keys,
        holder: Holder,
        client: HookClient,
        *,
        host: str,
        boot: str,
        link: str = "",
        record: Callable[[Event], None] = unrecorded,
    ) -> None:
        self.outbox = Outbox(keys, table)
        self.detector = EventDetector(
            table, self.outbox, store, keys, host, boot, lease_s=holder.ttl_s, link=link, record=record
        )
        self.delivery = Delivery(self.outbox, table, store, keys, holder, host, client, self.detector.whole)

    def take(self, update: Update, touched: Iterable[str], *, cluster: int) -> None:
        """The table has taken an update of a cluster of etcd: what of it is an event, and who has to be told."""
        self.delivery.cluster = cluster
        others = self.outbox.refresh()
        news = self.outbox.apply(update.changes)
        self.detector.observe(update.changes, touched, cluster=cluster)
        if others:
            self.detector.webhooks_changed()
        if news or others:
            self.delivery.changed()

    def start(self, nursery: trio.Nursery, connected: Callable[[], bool]) -> None:
        """What needs no name in the mesh: delivery waits until this host's is ours."""
        nursery.start_soon(self.detector.run)
        nursery.start_soon(self.detector.absence.watch, connected, self.detector.tell)
