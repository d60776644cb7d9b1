from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from agent.control.mesh.reports import (
    MAX_PLAIN,
    PLAIN_S,
    PLAIN_STEP_S,
    Plain,
    Rejections,
    begin_mesh,
    keep_layout,
    known_here,
    others_run,
    tell_version,
)
from agent.control.mesh.table import Table
from registry.keys import Keys, Room
from registry.lease import Holder
from registry.mirror import Mirror, Update
from registry.records import Ack, Layout, Rejection, Version, decode, encode
from registry.store import Change, Compare, Delete, KeyValue, Outcome, Put, Refused
from tests.support.memory import MemoryStore

KEYS = Keys()
REJECTED = KEYS.rejection("timeout", "pets")


class Watcher:
    """An agent as far as rejections go: a mirror, a table, and what it says about it."""

    def __init__(self, store: MemoryStore, host: str) -> None:
        self.table = Table(KEYS, host)
        self.rejections = Rejections(
            store, self.table, host, self.table.in_force, self.table.rejections, KEYS.rejection
        )
        self.mirror = Mirror(store, *KEYS.watched, self.deliver)

    def deliver(self, update: Update) -> None:
        self.table.apply(update.changes, update.revision)
        self.rejections.refresh()


async def rejection(store: MemoryStore) -> Rejection | None:
    found = await store.get(REJECTED)
    return None if found is None else Rejection(**json.loads(found.value))


async def agents(store: MemoryStore, *hosts: str) -> None:
    for host in hosts:
        await store.put(KEYS.agent(host), b'{"address": "10.0.0.1", "inbound_port": 1}')


