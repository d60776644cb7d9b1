"""What etcd's history tells of last good states, and who writes them down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from agent.control.mesh.documents.in_force import NOT_KNOWN, Place
from agent.control.mesh.documents.last_good import History, Writer
from agent.control.mesh.documents.reading import read_ahead
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.mirror import Mirror, Update
from registry.records import LastGood
from registry.store import Change
from tests.support.memory import MemoryStore

KEYS = Keys()
LIMIT = {"limits": [{"name": "all", "rate": "5/s"}]}
OTHER = {"limits": [{"name": "all", "rate": "6/s"}]}
BAD = {"limitz": 5}
KEY = KEYS.policy("ratelimit", "pets")


class Control:
    """As much of one as last good states need."""

    def __init__(self, store: MemoryStore) -> None:
        self.table = Table(KEYS, "here")
        self.history = History(store, KEYS, self.table)
        self.writer = Writer(store, KEYS, self.table, self.history, self.learn)
        self.mirror = Mirror(store, *KEYS.watched, self.take, prepare=self.prepare)
        self.ahead: dict[str, Any] = {}
        self.updates = 0

    async def prepare(self, changes: Any) -> None:
        documents = await read_ahead(KEYS, changes)
        self.ahead = {"documents": documents, "found": await self.history.of_changes(changes, documents)}

    def take(self, update: Update) -> None:
        self.table.apply(update.changes, update.revision, **self.ahead)
        self.updates += 1
        self.writer.refresh()

    def learn(self, found: Mapping[Place, LastGood]) -> None:
        self.table.learn(found)
        self.writer.refresh()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.mirror.run)
            nursery.start_soon(self.writer.run)

    def enforced(self) -> Any:
        frame = self.table.in_force.of("pets").get("ratelimit")
        return frame if frame is None else "shut" if frame.unknown else json.loads(frame.text)


async def put(store: MemoryStore, document: Any, key: str = KEY) -> int:
    return await store.put(key, json.dumps(document).encode())


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Quick, and not jumping: threads take time of their own."""
    return trio.testing.MockClock(rate=30)


async def until(what: Callable[[], Any]) -> None:
    """It becomes so."""
    with trio.fail_after(900):
        while not what():
            await trio.sleep(0.1)


async def standing(store: MemoryStore) -> dict[str, Any]:
    """What is written down."""
    found = await store.get(KEYS.last_good("ratelimit", "pets"))
    return {} if found is None else json.loads(found.value)


async def test_one_writes_down_what_is_good() -> None:
    """Of three agents one; and what is deleted is forgotten."""
    store = MemoryStore()
    controls = [Control(store) for _ in range(3)]
    kept = KEYS.last_good("ratelimit", "pets")
    async with trio.open_nursery() as nursery:
        for control in controls:
            nursery.start_soon(control.run)
        revision = await put(store, LIMIT)
        await until(lambda: kept in store._keys)
        assert await standing(store) == {"revision": revision, "document": json.dumps(LIMIT)}
        await put(store, BAD)
        await until(lambda: all(control.table.refused for control in controls))
        assert [control.enforced() for control in controls] == [LIMIT] * 3
        await until(lambda: not any(control.table.in_force.unsettled() for control in controls))
        assert store._keys[kept].version == 1
        await store.delete(KEY)
        await until(lambda: kept not in store._keys)
        nursery.cancel_scope.cancel()


async def test_history_tells_what_nobody_wrote_down() -> None:
    """Good, better, two typos, and only then an agent."""
    store = MemoryStore()
    await put(store, LIMIT)
    revision = await put(store, OTHER)
    await put(store, BAD)
    await put(store, {"limitzz": 5})
    control = Control(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        await until(lambda: control.updates)
        assert control.enforced() == OTHER
        assert control.table.refused["ratelimit", "pets"].last_good == revision
        await until(lambda: KEYS.last_good("ratelimit", "pets") in store._keys)
        assert (await standing(store))["revision"] == revision
        nursery.cancel_scope.cancel()


async def test_history_tells_that_there_was_none() -> None:
    """Two typos from the start."""
    store = MemoryStore()
    await put(store, BAD)
    await put(store, {"limitzz": 5})
    control = Control(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        await until(lambda: control.updates)
        assert control.enforced() is None
        assert control.table.refused["ratelimit", "pets"].last_good == 0
        nursery.cancel_scope.cancel()


async def test_history_is_asked_under_the_spelling_that_stands() -> None:
    """`pets/production` and `pets.production` are one policy, and two keys."""
    store = MemoryStore()
    spelled = f"{KEYS.prefix}policies/ratelimit/pets/production"
    await put(store, LIMIT, spelled)
    await put(store, BAD, spelled)
    control = Control(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        await until(lambda: control.updates)
        frame = control.table.in_force.of("pets.production")["ratelimit"]
        assert json.loads(frame.text) == LIMIT
        nursery.cancel_scope.cancel()


async def test_what_is_forgotten_is_not_known_until_somebody_says_it() -> None:
    """Compacted away: refused, until a person mends it, or an agent that knows comes back."""
    store = MemoryStore()
    revision = await put(store, LIMIT)
    store.compact(await put(store, BAD))
    control = Control(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        await until(lambda: control.updates)
        assert control.enforced() == "shut"
        assert control.table.refused["ratelimit", "pets"].last_good == NOT_KNOWN
        knows = Control(store)
        knows.table.apply([Change(KEY, json.dumps(LIMIT).encode(), revision, revision)], revision)
        nursery.start_soon(knows.run)
        await until(lambda: control.enforced() == LIMIT)
        nursery.cancel_scope.cancel()


async def test_etcd_that_does_not_answer_is_asked_again() -> None:
    """A revision waits a moment for its history, and no longer; what was not found is found later."""
    store = MemoryStore()
    revision = await put(store, LIMIT)
    await put(store, BAD)
    control = Control(store)
    asked = store.get

    async def away(key: str, *, revision: int = 0) -> Any:
        await trio.sleep_forever()

    store.get = away  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        await until(lambda: control.updates)
        assert control.enforced() == "shut"
        store.get = asked  # type: ignore[method-assign]
        await until(lambda: control.enforced() == LIMIT)
        assert control.table.refused["ratelimit", "pets"].last_good == revision
        nursery.cancel_scope.cancel()
