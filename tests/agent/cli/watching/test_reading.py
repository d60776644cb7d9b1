"""`shoal watch` on an etcd that breaks, and for a reader who goes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from agent.cli.failure import Exit, Failure
from agent.cli.printing import Printer
from agent.cli.watching.line import Line
from agent.cli.watching.reading import Watching
from agent.cli.watching.selection import Selection
from registry.keys import Keys
from registry.records import Ack, Agent, encode
from tests.support.memory import MemoryStore

KEYS = Keys()


class Told(Printer):
    """Keeps what is printed."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__("json")
        self.lines: list[dict[str, Any]] = []
        self._error = error

    def line(self, value: Any) -> None:
        if self._error is not None:
            raise self._error
        self.lines.append(value)

    def flush(self) -> None:
        """Nothing is kept back."""

    async def wait_for(self, what: str, text: str = "") -> dict[str, Any]:
        with trio.fail_after(20):
            while True:
                found = [line for line in list(self.lines) if line["what"] == what and text in line["text"]]
                if found:
                    return found[0]
                await trio.sleep(0.02)


def of(store: MemoryStore, told: Told) -> Watching:
    return Watching(store, "default", Selection(), told)


async def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    """Nothing is missed; after a compaction it is said that something may be."""
    store, told = MemoryStore(), Told()
    await store.put(KEYS.agent("a"), encode(Agent(address="10.0.0.1", inbound_port=1)))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            assert await of(store, told).run(once=True, for_s=0) is True

        nursery.start_soon(run)
        first = await told.wait_for("etcd", "watching the mesh default")
        assert first["stands"]["agents"] == 1
        store.cut()
        await store.put(KEYS.policy("retry", "pets"), b'{"attempts": 2}')
        await store.delete(KEYS.policy("retry", "pets"))
        await told.wait_for("policy", "retry/pets was put")
        await told.wait_for("policy", "retry/pets was removed")
        assert not [line for line in told.lines if line.get("missed")]
        store.down = True
        store.cut()
        await told.wait_for("etcd", "does not answer")
        store.down = False
        await store.put(KEYS.policy("timeout", "pets"), b"{}")
        await store.delete(KEYS.policy("timeout", "pets"))
        await store.put(KEYS.policy("route", "pets"), b'{"active": "v1"}')
        store.compact(store.revision)
        await told.wait_for("etcd", "answers again")
        await told.wait_for("policy", "route/pets was put")
        await store.put(KEYS.ack("a"), encode(Ack(revision=store.revision)))
        await told.wait_for("in_force")
    assert all(json.dumps(line) for line in told.lines)
    await store.aclose()


async def test_an_etcd_that_is_not_there_ends_it() -> None:
    """At the beginning; nobody waits for a wrong address."""
    store = MemoryStore()
    store.down = True
    with pytest.raises(Failure) as failure, trio.fail_after(20):
        await of(store, Told()).run(once=False, for_s=0)
    assert failure.value.code is Exit.UNREACHABLE


@pytest.mark.parametrize("error", [BrokenPipeError(), KeyboardInterrupt()])
async def test_a_reader_who_goes_ends_it(error: BaseException) -> None:
    """As of every command, whichever task hears of it."""
    with pytest.raises(type(error)), trio.fail_after(20):
        await of(MemoryStore(), Told(error)).run(once=False, for_s=0)


async def test_it_ends_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    """For people: what was watched on standard output, what else there is on standard error, nothing that a terminal
    obeys."""
    store = MemoryStore()
    await store.put(KEYS.agent("a"), encode(Agent(address="10.0.0.1", inbound_port=1)))
    watching = Watching(store, "default", Selection(), Printer("table"))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            assert await watching.run(once=False, for_s=1.5) is None

        nursery.start_soon(run)
        while not watching._following.begun:
            await trio.sleep(0.01)
        await store.put(KEYS.policy("retry", "pets"), json.dumps({"attempts": 2, "by": "a\x1b[2J\u202e\nb"}).encode())
    out, err = capsys.readouterr()
    assert out.count("policy  ") == 1 and r"by a\x1b[2J\u202e\nb" in out and "watching" in err
    assert "\x1b" not in out + err
    await store.aclose()


def test_a_line_says_when_and_where() -> None:
    """A clock, the revision, what it is."""
    assert Line(0.25, 7, "in_force", "x").plain()[8:] == ".250  @7        in force  x"
