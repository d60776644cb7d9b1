"""Advice of `scale` policies: one agent for a service, fenced, told once, and gone on with by the next."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from agent.control.asking.fanout import Missing
from agent.control.asking.tree import Merged
from agent.control.mesh.table import Table
from agent.control.scaling.scaler import STEP_S, Scaler
from agent.control.scaling.seen import figures
from agent.figures.questions import FiguresAsked, FiguresTold
from agent.figures.tally import CPU, IN_FLIGHT, PENDING, Key, Tally, others
from policies.kinds.webhook.event import Value
from registry.keys import Keys, Room
from registry.records import Advised, Agent, Claimed, Health, Instance, decode, encode
from registry.store import Change, Put, StoreError, Unavailable
from tests.support.memory import MemoryStore

KEYS = Keys()
UP = {"max": 8, "up": [{"pending": 5, "for": "4s"}], "cooldown": {"up": "0s", "down": "0s"}}


class Load:
    """What all agents tell."""

    def __init__(self) -> None:
        self.pending = 0.0
        self.others = False
        self.missing: dict[str, Missing] = {}
        self.asked: list[FiguresAsked] = []

    def question(self, last_s: int = 60, by: str = "service", *, fine: bool = False) -> FiguresAsked:
        return FiguresAsked(1000, last_s, fine=fine)

    async def ask(self, asked: FiguresAsked, deadline_s: float) -> Merged[FiguresTold]:
        self.asked.append(asked)
        tally = Tally({2: 10 * asked.last_s}, 0, {10: 10}, {PENDING: int(1000 * self.pending)})
        rows = [(Key("pets") if not self.others else others(Key()), tally)]
        told = FiguresTold(rows, covered_s=asked.last_s)
        return Merged(told, 3 - len(self.missing), self.missing, 0)


class Lease:
    def __init__(self, lease: int) -> None:
        self.lease = lease


class Host:
    """An agent, as far as it advises."""

    def __init__(self, name: str, store: MemoryStore, lease: int, load: Load, hosts: list[str]) -> None:
        self.table = Table(KEYS, name)
        self.store = store
        self.holder = Lease(lease)
        self.told: list[tuple[str, dict[str, Value]]] = []
        self.now = 0.0
        self._revision = 10
        figures: Any = type("", (), {"asked": load.question, "ask": load.ask})
        holder: Any = self.holder
        self.scaler = Scaler(self.table, store, KEYS, holder, figures, self._tell, clock=lambda: self.now)
        for host in hosts:
            self.put(KEYS.agent(host), encode(Agent(address="10.0.0.1", inbound_port=1, version="1")))

    def _tell(self, name: str, parts: Any, data: Any) -> list[Put]:
        self.told.append((name, dict(data)))
        return [Put(KEYS.event(f"e{len(self.told)}"), b"{}")]

    def put(self, key: str, value: bytes | None) -> None:
        self._revision += 1
        self.table.apply([Change(key, value, self._revision)], self._revision)

    def policy(self, document: Any) -> None:
        self.put(KEYS.policy("scale", "pets"), None if document is None else json.dumps(document).encode())

    def instances(self, *ids: str, healthy: int = 99) -> None:
        for number, id in enumerate(ids):
            self.put(KEYS.instance("pets", id), encode(Instance(address="10.0.0.9", port=8000 + number)))
            self.put(KEYS.health("pets", id), encode(Health(healthy=number < healthy)))

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 2.0
            await self.scaler.look()


@pytest.fixture
async def store() -> Any:
    memory = MemoryStore()
    yield memory
    await memory.aclose()


async def hosts(store: MemoryStore, load: Load, count: int = 2) -> list[Host]:
    """In the order in which they claim."""
    names = [f"h{n}" for n in range(count)]
    made = [Host(name, store, await store.grant(60), load, names) for name in names]
    for host in made:
        host.policy(UP)
        host.instances("a", "b")
    return sorted(made, key=lambda host: host.scaler._rank())


async def advice(store: MemoryStore) -> Advised | None:
    found = await store.get(KEYS.advice("pets"))
    return None if found is None else decode(Advised, found.value)


async def claimant(store: MemoryStore) -> str:
    found = await store.get(KEYS.scaling("pets"))
    return "" if found is None else decode(Claimed, found.value).agent


async def test_one_agent_advises_and_tells_once(store: MemoryStore) -> None:
    """With its event in the same transaction; what stays so is neither written nor told again."""
    load = Load()
    first, second = await hosts(store, load)
    await first.look()
    await second.look(6)
    assert await claimant(store) == first.table.host and not second.scaler.standing
    told = await advice(store)
    assert told is not None and (told.replicas, told.instances, told.policy) == (2, 2, "scale/pets") and not first.told
    load.pending = 14.0
    await first.look(4)
    told = await advice(store)
    assert told is not None and (told.replicas, told.before, told.most) == (3, 2, 8)
    assert "pending 7 an instance, above 5" in told.reason and told.agent == first.table.host
    ((name, data),) = first.told
    assert name == "scale.advised" and (data["before"], data["after"], data["instances"]) == (2, 3, 2)
    key = await store.get(KEYS.advice("pets"))
    event = await store.get(KEYS.event("e1"))
    assert key is not None and event is not None and key.mod_revision == event.mod_revision
    await first.look(10)
    assert await store.get(KEYS.advice("pets")) == key and len(first.told) == 1
    assert {(each.last_s, each.fine) for each in load.asked} == {(60, True), (6, True)}


async def test_the_next_one_goes_on_with_what_was_advised(store: MemoryStore) -> None:
    """When the first is gone; and what that one still writes, as it did not hear of it, changes nothing."""
    load = Load()
    first, second = await hosts(store, load)
    load.pending = 14.0
    await first.look(5)
    store.expire(first.holder.lease)
    assert await advice(store) is not None and await claimant(store) == ""
    await second.look(int(2 * STEP_S))
    assert await claimant(store) == second.table.host
    told = second.scaler.standing["pets"].advice
    assert told.replicas == 3 and not second.told
    standing = await store.get(KEYS.advice("pets"))
    first.instances("a", "b", "c")
    load.pending = 40.0
    await first.look(5)
    assert await store.get(KEYS.advice("pets")) == standing and "pets" not in first.scaler.standing


async def test_a_lease_that_was_lost_is_a_claim_that_was_lost(store: MemoryStore) -> None:
    """It claims again, on the new one."""
    load = Load()
    first, _ = await hosts(store, load)
    await first.look(2)
    store.expire(first.holder.lease)
    first.holder.lease = await store.grant(60)
    await first.look(2)
    found = await store.get(KEYS.scaling("pets"))
    assert found is not None and found.lease == first.holder.lease


async def test_advice_ends_with_its_policy(store: MemoryStore) -> None:
    """The key is deleted, and the claim given up; one that is only watched advises nobody."""
    load = Load()
    first, _ = await hosts(store, load)
    await first.look(2)
    first.policy({**UP, "mode": "audit"})
    load.pending = 14.0
    await first.look(6)
    assert await advice(store) is None and not first.told
    assert first.scaler.standing["pets"].advice.replicas == 3 and first.scaler.standing["pets"].wanted.audit
    assert first.scaler.patterns() == ["pets"]
    first.policy(None)
    await first.look()
    assert await claimant(store) == "" and not first.scaler.standing and first.scaler.patterns() == []


async def test_advice_ends_with_its_policy_where_nobody_is_in_charge(store: MemoryStore) -> None:
    """No instance was there when it was deleted; what still has a policy, and what others hold, stays."""
    load = Load()
    first, second = await hosts(store, load)
    first.put(KEYS.policy("scale", "birds"), json.dumps(UP).encode())
    for service in ("birds", "held"):
        await store.put(KEYS.advice(service), encode(Advised(replicas=5)))
    await store.put(KEYS.scaling("held"), encode(Claimed(agent="h9")))
    await first.look(2)
    assert await advice(store) is not None
    for host in (first, second):
        for id in ("a", "b"):
            host.put(KEYS.instance("pets", id), None)
    await first.look(40)
    assert await claimant(store) == "" and await advice(store) is not None
    for host in (first, second):
        host.policy(None)
    await second.look(40)
    assert await advice(store) is not None
    await first.look(40)
    assert await advice(store) is None and await claimant(store) == ""
    assert await store.get(KEYS.advice("birds")) is not None and await store.get(KEYS.advice("held")) is not None


async def test_what_is_missing_takes_nothing_away(store: MemoryStore) -> None:
    """And is named in the reason."""
    load = Load()
    first, _ = await hosts(store, load)
    first.instances("a", "b", "c", "d", healthy=3)
    load.missing = {"h9": Missing("late", "no answer within 1.5 s")}
    await first.look(120)
    standing = first.scaler.standing["pets"]
    assert standing.advice.replicas == 4 and not standing.seen.whole and standing.seen.ready == 3
    assert "h9 was not heard (no answer within 1.5 s)" in standing.advice.reason
    load.missing = {}
    await first.look(10)
    assert first.scaler.standing["pets"].advice.replicas == 3


async def test_services_that_are_told_together_with_others_look_as_if_nothing_came_to_them(store: MemoryStore) -> None:
    """So nothing is taken away while there are more than figures have room for."""
    load = Load()
    first, _ = await hosts(store, load)
    first.instances("a", "b", "c", "d")
    load.others = True
    await first.look(120)
    standing = first.scaler.standing["pets"]
    assert standing.advice.replicas == 4 and not standing.seen.whole and "told together" in standing.advice.reason
    load.others = False
    await first.look(10)
    assert first.scaler.standing["pets"].advice.replicas == 3


async def test_who_cannot_read_what_was_advised_does_not_begin(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor advises what there happens to be: he goes on with it once he can."""
    load = Load()
    first, second = await hosts(store, load)
    load.pending = 14.0
    await first.look(5)
    store.expire(first.holder.lease)
    load.pending = 0.0

    async def away(key: str) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "get", away)
        for _ in range(int(2 * STEP_S)):
            with contextlib.suppress(StoreError):
                await second.look()
    assert await claimant(store) == second.table.host
    await second.look(int(2 * STEP_S))
    told = second.scaler.standing["pets"].advice
    assert told.replicas == 3 and not second.told


