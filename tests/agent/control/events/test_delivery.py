"""Delivery: one of many agents does it, once; whoever goes, another goes on. Light agents, a real receiver."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.frames import Transition
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Room
from registry.records import OutboxEntry, decode
from registry.store import Put, Store, prefix_end
from tests.support.etcd import cluster_of, leader_of, running_etcd
from tests.support.light import KEYS, light_agents, put_webhook, until
from tests.support.memory import MemoryStore
from tests.support.receiver import Received, Receiver


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


def hook(receiver: Receiver, path: str = "/", **more: Any) -> dict[str, Any]:
    return {"target": {"url": receiver.url(path)}, "timeout": "2s", **more}


async def room(store: Store, which: Room) -> dict[str, OutboxEntry]:
    prefix = KEYS.room(which)
    found = await store.range(prefix, prefix_end(prefix))
    return {item.key[len(prefix) :]: decode(OutboxEntry, item.value) for item in found.items}


async def quiet(store: Store) -> None:
    with trio.fail_after(60):
        while await room(store, Room.EVENTS):
            await trio.sleep(0.05)


async def test_a_hundred_agents_tell_once(tmp_path: Path, receiver: Receiver) -> None:
    """On a real etcd: a transition of one's own, and a service that is down, which all hundred see."""
    with running_etcd(tmp_path) as etcd:
        async with AsyncExitStack() as stack:
            settings = EtcdSettings(endpoints=(etcd.url,))
            stores = [await stack.enter_async_context(EtcdStore.open(settings)) for _ in range(5)]
            await put_webhook(stores[0], {"hooks": {"all": hook(receiver)}})
            async with light_agents(stores, 100, ttl_s=20) as agents:
                agents[7].instance("a")
                await until(lambda: all("pets.production" in agent.table.services for agent in agents))
                agents[7].turn("a", False)
                await until(lambda: len(receiver.received) >= 2)
                await quiet(stores[0])
                await trio.sleep(2)
                told = {r.event["id"]: r.event["type"] for r in receiver.received}
                assert sorted(told.values()) == ["io.shoal.instance.unhealthy", "io.shoal.service.down"]
                agents[7].turn("a", True)
                await until(lambda: len({r.event["id"] for r in receiver.received}) >= 4)
                await quiet(stores[0])
                # By id, as receivers know them: on a busy machine an answer may come too late, and be asked for again.
                assert len({r.event["id"] for r in receiver.received}) == 4
                assert len({agent.outbox.claims["pets.production"] for agent in agents}) == 1


async def test_what_is_told_is_recorded_by_who_tells_it(memory: MemoryStore, receiver: Receiver) -> None:
    """A host's own whoever wants to know; what all see once, by the agent that has put it."""
    async with light_agents([memory], 3) as agents:

        def recorded() -> list[list[str]]:
            return [[event.type.removeprefix("io.shoal.") for event in agent.recorded] for agent in agents]

        agents[1].instance("a")
        await until(lambda: all("pets.production" in agent.table.services for agent in agents))
        agents[1].turn("a", False)
        assert recorded() == [[], ["instance.unhealthy"], []], "no webhook wants it"
        agents[1].turn("a", True)
        await until(lambda: all(agent.detector._up["pets.production"] for agent in agents))
        await put_webhook(memory, {"hooks": {"all": hook(receiver)}})
        await until(lambda: all(agent.outbox.documents() for agent in agents))
        agents[1].turn("a", False)
        await until(lambda: sum(told.count("service.down") for told in recorded()) == 1)
        await quiet(memory)
        assert sum(told.count("service.down") for told in recorded()) == 1
        assert recorded()[1].count("instance.unhealthy") == 2


