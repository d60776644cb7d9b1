"""Claims: one holder, whose acts end with its claim."""

from __future__ import annotations

import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import claim
from registry.claim import Claim
from registry.store import Delete, Put, Unavailable
from tests.support.memory import MemoryStore

KEY = "/claims/event"


class Forgetful(MemoryStore):
    """Does a transaction, and loses the answer."""

    losing = False

    async def transact(self, *arguments: object) -> object:  # type: ignore[override]
        outcome = await super().transact(*arguments)  # type: ignore[arg-type]
        if self.losing:
            self.losing = False
            raise Unavailable("no answer")
        return outcome


@pytest.fixture
def store() -> Forgetful:
    return Forgetful()


async def test_free_and_taken(store: Forgetful) -> None:
    """The first one gets it, on its lease; the second one is told that it is taken, and changes nothing."""
    mine, theirs = await store.grant(60), await store.grant(60)
    held = await claim.take(store, KEY, b"me", mine)
    standing = await store.get(KEY)
    assert standing is not None
    assert held == Claim(KEY, standing.create_revision)
    assert standing.lease == mine
    for value, lease in ((b"you", theirs), (b"me", theirs), (b"you", mine)):
        assert await claim.take(store, KEY, value, lease) is None
    assert await store.get(KEY) == standing


async def test_the_answer_was_lost(store: Forgetful) -> None:
    """Who took it without hearing of it is told when it asks again: else nobody would act as long as it lives."""
    lease = await store.grant(60)
    store.losing = True
    with pytest.raises(Unavailable):
        await claim.take(store, KEY, b"me", lease)
    held = await claim.take(store, KEY, b"me", lease)
    assert held is not None
    assert (await claim.act(store, held, [Put("/done", b"")])).succeeded


async def test_lost_by_the_lease(store: Forgetful, autojump_clock: trio.testing.MockClock) -> None:
    """Who was asleep for longer than its lease does nothing any more, whether or not there is another holder."""
    held = await claim.take(store, KEY, b"me", await store.grant(10))
    assert held is not None
    await trio.sleep(11)
    assert not (await claim.act(store, held, [Put("/done", b"late")])).succeeded
    other = await claim.take(store, KEY, b"me", await store.grant(10))
    assert other is not None
    assert other.fence > held.fence
    assert not (await claim.act(store, held, [Put("/done", b"late")])).succeeded
    assert not await claim.give_up(store, held)
    assert await store.get("/done") is None
    assert (await claim.act(store, other, [Put("/done", b"")])).succeeded


async def test_a_claim_that_was_written_over_is_still_held(store: Forgetful) -> None:
    """The fence is the creation: its holder may say more under the key, and somebody's edit takes nothing away."""
    lease = await store.grant(60)
    held = await claim.take(store, KEY, b"me", lease)
    assert held is not None
    await claim.act(store, held, [Put(KEY, b"me, nearly done", lease)])
    assert await claim.give_up(store, held)
    assert not await claim.give_up(store, held)


async def test_acting_and_giving_up_at_once(store: Forgetful) -> None:
    """One transaction: what is done is done exactly when the claim is gone."""
    held = await claim.take(store, KEY, b"me", await store.grant(60))
    assert held is not None
    outcome = await claim.act(store, held, [Put("/done", b""), Delete(KEY)])
    assert outcome.succeeded
    done = await store.get("/done")
    assert done is not None
    assert done.mod_revision == outcome.revision
    assert await store.get(KEY) is None


_STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "act", "give up", "expire", "lose"]), st.integers(0, 2)), max_size=40
)


@settings(max_examples=100)
@given(_STEPS)
def test_nobody_acts_without_holding(steps: list[tuple[str, int]]) -> None:
    """Three that compete: whoever's act succeeds is the one whose key stands."""

    async def main() -> None:
        store = Forgetful()
        leases = [await store.grant(60) for _ in range(3)]
        claims: list[Claim | None] = [None] * 3
        for action, who in steps:
            standing = await store.get(KEY)
            held = claims[who]
            if action == "take":
                try:
                    claims[who] = await claim.take(store, KEY, b"%d" % who, leases[who]) or held
                except Unavailable:
                    pass
                else:
                    assert standing is None or standing.lease == leases[who] or claims[who] == held
            elif action == "expire":
                store.expire(leases[who])
                leases[who] = await store.grant(60)
            elif action == "lose":
                store.losing = True
            elif held is not None:
                store.losing = False
                mine = standing is not None and standing.value == b"%d" % who
                fenced = mine and standing is not None and standing.create_revision == held.fence
                if action == "act":
                    assert (await claim.act(store, held, [Put("/done", b"%d" % who)])).succeeded is fenced
                else:
                    assert await claim.give_up(store, held) is fenced

    trio.run(main)
