"""What this host tells of under its own keys: cleared away when it is told, and moved where the mesh says.

Laws
- An event is moved in the transaction that changes its entry, as it was read: it is told once, wherever it stands then.
- Going back, what a host left behind that is gone is moved by one of the others.
- Nobody waits for a host that leaves: what it has not heard of the end of goes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec
import structlog

from agent.control.events.outbox.entries import Entries
from agent.control.events.outbox.outbox import Outbox, rank
from agent.control.events.outbox.sources import speaker_of
from agent.control.host.clock import now_text
from agent.control.mesh.layout import Forms
from policies.kinds.webhook.event import Event
from registry.keys import Keys
from registry.records import OutboxEntry, encode
from registry.store import Compare, Delete, Put, Store, StoreError

LEFT_S: Final = 31 * 86400
"""Longer than any webhook tries (`give_up_after`)."""
log = structlog.get_logger()


class OwnEvents:
    """This host's."""

    def __init__(
        self,
        outbox: Outbox,
        forms: Forms,
        store: Store,
        keys: Keys,
        host: str,
        live: Callable[[], Collection[str]],
        written: Collection[str],
    ) -> None:
        """`live`: hosts whose agents live. `written`: events that this agent has put whole."""
        self._sources = outbox.sources
        self._forms = forms
        self._store = store
        self._keys = keys
        self._host = host
        self._live = live
        self._written = written
        self._entries = Entries(store, keys, host)
        self._refused: set[str] = set()
        """Hosts whose keys etcd does not let us clear away."""

    async def keep(self) -> bool:
        """Have all of it stand where it is to; False: some of it does not yet, which is tried by who asks again."""
        await self._clear()
        try:
            moved = [await self._move(id, host, back) for id, host, back in self._misplaced()]
        except StoreError as error:
            log.debug("etcd did not take it", error=str(error))
            return False
        return all(moved)

    async def _clear(self) -> None:
        over = [self._keys.own_event(self._host, id) for id in self._sources.over(self._host)]
        if over:
            await self._entries.drop(over)
        live = self._live()
        for host in self._sources.hosts():
            keys = [] if host in live else [self._keys.own_event(host, id) for id in self._sources.over(host)]
            mine = host not in self._refused and rank(f"own/{host}", self._host, live) == 0
            if keys and mine and not await self._entries.drop(keys):
                self._refused.add(host)

    def _misplaced(self) -> list[tuple[str, str, bool]]:
        """Events that this agent is to move: id, under whose keys it stands or is to, and whether that is to end."""
        if self._forms.layout is None:
            return []
        if self._forms.has("events"):
            late = [id for id in self._sources.disbelieved if id in self._written]
            return [(id, self._host, False) for id in late if not self._sources.entries[id].record.host]
        live = self._live()
        hosts = [host for host in self._sources.hosts() if host == self._host or host not in live]
        return [
            (id, host, True)
            for host in hosts
            for id, _ in self._sources.left(host)
            if host == self._host or rank(id, self._host, live) == 0
        ]

    async def _move(self, id: str, host: str, back: bool) -> bool:
        entry = self._sources.entries.get(id)
        if entry is None or (back and entry.record.host != host):
            return True
        key, own = self._keys.event(id), self._keys.own_event(host, id)
        if back:
            event = dict(self._sources.left(host)).get(id)
            if event is None:
                return True
            whole = msgspec.structs.replace(entry.record, event=msgspec.to_builtins(event), host="")
            operations: list[Put | Delete] = [Put(key, encode(whole))]
            operations += [Delete(own)] if host == self._host else []
        else:
            word = OutboxEntry(event=entry.record.event, at=entry.record.at)
            moved = msgspec.structs.replace(entry.record, event={}, host=host)
            operations = [Put(own, encode(word)), Put(key, encode(moved))]
        return (await self._store.transact([Compare(key, mod_revision=entry.revision)], operations)).succeeded

    def again(self, event: Event, done: dict[str, str]) -> list[Put] | str:
        """What puts an event once more, of which some hooks are done; or why this agent would not be believed."""
        key, entry = self._keys.event(event.id), OutboxEntry(done=done, at=now_text())
        if not self._forms.has("events"):
            return [Put(key, encode(msgspec.structs.replace(entry, event=msgspec.to_builtins(event))))]
        about = speaker_of(event)
        if about and about != self._host:
            return f"{about} alone can tell of it, and this is {self._host}: say it there"
        own = self._keys.own_event(self._host, event.id)
        return [Put(own, _word(event)), Put(key, encode(msgspec.structs.replace(entry, host=self._host)))]

    async def leave(self) -> None:
        """This agent goes: what it has told of, and others have still to tell, is there for as long as they try. Raises
        StoreError."""
        left = list(self._sources.left(self._host))
        if not left:
            return
        lease = await self._store.grant(LEFT_S)
        for id, event in left:
            # Not once it is told: nobody would take it away then.
            stands = [Compare(self._keys.event(id), create_revision=self._sources.entries[id].created)]
            await self._store.transact(stands, [Put(self._keys.own_event(self._host, id), _word(event), lease)])


def _word(event: Event) -> bytes:
    return encode(OutboxEntry(event=msgspec.to_builtins(event), at=now_text()))