async def test_what_is_over_is_not_told_by_those_whose_turn_comes_later(
    memory: MemoryStore, receiver: Receiver
) -> None:
    """A service is down for a moment: eight agents see it, and the first of them tells both ends."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, events=["service.*"])}})
    async with light_agents([memory], 8) as agents:
        agents[7].instance("a")
        await until(lambda: all("pets.production" in agent.table.services for agent in agents))
        agents[7].turn("a", False)
        await until(lambda: receiver.of("service.down"))
        agents[7].turn("a", True)
        await until(lambda: receiver.of("service.recovered"))
        await until(lambda: not any(agent.detector._proposed for agent in agents))
        await quiet(memory)
        told = {request.event["id"]: request.event["type"] for request in receiver.received}
        assert sorted(told.values()) == ["io.shoal.service.down", "io.shoal.service.recovered"]


async def test_a_successor_does_not_repeat_what_is_done(memory: MemoryStore, receiver: Receiver) -> None:
    """One hook was told, the other hangs; the teller dies: its successor tells the other only."""
    hangs = True

    def answer(request: Received, number: int) -> tuple[int, dict[str, str]]:
        return (503 if request.path == "/later" and hangs else 204), {}

    receiver.answer = answer
    hooks = {"now": hook(receiver, "/now"), "later": hook(receiver, "/later")}
    await put_webhook(memory, {"hooks": {name: {**h, "events": ["instance.*"]} for name, h in hooks.items()}})
    async with light_agents([memory], 3, ttl_s=2) as agents:
        agents[0].instance("a")
        await until(lambda: "pets.production" in agents[0].outbox.claims)
        teller = next(a for a in agents if a.host == agents[0].outbox.claims["pets.production"])
        other = next(a for a in agents if a is not teller)
        other.instance("b")
        await trio.sleep(0.1)
        other.turn("b", False)
        await until(lambda: receiver.of(path="/now") and receiver.of(path="/later"))
        while not any(standing.done for standing in (await room(memory, Room.EVENTS)).values()):
            await trio.sleep(0.02)
        teller.kill()
        hangs = False
        await quiet(memory)
        mine = [r.event["id"] for r in receiver.of("instance.unhealthy", "/now")]
        assert len(mine) == 1 and receiver.of("instance.unhealthy", "/later")[-1].event["id"] == mine[0]


async def test_garbage_in_the_rooms_holds_up_nobody(memory: MemoryStore, receiver: Receiver) -> None:
    """Events that are none, conditions, claims of nobody: the others are told."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver)}})
    for key in ("events/garbage", "events/half", "conditions/services/x", "told/x", "undelivered/x"):
        await memory.put(KEYS.prefix + key, b'{"event": {}}' if key == "events/half" else b"\xff\x00 no JSON")
    async with light_agents([memory], 2) as agents:
        agents[0].instance("a")
        agents[0].instance("b")
        await trio.sleep(0.1)
        agents[0].turn("a", False, reason="x" * 5_000_000)
        await until(lambda: receiver.of("instance.unhealthy"))
        (told,) = receiver.of("instance.unhealthy")
        assert len(told.body) < 10_000 and "cut, 5000000 characters" in told.event["data"]["reason"]


async def test_a_claim_that_is_deleted_or_of_nobody(memory: MemoryStore, receiver: Receiver) -> None:
    """Deleted, another (or the same) agent goes on; one that cannot be read blocks its pattern until it is deleted."""
    await memory.put(KEYS.claim("pets.production"), b"mine, I say")
    await put_webhook(memory, {"hooks": {"all": hook(receiver)}})
    async with light_agents([memory], 2) as agents:
        agents[0].instance("a")
        agents[0].instance("b")
        await trio.sleep(0.1)
        agents[0].turn("a", False)
        await trio.sleep(1)
        assert receiver.received == []
        await memory.delete(KEYS.claim("pets.production"))
        await until(lambda: len(receiver.received) == 1)
        await quiet(memory)
        await memory.delete(KEYS.claim("pets.production"))
        agents[0].turn("a", True)
        await until(lambda: len(receiver.received) == 2)


async def test_documents_that_change(memory: MemoryStore, receiver: Receiver) -> None:
    """A hook that hangs is taken out: the event ends. Without any webhook it ends too, and nothing is written."""
    receiver.answer = lambda request, number: (503 if request.path == "/sick" else 204, {})
    await put_webhook(memory, {"hooks": {"well": hook(receiver), "sick": hook(receiver, "/sick")}})
    async with light_agents([memory], 2) as agents:
        for name in "ab":
            agents[0].instance(name)
        await trio.sleep(0.1)
        agents[0].turn("a", False)
        await until(lambda: receiver.of(path="/sick"))
        await put_webhook(memory, {"hooks": {"well": hook(receiver)}})
        await quiet(memory)
        (told,) = (await room(memory, Room.TOLD)).values()
        assert told.done == {"pets.production/well": "status 204"}
        await memory.put(KEYS.event("left-over"), json.dumps({"event": told.event}).encode())
        await memory.delete(KEYS.policy("webhook", "pets.production"))
        await quiet(memory)
        agents[0].turn("a", True)
        await trio.sleep(0.3)
        assert await room(memory, Room.EVENTS) == {}


