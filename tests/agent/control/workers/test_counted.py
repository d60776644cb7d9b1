"""What workers counted: it stays, and is heard without a question."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import trio

from agent.frames import Commit, Stage
from tests.support.fleet import running, service, upstream
from tests.support.proxy import GET, endpoint


def requests_of(figures: list[dict[str, Any]]) -> tuple[int, int]:
    """Requests, and observations of the histogram."""
    found = [one["services"].get("pets.production") for one in figures if "services" in one]
    told = [one for one in found if one]
    return sum(one["requests"].get("2xx", 0) for one in told), sum(sum(one["duration_buckets"]) for one in told)


async def test_what_a_killed_worker_counted_stays() -> None:
    """What was shown never falls: one worker is killed, another one hangs first, the next counts on."""
    async with upstream() as port, running() as run:
        run.tell(service(port))
        shown = 0
        for signals in ((signal.SIGKILL,), (signal.SIGSTOP, signal.SIGKILL), (signal.SIGKILL,)):
            await run.until(lambda: run.fleet.ready)
            (pid,) = run.pids
            client = await run.client()
            for _ in range(5):
                assert (await client.ask(GET)).endswith(b"ok")
            shown += 5
            assert requests_of(await run.fleet.metrics()) == (shown, shown)
            for number in signals:
                os.kill(pid, number)
                assert requests_of(await run.fleet.metrics()) == (shown, shown), "it does not answer any more"
            await run.until(lambda pid=pid: run.pids not in ([], [pid]))
            assert requests_of(run.fleet.counted()) == (shown, shown)


async def test_what_was_counted_is_heard_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies before anybody looks at the metrics loses its last moments only."""
    monkeypatch.setattr("agent.control.workers.fleet.COUNT_EVERY_S", 0.01)
    async with upstream() as port, running() as run:
        run.tell(service(port))
        await run.until(lambda: run.fleet.ready)
        client = await run.client()
        assert (await client.ask(GET)).endswith(b"ok")
        with trio.fail_after(60):
            while requests_of(run.fleet.counted()) != (1, 1):
                await trio.sleep(0.01)
        (pid,) = run.pids
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: run.pids not in ([], [pid]))
        assert requests_of(await run.fleet.metrics()) == (1, 1)


async def test_many_services_are_told_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is missing, and none is told twice."""
    monkeypatch.setattr("agent.control.workers.fleet.PORTION", 3)
    names = [f"s{number}" for number in range(10)]
    async with upstream() as port, running() as run:
        run.tell([*(Stage(name, 1, [endpoint(port)], {}) for name in names), Commit(1)])
        await run.until(lambda: run.fleet.ready)
        client = await run.client()
        for name in names[1:]:
            assert (await client.ask(GET.replace(b"pets.production", name.encode()))).endswith(b"ok")
        (told,) = await run.fleet.metrics()
        assert {name: one["requests"] for name, one in told["services"].items()} == {n: {"2xx": 1} for n in names[1:]}
        assert told["connections"]["open"] == 1 and "next" not in told
