"""Keys that stand in the place of others: one revision has both, the end of the one and the beginning of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.lease import Holder
from registry.mirror import Mirror, Update
from registry.store import Compare, Delete, KeyValue, NoSpace, Outcome, Put, Store, TooLarge, Unavailable
from tests.support.memory import MemoryStore

SHARED, OWN = ("/instances/pet", "/health/pet"), ("/hosts/{}/instances/pet", "/hosts/{}/health/pet")


class Owner:
    """Has an instance with its health, here or there."""

    def __init__(self, store: Store, name: str) -> None:
        self.name, self.store = name, store
        self.holder = Holder(store, 10, whose=self._whose)
        self.shared, self.own = SHARED, tuple(key.format(name) for key in OWN)

    def _whose(self, found: KeyValue) -> str:
        return "" if found.value.startswith(self.name.encode()) else "another has it"

    def put(self, keys: Sequence[str], text: str = "1") -> None:
        for key in keys:
            self.holder.put(key, f"{self.name} {text}".encode(), of=keys[0])

    def move(self, before: Sequence[str], after: Sequence[str], *, stands: bool = False) -> None:
        self.put(after)
        self.holder.supersede(before, before[0], after[0], stands=stands)

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


def standing(store: MemoryStore) -> set[str]:
    return set(store._keys)


def missing(store: MemoryStore, *places: Sequence[str], of: str = "") -> list[int]:
    """Revisions at which what once stood in one of the places, of an owner or anybody, stands in none of them."""
    there: set[str] = set()
    begun, found = False, []
    for changes in store._history:
        for change in changes:
            mine = change.value is not None and change.value.startswith(of.encode())
            (there.add if mine else there.discard)(change.key)
        well = any(there.issuperset(keys) for keys in places)
        begun |= well
        if begun and not well:
            found.append(changes[0].revision)
    return found


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_one_revision_has_both(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """There and back, on the same lease; what was to be told along with it is told."""
    alpha = Owner(store, "alpha")
    async with running(alpha):
        alpha.put(alpha.shared)
        await alpha.holder.settled()
        alpha.holder.put(SHARED[1], b"alpha ill", also=[Put("/event", b"!")], of=SHARED[0])
        alpha.move(alpha.shared, alpha.own)
        await alpha.holder.settled()
        assert standing(store) == {*alpha.own, "/event"}
        assert {kv.lease for kv in store._keys.values() if kv.key != "/event"} == {alpha.holder.lease}
        alpha.move(alpha.own, alpha.shared)
        alpha.move(alpha.shared, alpha.own)
        alpha.move(alpha.own, alpha.shared)
        await alpha.holder.settled()
        assert standing(store) == {*alpha.shared, "/event"}
        assert missing(store, alpha.shared, alpha.own) == []
        for key in alpha.shared:
            alpha.holder.drop(key)
        await alpha.holder.settled()
        assert standing(store) == {"/event"}


async def test_what_was_never_put_is_not_deleted(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """Etcd's rights may allow the one place alone."""
    alpha = Owner(store, "alpha")
    alpha.put(alpha.shared)
    alpha.move(alpha.shared, alpha.own)
    async with running(alpha):
        await alpha.holder.settled()
        assert [change.key for changes in store._history for change in changes] == sorted(alpha.own)