@pytest.mark.parametrize("under", ["policies", "audits"])
async def test_in_audit_mode_nobody_is_called(memory: MemoryStore, receiver: Receiver, under: str) -> None:
    """What would be told is counted and stands in told/."""
    document = {"mode": "audit", "hooks": {"all": hook(receiver)}}
    if under == "policies":
        await put_webhook(memory, document)
    else:  # where it need not say so
        await memory.put(KEYS.audit("webhook", "pets.production"), json.dumps({"hooks": document["hooks"]}).encode())
    async with light_agents([memory], 1) as agents:
        for name in "ab":
            agents[0].instance(name)
        await trio.sleep(0.1)
        agents[0].turn("a", False)
        with trio.fail_after(60):
            while not await room(memory, Room.TOLD):
                await trio.sleep(0.02)
        (told,) = (await room(memory, Room.TOLD)).values()
        assert told.done == {"pets.production/all": "audit: not told"} and receiver.received == []


async def test_a_webhook_that_is_only_watched_takes_none_out_of_force(memory: MemoryStore, receiver: Receiver) -> None:
    """Under the same name or a more specific one; and one that turns to audit mode hands over what waits."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, path="/all")}})
    await put_webhook(memory, {"hooks": {"mesh": hook(receiver, path="/mesh")}}, "*")
    watched = {"mode": "audit", "hooks": {"none": hook(receiver, path="/none")}}
    await memory.put(KEYS.audit("webhook", "pets.production"), json.dumps(watched).encode())
    async with light_agents([memory], 1) as agents:
        for name in "ab":
            agents[0].instance(name)
        await trio.sleep(0.1)
        agents[0].turn("a", False)
        await until(lambda: receiver.of(path="/all"))
        await put_webhook(memory, watched)
        await quiet(memory)
        agents[0].turn("b", False)
        await until(lambda: receiver.of(path="/mesh"))
        assert not receiver.of(path="/none")


async def test_puts_that_go_along_go_in_one_transaction(memory: MemoryStore) -> None:
    """And once; also when many happen while the store is away."""
    async with light_agents([memory], 1) as agents:
        holder = agents[0].holder
        for n in range(150):
            holder.put(f"/m/k{n}", b"v", also=[Put(f"/m/also{n}", b"1")])
        await holder.settled()
        for n in range(150):
            key, also = await memory.get(f"/m/k{n}"), await memory.get(f"/m/also{n}")
            assert key is not None and also is not None and key.mod_revision == also.mod_revision
            assert (key.lease, also.lease) == (holder.lease, 0)
        await memory.delete("/m/also3")
        holder.put("/m/k3", b"w")
        await holder.settled()
        assert await memory.get("/m/also3") is None


async def test_policies_that_change_and_are_refused(memory: MemoryStore, receiver: Receiver) -> None:
    """Three agents see it; it is told once, with what is wrong and where."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, events=["policy.*", "instance.registered"])}}, "*")
    async with light_agents([memory], 3) as agents:
        await memory.put(KEYS.policy("retry", "pets.production"), b'{"attempts": "three"}')
        await until(lambda: receiver.of("policy.refused"))
        await memory.put(KEYS.policy("retry", "pets.production"), b'{"attempts": 3}')
        await until(lambda: receiver.of("policy.changed"))
        agents[1].instance("a")
        await until(lambda: receiver.of("instance.registered"))
        await quiet(memory)
        await trio.sleep(1.5)
        (refused,) = receiver.of("policy.refused")
        assert refused.event["subject"] == "policies/retry/pets.production"
        assert refused.event["data"]["path"] == "$.attempts" and "whole number" in refused.event["data"]["reason"]
        assert len(receiver.of("policy.changed")) == len(receiver.of("instance.registered")) == 1


