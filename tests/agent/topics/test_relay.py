"""From the spool to a real Redis and to a double of Pulsar that die, hang, refuse and lie."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.topics import pulsar as pulsar_topics
from agent.topics import redis as redis_topics
from agent.topics.broker import Credentials
from agent.topics.brokers import broker_of
from agent.topics.relay import Relay
from agent.topics.spool import Spool
from policies.kinds.shed.topic import parse_topic
from tests.support.pulsar import PulsarDouble
from tests.support.redis import RedisProcess

NOBODY = Credentials()


@pytest.fixture
def pulsar() -> Iterator[PulsarDouble]:
    double = PulsarDouble()
    try:
        yield double
    finally:
        double.close()


def record(number: int) -> bytes:
    told = {"id": f"r-{number}", "service": "orders.production", "at": 1.5, "method": "POST", "target": "/"}
    return json.dumps({**told, "headers": []}).encode()


@asynccontextmanager
async def relaying(url: str, folder: Path, credentials: Credentials = NOBODY, **more: Any) -> AsyncIterator[Relay]:
    spool = Spool(folder / "spool")
    relay = Relay(url, spool, lambda: broker_of(parse_topic(url), credentials), **more)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        yield relay
        nursery.cancel_scope.cancel()
    spool.close()


async def put(relay: Relay, *numbers: int) -> None:
    await relay.spool.append([record(number) for number in numbers])
    relay.stir()


async def until(condition: Callable[[], Any], patience_s: float = 60) -> None:
    with trio.fail_after(patience_s):
        while not condition():
            await trio.sleep(0.02)


async def test_what_no_subscription_wants_is_never_produced(pulsar: PulsarDouble, tmp_path: Path) -> None:
    """Pulsar would delete it at once."""
    async with relaying(pulsar.url(), tmp_path) as relay:
        await put(relay, *range(300))
        await until(lambda: not relay.spool.waiting)
    assert sorted(pulsar.records()) == sorted(map(record, range(300))) and pulsar.lost == 0
    messages = pulsar.topics["public/default/orders"]["shoal-replay"].values()
    assert {message["properties"]["id"] for message in messages} == {f"r-{n}" for n in range(300)}


async def test_acks_that_never_come(pulsar: PulsarDouble, tmp_path: Path) -> None:
    """A new connection after a while, and everything again; nothing leaves the spool."""
    pulsar.silent = True
    async with relaying(pulsar.url(), tmp_path, answer_s=0.3) as relay:
        await put(relay, *range(100))
        await until(lambda: "no word from the broker within 0.3 s" in relay.problem)
        assert relay.spool.waiting == 100
        pulsar.silent = False
        await until(lambda: not relay.spool.waiting)
        assert relay.problem == ""
    assert sorted(pulsar.records()) == sorted(map(record, range(100)))


async def test_acks_that_get_lost(pulsar: PulsarDouble, tmp_path: Path) -> None:
    """Twice in the topic, under the same id."""
    pulsar.mute = True
    async with relaying(pulsar.url(), tmp_path, answer_s=0.3) as relay:
        await put(relay, 1, 2)
        await until(lambda: relay.problem)
        pulsar.mute = False
        await until(lambda: not relay.spool.waiting)
    assert set(pulsar.records()) == {record(1), record(2)} and len(pulsar.records()) >= 4


async def test_what_is_refused_comes_again_and_holds_up_nothing(pulsar: PulsarDouble, tmp_path: Path) -> None:
    pulsar.refusals = 1
    async with relaying(pulsar.url(), tmp_path, again_min_s=2.0) as relay:
        await put(relay, *range(10))
        await until(lambda: relay.refused and relay.spool.waiting == 1)
        assert "send-error:8: not now" in relay.refused and len(pulsar.records()) == 9
        await until(lambda: not relay.spool.waiting)
        assert relay.refused == ""


async def test_all_that_may_be_under_way_is_refused(pulsar: PulsarDouble, tmp_path: Path) -> None:
    """And then none: it goes on by itself."""
    pulsar.refusals = 64
    async with relaying(pulsar.url(), tmp_path, again_min_s=0.2) as relay:
        await put(relay, *range(200))
        await until(lambda: not relay.spool.waiting)
    assert len(pulsar.records()) == 200


async def test_a_broker_that_dies(pulsar: PulsarDouble, tmp_path: Path) -> None:
    async with relaying(pulsar.url(), tmp_path) as relay:
        for round in range(3):
            await put(relay, *range(round * 100, round * 100 + 50))
            await trio.to_thread.run_sync(pulsar.kill)
            await put(relay, *range(round * 100 + 50, round * 100 + 100))
            await until(lambda: relay.problem)
            await trio.to_thread.run_sync(pulsar.start)
            await until(lambda: not relay.spool.waiting)
    assert set(pulsar.records()) == set(map(record, range(300))) and pulsar.lost == 0


async def test_a_token_that_is_wrong(pulsar: PulsarDouble, tmp_path: Path) -> None:
    pulsar.token = "right"
    async with relaying(pulsar.url(), tmp_path, Credentials("", "wrong")) as relay:
        await put(relay, 1)
        await until(lambda: relay.problem)
        assert relay.problem == "Pulsar refused the connection with 401; is the token right?"
    async with relaying(pulsar.url(), tmp_path, Credentials("", "right")) as relay:
        await until(lambda: not relay.spool.waiting)


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def nonsense(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)


async def nested(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"*1\r\n" * 50_000)


async def huge(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"$999999999999\r\n")


async def flood(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"x" * 65536)


async def drip(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"+")
        await trio.sleep(0.05)


async def closing(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)


async def hello(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")


@pytest.mark.parametrize("kind", ["redis", "pulsar"])
@pytest.mark.parametrize("handler", [nonsense, nested, huge, flood, drip, closing, hello], ids=lambda h: h.__name__)
async def test_what_answers_is_no_broker(
    handler: Handler, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a problem in words; nothing is lost, and nothing falls over."""
    monkeypatch.setattr(pulsar_topics, "ANSWER_S", 0.5)
    monkeypatch.setattr(pulsar_topics, "CONNECT_S", 0.5)
    monkeypatch.setattr(redis_topics, "ANSWER_S", 0.5)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await handler(stream)
                except trio.BrokenResourceError:
                    pass

        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"redis://127.0.0.1:{port}/0?stream=s"
        if kind == "pulsar":
            url = f"ws://127.0.0.1:{port}/ws/v2/producer/persistent/a/b/c"
        async with relaying(url, tmp_path, answer_s=0.5) as relay:
            await put(relay, 1)
            await until(lambda: relay.problem)
            assert "mistake" not in relay.problem and relay.spool.waiting == 1
        nursery.cancel_scope.cancel()


