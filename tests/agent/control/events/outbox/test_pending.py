"""Many events that wait: what each costs, and how many are kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from agent.control.events import delivery
from agent.control.events.hook_queue import HookQueue
from agent.control.events.outbox.outbox import Outbox
from agent.control.events.outbox.pending import Pending, Standing
from agent.control.host.clock import now_text
from agent.events import Event, make
from policies.kinds.webhook.decide import Filter
from registry.keys import Room
from registry.records import OutboxEntry, decode, encode
from registry.store import prefix_end
from tests.support.light import KEYS, LightAgent, light_agents, put_webhook, until
from tests.support.memory import MemoryStore
from tests.support.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    running.answer = lambda request, number: (503, {})
    yield running
    running.close()


def event(instance: str, name: str = "instance.unhealthy", number: int = 0, service: str = "pets.production") -> Event:
    parts = {"service": service, "instance": instance}
    data = {"reason": "said so"} if "healthy" in name else {}
    return make(name, id=f"{number:05}-{instance}", time=now_text(), mesh="default", parts=parts, data=data)


async def put(store: MemoryStore, *events: Event) -> None:
    for each in events:
        entry = OutboxEntry(event=msgspec.to_builtins(each), at=each.time)
        await store.put(KEYS.event(each.id), encode(entry))


async def room(store: MemoryStore, which: Room) -> dict[str, OutboxEntry]:
    prefix = KEYS.room(which)
    found = await store.range(prefix, prefix_end(prefix))
    return {item.key[len(prefix) :]: decode(OutboxEntry, item.value) for item in found.items}


class Counted:
    """How often something is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls = 0
        found = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            return found(*args, **more)

        monkeypatch.setattr(owner, name, call)

    def since(self) -> int:
        calls, self.calls = self.calls, 0
        return calls


async def with_many(agent: LightAgent, store: MemoryStore, count: int, **more: Any) -> None:
    """The agent tells, and so many events wait, of as many instances."""
    await until(lambda: "pets.production" in agent.outbox.claims)
    await put(store, *(event(f"i{n}", number=n, **more) for n in range(count)))
    await until(lambda: len(agent.outbox.events) == count)


