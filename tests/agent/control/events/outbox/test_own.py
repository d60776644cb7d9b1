"""Events under hosts' own keys: told once, cleared away by whose they are, and moved there and back under load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import trio

from agent.events import make
from registry.keys import Room
from registry.records import OutboxEntry, decode, encode
from registry.store import Store, prefix_end
from tests.support.light import KEYS, LightAgent, light_agents, put_webhook, until
from tests.support.memory import MemoryStore
from tests.support.receiver import Receiver

SERVICE = "pets.production"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.aclose()


async def say(store: Store, state: str) -> None:
    rooms = [] if state == "common" else ["events", "reports"]
    await store.put(KEYS.layout, json.dumps({"state": state, "rooms": rooms}).encode())


async def words(store: Store) -> list[str]:
    """Keys of events under hosts' own."""
    found = await store.range(KEYS.room(Room.HOSTS), prefix_end(KEYS.room(Room.HOSTS)))
    return [item.key for item in found.items if "/events/" in item.key]


async def entries(store: Store) -> dict[str, OutboxEntry]:
    prefix = KEYS.room(Room.EVENTS)
    found = await store.range(prefix, prefix_end(prefix))
    return {item.key[len(prefix) :]: decode(OutboxEntry, item.value) for item in found.items}


async def nothing_left(store: Store) -> None:
    with trio.fail_after(60):
        while await words(store) or await entries(store):
            await trio.sleep(0.05)


def hooks(receiver: Receiver, **more: Any) -> dict[str, Any]:
    target = {"url": receiver.url("/")}
    return {"hooks": {"all": {"target": target, "timeout": "2s", "events": ["instance.*"], **more}}}


def ids(receiver: Receiver) -> Counter[str]:
    return Counter(request.event["id"] for request in receiver.received)


async def own(agents: list[LightAgent], store: Store, state: str = "own_only") -> None:
    await say(store, state)
    await until(lambda: all(agent.table.forms.has("events") for agent in agents))
    await ready(agents)


async def ready(agents: list[LightAgent]) -> None:
    await until(lambda: all(agent.outbox.documents() and agent.outbox.claims for agent in agents))


async def test_an_event_stands_under_its_host_and_is_cleared_away(memory: MemoryStore, receiver: Receiver) -> None:
    """While nobody can be told it is there, whole, and the shared room has how far it is; then nothing is left."""
    takes = False
    receiver.answer = lambda request, number: (204 if takes else 503, {})
    await put_webhook(memory, hooks(receiver))
    async with light_agents([memory], 3, ttl_s=20) as agents:
        await own(agents, memory)
        agents[1].turn("a@host-1", False)
        await until(lambda: len(receiver.received) > 1)
        (key,) = await words(memory)
        assert key.startswith(KEYS.own_events("host-1"))
        ((id, entry),) = (await entries(memory)).items()
        assert key.endswith(id) and entry.host == "host-1" and entry.event == {}
        takes = True
        await nothing_left(memory)
        assert len(ids(receiver)) == 1
        told = await memory.get(KEYS.event(id, Room.TOLD))
        assert told is not None and decode(OutboxEntry, told.value).event["id"] == id


