"""Access records of a worker."""

import json
import time
from typing import Any

import pytest

from agent.proxy.report import access
from tests.support.proxy import GET, Proxy, always_ok, endpoint, running_proxy


def records(proxy: Proxy) -> list[Any]:
    """What the worker would send to control now."""
    frame = proxy.worker.recorder.take(100_000)
    return [json.loads(line) for line in frame.lines.splitlines()] if frame else []


async def test_a_record_says_what_happened_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of JSON a request, its bytes as text; also when the wall clock was set meanwhile."""
    async with running_proxy() as proxy:
        proxy.worker.recorder.wanted = True
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        await client.ask(GET.replace(b"GET / ", b'GET /caf%C3%A9?"a" '))
        first = records(proxy)
        jumped = time.time() + 86_400
        monkeypatch.setattr(time, "time", lambda: jumped)
        assert records(proxy) == []
        await client.ask(GET)
        (second,) = records(proxy)
    assert [record["target"] for record in first] == ['/caf%C3%A9?"a"']
    assert abs(second["time"] - jumped) < 60
    assert second["status"] == 200


async def test_a_full_ring_loses_records_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go on."""
    monkeypatch.setattr(access, "RING", 2)
    async with running_proxy() as proxy:
        proxy.worker.recorder.wanted = True
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        for _ in range(5):
            await client.ask(GET)
        assert len(records(proxy)) + proxy.worker.recorder.lost == 5
