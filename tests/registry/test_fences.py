"""Keys that only one owner may have: who is first has them, until he is gone, and nobody is displaced."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.fences import Whose
from registry.lease import Holder
from registry.mirror import Mirror, Update
from registry.store import Compare, Delete, KeyValue, NoSpace, Outcome, Put, Store, Unavailable
from tests.support.memory import MemoryStore

PET, SICK = "/instances/pet", "/health/pet"


def saying(host: str) -> Whose:
    """What stands begins with whose it is."""

    def whose(found: KeyValue) -> str:
        owner = found.value.split(b" ")[0].decode()
        return "" if owner == host else f"{owner or 'nobody'} has it"

    return whose


class Owner:
    """A holder that hears of everything that happens to what it puts."""

    def __init__(self, store: Store, name: str, *, ttl_s: int = 10) -> None:
        self.name, self.store = name, store
        self.holder = Holder(store, ttl_s, whose=saying(name))

    def put(self, text: str = "1") -> None:
        """An instance, and its health."""
        self.holder.put(PET, f"{self.name} {text}".encode(), of=PET)
        self.holder.put(SICK, f"{self.name} well {text}".encode(), of=PET)

    def drop(self) -> None:
        self.holder.drop(PET)
        self.holder.drop(SICK)

    def hear(self, update: Update) -> None:
        for change in update.changes:
            self.holder.hear(change)


@asynccontextmanager
async def running(*owners: Owner) -> AsyncIterator[None]:
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            for owner in owners:
                nursery.start_soon(Mirror(owner.store, "/", "0", owner.hear).run)
                nursery.start_soon(owner.holder.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


def standing(store: MemoryStore) -> dict[str, str]:
    return {key: kv.value.decode() for key, kv in store._keys.items()}


ALPHAS = {PET: "alpha 1", SICK: "alpha well 1"}
BETAS = {PET: "beta 1", SICK: "beta well 1"}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_the_first_is_never_displaced(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """Not by a put, not by what the second says of its health, not by its leaving; and it is said who has it."""
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(alpha, beta):
        alpha.put()
        await alpha.holder.settled()
        for say in (beta.put, lambda: beta.put("2"), beta.drop, beta.put, beta.drop):
            say()
            await beta.holder.settled()
            assert standing(store) == ALPHAS
        beta.put()
        await beta.holder.settled()
        assert beta.holder.taken(PET) == "alpha has it"
        assert alpha.holder.taken(PET) == ""


@pytest.mark.parametrize("how", ["dropped", "released", "expired", "deleted by hand"])
async def test_the_second_comes_in_by_itself(
    store: MemoryStore, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """With all that it said meanwhile; whatever was told of it while it was out is not told late."""
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(beta):
        async with running(alpha):
            alpha.put()
            await alpha.holder.settled()
            beta.put("0")
            await beta.holder.settled()
            beta.holder.put(SICK, b"beta well 1", of=PET, also=[Put("/event", b"!")])
            beta.holder.put(PET, b"beta 1", of=PET)
            if how == "dropped":
                alpha.drop()
                await alpha.holder.settled()
        if how == "released":
            await alpha.holder.release()
        elif how == "expired":
            store.expire(alpha.holder.lease)
        elif how == "deleted by hand":
            store._apply([Delete(PET)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.sleep(1)
        assert standing(store) == BETAS
        assert beta.holder.taken(PET) == ""


async def test_of_many_at_the_same_moment_one_has_it(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """And its health is its own."""
    owners = [Owner(store, name) for name in ("alpha", "beta", "gamma", "delta", "epsilon")]
    async with running(*owners):
        for owner in owners:
            owner.put()
        for owner in owners:
            await owner.holder.settled()
        has = [owner for owner in owners if not owner.holder.taken(PET)]
        assert len(has) == 1
        assert standing(store) == {PET: f"{has[0].name} 1", SICK: f"{has[0].name} well 1"}


async def test_a_process_before_us_is_us(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """Killed and started again within its lease: its keys are put on the new lease, and never missing."""
    before, after = Owner(store, "alpha"), Owner(store, "alpha")
    async with running(before):
        before.put()
        await before.holder.settled()
    revision = store.revision
    async with running(after):
        after.put()
        await after.holder.settled()
        assert {kv.lease for kv in store._keys.values()} == {after.holder.lease}
    assert not any(change.value is None for changes in store._history for change in changes)
    assert store.revision == revision + 1


async def test_what_is_on_our_own_lease_is_ours(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """An agent that was executed anew under another name goes on with its lease, and its instances with it."""
    before, after = Owner(store, "old-name"), Owner(store, "new-name")
    async with running(before):
        before.put()
        await before.holder.settled()
    after.holder.lease = before.holder.lease
    async with running(after):
        after.put()
        await after.holder.settled()
        assert standing(store) == {PET: "new-name 1", SICK: "new-name well 1"}


class Losing(MemoryStore):
    """Loses the answer of the next transaction, which is made."""

    losing = False

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        outcome = await super().transact(compare, success, failure)
        if self.losing:
            self.losing = False
            raise Unavailable("no answer")
        return outcome


async def test_an_answer_that_was_lost_makes_us_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    """The key is ours, though we were never told that it was created; and gone, though its deletion was not heard."""
    store = Losing()
    alpha = Owner(store, "alpha")
    async with running(alpha):
        store.losing = True
        alpha.put()
        await alpha.holder.settled()
        assert (standing(store), alpha.holder.taken(PET)) == (ALPHAS, "")
        store.losing = True
        alpha.drop()
        await alpha.holder.settled()
        assert standing(store) == {}


async def test_who_lost_his_lease_is_second(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """While etcd was away from it another came in; its return displaces nobody."""
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(beta):
        async with running(alpha):
            alpha.put()
            await alpha.holder.settled()
            beta.put()
        await trio.sleep(30)
        assert standing(store) == BETAS
        async with running(alpha):
            await trio.sleep(30)
            assert standing(store) == BETAS
            assert alpha.holder.taken(PET) == "beta has it"


async def test_what_somebody_wrote_over_is_put_again(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """By hand, without a lease, so that it would have stayed for ever: the life is ours that it was written into. A
    stranger's own life is left alone."""
    alpha = Owner(store, "alpha")
    async with running(alpha):
        alpha.put()
        await alpha.holder.settled()
        store._apply([Put(PET, b"hand 7")])
        await trio.sleep(1)
        assert standing(store) == ALPHAS
        assert store._keys[PET].lease == alpha.holder.lease
        store._apply([Delete(PET), Delete(SICK)])
        store._apply([Put(PET, b"hand 7")])
        await trio.sleep(1)
        assert standing(store)[PET] == "hand 7"
        assert alpha.holder.taken(PET) == "hand has it"