async def test_a_fresh_snapshot_is_no_news(memory: MemoryStore, receiver: Receiver) -> None:
    """Documents that were put while nobody wanted to know are not told as put when etcd is back, days later."""
    await memory.put(KEYS.policy("retry", "pets.production"), b'{"attempts": 3}')
    async with light_agents([memory], 2) as agents:
        await memory.put(KEYS.audit("retry", "pets.production"), b'{"attempts": 4}')
        await memory.put(KEYS.policy("timeout", "pets.production"), b'{"request": "sometime"}')
        await until(lambda: all(agent.table.refused for agent in agents))
        await put_webhook(memory, {"hooks": {"all": hook(receiver, events=["policy.*"])}}, "*")
        await until(lambda: all(agent.outbox.documents() for agent in agents))
        resyncs = [agent.mirror.state.resyncs for agent in agents]
        for agent in agents:
            agent.mirror._anew = True
            await agent.mirror._resync()
        assert [agent.mirror.state.resyncs - 1 for agent in agents] == resyncs
        await memory.put(KEYS.policy("retry", "pets.production"), b'{"attempts": 5}')
        await until(lambda: receiver.of("policy.changed"))
        await quiet(memory)
        await trio.sleep(1.5)
        told = [(found.event["type"], found.event["subject"]) for found in receiver.received]
        assert ("io.shoal.policy.changed", "policies/retry/pets.production") in told
        assert {each for each in told if "webhook" not in each[1]} == {
            ("io.shoal.policy.changed", "policies/retry/pets.production")
        }
        assert len({found.event["id"] for found in receiver.of("policy.changed") if "retry" in str(found.event)}) == 1


async def test_leases_that_run_out_because_etcd_stalls_are_no_death(memory: MemoryStore, receiver: Receiver) -> None:
    """All of them at once: nobody is called lost, nothing registered anew; who dies afterwards is told of."""
    events = ["agent.*", "instance.*"]
    await put_webhook(memory, {"hooks": {"all": hook(receiver, events=events)}}, "*")
    async with light_agents([memory], 3, ttl_s=3) as agents:
        for agent in agents:
            agent.instance(f"of-{agent.host}")
        await until(lambda: len({found.event["subject"] for found in receiver.of("instance.registered")}) == 3)
        known = {found.event["id"] for found in receiver.received}  # a teller that lost its claim may tell once more
        leases = [agent.holder.lease for agent in agents]
        for lease in leases:
            await memory.revoke(lease)
        await until(lambda: all(len(agent.table.agents) < 3 for agent in agents))
        await until(lambda: all(len(agent.table.agents) == 3 for agent in agents))
        await trio.sleep(4.5)
        assert {found.event["type"] for found in receiver.received if found.event["id"] not in known} == set()
        agents[2].kill()
        await until(lambda: receiver.of("agent.lost"))
        assert {found.event["subject"] for found in receiver.of("agent.lost")} == {"agents/host-2"}


async def test_what_is_only_watched_is_news_too(memory: MemoryStore, receiver: Receiver) -> None:
    """Put, refused, mended and removed, beside a refused one of that name: another condition, which stays open."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, events=["policy.*"])}}, "*")
    audit, subject = KEYS.audit("retry", "pets.production"), "audits/retry/pets.production"
    async with light_agents([memory], 3) as agents:
        await memory.put(KEYS.policy("retry", "pets.production"), b'{"attempts": "two"}')
        await memory.put(audit, b'{"attempts": 3}')
        await memory.put(audit, b'{"attempts": "three"}')
        await memory.put(audit, b'{"attempts": 4}')
        await memory.delete(audit)
        await until(lambda: len(receiver.of("policy.changed")) == 3)
        await quiet(memory)
        await trio.sleep(1.5)
        told = [found.event for found in receiver.of("policy.changed")]
        assert {each["subject"] for each in told} == {subject}
        assert sorted(each["data"]["after"] for each in told) == ["deleted", "watched", "watched"]
        refused = {found.event["subject"] for found in receiver.of("policy.refused")}
        assert refused == {subject, "policies/retry/pets.production"}
        opened = {s for label in agents[0].outbox.opened.labels() for s in agents[0].outbox.opened.of(label)}
        assert subject not in opened


async def test_breakers_and_shedding_are_told(memory: MemoryStore, receiver: Receiver) -> None:
    """As the workers tell them: the first that opens, the first that closes; what is only watched is not told."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, events=["breaker.*", "shed.*"])}})
    async with light_agents([memory], 2) as agents:
        await until(lambda: "pets.production" in agents[0].outbox.claims)
        tell = agents[0].detector.on_happened
        for after in ("open", "open", "half-open", "closed", "closed"):
            tell([Transition("breaker", "pets.production", "", "closed", after, "5 in a row", False, 0.0)])
        tell([Transition("breaker", "pets.production", "x", "closed", "open", "", True, 0.0)])
        tell([Transition("shed", "pets.production", "", "calm", "shedding", "", False, 0.0)])
        await until(lambda: len(receiver.received) == 3)
        await quiet(memory)
        breakers = [r.event for r in receiver.received if "breaker" in r.event["type"]]
        assert [event["type"] for event in breakers] == ["io.shoal.breaker.opened", "io.shoal.breaker.closed"]
        assert breakers[0]["subject"] == "breakers/pets.production/*/host-0"


