"""The contract of a registry backend, on every backend: memory and a real etcd."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from registry import claim
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.store import Change, Compacted, Compare, Delete, LeaseGone, Put, Refused, Store, TooLarge, prefix_end
from tests.support.memory import MemoryStore


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest, etcd: EtcdProcess) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
    yield made
    await made.aclose()


@pytest.fixture
def prefix() -> str:
    return f"/test/{secrets.token_hex(6)}/"


@asynccontextmanager
async def in_time(seconds: float = 60) -> AsyncIterator[None]:
    with trio.fail_after(seconds):
        yield


async def test_what_is_put_can_be_read(store: Store, prefix: str) -> None:
    """With its revisions and version."""
    assert await store.get(prefix + "a") is None
    first = await store.put(prefix + "a", b"1")
    second = await store.put(prefix + "a", b"2")
    found = await store.get(prefix + "a")
    assert found is not None
    assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"2", first, second, 2)


async def test_delete(store: Store, prefix: str) -> None:
    """Deleting what is not there is no error."""
    await store.put(prefix + "a", b"1")
    await store.delete(prefix + "a")
    await store.delete(prefix + "a")
    assert await store.get(prefix + "a") is None


async def test_a_range_is_sorted_and_ends_where_it_should(store: Store, prefix: str) -> None:
    """From the start up to, and without, the end."""
    for name in ("c", "a", "b", "d"):
        await store.put(prefix + name, name.encode())
    found = await store.range(prefix + "a", prefix + "d")
    assert [kv.value for kv in found.items] == [b"a", b"b", b"c"]
    await store.delete_range(prefix, prefix_end(prefix))
    assert (await store.range(prefix, prefix_end(prefix))).items == []


async def test_a_range_of_keys_only(store: Store, prefix: str) -> None:
    """The same keys and revisions without values, also as they stood before."""
    first = await store.put(prefix + "a", b"1")
    await store.put(prefix + "b", b"2")
    await store.delete(prefix + "a")
    for revision in (0, first):
        whole = await store.range(prefix, prefix_end(prefix), revision=revision)
        keys = await store.range(prefix, prefix_end(prefix), revision=revision, keys_only=True)
        assert [(kv.key, kv.mod_revision) for kv in keys.items] == [(kv.key, kv.mod_revision) for kv in whole.items]
        assert {kv.value for kv in keys.items} == {b""}
        assert keys.revision == whole.revision


async def test_a_range_in_pages(store: Store, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than one page holds: all of them, once, at one revision."""
    monkeypatch.setattr("registry.etcd.store.PAGE", 7)
    await store.transact((), [Put(f"{prefix}{n:03}", b"x") for n in range(50)])
    found = await store.range(prefix, prefix_end(prefix))
    assert [kv.key for kv in found.items] == [f"{prefix}{n:03}" for n in range(50)]


async def test_a_transaction_does_one_or_the_other(store: Store, prefix: str) -> None:
    """By create revision, as one revision."""
    key = prefix + "a"
    first = await store.transact([Compare(key, create_revision=0)], [Put(key, b"1"), Put(prefix + "b", b"1")])
    second = await store.transact([Compare(key, create_revision=0)], [Put(key, b"2")], [Delete(prefix + "b")])
    assert (first.succeeded, second.succeeded) == (True, False)
    found = await store.get(key)
    assert found is not None
    assert (found.value, found.mod_revision) == (b"1", first.revision)
    assert await store.get(prefix + "b") is None


async def test_a_key_has_one_value_in_a_transaction(store: Store, prefix: str) -> None:
    """Put twice, or put and deleted: refused as a whole. Deleting twice is deleting."""
    key = prefix + "a"
    await store.put(key, b"0")
    for twice in ([Put(key, b"1"), Put(key, b"2")], [Put(key, b"1"), Delete(key)], [Delete(key), Put(key, b"1")]):
        with pytest.raises(Refused):
            await store.transact((), twice)
        with pytest.raises(Refused):
            await store.transact((), (), twice)
    found = await store.get(key)
    assert found is not None
    assert found.version == 1
    assert (await store.transact((), [Delete(key), Delete(key)])).revision == found.mod_revision + 1


async def test_a_key_as_it_stood(store: Store, prefix: str) -> None:
    """At a revision of before: put, put again, deleted, and not there yet."""
    key = prefix + "a"
    before = await store.put(prefix + "b", b"0")
    first = await store.put(key, b"1")
    second = await store.put(key, b"2")
    await store.delete(key)
    again = await store.put(key, b"3")
    stood = [await store.get(key, revision=revision) for revision in (before, first, second, second + 1, again)]
    assert [found and (found.value, found.mod_revision, found.create_revision) for found in stood] == [
        None,
        (b"1", first, first),
        (b"2", second, first),
        None,
        (b"3", again, again),
    ]
    await compact(store, again)
    with pytest.raises(Compacted):
        await store.get(key, revision=first)


async def test_a_change_says_when_the_life_of_its_key_began(store: Store, prefix: str) -> None:
    """So that the first document under a key is known to have followed none."""
    key = prefix + "a"
    before = await store.put(prefix + "b", b"0")
    first = await store.put(key, b"1")
    await store.put(key, b"2")
    async with store.watch(prefix, prefix_end(prefix), before + 1) as watch:
        seen: list[Change] = []
        while len(seen) < 2:
            seen += (await watch.receive()).changes
    assert [(c.value, c.created) for c in seen] == [(b"1", first), (b"2", first)]