async def test_a_refused_policy_is_told_and_cleared(autojump_clock: trio.testing.MockClock) -> None:
    """Twenty agents refuse one document: the reason stands in etcd, hardly ever twice; mending it clears it."""
    store = MemoryStore()
    good = await store.put(KEYS.policy("timeout", "pets"), b"connect: 1s")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            watcher = Watcher(store, f"h{number}")
            nursery.start_soon(watcher.mirror.run)
            nursery.start_soon(watcher.rejections.run)
        await trio.sleep(3)
        bad = await store.put(KEYS.policy("timeout", "pets"), b"conect: 1s")
        await trio.sleep(3)
        told = await rejection(store)
        assert told is not None
        assert (told.revision, told.last_good, told.path) == (bad, good, "$")
        assert "did you mean 'connect'?" in told.reason
        assert store.revision - bad <= 5
        await store.put(KEYS.policy("timeout", "pets"), b"connect: 2s")
        await trio.sleep(3)
        assert await rejection(store) is None
        await store.put(KEYS.policy("timeout", "pets"), b"?")
        await trio.sleep(3)
        await store.delete(KEYS.policy("timeout", "pets"))
        await trio.sleep(3)
        assert await rejection(store) is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "rest", ["retry/pets.*", "retry/**", "route/a.b.c.d.e.f", "Retry/pets", "retry", "/", "retry/\udcff"]
)
async def test_a_policy_whose_key_names_nothing_is_told_and_cleared(
    rest: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Like any other bad document, under its own spelling; and it is in force nowhere."""
    store = MemoryStore()
    watcher, late = Watcher(store, "here"), Watcher(store, "late")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.mirror.run)
        nursery.start_soon(watcher.rejections.run)
        await trio.sleep(3)
        put = await store.put(f"{KEYS.prefix}policies/{rest}", b"attempts: 3")
        await trio.sleep(3)
        found = await store.get(f"{KEYS.prefix}rejected/{rest}")
        assert found is not None
        told = Rejection(**json.loads(found.value))
        assert (told.path, told.revision, told.last_good, told.agent) == ("key", put, 0, "here")
        assert not any(watcher.table.policies.values())
        nursery.start_soon(late.mirror.run)
        nursery.start_soon(late.rejections.run)
        await trio.sleep(3)
        assert store.revision == put + 1, "the second agent says it again"
        await store.delete(f"{KEYS.prefix}policies/{rest}")
        await trio.sleep(3)
        assert await store.get(f"{KEYS.prefix}rejected/{rest}") is None
        assert not watcher.table.refused and not late.table.refused
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("theirs", "cleared"),
    [
        ({"agent": "newer", "revision": 0}, True),
        ({"agent": "newer"}, False),
        ({"agent": "gone"}, True),
        ({"agent": "here"}, True),
    ],
)
async def test_two_versions_do_not_argue(
    theirs: dict[str, Any], cleared: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """What a live agent says of this very document stands, though we see no fault in it; anything else is cleared."""
    store = MemoryStore()
    await agents(store, "newer", "here")
    revision = await store.put(KEYS.policy("timeout", "pets"), b"connect: 1s")
    record = Rejection(**{"path": "$", "reason": "x", "revision": revision, **theirs, "at": ""})
    await store.put(REJECTED, encode(record))
    watcher = Watcher(store, "here")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.mirror.run)
        nursery.start_soon(watcher.rejections.run)
        await trio.sleep(5)
        assert (await rejection(store) is None) is cleared
        nursery.cancel_scope.cancel()


async def test_etcd_away_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """The reason is told once etcd is there again."""
    store = MemoryStore()
    watcher = Watcher(store, "here")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.mirror.run)
        nursery.start_soon(watcher.rejections.run)
        await trio.sleep(1)
        await store.put(KEYS.policy("timeout", "pets"), b"?")
        store.down = True
        await trio.sleep(30)
        store.down = False
        await trio.sleep(30)
        assert await rejection(store) is not None
        nursery.cancel_scope.cancel()


async def test_waiting_for_the_others(autojump_clock: trio.testing.MockClock) -> None:
    """Until every other live agent runs a revision: not those that are gone, not ourselves, not what cannot be read."""
    store = MemoryStore()
    watcher = Watcher(store, "here")
    await agents(store, "here", "a", "b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.mirror.run)
        await trio.sleep(1)
        await store.put(KEYS.ack("a"), encode(Ack(revision=7)))
        await store.put(KEYS.ack("b"), b"?")
        with trio.move_on_after(5) as waiting:
            await others_run(store, KEYS, watcher.table, "here", 7)
        assert waiting.cancelled_caught
        await store.put(KEYS.ack("b"), encode(Ack(revision=8)))
        with trio.fail_after(60):
            await others_run(store, KEYS, watcher.table, "here", 7)
        await store.put(KEYS.ack("b"), encode(Ack(revision=6)))
        await store.delete(KEYS.agent("b"))
        await trio.sleep(1)
        with trio.fail_after(60):
            await others_run(store, KEYS, watcher.table, "here", 7)
        nursery.cancel_scope.cancel()


VERSION = KEYS.version("here")


class Strict(MemoryStore):
    """An etcd whose role for agents is that of the version before, until it is mended."""

    mended = False

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        if key == VERSION and not self.mended:
            raise Refused("etcdserver: permission denied")
        return await super().put(key, value, lease=lease)


async def telling(store: MemoryStore, holder: Holder, nursery: trio.Nursery) -> None:
    nursery.start_soon(holder.run)
    nursery.start_soon(tell_version, store, holder, KEYS, "here", known_here())
    await trio.sleep(1)


async def test_what_a_version_knows_stands_on_the_agents_lease(autojump_clock: trio.testing.MockClock) -> None:
    """Written once a lease: another lease has it again, and with the last one it goes."""
    store = MemoryStore()
    holder = Holder(store)

    async def there() -> KeyValue | None:
        found = await store.get(VERSION)
        assert found is None or found.value == encode(known_here())
        return found

    async with trio.open_nursery() as nursery:
        await telling(store, holder, nursery)
        first = await there()
        assert first is not None and first.lease == holder.lease
        await trio.sleep(60)
        assert await there() == first
        await store.revoke(holder.lease)
        await trio.sleep(30)
        again = await there()
        assert again is not None and again.lease == holder.lease != first.lease
        nursery.cancel_scope.cancel()
    await holder.release()
    assert await there() is None


class Narrow(MemoryStore):
    """An etcd whose role for agents does not have `hosts/`, though `reports/`, until it is mended."""

    mended = False

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        if not self.mended and any(operation.key.startswith(KEYS.room(Room.HOSTS)) for operation in success):
            raise Refused("etcdserver: permission denied")
        return await super().transact(compare, success, failure)


async def test_what_etcd_lets_nobody_write_is_not_said_to_be_known(autojump_clock: trio.testing.MockClock) -> None:
    """So that no mesh moves to where a host may not write; said as soon as it may. Asking puts nothing."""
    store = Narrow()
    holder = Holder(store)
    async with trio.open_nursery() as nursery:
        await telling(store, holder, nursery)
        found = await store.get(VERSION)
        assert found is not None and decode(Version, found.value).keys == ["reports"]
        await trio.sleep(60)
        assert await store.get(VERSION) == found
        store.mended = True
        await trio.sleep(10)
        found = await store.get(VERSION)
        assert found is not None and decode(Version, found.value).keys == ["events", "hosts", "reports"]
        assert list(store._keys) == [VERSION]
        nursery.cancel_scope.cancel()


async def test_where_agents_write_stands_again(autojump_clock: trio.testing.MockClock) -> None:
    """As the one that knows it says; what stands is left alone, and who knows nothing says nothing."""
    store, table = MemoryStore(), Table(KEYS, "here")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_layout, store, KEYS, table)
        await trio.sleep(60)
        assert await store.get(KEYS.layout) is None
        word = encode(Layout(state="own"))
        table.apply([Change(KEYS.layout, word, 2)], 2)
        await trio.sleep(60)
        assert await store.get(KEYS.layout) is None, "it was there a moment ago"
        table.apply([Change(KEYS.layout, None, 3)], 3)
        await trio.sleep(60)
        found = await store.get(KEYS.layout)
        assert found is not None and (found.value, found.version) == (word, 1)
        nursery.cancel_scope.cancel()


class Issuers(MemoryStore):
    """An etcd in which only issuers say why a policy is refused."""

    asked = 0

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        if key == REJECTED:
            self.asked += 1
            raise Refused("etcdserver: permission denied")
        return await super().put(key, value, lease=lease)


async def test_who_may_not_say_why_asks_seldom(autojump_clock: trio.testing.MockClock) -> None:
    """It is another's to say, and every agent of a large mesh would ask."""
    store = Issuers()
    watcher = Watcher(store, "here")
    watcher.table.apply([Change(KEYS.policy("timeout", "pets"), b"?", 2)], 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.rejections.run)
        watcher.rejections.refresh()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert 1 <= store.asked <= 4


async def test_a_role_that_may_not_write_it_harms_no_other_key(autojump_clock: trio.testing.MockClock) -> None:
    """It is told once, in the log, and put as soon as it may be."""
    store = Strict()
    holder = Holder(store)
    holder.put(KEYS.agent("here"), b"{}")
    async with trio.open_nursery() as nursery:
        await telling(store, holder, nursery)
        assert await store.get(KEYS.agent("here")) is not None and await store.get(VERSION) is None
        store.mended = True
        await trio.sleep(10)
        assert await store.get(VERSION) is not None
        nursery.cancel_scope.cancel()


def counted(**plain: dict[str, int]) -> list[dict[str, Any]]:
    """What workers say that they have counted."""
    return [{"services": {service: {"callers": {}, "plain": peers} for service, peers in plain.items()}}]


def test_plain_text_that_goes_on_is_told_by_when_it_was_last_seen() -> None:
    """To the minute; what has ended keeps its time, for a day."""
    plain = Plain()
    start = 1_800_000_000.0
    first = plain.look(counted(pets={"web-2": 3}), start + 5)
    assert first == {"pets": {"web-2": "2027-01-15T08:00:00.000Z"}}
    assert plain.look(counted(pets={"web-2": 3}), start + 3600) == first
    assert plain.look(counted(pets={"web-2": 4}), start + 30) == first
    again = plain.look(counted(pets={"web-2": 9}, vets={"10.0.0.3": 1}), start + 120)
    assert again == {"pets": {"web-2": "2027-01-15T08:02:00.000Z"}, "vets": {"10.0.0.3": "2027-01-15T08:02:00.000Z"}}
    assert plain.look(counted(pets={"web-2": 9}), start + 120 + PLAIN_S + PLAIN_STEP_S) == {}


def test_plain_text_is_added_up_over_workers() -> None:
    """One that began anew, with lower counts, tells nothing new; nor one of the version before, with none."""
    plain = Plain()
    both = counted(pets={"web-2": 3}) + counted(pets={"web-2": 4})
    first = plain.look(both, 60.0)
    assert plain.look([*counted(pets={"web-2": 3}), {"services": {"pets": {"callers": {}}}}], 6000.0) == first
    assert plain.look(counted(pets={"web-2": 8}), 6000.0) != first


def test_plain_text_of_many_is_bounded() -> None:
    """The latest stay."""
    plain = Plain()
    plain.look(counted(old={f"h{n}": 1 for n in range(MAX_PLAIN)}), 60.0)
    found = plain.look(counted(new={f"h{n}": 1 for n in range(MAX_PLAIN - 1)}), 600.0)
    assert {service: len(peers) for service, peers in found.items()} == {"new": MAX_PLAIN - 1, "old": 1}


def first(host: str = "here") -> Table:
    """What an agent knows that has no table on disk."""
    return Table(KEYS, host)


async def test_a_new_mesh_begins_under_hosts(autojump_clock: trio.testing.MockClock) -> None:
    """Two agents at once that are the first: one says it, and both know then that it is said."""
    store = MemoryStore()
    async with trio.open_nursery() as nursery:
        for host in ("here", "there"):
            nursery.start_soon(begin_mesh, store, KEYS, host, first(host))
    found = await store.get(KEYS.layout)
    assert found is not None and found.version == 1
    word = decode(Layout, found.value)
    assert (word.state, word.rooms) == ("own_only", ["events", "reports"]) and word.by.startswith("agent ")


OLD = [
    KEYS.agent("old"),
    KEYS.instance("pets", "a"),
    KEYS.health("pets", "a"),
    KEYS.ack("old"),
    KEYS.event("1", Room.TOLD),
]


@pytest.mark.parametrize("key", [*OLD, KEYS.policy("retry", "*"), KEYS.condition("mesh"), f"{KEYS.prefix}anything"])
async def test_a_mesh_of_which_something_stands_is_none_of_these(key: str) -> None:
    """Whatever it is, so that no agent of the version before is left alone. Other meshes do not count."""
    store, other = MemoryStore(), MemoryStore()
    await store.put(key, b"{}")
    await begin_mesh(store, KEYS, "here", first())
    assert await store.get(KEYS.layout) is None
    await other.put(key.replace("/default/", "/default2/"), b"{}")
    await other.put(key.replace("/default/", "/a/"), b"{}")
    with trio.fail_after(30):
        await begin_mesh(other, KEYS, "here", first())
    assert await other.get(KEYS.layout) is not None


async def test_what_is_said_already_is_left_alone() -> None:
    """An operator who said otherwise beforehand."""
    store = MemoryStore()
    await store.put(KEYS.layout, encode(Layout(state="common")))
    await begin_mesh(store, KEYS, "here", first())
    found = await store.get(KEYS.layout)
    assert found is not None and decode(Layout, found.value).state == "common"


async def test_without_the_right_an_agent_says_nothing() -> None:
    """Where etcd has roles an operator made the mesh, and said it."""

    class Guarded(MemoryStore):
        async def transact(self, *_: object, **__: object) -> Outcome:
            raise Refused("etcdserver: permission denied")

    with trio.fail_after(30):
        await begin_mesh(Guarded(), KEYS, "here", first())


async def test_etcd_that_is_away_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Else the agent would put its own keys first, and there would be no new mesh."""
    store = MemoryStore()
    store.down = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin_mesh, store, KEYS, "here", first())
        await trio.sleep(60)
        assert nursery.child_tasks
        store.down = False
    assert await store.get(KEYS.layout) is not None