async def test_why_it_was_not_told_yet_stands_in_etcd(memory: MemoryStore, receiver: Receiver) -> None:
    """A secret that is missing: whoever looks at the outbox sees it, on every host."""
    await put_webhook(memory, {"hooks": {"all": hook(receiver, sign=[{"file": "not-there"}])}})
    async with light_agents([memory], 2, secrets={"not-there": ["127.0.0.1"]}) as agents:
        for name in "ab":
            agents[0].instance(name)
        await trio.sleep(0.1)
        agents[0].turn("a", False)
        with trio.fail_after(60):
            while not any(record.trying for record in (await room(memory, Room.EVENTS)).values()):
                await trio.sleep(0.02)
        (record,) = (await room(memory, Room.EVENTS)).values()
        assert record.trying == {"pets.production/all": "no secret in the file not-there (try 1)"}


async def test_what_is_beyond_the_hours_share_comes_as_one(
    memory: MemoryStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest, told once, and every event that it stands for is done."""
    monkeypatch.setattr("policies.kinds.webhook.share.HOUR_S", 1.0)
    await put_webhook(memory, {"hooks": {"all": hook(receiver, max_per_hour=1, events=["instance.unhealthy"])}})
    async with light_agents([memory], 2) as agents:
        for name in "abcd":
            agents[0].instance(name)
        await until(lambda: "pets.production" in agents[0].outbox.claims)
        await trio.sleep(0.1)
        for name in "abc":
            agents[0].turn(name, False)
        await until(lambda: receiver.of("hook.digest"))
        await quiet(memory)
        assert [r.event["type"] for r in receiver.received] == ["io.shoal.instance.unhealthy", "io.shoal.hook.digest"]
        assert receiver.received[1].event["data"]["count"] == 2
        assert len(await room(memory, Room.TOLD)) == 3


@pytest.mark.parametrize("step", ["before the put", "after the put", "while it is delivered"])
async def test_the_leader_of_etcd_is_killed(tmp_path: Path, receiver: Receiver, step: str) -> None:
    """Of three members: nothing is lost, and what comes twice is the same."""
    members = cluster_of(3, tmp_path, ["--heartbeat-interval", "50", "--election-timeout", "500"])
    for member in members:
        member.start(wait=False)
    for member in members:
        await trio.to_thread.run_sync(member.wait)
    urls = tuple(member.url for member in members)
    killed: list[str] = []

    async def kill_leader() -> None:
        leader = await leader_of([member for member in members if member.url not in killed])
        killed.append(leader.url)
        await trio.to_thread.run_sync(leader.kill)

    token = trio.lowlevel.current_trio_token()
    first = threading.Lock()

    def answer(request: Received, number: int) -> tuple[int, dict[str, str]]:
        if step == "while it is delivered" and first.acquire(blocking=False):
            trio.from_thread.run(kill_leader, trio_token=token)
        return 204, {}

    receiver.answer = answer
    try:
        async with AsyncExitStack() as stack:
            stores: list[Store] = []
            for n in range(3):
                settings = EtcdSettings(endpoints=(*urls[n:], *urls[:n]), timeout_s=3)
                stores.append(await stack.enter_async_context(EtcdStore.open(settings)))
            await put_webhook(stores[0], {"hooks": {"all": hook(receiver, events=["instance.*"])}})
            async with light_agents(stores, 3, ttl_s=10) as agents:
                agents[0].instance("a")
                agents[0].instance("b")
                await until(lambda: "pets.production" in agents[0].outbox.claims)
                await trio.sleep(0.2)
                if step == "before the put":
                    await kill_leader()
                agents[0].turn("a", False)
                if step == "after the put":
                    await agents[0].holder.settled()
                    await kill_leader()
                await until(lambda: receiver.of("instance.unhealthy"), 30)
                await until(lambda: not any(agent.outbox.events for agent in agents), 30)
                told = receiver.of("instance.unhealthy")
                assert len({r.event["id"] for r in told}) == 1 and len(killed) == 1
    finally:
        for member in members:
            await trio.to_thread.run_sync(member.stop)