@pytest.mark.parametrize("kind", ["another instance", "one that waits", "a reason noted", "another key"])
async def test_an_event_costs_the_same_however_many_wait(
    kind: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that hangs: what was offered once is not offered again because of others, nor is its pattern looked up."""
    closing = threading.Event()
    receiver.answer = lambda request, number: (503, {"x": str(closing.wait(3))})
    offered, looked_up = Counted(monkeypatch, Filter, "offer"), Counted(monkeypatch, Outbox, "pattern_of")
    costs = []
    for count in (200, 400):
        store = MemoryStore()
        await put_webhook(store, {"hooks": {"all": {"target": {"url": receiver.url("/")}, "timeout": "2s"}}})
        async with light_agents([store], 1, ttl_s=60) as (agent,):
            await with_many(agent, store, count)
            await until(lambda: offered.calls >= count)  # noqa: B023 - awaited at once
            offered.since(), looked_up.since()
            for number in range(20):
                if kind == "another instance":
                    await put(store, event(f"new-{number}", number=count + number))
                elif kind == "one that waits":
                    await put(store, event("i0", "instance.healthy", number=count + number))
                elif kind == "a reason noted":
                    await put(store, event(f"i{number}", number=number))
                else:
                    await store.put(KEYS.prefix + "claims/nobody", b"{}")
                revision = (await store.range(KEYS.prefix, prefix_end(KEYS.prefix))).revision
                await until(lambda: agent.mirror.state.revision >= revision)  # noqa: B023
            costs.append((offered.since(), looked_up.since()))
            agent.kill()
        await store.aclose()
    closing.set()
    for made in costs:
        assert made[0] <= 60 and made[1] <= 60, costs


async def test_when_too_many_wait_the_newest_of_each_condition_is_told(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are merged: counted, and `told/` says what came after them; the hook hears the newest in the end."""
    monkeypatch.setattr(delivery, "MOST_WAITING", 30)
    store = MemoryStore()
    await put_webhook(store, {"hooks": {"all": {"target": {"url": receiver.url("/")}, "timeout": "2s"}}})
    names = itertools.cycle(["instance.unhealthy", "instance.healthy"])
    async with light_agents([store], 2, ttl_s=60) as agents:
        await until(lambda: "pets.production" in agents[0].outbox.claims)
        for number in range(200):
            name = next(names)
            await put(store, *(event(instance, name, number) for instance in "abcde"))
        await until(lambda: len(agents[0].outbox.events) <= 30)
        teller = next(a for a in agents if a.host == agents[0].outbox.claims["pets.production"])
        assert 900 < teller.delivery.merged <= 995  # a few more where the watch lags behind what was merged
        left = await room(store, Room.EVENTS)
        assert {f"00199-{instance}" for instance in "abcde"} <= left.keys()
        merged = [entry for entry in (await room(store, Room.TOLD)).values() if "merged" in str(entry.done)]
        assert len(merged) == teller.delivery.merged
        assert merged[0].done["pets.production/all"].endswith("healthy came after, and too many waited")
        receiver.answer = lambda request, number: (204, {})
        await until(lambda: not agents[0].outbox.events, 120)
        for instance in "abcde":
            told = [r.event["id"] for r in receiver.received if r.event["subject"].endswith(f"/{instance}")]
            assert told[-1] == f"00199-{instance}"
        for agent in agents:
            agent.kill()
    await store.aclose()


async def test_what_is_different_is_not_merged(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other instances, and events that merely tell of other things."""
    monkeypatch.setattr(delivery, "MOST_WAITING", 5)
    store = MemoryStore()
    await put_webhook(store, {"hooks": {"all": {"target": {"url": receiver.url("/")}, "timeout": "2s"}}})
    async with light_agents([store], 1, ttl_s=60) as (agent,):
        await with_many(agent, store, 20)
        await put(store, event("i3", "instance.registered", number=100))
        await until(lambda: len(agent.outbox.events) == 21)
        await until(lambda: len(agent.outbox.pending("pets.production").events) == 21)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert agent.delivery.merged == 0 and len(agent.outbox.events) == 21
        agent.kill()
    await store.aclose()


async def test_events_that_nobody_wants_any_more_go_together(receiver: Receiver) -> None:
    """One agent drops them all."""
    store = MemoryStore()
    await put_webhook(store, {"hooks": {"all": {"target": {"url": receiver.url("/")}, "timeout": "2s"}}})
    async with light_agents([store], 3, ttl_s=60) as agents:
        await with_many(agents[0], store, 250)
        await store.delete(KEYS.policy("webhook", "pets.production"))
        await until(lambda: not any(agent.outbox.events for agent in agents))
        await until(lambda: not any(agent.delivery.waiting or agent.delivery._runners for agent in agents))
        for agent in agents:
            agent.kill()
    await store.aclose()


async def test_another_pattern_takes_its_events_over(receiver: Receiver) -> None:
    """What waited for the one is told by the other, once."""
    store = MemoryStore()
    hook = {"target": {"url": receiver.url("/sick")}, "timeout": "2s"}
    await put_webhook(store, {"hooks": {"all": hook}}, "*")
    async with light_agents([store], 2, ttl_s=60) as agents:
        await until(lambda: "*" in agents[0].outbox.claims)
        await put(store, *(event(f"i{n}", number=n) for n in range(20)))
        await until(lambda: len(receiver.received) >= 4)
        receiver.answer = lambda request, number: (503 if request.path == "/sick" else 204, {})
        await put_webhook(store, {"hooks": {"all": {**hook, "target": {"url": receiver.url("/well")}}}})
        await until(lambda: not agents[0].outbox.events)
        assert sorted(r.event["id"] for r in receiver.of(path="/well")) == [f"{n:05}-i{n}" for n in range(20)]
        for agent in agents:
            agent.kill()
    await store.aclose()


# Pure.

EVENTS = [event(instance, name) for instance in "ab" for name in ("instance.unhealthy", "instance.healthy")]
STEPS = st.lists(
    st.one_of(st.tuples(st.just("put"), st.integers(0, 3)), st.tuples(st.just("remove"), st.integers(0, 30)))
)


@given(STEPS)
def test_the_newest_of_a_condition_is_never_needless(steps: list[tuple[str, int]]) -> None:
    """Whatever came and went; and everything older is."""
    pending, number = Pending(), 0
    for step, which in steps:
        if step == "put":
            number += 1
            made = msgspec.structs.replace(EVENTS[which], id=str(number))
            pending.put(made.id, Standing(made, {}, 1, {}))
        else:
            pending.remove(str(which))
        by_key: dict[str, list[int]] = {}
        for id, standing in pending.events.items():
            by_key.setdefault(standing.event.key, []).append(int(id))
        found, spared = [], set()
        while (one := pending.superseded(spared)) is not None:
            standing, newer = one
            assert newer.key == standing.event.key and int(newer.id) > int(standing.event.id)
            spared.add(standing.event.id)
            found.append(int(standing.event.id))
        newest_gone = {int(id) for ids in by_key.values() for id in sorted(ids)[:-1]}
        assert set(found) <= newest_gone


def test_a_row_is_asked_in_its_order_and_one_at_a_time() -> None:
    """New, due, told: each has its condition looked at once."""
    queue = HookQueue()
    first, second, other = event("a", number=1), event("a", "instance.healthy", 2), event("b", number=3)
    for each in (first, second, other):
        queue.add(each)
    assert list(queue.next_keys(0.0, 1)) == [first.key, other.key] and len(queue) == 3
    assert list(queue.next_keys(0.0, 1)) == []
    assert queue.row(first.key) == [first, second]
    queue.begin(first.key)
    queue.hold(other.key)
    assert list(queue.next_keys(0.0, 1)) == [], "no hand is free"
    queue.remove(first.id)
    queue.end(first.key)
    assert list(queue.next_keys(0.0, 1)) == [other.key, first.key]
    queue.wait(first.key, 5.0)
    queue.wait(first.key, 9.0)
    queue.wait(first.key, 3.0)
    assert queue.due == 3.0 and list(queue.next_keys(2.9, 1)) == []
    assert list(queue.next_keys(3.0, 1)) == [first.key] and queue.due == float("inf")
    queue.ask_all()
    queue.remove(second.id)
    assert list(queue.next_keys(9.0, 1)) == [other.key] and queue.ids() == [other.id]