class Full(MemoryStore):
    """As an etcd with the alarm NOSPACE: no transaction with a put in it."""

    full = False

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        if self.full and any(isinstance(operation, Put) for operation in success):
            raise NoSpace("etcdserver: mvcc: database space exceeded")
        return await super().transact(compare, success, failure)


async def test_a_full_etcd_loses_nobody_elses_key(autojump_clock: trio.testing.MockClock) -> None:
    """Deletes get through that are ours alone."""
    store = Full()
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(alpha, beta):
        alpha.put()
        await alpha.holder.settled()
        store.full = True
        beta.put()
        await trio.sleep(1)
        beta.holder.drop(PET, also=[Put("/event", b"!")])
        beta.holder.drop(SICK)
        await trio.sleep(30)
        assert standing(store) == ALPHAS
        alpha.holder.drop(PET, also=[Put("/event", b"!")])
        alpha.holder.drop(SICK)
        await trio.sleep(30)
        assert standing(store) == {}


# The name under which all else is written.

NAME = "/agents/web"


async def test_under_a_name_that_another_has_nothing_is_written(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Two that were started with one name, or one that comes back after its lease: until the other is gone."""
    first, second = Owner(store, "one"), Owner(store, "two")
    async with running(second):
        async with running(first):
            first.holder.name(NAME, b"one")
            first.holder.put("/seen", b"one")
            await first.holder.settled()
            second.holder.name(NAME, b"two")
            second.holder.put("/seen", b"two")
            second.put()
            await trio.sleep(60)
            assert standing(store) == {NAME: "one", "/seen": "one"}
            assert "one has it" in second.holder.error
        await second.holder.until_free(NAME)
        await second.holder.settled()
        assert standing(store)[NAME] == "two"
        assert standing(store)["/seen"] == "two"


async def test_a_name_that_was_deleted_by_mistake_is_first_again(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """What is put meanwhile is put under it, and not without."""
    alpha = Owner(store, "alpha")
    async with running(alpha):
        alpha.holder.name(NAME, b"alpha")
        await alpha.holder.settled()
        store._apply([Delete(NAME)])
        alpha.put()
        await trio.sleep(1)
        await alpha.holder.settled()
        named = next(n for n, changes in enumerate(store._history) if n > 1 and changes[0].key == NAME)
        put = next(n for n, changes in enumerate(store._history) if any(change.key == PET for change in changes))
        assert named <= put
        assert standing(store) == {NAME: "alpha", **ALPHAS}


_STEP = st.tuples(st.sampled_from(["put", "drop", "expire", "delete", "write over", "sleep", "cut"]), st.integers(0, 2))


@settings(max_examples=150)
@given(st.lists(_STEP, max_size=25))
def test_in_no_history_is_anybody_displaced(steps: list[tuple[str, int]]) -> None:
    """Of three that want one id: whoever created the key is who wrote it last, in each of its lives; health is the same
    owner's; and in the end one of those that still want it has it."""

    async def main() -> None:
        store = MemoryStore()
        owners = [Owner(store, name) for name in ("alpha", "beta", "gamma")]
        wanting: set[int] = set()
        async with running(*owners):
            for action, number in steps:
                owner = owners[number]
                if action == "put":
                    wanting.add(number)
                    owner.put()
                elif action == "drop":
                    wanting.discard(number)
                    owner.drop()
                elif action == "expire":
                    store.expire(owner.holder.lease)
                elif action == "delete":
                    store._apply([Delete(PET)])
                elif action == "write over" and PET in store._keys:
                    store._apply([Put(PET, b"hand 1")])
                elif action == "cut":
                    store.cut()
                await trio.sleep(1 if action == "sleep" else 0)
            await trio.sleep(100)
            for owner in owners:
                await owner.holder.settled()
            has = {owners[number].name for number in wanting if not owners[number].holder.taken(PET)}
            assert len(has) == min(1, len(wanting))
            left = {key: value.split()[0] for key, value in standing(store).items()}
            assert left == ({PET: one, SICK: one} if (one := next(iter(has), "")) else {})
        writers: dict[int, set[bytes]] = {}
        for changes in store._history:
            for change in changes:
                if change.key == PET and change.value is not None and not change.value.startswith(b"hand"):
                    writers.setdefault(change.created, set()).add(change.value.split()[0])
        assert all(len(names) == 1 for names in writers.values()), writers

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_on_a_real_etcd(etcd: EtcdProcess) -> None:
    """Two at the same moment, fifty ids: each is one owner's, with the health of the same."""
    prefix = f"/fences/{secrets.token_hex(6)}"
    store = EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
    owners = {name: Holder(store, 10, whose=saying(name)) for name in ("alpha", "beta")}
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name, holder in owners.items():
                for n in range(50):
                    key = f"{prefix}/instances/{n}"
                    holder.put(key, name.encode(), of=key)
                    holder.put(f"{prefix}/health/{n}", name.encode(), of=key)
                nursery.start_soon(holder.run)
            for holder in owners.values():
                await holder.settled()
            nursery.cancel_scope.cancel()
        for n in range(50):
            instance, health = await store.get(f"{prefix}/instances/{n}"), await store.get(f"{prefix}/health/{n}")
            assert instance is not None and health is not None
            assert instance.value == health.value
            taken = {name for name, holder in owners.items() if not holder.taken(f"{prefix}/instances/{n}")}
            assert taken == {instance.value.decode()}
    await store.aclose()