async def test_advice_that_fails_for_one_service_is_given_for_the_others(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: a mistake of ours too."""
    load = Load()
    first, _ = await hosts(store, load)
    first.put(KEYS.policy("scale", "birds"), json.dumps(UP).encode())
    first.put(KEYS.instance("birds", "a"), encode(Instance(address="10.0.0.9", port=80)))
    load.pending = 14.0
    advise = first.scaler._write

    async def failing(service: str, *more: Any) -> None:
        if service == "birds":
            raise OverflowError("cannot convert float infinity to integer")
        await advise(service, *more)

    monkeypatch.setattr(first.scaler, "_write", failing)
    await first.look(6)
    told = await advice(store)
    assert told is not None and told.replicas == 3


async def test_etcd_that_takes_nothing_is_asked_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is told twice of what was not put."""
    load = Load()
    first, _ = await hosts(store, load)
    await first.look(2)
    load.pending = 14.0
    transact = store.transact

    async def away(*_: Any) -> Any:
        raise Unavailable("etcd is away")

    monkeypatch.setattr(store, "transact", away)
    for _ in range(4):
        first.now += 2.0
        try:
            await first.scaler.look()
        except StoreError:
            pass
    monkeypatch.setattr(store, "transact", transact)
    await first.look()
    told = await advice(store)
    assert told is not None and told.replicas == 3


async def test_garbage_in_the_place_of_advice_is_written_over(store: MemoryStore) -> None:
    """Whoever put it there."""
    load = Load()
    first, _ = await hosts(store, load)
    await store.put(KEYS.advice("pets"), b'{"replicas": "many"}')
    await first.look(2)
    told = await advice(store)
    assert told is not None and told.replicas == 2


def test_a_row_of_figures_is_what_policies_ask_about() -> None:
    """A second, and of all instances together; what nobody sees is not known."""
    row = Tally({2: 90, 5: 10}, 0, {10: 100}, {IN_FLIGHT: 2500, "shed/refused": 25})
    found = figures(row, 10)
    assert (found.rate, found.in_flight, found.pending, found.cpu, found.shed) == (10, 2.5, 0, None, 0.25)
    assert found.p99 is not None and found.p50 is not None and found.p50 < found.p99
    assert figures(Tally({}, 0, {}, {CPU: 700}), 10).cpu == 0.7 and figures(Tally({}, 0, {}, {}), 10).shed == 0.0


def test_the_keys_are_those_of_the_page() -> None:
    """One service each."""
    assert KEYS.parse(KEYS.advice("pets.production")) == (Room.SCALE, "pets.production", "")
    assert KEYS.parse(KEYS.scaling("pets/production")) == (Room.SCALING, "pets.production", "")
