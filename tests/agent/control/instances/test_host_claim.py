from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.control.instances.host_claim import HostTaken, claim_host
from registry.keys import Keys
from registry.lease import Holder
from registry.records import Agent, decode, encode
from tests.support.memory import MemoryStore

KEY = Keys().agent("web-1")


def agent(boot: str, address: str = "10.0.0.1") -> Agent:
    return Agent(address=address, inbound_port=15006, boot=boot)


async def standing(store: MemoryStore) -> Agent | None:
    found = await store.get(KEY)
    return None if found is None else decode(Agent, found.value)


async def claimed(store: MemoryStore, record: Agent, folder: Path, ttl_s: int = 10) -> Agent | None:
    """Claim with a holder that runs; what stands at the key once it has settled."""
    holder = Holder(store, ttl_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        await claim_host(store, holder, KEY, record, folder / "boot")
        await holder.settled()
        found = await store.get(KEY)
        assert found is not None
        assert found.lease == holder.lease
        nursery.cancel_scope.cancel()
    return await standing(store)


async def test_a_free_name_is_taken(tmp_path: Path) -> None:
    """The record stands, on our lease, and the boot id is remembered for our successor."""
    assert await claimed(MemoryStore(), agent("one"), tmp_path) == agent("one")
    assert (tmp_path / "boot").read_text() == "one"


async def test_a_crashed_predecessor_is_succeeded_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The key of before still stands, on a lease that nobody renews: the boot id on disk says that it was us."""
    store = MemoryStore()
    (tmp_path / "boot").write_text("one")
    await store.put(KEY, encode(agent("one")), lease=await store.grant(60))
    began = trio.current_time()
    assert await claimed(store, agent("two"), tmp_path) == agent("two")
    assert trio.current_time() - began < 5


async def test_a_dead_strangers_name_is_taken_when_its_lease_has_run_out(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Another machine that had the name and died: its lease is waited for."""
    store = MemoryStore()
    await store.put(KEY, encode(agent("other", "10.0.0.9")), lease=await store.grant(8))
    assert await claimed(store, agent("two"), tmp_path) == agent("two")


async def test_two_agents_with_one_name(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The other one lives: this agent gives up, says who has the name, and leaves its key alone."""
    store = MemoryStore()
    await store.put(KEY, encode(agent("other", "10.0.0.9")))
    with pytest.raises(HostTaken, match=r"10\.0\.0\.9 lives under this name; give each its own `host`"):
        await claim_host(store, Holder(store, 10), KEY, agent("two"), tmp_path / "boot")
    assert await standing(store) == agent("other", "10.0.0.9")
    assert not (tmp_path / "boot").exists()


async def test_only_one_of_two_that_start_together_has_the_name(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """etcd decides, in one transaction; the other one waits, and gives up."""
    store = MemoryStore()
    outcomes: list[str] = []

    async def start(boot: str) -> None:
        holder = Holder(store, 10)
        try:
            await claim_host(store, holder, KEY, agent(boot), tmp_path / boot)
        except HostTaken:
            outcomes.append("taken")
            return
        await store.put(KEY, encode(agent(boot)))
        outcomes.append(boot)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, "one")
        nursery.start_soon(start, "two")
    winner = await standing(store)
    assert winner is not None
    assert sorted(outcomes) == sorted([winner.boot, "taken"])


async def test_garbage_at_the_key_is_nobody(tmp_path: Path) -> None:
    """What others cannot read they cannot find either: it is written over."""
    store = MemoryStore()
    await store.put(KEY, b"?")
    assert await claimed(store, agent("two"), tmp_path) == agent("two")


async def test_etcd_away_is_waited_out(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """However long it takes."""
    store = MemoryStore()
    store.down = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claimed, store, agent("one"), tmp_path)
        await trio.sleep(600)
        store.down = False
    assert await standing(store) == agent("one")
