"""Keys on a lease: what was said stands in etcd, whatever happens to the lease or to etcd (law 7 of the mesh)."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.backoff import Backoff
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.lease import Holder
from registry.store import Change, Compare, Delete, NoSpace, Outcome, Put, Store, TooLarge, Unavailable, prefix_end
from tests.support.memory import MemoryStore


class Counting(MemoryStore):
    """Counts what is asked of it; can hold transactions up, and take only so many bytes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.grants: list[float] = []
        self.transactions: list[list[Put | Delete]] = []
        self.max_bytes = 10**9
        self.granting = True
        self.answered = trio.Event()
        self.answered.set()

    async def grant(self, ttl_s: int) -> int:
        self.grants.append(trio.current_time())
        if not self.granting:
            raise Unavailable("no leases")
        return await super().grant(ttl_s)

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        if sum(len(op.value) for op in success if isinstance(op, Put)) > self.max_bytes:
            raise TooLarge("request is too large")
        self.transactions.append(list(success))
        outcome = await super().transact(compare, success, failure)
        await self.answered.wait()
        return outcome

    def standing(self, lease: int) -> dict[str, bytes]:
        return {key: kv.value for key, kv in self._keys.items() if kv.lease == lease}


@asynccontextmanager
async def running(holder: Holder) -> AsyncIterator[Holder]:
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.run)
            yield holder
            nursery.cancel_scope.cancel()


def steady() -> Backoff:
    return Backoff(0.1, 5.0, random.Random(1))


@pytest.fixture
def store() -> Counting:
    return Counting()


