"""Last good states that are not known here are looked for in etcd's history; those that are known are written down.

Laws
- What the history says is the truth, as long as etcd has it: it is walked back from the refused document to the first
  that is good, or to where there was none.
- Nothing waits long for it: a revision is applied, at the latest, when `LOOK_S` is over, and what was not found by then
  is looked for again, beside.
- Every agent knows the same states and may write them down; one does: each waits a random while, longer the more agents
  there are, looks whether another was faster, and writes over nothing that it has not seen. It begins a second after
  the put, when that is in force everywhere: writing it down is work for every agent too, and nobody waits for it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

import structlog
import trio

from agent.control.mesh.documents.in_force import Place, Refused
from agent.control.mesh.documents.reading import Put, Read, read
from agent.control.mesh.table import Table
from policies.language.document import Invalid
from registry.keys import Key, Keys, Room, Unknown
from registry.records import LastGood, encode
from registry.store import Change, Compacted, Compare, Delete, Store, StoreError
from registry.store import Put as PutKey
from registry.store import Refused as NotAllowed

LOOK_S: Final = 2.0
AGAIN_S: Final = 5.0
SETTLED_S: Final = 1.0
JITTER_S: Final = 0.5
JITTER_AN_AGENT_S: Final = 0.02
"""So that the first has been seen by most before the second looks."""
MAX_JITTER_S: Final = 20.0
REFUSED_S: Final = 30.0
"""Until the next try, where etcd's roles do not allow it (docs/keys.md)."""
MAX_STEPS: Final = 20
"""Refused documents in a row that are walked past."""
log = structlog.get_logger()


class History:
    """Asks etcd what stood under a policy's key before."""

    def __init__(self, store: Store, keys: Keys, table: Table) -> None:
        self._store = store
        self._keys = keys
        self._table = table

    async def of_changes(self, changes: Iterable[Change], documents: Mapping[Put, Read]) -> dict[Place, LastGood]:
        """The states that applying these changes will ask for, and that nobody has told yet."""
        told = {key[1:] for key, _ in self._parsed(changes, Room.LAST_GOOD)}
        wanted: dict[Place, Refused] = {}
        for key, change in self._parsed(changes, Room.POLICIES):
            place = key.first, key.second
            refused = change.value is not None and documents[(*place, change.value)].document
            if not isinstance(refused, Invalid) or place in told or not self._is_news(place, change):
                continue
            wanted[place] = Refused(refused.path, refused.reason, change.revision, 0, change.created, key=change.key)
        return await self.look_for(wanted) if wanted else {}

    def _parsed(self, changes: Iterable[Change], room: Room) -> Iterator[tuple[Key, Change]]:
        for change in changes:
            key = self._keys.parse(change.key)
            if not isinstance(key, Unknown) and key.room is room:
                yield key, change

    def _is_news(self, place: Place, change: Change) -> bool:
        """Whether neither the change itself nor this table says what was before it."""
        in_force = self._table.in_force
        kind, pattern = place
        return (
            change.created not in (0, change.revision)
            and pattern not in in_force.policies.get(kind, {})
            and place not in in_force.refused
            and place not in in_force.recorded
        )

    async def look_for(self, wanted: Mapping[Place, Refused]) -> dict[Place, LastGood]:
        """What is found of these in time."""
        found: dict[Place, LastGood] = {}
        with trio.move_on_after(LOOK_S):
            for place, refused in wanted.items():
                try:
                    state = await self._before(place, refused)
                except Compacted:
                    continue
                except StoreError as error:
                    log.warning("etcd's history cannot be asked", error=str(error))
                    break
                if state is not None:
                    found[place] = state
        return found

    async def _before(self, place: Place, refused: Refused) -> LastGood | None:
        """The state before a refused document; None when it is too far back. Raises StoreError."""
        revision = refused.revision
        for _ in range(MAX_STEPS):
            stood = await self._store.get(refused.key, revision=revision - 1)
            if stood is None or (refused.created and stood.create_revision != refused.created):
                return LastGood(revision=revision)
            found = await trio.to_thread.run_sync(read, *place, stood.value, abandon_on_cancel=True)
            if not isinstance(found.document, Invalid):
                return LastGood(revision=stood.mod_revision, document=found.text.decode("utf-8", "replace"))
            revision = stood.mod_revision
        return None


class Writer:
    """Keeps `last_good/` in step with what is in force, and goes on asking for what is not known."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        table: Table,
        history: History,
        learn: Callable[[Mapping[Place, LastGood]], None],
    ) -> None:
        """`learn` takes what the history has told."""
        self._store = store
        self._keys = keys
        self._table = table
        self._history = history
        self._learn = learn
        self._changed = trio.Event()
        self._rng = random.Random()
        self._failed = False

    def refresh(self) -> None:
        """The table changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._ask)

    async def _write(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if not self._table.in_force.unsettled():
                continue
            await trio.sleep(SETTLED_S + self._rng.random() * self._jitter_s())
            if not await self._in_peace(self._agree):
                self._changed.set()

    def _jitter_s(self) -> float:
        return min(MAX_JITTER_S, JITTER_S + JITTER_AN_AGENT_S * len(self._table.agents))

    async def _in_peace(self, what: Callable[[], Awaitable[None]]) -> bool:
        try:
            await what()
        except StoreError as error:
            if not self._failed:
                log.warning("cannot write down which policies were good; trying on", error=str(error))
            self._failed = True
            await trio.sleep(REFUSED_S if isinstance(error, NotAllowed) else 1)
            return False
        self._failed = False
        return True

    async def _agree(self) -> None:
        """Over what was seen, and over nothing else; who was faster is seen soon."""
        in_force = self._table.in_force
        for place in in_force.unsettled():
            for record in in_force.unsettled([place]).values():  # others write meanwhile
                key = self._keys.last_good(*place)
                standing = in_force.recorded.get(place)
                seen = Compare(key, mod_revision=standing.revision if standing is not None else 0)
                await self._store.transact([seen], [Delete(key) if record is None else PutKey(key, encode(record))])

    async def _ask(self) -> None:
        while True:
            await trio.sleep(AGAIN_S)
            in_force = self._table.in_force
            # Of what is put together the history of one key tells nothing.
            unknown = {at: refused for at, refused in in_force.unknown().items() if not in_force.together.holds(*at)}
            if unknown:
                found = await self._history.look_for(unknown)
                if found:
                    self._learn(found)
