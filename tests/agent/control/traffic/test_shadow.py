from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace

from agent import frames, framing
from agent.control.mesh.table import Table
from agent.control.traffic import shadow
from agent.control.traffic.shadow import MAX_WAITING, MAX_WAITING_BYTES, ShadowTallies
from agent.figures.compared import gathered
from policies.kinds.shadow.answer import Asked
from policies.kinds.shadow.comparison import Tally, note
from policies.kinds.shadow.difference import Difference
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.lease import Holder
from registry.records import Compared, decode
from registry.store import Change
from tests.support.memory import MemoryStore

SERVICE = "pets.production"
COMPARE: dict[str, Any] = {"primary": "v1", "candidate": {"version": "v2"}, "thresholds": {"min_requests": 10}}


def put(table: Table, revision: int, pattern: str = SERVICE, mode: str = "enforce", **compare: Any) -> None:
    """A document that control has taken."""
    text = json.dumps({"mode": mode, "compare": {**COMPARE, **compare}}).encode()
    table.in_force.take("shadow", pattern, Change("", text, revision))


def answer(body: Any = None, status: int = 200, **more: Any) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [["content-type", "application/json"], ["date", "now"]]
    return {
        "status": status, "headers": headers, "body": raw, "truncated": False, "error": "", "latency_s": 0.01, **more
    }  # fmt: skip


def frame(number: int = 0, *, revision: int = 7, service: str = SERVICE, **answers: Any) -> frames.Compared:
    """As a worker sends it, through the very encoding."""
    three = {"primary": answer({"a": 1}), "secondary": answer({"a": 1}), "candidate": answer({"a": 1}), **answers}
    request = Asked("GET", f"/pets/{number}?token=secret", f"id-{number}")
    answers = {role: value for role, value in three.items() if value is not None}
    sent = frames.Compared(service, revision, request, answers)
    (received,) = framing.Decoder(frames.to_control).feed(framing.encode(sent))
    assert isinstance(received, frames.Compared)
    return received


@asynccontextmanager
async def running(table: Table) -> AsyncIterator[ShadowTallies]:
    made = ShadowTallies(table)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture
def table() -> Table:
    made = Table(Keys(), "here")
    put(made, 7)
    return made


async def until(question: Any) -> None:
    with trio.fail_after(60):
        while not question():
            await trio.sleep(0.001)


async def test_what_workers_report_is_counted(table: Table) -> None:
    """Exactly the field that differs; nothing of what a request's query held is kept."""
    async with running(table) as made:
        for n in range(30):
            made.observe(frame(n, candidate=answer({"a": 2})))
        await until(lambda: made.compared == 30)
        found = made.report(SERVICE)
    assert found is not None
    assert (found["service"], found["revision"], found["outcome"], found["total"]) == (SERVICE, 7, "regression", 30)
    assert [(v["field"], v["raw"], v["noise"]) for v in found["fields"]] == [("$.a", 30, 0)]
    assert found["fields"][0]["examples"][0]["request"].startswith("GET /pets/")
    assert "secret" not in json.dumps(found)
    assert found["median_s"]["candidate"] == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"revision": 6}, "another revision"),
        ({"primary": answer(error="reset", status=0)}, "the primary failed"),
        ({"secondary": None}, "not all answered"),
    ],
)
async def test_what_says_nothing_is_not_counted(table: Table, sent: dict[str, Any], why: str) -> None:
    """But how often that was is known."""
    async with running(table) as made:
        made.observe(frame(**sent))
        await until(lambda: (made.report(SERVICE) or {}).get("skipped") == {why: 1})
        assert made.compared == 0


async def test_what_a_worker_found_unusable_is_counted_by_its_reason(table: Table) -> None:
    """As there was no other instance to ask a second time; and a request that could be compared is."""
    async with running(table) as made:
        told = frame(primary=None, secondary=None, candidate=None)
        made.observe(replace(told, request=replace(told.request, unusable="no other instance")))
        made.observe(frame())
        await until(lambda: made.compared == 1)
        assert (made.report(SERVICE) or {})["skipped"] == {"no other instance": 1}


async def test_answers_of_another_version_are_none_of_the_primary(table: Table) -> None:
    """When the worker tells which version answered."""
    async with running(table) as made:
        for version in ("v0", "v1", ""):
            told = frame()
            made.observe(replace(told, request=replace(told.request, version=version)))
        await until(lambda: made.compared == 2)
        assert (made.report(SERVICE) or {})["skipped"] == {"another version answered": 1}


async def test_another_revision_begins_anew(table: Table) -> None:
    """And none, or one that does not compare, or only audits, is no tally."""
    async with running(table) as made:
        made.observe(frame(candidate=answer({})))
        await until(lambda: made.compared == 1)
        put(table, 8)
        assert (made.report(SERVICE) or {})["total"] == 0
        made.observe(frame(revision=8))
        await until(lambda: made.compared == 2)
        assert (made.report(SERVICE) or {})["total"] == 1
        put(table, 9, mode="audit")
        assert made.report(SERVICE) is None
        for pattern in list(table.policies["shadow"]):
            table.in_force.take("shadow", pattern, Change("", None, 8))
        assert made.report(SERVICE) is None
        put(table, 10, pattern="*.production")
        assert (made.report(SERVICE) or {})["revision"] == 10
        table.in_force.take("shadow", "*", Change("", b'{"copies": [{"version": "v2"}]}', 11))
        assert made.report("other") is None


