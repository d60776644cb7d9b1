"""Access records of a worker."""

import json
import time
from typing import Any

import pytest

from agent.frames import Limits
from agent.proxy.report import access
from tests.support.proxy import GET, Proxy, always_ok, endpoint, running_proxy


def records(proxy: Proxy) -> list[Any]:
    """What the worker would send to control now."""
    frame = proxy.worker.recorder.take(100_000)
    return [json.loads(line) for line in frame.lines.splitlines()] if frame else []


async def test_a_record_says_what_happened_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of JSON a request, its bytes as text; also when the wall clock was set meanwhile."""
    async with running_proxy() as proxy:
        proxy.worker.recorder.keep(True)
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
        proxy.worker.recorder.keep(True)
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        for _ in range(5):
            await client.ask(GET)
        assert len(records(proxy)) + proxy.worker.recorder.lost == 5


@pytest.mark.parametrize(
    ("said", "status", "method", "target", "protocol"),
    [
        (b"GET /a b HTTP/1.1\r\n\r\n", 400, "GET", "/a", ""),
        (b"GET /a HTTP/1.1\r\n\r\n", 400, "GET", "/a", "HTTP/1.1"),
        (b"PUT /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "PUT", "/a", "HTTP/1.0"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "GET", "/a", "HTTP/1.1"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431, "GET", "/a", "HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\n\n", 400, "\x16\x03\x01\x02\x00\x01\x00\n\n", "", ""),
        (b"GET /slow HTTP/1.1\r\nHo", 408, "GET", "/slow", "HTTP/1.1"),
    ],
)
async def test_what_is_refused_before_there_is_a_request(
    said: bytes, status: int, method: str, target: str, protocol: str
) -> None:
    """Has its record, with what came of it and whose it was."""
    async with running_proxy(head_s=0.2 if status == 408 else 10.0) as proxy:
        proxy.worker.recorder.keep(True)
        client = await proxy.client()
        await client.send(said)
        assert b" %d " % status in await client.head()
        (record,) = records(proxy)
    told = (record["status"], record["method"], record["target"], record["protocol"], record["client"])
    assert told == (status, method, target, protocol, "127.0.0.1")
    assert record["why"] and record["service"] == ""


async def test_a_connection_that_is_turned_away_has_its_record() -> None:
    """Though nothing was heard of it."""
    async with running_proxy() as proxy:
        proxy.worker.recorder.keep(True)
        proxy.worker.limits = Limits(max_connections=0)
        assert b" 503 " in await (await proxy.client()).head()
        (record,) = records(proxy)
    assert (record["status"], record["client"], record["direction"]) == (503, "127.0.0.1", "outbound")


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("host", [b"pets.production", b"nobody"])
async def test_who_asked_and_how(protocol: str, host: bytes) -> None:
    """Address, protocol, and the beginning of the user agent, as it was sent; of a name that is not known, too."""
    async with running_proxy() as proxy:
        proxy.worker.recorder.keep(True)
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        client = await proxy.client()
        agent = b'tester "1"\xe9 ' + b"x" * 1000
        await client.send(b"GET / %b\r\nHost: %b\r\nUser-Agent: %b\r\n\r\n" % (protocol.encode(), host, agent))
        await client.head()
        await client.until(b"ok" if host != b"nobody" else b"}")
        (record,) = records(proxy)
    assert (record["client"], record["protocol"]) == ("127.0.0.1", protocol)
    assert record["user_agent"] == agent.decode("latin-1")[:256]
    assert record["status"] == (404 if host == b"nobody" else 200)
