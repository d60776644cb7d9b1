from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from agent.control.instances.host_claim import HostTaken, claim_host, directory_mark, keep_name
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import whose
from registry.records import Agent, decode, encode
from registry.store import Change
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
    assert (tmp_path / "boot").read_text() == f"one,{directory_mark(tmp_path)}"


@pytest.mark.parametrize("marked", [True, False])
async def test_a_crashed_predecessor_is_succeeded_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, marked: bool
) -> None:
    """The key of before still stands, on a lease that nobody renews: what is on disk says that it was us. Agents of a
    version before wrote no mark."""
    store = MemoryStore()
    (tmp_path / "boot").write_text(f"one,{directory_mark(tmp_path)}" if marked else "one")
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


async def test_a_copied_state_directory_is_no_predecessors(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """An image of a machine, a backup elsewhere: the original's boot id is there, and it lives. It is left alone, at
    the revision that it had, and the copy says what it is."""
    store = MemoryStore()
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    holder = Holder(store, 10, whose=whose(Keys(), "web-1", "one"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        await claim_host(store, holder, KEY, agent("one"), original / "boot")
        await holder.settled()
        shutil.copytree(original, copy)
        revision = store.revision
        with pytest.raises(HostTaken, match="is a copy of that agent's: leave it out of images"):
            await claim_host(store, Holder(store, 10), KEY, agent("two", "10.0.0.9"), copy / "boot")
        assert store.revision == revision
        nursery.cancel_scope.cancel()
    await trio.sleep(20)  # the original is dead: its lease has run out
    assert await claimed(store, agent("two"), copy) == agent("two")


async def test_a_copy_that_starts_with_its_original(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Both find the key of the run before them, which is dead by now; one has the name."""
    store = MemoryStore()
    folders = [tmp_path / "original", tmp_path / "copy"]
    folders[0].mkdir()
    (folders[0] / "boot").write_text(f"zero,{directory_mark(folders[0])}")
    shutil.copytree(*folders)
    await store.put(KEY, encode(agent("zero")), lease=await store.grant(10))
    outcomes: list[str] = []

    async def start(folder: Path) -> None:
        holder = Holder(store, 10, whose=whose(Keys(), "web-1", folder.name))
        async with trio.open_nursery() as nursery:
            try:
                await claim_host(store, holder, KEY, agent(folder.name), folder / "boot")
            except HostTaken:
                outcomes.append("taken")
                return
            outcomes.append(folder.name)
            nursery.start_soon(holder.run)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for folder in folders:
            nursery.start_soon(start, folder)
    assert outcomes == ["original", "taken"]


async def test_an_agent_whose_name_another_has_gives_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """It came back after its lease, and somebody lives under its name; what a run before it left is waited out."""
    store = MemoryStore()
    holder = Holder(store, 10, whose=whose(Keys(), "web-1", "one"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        await claim_host(store, holder, KEY, agent("one"), tmp_path / "boot")
        await holder.settled()
        store.expire(holder.lease)
        await store.put(KEY, encode(agent("zero")), lease=await store.grant(10))
        holder.hear(Change(KEY, None, store.revision))
        with trio.move_on_after(100) as waiting:
            await keep_name(holder, KEY)
        assert waiting.cancelled_caught
        assert await standing(store) == agent("one")
        store.expire(holder.lease)
        await store.put(KEY, encode(agent("two", "10.0.0.9")))
        holder.hear(Change(KEY, None, store.revision))
        with pytest.raises(HostTaken, match=r"an agent at 10\.0\.0\.9 lives under this name; give each its own `host`"):
            await keep_name(holder, KEY)
        assert await standing(store) == agent("two", "10.0.0.9")
        nursery.cancel_scope.cancel()


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