async def test_a_document_that_changes_meanwhile(table: Table) -> None:
    """What was being compared under the old one does not count under the new one."""
    async with running(table) as made:
        big = [{"a": n, "b": [n] * 5} for n in range(2000)]
        made.observe(frame(candidate=answer(big), primary=answer(big[1:]), secondary=answer(big)))
        await trio.sleep(0.001)
        put(table, 8)
        assert (made.report(SERVICE) or {})["total"] == 0
        await until(lambda: made._waiting_bytes == 0)
        assert (made.report(SERVICE) or {})["total"] == 0


async def test_what_waits_is_bounded(table: Table) -> None:
    """In number and in bytes; what goes beyond is dropped, and counted."""
    made = ShadowTallies(table)
    for n in range(MAX_WAITING + 36):
        made.observe(frame(n))
    assert made.dropped == 36
    assert (made.report(SERVICE) or {})["skipped"] == {"too much at once": 36}
    made = ShadowTallies(table)
    large = answer(b"x" * 1024 * 1024)
    for n in range(20):
        made.observe(frame(n, primary=large, secondary=large, candidate=large))
    assert made.dropped == 20 - MAX_WAITING_BYTES // (3 * 1024 * 1024)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await until(lambda: made._waiting_bytes == 0)
        nursery.cancel_scope.cancel()
    assert made.compared == 20 - made.dropped


async def test_strange_answers_do_not_end_the_agent(table: Table) -> None:
    """Nor do they keep the next ones from being compared."""
    hostile = [b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff\xfe", b"{" * 9, b'{"a": 1e999}']
    async with running(table) as made:
        for n, body in enumerate(hostile):
            made.observe(frame(n, candidate=answer(body)))
        strange = frame(99)
        strange.answers["primary"] = replace(strange.answers["primary"], headers=5)
        made.observe(strange)
        made.observe(frame(100))
        await until(lambda: made.compared == len(hostile) + 1)


async def test_tallies_are_told_to_the_mesh(table: Table, autojump_clock: trio.testing.MockClock) -> None:
    """On the lease, when they have changed, at most every five seconds; and taken back with the document."""
    store, keys = MemoryStore(), Keys()
    holder, made = Holder(store), ShadowTallies(table)
    key = keys.tally(SERVICE, "here")

    async def told() -> Compared | None:
        found = await store.get(key)
        return None if found is None else decode(Compared, found.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        nursery.start_soon(made.tell, holder, keys, "here")
        await trio.sleep(6)
        assert await told() is None
        state = made._state(SERVICE)
        assert state is not None
        for n in range(3):
            state.tally.total += 1
            await trio.sleep(6)
            record = await told()
            assert record is not None
            assert (record.revision, record.tally["total"], record.thresholds["min_requests"]) == (7, n + 1, 10)
        version = (await store.get(key)).version  # type: ignore[union-attr]
        await trio.sleep(60)
        assert (await store.get(key)).version == version  # type: ignore[union-attr]
        assert (await store.get(key)).lease == holder.lease  # type: ignore[union-attr]
        for state, own in (("own", True), ("common", False), ("own_only", True)):
            word = json.dumps({"state": state, "rooms": ["reports"] if own else []}).encode()
            table.apply([Change(keys.layout, word, 8)], 8)
            await trio.sleep(6)
            here, there = (keys.tally(SERVICE, "here", own=form) for form in (own, not own))
            moved = await store.get(here)
            assert moved is not None and moved.lease == holder.lease
            assert decode(Compared, moved.value).tally["total"] == 3
            assert await store.get(there) is None
        key = here
        for pattern in list(table.policies["shadow"]):
            table.in_force.take("shadow", pattern, Change("", None, 8))
        await trio.sleep(6)
        assert await told() is None
        nursery.cancel_scope.cancel()


def test_a_large_tally_is_told_in_a_small_record(table: Table) -> None:
    """That every agent can read."""
    state = ShadowTallies(table)._state(SERVICE)
    assert state is not None
    for n in range(1000):
        name = "$." + "x" * 200 + str(n)
        note(state.tally, "GET /" + "y" * 150, str(n), {name: Difference(name, "a" * 100, "b" * 100)}, {})
    record = shadow._record(state)
    read = decode(Compared, shadow.encode(record))
    kept = msgspec.convert(read.tally, Tally, strict=False)
    assert kept.total == 1000 and kept.omitted == 1000 - len(kept.fields) > 0


async def test_two_agents_and_the_command_agree(table: Table, etcd: EtcdProcess) -> None:
    """Through a real etcd: what two hosts counted is what `shoal diff` says."""
    keys = Keys("compared")
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        revision = await store.put(keys.policy("shadow", SERVICE), b"{}")
        put(table, revision)
        holder, other_holder = Holder(store), Holder(store)
        async with running(table) as one, running(table) as other, trio.open_nursery() as nursery:
            for n in range(20):
                one.observe(frame(n, revision=revision, candidate=answer({"a": 2})))
                other.observe(frame(n + 20, revision=revision, candidate=answer({"a": 3})))
            await until(lambda: one.compared == other.compared == 20)
            nursery.start_soon(one.tell, holder, keys, "one")
            nursery.start_soon(other.tell, other_holder, keys, "other")
            nursery.start_soon(holder.run)
            nursery.start_soon(other_holder.run)
            with trio.fail_after(60):
                while (found := await gathered(store, "compared", SERVICE))["agents"] != ["one", "other"]:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert (found["total"], found["outcome"]) == (40, "regression")
    assert {example["candidate"] for example in found["fields"][0]["examples"]} <= {"2", "3"}