async def test_what_is_said_stands(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Put, put otherwise, dropped: on one lease; what is said again is not written again."""
    async with running(Holder(store, 10)) as holder:
        holder.put("/a", b"1")
        holder.put("/b", b"1")
        await holder.settled()
        assert store.standing(holder.lease) == {"/a": b"1", "/b": b"1"}
        holder.put("/a", b"2")
        holder.put("/b", b"1")
        await holder.settled()
        assert store.transactions[-1] == [Put("/a", b"2", holder.lease)]
        holder.drop("/b")
        await holder.settled()
        assert store.standing(holder.lease) == {"/a": b"2"}
        assert holder.revision == store.revision
        assert len(store.grants) == 1


async def test_the_lease_is_renewed(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """For as long as it is held; released, it takes every key along."""
    async with running(Holder(store, 10)) as holder:
        holder.put("/a", b"1")
        await trio.sleep(1000)
        assert store.standing(holder.lease) == {"/a": b"1"}
        assert holder.regrants == 1
    assert await store.get("/a") is not None, "cancelled is not released: a successor may go on with the lease"
    await holder.release()
    assert await store.get("/a") is None
    await holder.release()


async def test_a_successor_goes_on_with_the_lease(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """It is handed over, and nothing is granted; unless it has run out meanwhile."""
    lease = await store.grant(10)
    async with running(Holder(store, 10, lease=lease)) as holder:
        holder.put("/a", b"1")
        await trio.sleep(100)
        assert store.standing(lease) == {"/a": b"1"}
    await trio.sleep(100)
    async with running(Holder(store, 10, lease=lease)) as late:
        late.put("/a", b"2")
        await late.settled()
        assert late.lease != lease
        assert store.standing(late.lease) == {"/a": b"2"}


async def test_a_lease_that_is_gone(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Nobody says anything new: by the next renewal there is another lease, and every key stands on it."""
    async with running(Holder(store, 9)) as holder:
        for n in range(250):
            holder.put(f"/{n}", b"1")
        await holder.settled()
        store.expire(holder.lease)
        assert await store.get("/0") is None
        await trio.sleep(3.1)
        assert len(store.standing(holder.lease)) == 250
        assert holder.regrants == 2


async def test_a_key_that_somebody_deleted(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Is put again when the mirror tells of it; what is not ours is left alone."""
    async with running(Holder(store, 10)) as holder:
        holder.put("/a", b"1")
        await holder.settled()
        await store.delete("/a")
        holder.hear(Change("/a", None, 0))
        holder.hear(Change("/other", None, 0))
        await holder.settled()
        assert store.standing(holder.lease) == {"/a": b"1"}
        assert await store.get("/other") is None


async def test_a_key_that_is_deleted_while_it_is_put(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """The word of its end comes before the answer to its put: it is put once more."""
    async with running(Holder(store, 10)) as holder:
        store.answered = trio.Event()
        holder.put("/a", b"1")
        await trio.sleep(1)
        await store.delete("/a")
        holder.hear(Change("/a", None, 0))
        store.answered.set()
        await holder.settled()
        assert store.standing(holder.lease) == {"/a": b"1"}


async def test_settled_waits_for_what_is_on_its_way(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Several may wait; also those that waited when more was said."""
    async with running(Holder(store, 10)) as holder, trio.open_nursery() as nursery:
        store.answered = trio.Event()
        holder.put("/a", b"1")
        await trio.sleep(1)
        nursery.start_soon(holder.settled)
        await trio.sleep(1)
        holder.put("/b", b"1")
        nursery.start_soon(holder.settled)
        await trio.sleep(1)
        assert len(nursery.child_tasks) == 2
        store.answered.set()
        with trio.fail_after(60):
            while nursery.child_tasks:
                await trio.sleep(0.1)
        assert store.standing(holder.lease) == {"/a": b"1", "/b": b"1"}


async def test_waiting_costs_nothing(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Between two leases there is nothing to be done but to wait."""
    async with running(Holder(store, 9, backoff=steady())) as holder:
        holder.put("/a", b"1")
        await holder.settled()
        store.expire(holder.lease)
        store.granting = False
        await trio.sleep(5)
        assert not holder.lease
        steps = Steps()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.settled)
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(60)
            trio.lowlevel.remove_instrument(steps)
            store.granting = True
        assert steps.count < 1000
        assert store.standing(holder.lease) == {"/a": b"1"}


class Steps(trio.abc.Instrument):
    """How often a task ran."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_etcd_away(store: Counting, autojump_clock: trio.testing.MockClock) -> None:
    """Tried again, ever more seldom but at least every few seconds, and told; then everything is made good."""
    holder = Holder(store, 9, backoff=steady())
    store.down = True
    async with running(holder):
        holder.put("/a", b"1")
        await trio.sleep(100)
        assert holder.error == "down"
        waits = [after - before for before, after in zip(store.grants, store.grants[1:], strict=False)]
        assert waits[0] < 0.11
        assert 1 < max(waits) <= 5
        assert 20 < len(waits) < 100
        store.down = False
        await holder.settled()
        assert holder.error == ""
        assert store.standing(holder.lease) == {"/a": b"1"}
        store.down = True
        holder.put("/a", b"2")
        holder.drop("/b")
        await trio.sleep(100)
        store.down = False
        await holder.settled()
        assert store.standing(holder.lease) == {"/a": b"2"}
        assert holder.regrants == 2


async def test_what_is_too_large_keeps_nothing_else_out(
    store: Counting, autojump_clock: trio.testing.MockClock
) -> None:
    """What etcd does not take at once goes in portions; a key that it does not take at all is left out."""
    store.max_bytes = 1000
    async with running(Holder(store, 10)) as holder:
        for n in range(150):
            holder.put(f"/{n}", b"x" * (2000 if n == 77 else 90))
        await holder.settled()
        assert set(store.standing(holder.lease)) == {f"/{n}" for n in range(150)} - {"/77"}


_STEP = st.one_of(
    st.tuples(st.sampled_from(["put", "drop", "delete"]), st.sampled_from("abc"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["expire", "down", "up", "sleep", "hold", "answer"]), st.just(""), st.just(0)),
)


@settings(max_examples=120)
@given(st.lists(_STEP, max_size=30))
def test_in_the_end_etcd_agrees(steps: list[tuple[str, str, int]]) -> None:
    """Whatever was said, deleted by others and told, expired or away."""

    async def main() -> None:
        store = Counting()
        model: dict[str, bytes] = {}
        async with running(Holder(store, 9, backoff=steady())) as holder:
            for action, key, number in steps:
                if action == "put":
                    model[key] = b"%d" % number
                    holder.put(key, model[key])
                elif action == "drop":
                    model.pop(key, None)
                    holder.drop(key)
                elif action == "delete" and key in store._keys:
                    store._apply([Delete(key)])
                    holder.hear(Change(key, None, 0))
                elif action == "expire":
                    store.expire(holder.lease)
                elif action in ("down", "up"):
                    store.down = action == "down"
                elif action == "hold":
                    store.answered = trio.Event() if store.answered.is_set() else store.answered
                elif action == "answer":
                    store.answered.set()
                await trio.sleep(20 if action == "sleep" else 0)
            store.down = False
            store.answered.set()
            await trio.sleep(10)
            await holder.settled()
            assert {key: kv.value for key, kv in store._keys.items()} == model
            assert store.standing(holder.lease) == model

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_on_a_real_etcd(etcd: EtcdProcess) -> None:
    """A lease that was revoked by hand: another one, and every key stands on it."""
    prefix = f"/lease/{secrets.token_hex(6)}/"
    store = EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
    async with running(Holder(store, 3)) as holder:
        for n in range(120):
            holder.put(f"{prefix}{n}", b"x" * 20_000)
        await holder.settled()
        lease = holder.lease
        await store.revoke(lease)
        holder.hear(Change(prefix + "7", None, 0))
        with trio.fail_after(60):
            while holder.lease in (0, lease):
                await trio.sleep(0.01)
            await holder.settled()
        assert await leases(store, prefix) == {holder.lease: 120}
        await holder.release()
        assert await leases(store, prefix) == {}
    await store.aclose()


async def leases(store: Store, prefix: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for kv in (await store.range(prefix, prefix_end(prefix))).items:
        found[kv.lease] = found.get(kv.lease, 0) + 1
    return found


class Full(MemoryStore):
    """As an etcd with the alarm NOSPACE: no transaction with a put in it."""

    full = False

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        if self.full and any(isinstance(operation, Put) for operation in success):
            raise NoSpace("etcdserver: mvcc: database space exceeded")
        return await super().transact(compare, success, failure)


async def test_deletes_get_through_where_there_is_no_space(autojump_clock: trio.testing.MockClock) -> None:
    """Beside puts that wait, and with an event that goes along, which is put when there is space again."""
    store = Full()
    async with running(Holder(store, 10)) as holder:
        for key in ("a", "b", "c"):
            holder.put(key, b"1")
        await holder.settled()
        store.full = True
        holder.put("a", b"2")
        holder.drop("b")
        holder.drop("c", also=[Put("event", b"c left")])
        await trio.sleep(5)
        assert {key: kv.value for key, kv in store._keys.items()} == {"a": b"1"}
        store.full = False
        await holder.settled()
        assert {key: kv.value for key, kv in store._keys.items()} == {"a": b"2", "event": b"c left"}


async def test_deletes_get_through_a_full_etcd(tmp_path: Path) -> None:
    """A real one, filled up to its quota."""
    process = EtcdProcess(tmp_path, arguments=["--quota-backend-bytes", "1000000"])
    await trio.to_thread.run_sync(process.start)
    try:
        async with EtcdStore.open(EtcdSettings(endpoints=(process.url,))) as store, trio.open_nursery() as nursery:
            holder = Holder(store, 10)
            nursery.start_soon(holder.run)
            with trio.fail_after(60):
                holder.put("/a", b"1")
                holder.put("/b", b"1")
                await holder.settled()
                with pytest.raises(NoSpace):
                    for number in range(100):
                        await store.put(f"/filler/{number}", b"x" * 200_000)
                holder.put("/a", b"2")
                holder.drop("/b")
                while await store.get("/b") is not None:
                    await trio.sleep(0.1)
                left = await store.get("/a")
                assert left is not None and left.value == b"1"
            nursery.cancel_scope.cancel()
    finally:
        await trio.to_thread.run_sync(process.stop)