async def test_moving_under_load_loses_nothing_and_tells_nothing_twice(memory: MemoryStore, receiver: Receiver) -> None:
    """There and back, again and again, while each of four agents tells on and on, to a service that often fails."""
    receiver.answer = lambda request, number: (503 if number % 3 == 0 else 204, {})
    await put_webhook(memory, hooks(receiver))
    made = 0
    async with light_agents([memory], 4, ttl_s=20) as agents:
        await ready(agents)
        for number in range(60):
            if number % 6 == 0:
                await say(memory, ("own", "own_only", "common")[number // 6 % 3])
            for agent in agents:
                name = f"a@{agent.host}" if agent.table.forms.own else f"a-{agent.host}"
                agent.turn(name, number % 2 == 1, f"s{number}.production" if number % 5 else SERVICE)
                made += agent.outbox.cares("instance.healthy", SERVICE, "") and not number % 5
            await trio.sleep(0.03)
        await say(memory, "common")
        await nothing_left(memory)
        taken = Counter(request.event["id"] for number, request in enumerate(receiver.received, 1) if number % 3 != 0)
        assert len(ids(receiver)) == made == 48
        assert set(taken.values()) == {1} and len(taken) == 48


@pytest.mark.parametrize("there", [True, False], ids=["there", "back"])
async def test_who_has_not_heard_yet(memory: MemoryStore, receiver: Receiver, there: bool) -> None:
    """Puts an event in the form that was: it is moved by itself, and told once."""
    await put_webhook(memory, hooks(receiver))
    async with light_agents([memory], 3, ttl_s=20) as agents:
        await ready(agents)
        if not there:
            await own(agents, memory)
        late = agents[2]
        made = late.detector.of_instance("instance.unhealthy", (SERVICE, "a@host-2"), {"reason": "late"})
        assert len(made) == (1 if there else 2)
        await say(memory, "own_only" if there else "common")
        await until(lambda: all(agent.table.forms.has("events") is there for agent in agents))
        await memory.transact([], made)
        await until(lambda: len(ids(receiver)) == 1)
        await nothing_left(memory)
        assert len(receiver.received) == 1


async def test_back_without_a_host_that_is_gone(memory: MemoryStore, receiver: Receiver) -> None:
    """What it told of is moved by another, and told; an agent of the version before could read it."""
    takes = False
    receiver.answer = lambda request, number: (204 if takes else 503, {})
    await put_webhook(memory, hooks(receiver))
    async with light_agents([memory], 3, ttl_s=2) as agents:
        await own(agents, memory)
        await until(lambda: SERVICE in agents[0].outbox.claims)
        teller = agents[0].outbox.claims[SERVICE]
        gone = next(agent for agent in agents if agent.host != teller)
        gone.turn(f"a@{gone.host}", False)
        await until(lambda: len(receiver.received) > 0)
        gone.kill()
        left = [agent for agent in agents if agent is not gone]
        await until(lambda: all(gone.host not in agent.table.agents for agent in left))
        await say(memory, "common")
        with trio.fail_after(60):
            while any(entry.host for entry in (await entries(memory)).values()):
                await trio.sleep(0.05)
        takes = True
        await nothing_left(memory)
        assert len(ids(receiver)) == 1


async def test_what_another_makes_up(memory: MemoryStore, receiver: Receiver) -> None:
    """In either form: nobody is told, it is listed, and what its host says is told all the same."""
    await put_webhook(memory, hooks(receiver))
    async with light_agents([memory], 3, ttl_s=20) as agents:
        await own(agents, memory)
        parts = {"service": SERVICE, "instance": "a@host-1"}
        for id, host in (("forged", "host-2"), ("whole", "")):
            made = make("instance.unhealthy", id=id, time="2026-01-01T00:00:00Z", mesh="default", parts=parts)
            record = OutboxEntry(event=msgspec.to_builtins(made))
            await memory.put(KEYS.event(id), encode(OutboxEntry(host=host) if host else record))
            if host:  # before, its host would take it for one that is told, and delete it
                await memory.put(KEYS.own_event(host, id), encode(record))
        agents[1].turn("a@host-1", False)
        await until(lambda: len(receiver.received) == 1)
        await until(lambda: set(agents[0].outbox.sources.disbelieved) == {"forged", "whole"})
        assert not {"forged", "whole"} & set(ids(receiver))


async def test_who_leaves_waits_for_nobody(memory: MemoryStore, receiver: Receiver) -> None:
    """What it told of stands on a lease then, and is told; what was told before is not put again."""
    takes = False
    receiver.answer = lambda request, number: (204 if takes else 503, {})
    await put_webhook(memory, hooks(receiver))
    async with light_agents([memory], 2, ttl_s=20) as agents:
        await own(agents, memory)
        for agent in agents:
            agent.turn(f"a@{agent.host}", False)
        await until(lambda: len(ids(receiver)) == 2)
        for agent in agents:
            await agent.delivery.own.leave()
        found = [await memory.get(key) for key in await words(memory)]
        assert len(found) == 2 and all(item is not None and item.lease for item in found)
        takes = True
        await nothing_left(memory)
        await agents[0].delivery.own.leave()
        assert await words(memory) == []