async def test_compare_by_mod_revision(store: Store, prefix: str) -> None:
    """Nobody else wrote meanwhile."""
    key = prefix + "a"
    revision = await store.put(key, b"1")
    assert (await store.transact([Compare(key, mod_revision=revision)], [Put(key, b"2")])).succeeded
    assert not (await store.transact([Compare(key, mod_revision=revision)], [Put(key, b"3")])).succeeded


async def test_compare_a_whole_range(store: Store, prefix: str) -> None:
    """Nobody is there: no key of it stands. One is enough to say no, and a neighbour says nothing."""
    nobody = Compare(f"{prefix}agents/", create_revision=0, end=prefix_end(f"{prefix}agents/"))
    await store.put(f"{prefix}agent", b"1")
    assert (await store.transact([nobody], [Put(f"{prefix}agents/a", b"1")])).succeeded
    assert not (await store.transact([nobody], [Put(f"{prefix}agents/b", b"1")])).succeeded
    await store.delete(f"{prefix}agents/a")
    assert (await store.transact([nobody], [Put(f"{prefix}agents/b", b"1")])).succeeded


async def test_too_much_is_refused_with_its_size(store: Store, prefix: str) -> None:
    """A value of 2 MiB, a transaction of 129 operations."""
    with pytest.raises(TooLarge, match="2097152 bytes"):
        await store.put(prefix + "a", b"x" * 2097152)
    with pytest.raises(TooLarge, match="129 operations"):
        await store.transact((), [Put(f"{prefix}{n}", b"x") for n in range(129)])


async def test_a_lease_takes_its_keys_along(store: Store, prefix: str) -> None:
    """Revoked: all of them are gone; putting on it, or renewing it, says so."""
    lease = await store.grant(60)
    await store.put(prefix + "a", b"1", lease=lease)
    assert await store.keep_alive(lease) > 0
    await store.revoke(lease)
    assert await store.get(prefix + "a") is None
    with pytest.raises(LeaseGone):
        await store.put(prefix + "a", b"1", lease=lease)
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    await store.revoke(lease)


async def test_a_watch_sees_what_came_after_its_revision(store: Store, prefix: str) -> None:
    """What was put before it was opened too; a deletion has no value; nothing outside of its range."""
    before = await store.put(prefix + "a", b"1")
    await store.put(prefix + "a", b"2")
    async with in_time(), store.watch(prefix, prefix_end(prefix), before + 1) as watch:
        await store.put("/elsewhere" + prefix, b"x")
        last = await store.delete(prefix + "a")
        seen: list[Change] = []
        while len(seen) < 2:
            seen += (await watch.receive()).changes
    assert [(c.value, c.revision) for c in seen] == [(b"2", before + 1), (None, last)]


async def test_a_revision_comes_whole(store: Store, prefix: str) -> None:
    """A transaction is one batch; the batch says how far it goes."""
    start = await store.put(prefix + "0", b"")
    async with in_time(), store.watch(prefix, prefix_end(prefix), start + 1) as watch:
        outcome = await store.transact((), [Put(f"{prefix}{n}", b"x" * 10000) for n in range(100)])
        batch = await watch.receive()
    assert batch.revision == outcome.revision
    assert len(batch.changes) == 100


async def test_a_watch_on_what_was_compacted(store: Store, prefix: str, etcd: EtcdProcess) -> None:
    """Says so, instead of beginning later."""
    first = await store.put(prefix + "a", b"1")
    last = await store.put(prefix + "a", b"2")
    await compact(store, last)
    with pytest.raises(Compacted):
        async with in_time(), store.watch(prefix, prefix_end(prefix), first) as watch:
            await watch.receive()


async def test_a_sign_of_life_on_request(store: Store, prefix: str) -> None:
    """Comes at once, and claims nothing about revisions."""
    async with in_time(), store.watch(prefix, prefix_end(prefix), 0) as watch:
        await watch.request_progress()
        batch = await watch.receive()
    assert batch.revision == 0
    assert not batch.changes


async def test_cancelling_a_watch_that_waits(store: Store, prefix: str) -> None:
    """Ends at once, and the store goes on working."""
    async with store.watch(prefix, prefix_end(prefix), 0) as watch:
        with trio.move_on_after(0.05) as scope:
            await watch.receive()
        assert scope.cancelled_caught
    await store.put(prefix + "a", b"1")


async def test_a_claim_has_one_holder_and_a_fence(store: Store, prefix: str) -> None:
    """Who lost it cannot act under it any more."""
    key = prefix + "claim"
    mine, theirs = await store.grant(60), await store.grant(60)
    held = await claim.take(store, key, b"me", mine)
    assert held is not None
    assert await claim.take(store, key, b"you", theirs) is None
    assert (await claim.act(store, held, [Put(prefix + "done", b"me")])).succeeded
    await store.revoke(mine)
    other = await claim.take(store, key, b"you", theirs)
    assert other is not None
    assert not (await claim.act(store, held, [Put(prefix + "done", b"late")])).succeeded
    assert not await claim.give_up(store, held)
    assert await claim.give_up(store, other)


async def compact(store: Store, revision: int) -> None:
    if isinstance(store, MemoryStore):
        store.compact(revision)
        return
    assert isinstance(store, EtcdStore)
    from registry.etcd.stubs import load

    rpc, _ = load()
    await store._call("KV", "Compact", rpc.CompactionRequest(revision=revision), 5)