async def test_redis_refuses_and_then_does_not(tmp_path: Path) -> None:
    """What is no stream is Redis' own word; when it is one, everything goes."""
    redis = RedisProcess(tmp_path)
    try:
        await trio.to_thread.run_sync(redis.ask, "SET", "orders", "text")
        async with relaying(redis.url("orders"), tmp_path, again_min_s=0.2) as relay:
            await put(relay, 1, 2)
            await until(lambda: "WRONGTYPE" in relay.refused)
            assert relay.spool.waiting == 2 and relay.problem == ""
            await trio.to_thread.run_sync(redis.ask, "DEL", "orders")
            await until(lambda: not relay.spool.waiting)
        assert sorted(await trio.to_thread.run_sync(redis.entries, "orders")) == [record(1), record(2)]
    finally:
        redis.close()


async def test_redis_hangs(tmp_path: Path) -> None:
    redis = RedisProcess(tmp_path)
    try:
        async with relaying(redis.url("orders"), tmp_path, answer_s=0.5) as relay:
            await put(relay, 0)
            await until(lambda: not relay.spool.waiting)
            redis.pause(on=True)
            await put(relay, *range(1, 50))
            await until(lambda: relay.problem)
            redis.pause(on=False)
            await until(lambda: not relay.spool.waiting)
        found = await trio.to_thread.run_sync(redis.entries, "orders")
        assert set(found) == set(map(record, range(50)))
    finally:
        redis.close()


async def test_redis_wants_a_password_and_forgets(tmp_path: Path) -> None:
    """Without one: its word. With one, and no append-only file: delivered, with a warning."""
    redis = RedisProcess(tmp_path, "--requirepass", "open", "--appendonly", "no")
    try:
        async with relaying(redis.url("orders"), tmp_path) as relay:
            await put(relay, 1)
            await until(lambda: "NOAUTH" in relay.problem + relay.refused)
        async with relaying(redis.url("orders"), tmp_path, Credentials("", "wrong")) as relay:
            await until(lambda: "WRONGPASS" in relay.problem)
        async with relaying(redis.url("orders"), tmp_path, Credentials("", "open")) as relay:
            await until(lambda: not relay.spool.waiting)
            assert "appendonly no" in relay.warning
    finally:
        redis.close()


def test_the_double_forgets_what_nobody_wants(pulsar: PulsarDouble) -> None:
    """It is as strict as Pulsar, or the test above would show nothing."""
    from trio_websocket import open_websocket_url

    async def produce() -> None:
        async with open_websocket_url(pulsar.url("a/b/c")) as socket:
            await socket.send_message(json.dumps({"payload": base64.b64encode(b"x").decode(), "properties": {}}))
            await socket.get_message()

    trio.run(produce)
    assert pulsar.lost == 1