async def test_what_a_process_before_us_left(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """On a lease that nobody renews: it goes with our first word."""
    before, after = Owner(store, "alpha"), Owner(store, "alpha")
    async with running(before):
        before.put(before.shared)
        await before.holder.settled()
    async with running(after):
        after.move(after.shared, after.own, stands=True)
        await after.holder.settled()
        assert standing(store) == set(after.own)
        assert missing(store, before.shared, before.own) == []


async def test_while_another_has_the_place_all_stays(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Two hosts use one id under keys of their own, and go back to where it can be one's only; until that one goes."""
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(alpha, beta):
        for owner in (alpha, beta):
            owner.put(owner.own)
            await owner.holder.settled()
        for owner in (alpha, beta):
            owner.move(owner.own, owner.shared)
            await owner.holder.settled()
        assert standing(store) == {*SHARED, *beta.own}
        assert beta.holder.taken(SHARED[0])
        for key in SHARED:
            alpha.holder.drop(key)
        await alpha.holder.settled()
        await trio.sleep(1)
        await beta.holder.settled()
        assert standing(store) == set(SHARED)
        assert missing(store, beta.own, SHARED, of="beta") == []


async def test_from_where_another_is(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """Who was kept out of the common place comes in by his own, and leaves the other's alone."""
    alpha, beta = Owner(store, "alpha"), Owner(store, "beta")
    async with running(alpha, beta):
        for owner in (alpha, beta):
            owner.put(owner.shared)
            await owner.holder.settled()
        beta.move(beta.shared, beta.own, stands=True)
        await beta.holder.settled()
        assert standing(store) == {*alpha.shared, *beta.own}
        assert store._keys[SHARED[0]].value == b"alpha 1"


class Small(MemoryStore):
    """Takes so many operations at once, and loses answers; as an etcd with --max-txn-ops, or a link that is cut."""

    most, losing, full = 128, False, False

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        if len(success) > self.most:
            raise TooLarge("too many operations in txn request")
        if self.full and any(isinstance(operation, Put) for operation in success):
            raise NoSpace("etcdserver: mvcc: database space exceeded")
        outcome = await super().transact(compare, success, failure)
        if self.losing:
            self.losing = False
            raise Unavailable("no answer")
        return outcome


@pytest.mark.parametrize("most", [128, 4, 3, 2, 1])
async def test_many_within_what_a_transaction_takes(most: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whole units as long as one fits; where none does, both are there for a moment, rather than neither."""
    store = Small()
    alpha = Owner(store, "alpha")
    places = [tuple(f"{key}{n}" for key in alpha.shared) for n in range(60)]
    owns = [tuple(f"{key}{n}" for key in alpha.own) for n in range(60)]
    async with running(alpha):
        for place in places:
            alpha.put(place)
        await alpha.holder.settled()
        store.most = most
        for place, own in zip(places, owns, strict=True):
            alpha.move(place, own)
        await alpha.holder.settled()
        assert standing(store) == {key for own in owns for key in own}
        if most > 1:
            assert [missing(store, place, own) for place, own in zip(places, owns, strict=True)] == [[]] * 60
        else:
            instances = [((place[0],), (own[0],)) for place, own in zip(places, owns, strict=True)]
            assert [missing(store, *pair) for pair in instances] == [[]] * 60


async def test_a_full_etcd_loses_no_key(autojump_clock: trio.testing.MockClock) -> None:
    """Which takes deletes, and no puts."""
    store = Small()
    alpha = Owner(store, "alpha")
    async with running(alpha):
        alpha.put(alpha.shared)
        await alpha.holder.settled()
        store.full = True
        alpha.move(alpha.shared, alpha.own)
        await trio.sleep(60)
        assert standing(store) == set(SHARED)
        store.full = False
        await alpha.holder.settled()
        assert standing(store) == set(alpha.own)


_STEP = st.tuples(
    st.sampled_from(["there", "back", "expire", "delete", "lose", "ill", "sleep", "cut"]), st.integers(0, 1)
)


@settings(max_examples=200)
@given(st.lists(_STEP, max_size=20))
def test_in_no_history_is_it_nowhere(steps: list[tuple[str, int]]) -> None:
    """Unless its lease went, or somebody deleted it. In the end each stands once: where it was said last, or, for want
    of that place, where it was."""

    async def main() -> None:
        store = Small()
        owners = [Owner(store, name) for name in ("alpha", "beta")]
        there = [False, False]
        async with running(*owners):
            for owner in owners:
                owner.put(owner.shared)
            kind = True
            for action, number in steps:
                owner = owners[number]
                if action == "there" and not there[number]:
                    owner.move(owner.shared, owner.own)
                    there[number] = True
                elif action == "back" and there[number]:
                    owner.move(owner.own, owner.shared)
                    there[number] = False
                elif action == "expire" and owner.holder.lease:
                    store.expire(owner.holder.lease)
                    kind = False
                elif action == "delete":
                    store._apply([Delete(key) for key in owner.shared if key in store._keys])
                    kind = False
                elif action == "lose":
                    store.losing = True
                elif action == "ill":
                    keys = owner.own if there[number] else owner.shared
                    owner.holder.put(keys[1], b"%s ill" % owner.name.encode(), of=keys[0])
                elif action == "cut":
                    store.cut()
                else:
                    await trio.sleep(0.5)
            await trio.sleep(60)
            for owner in owners:
                await owner.holder.settled()
            if kind:
                assert all(missing(store, SHARED, owner.own, of=owner.name) == [] for owner in owners)
            for owner, away in zip(owners, there, strict=True):
                mine = {key for key, kv in store._keys.items() if kv.value.startswith(owner.name.encode())}
                if away:
                    assert mine == set(owner.own)
                else:
                    other = store._keys.get(SHARED[0])
                    assert mine == set(SHARED) or (other is not None and mine <= set(owner.own))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
