"""`/api/v1/live` of a whole agent: pages that watch, that say what makes no sense, that read slowly, that go."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from wsproto.events import TextMessage

from agent.control.admin.live import socket
from agent.control.admin.server import MAX_CONNECTIONS_EACH, MOST_SAID_BYTES
from agent.control.admin.v1.problem import ROOT as API
from agent.process import guests
from registry.etcd.server import EtcdProcess
from tests.agent.control.admin.test_api import Running, running
from tests.support.websocket import Closed, Page


@pytest.fixture
async def agent(etcd: EtcdProcess, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    mesh = f"m{abs(hash(request.node.name)) % 10**9}"
    async with running(etcd, mesh, tmp_path) as started:
        yield started


@asynccontextmanager
async def page(agent: Running, *, by_port: bool = True, **headers: Any) -> AsyncIterator[Page]:
    """Over the admin port, or over the socket."""
    port = agent.admin_port
    stream: trio.SocketStream
    stream = await (trio.open_tcp_stream("127.0.0.1", port) if by_port else trio.open_unix_socket(agent.socket))
    async with stream:
        yield await Page(stream).open(f"127.0.0.1:{port}" if by_port else "localhost", **headers)


async def nobody_watches(agent: Running) -> None:
    watched = agent.control.parts.watched
    with trio.fail_after(30):
        while watched.connections or watched.watches or watched.looks:
            await trio.sleep(0.02)


@pytest.mark.parametrize("by_port", [True, False])
async def test_a_page_is_told_what_changes(agent: Running, by_port: bool) -> None:
    """At once, and again when it is another one; two pages share a look; what nobody watches any more is not asked."""
    watched = agent.control.parts.watched
    async with page(agent, by_port=by_port) as one, page(agent, by_port=by_port) as other:
        first = await one.watch("/services")
        assert (first["status"], first["body"]["total"]) == (200, 0)
        assert await other.watch("/services?limit=100") == first
        assert (watched.connections, watched.watches, watched.looks) == (2, 2, 1)
        await agent.register()
        for each in (one, other):
            told = await each.told()
            while not told["body"]["total"]:
                told = await each.told()
            assert told["body"]["items"][0]["name"] == "pets"
        await one.say({"unwatch": "w"})
        with trio.fail_after(30):
            while watched.watches > 1:
                await trio.sleep(0.01)
        await other.close()
        with trio.fail_after(30):
            while watched.looks:
                await trio.sleep(0.01)
        assert "now" in await one.hear()
    await nobody_watches(agent)
    text = (await agent.ask("GET", "/metrics")).body.decode()
    assert "shoal_live_connections 0" in text and "shoal_live_looks 0" in text


async def test_a_page_may_watch_all_that_anybody_may_look_at(agent: Running) -> None:
    """By its own path and query; what depends on who asks, or takes a right, is refused in words, and names that are
    taken are watched anew."""
    await agent.register()
    await agent.healthy()
    async with page(agent) as one:
        for path in ("/mesh", "/figures?by=edge", "/figures/series?last_s=600", "/findings", "/agents?scope=mesh"):
            told = await one.watch(path, path)
            assert told["status"] == 200, told
        told = await one.watch("/services/pets/chain", "chain")
        assert told["status"] == 200 and told["body"]["chain"]["service"] == "pets", told
        told = await one.watch("/policies/route/*.none", "w")
        assert told["status"] == 404 and "no route is in force" in told["body"]["detail"]
        refused = {"/me": 403, "/taps": 403, "/requests": 403, "/nothing": 404, "/figures?x=1": 400}
        for path, status in refused.items():
            told = await one.watch(path, "w")
            assert told["status"] == status and told["body"]["path"].startswith("$"), told
    await nobody_watches(agent)


@pytest.mark.parametrize("deflates", [True, False])
async def test_a_message_that_never_ends_is_not_kept(agent: Running, deflates: bool) -> None:
    """Each piece is small on its way, and large when it is unpacked, or there are many of them."""
    piece = " " * (8 * 1024 * 1024 if deflates else 60 * 1024)
    port = agent.admin_port
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        one = await Page(stream).open(f"127.0.0.1:{port}", deflates=deflates)
        tracemalloc.start()
        try:
            with pytest.raises((Closed, trio.BrokenResourceError)), trio.fail_after(30):
                await one.send(TextMessage(data=piece, message_finished=False))
                tracemalloc.reset_peak()
                await one.send(TextMessage(data=piece[: 60 * 1024], message_finished=False))
                while True:
                    await one.hear()
            assert tracemalloc.get_traced_memory()[1] < tracemalloc.get_traced_memory()[0] + 4 * 1024 * 1024
        finally:
            tracemalloc.stop()
    await nobody_watches(agent)


@pytest.mark.parametrize(
    "said",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    ],
    ids=["known before", "upgraded"],
)
async def test_nobody_is_offered_http_2(agent: Running, said: bytes) -> None:
    """By which one connection would have a hundred requests at a time."""
    async with await trio.open_tcp_stream("127.0.0.1", agent.admin_port) as stream:
        await stream.send_all(said)
        with trio.fail_after(30):
            heard = await stream.receive_some()
    assert heard.startswith(b"HTTP/1.1 ") and b" 101 " not in heard, heard


GARBAGE: list[tuple[Any, int]] = [
    ("", 400),
    ("{", 400),
    ("[" * 4000, 400),
    ('{"watch": "\\ud800"}', 400),
    (b"\xff\xfe", 400),
    ("null", 400),
    ({"watch": "w", "path": "/mesh", "every_s": "x"}, 400),
    ({"watch": "w", "path": "/mesh", "every_s": -1}, 400),
    ({"watch": 7, "path": "/mesh"}, 400),
    ({"watch": "w", "path": "mesh"}, 404),
    ({"watch": "w", "path": "/../../state"}, 404),
    ({"watch": "w", "path": "/services/%00%ff"}, 404),
    ({"watch": "w", "path": "/mesh", "more": 1}, 400),
    ({"watch": "w" * 3000, "path": "/mesh"}, 400),
    ("x" * 10_000, 400),
]


async def test_garbage_is_answered_and_ends_nothing(agent: Running) -> None:
    """Each in words; the page goes on watching."""
    async with page(agent) as one:
        for said, status in GARBAGE:
            await one.say(said)
            told = await one.hear()
            while "now" in told:
                told = await one.hear()
            assert told["status"] == status, (said, told)
        assert (await one.watch("/mesh"))["status"] == 200
        with pytest.raises(Closed) as closed:
            await one.say("x" * (MOST_SAID_BYTES + 1))
            while True:
                await one.hear()
        assert closed.value.code in (1006, 1009)
    await nobody_watches(agent)
    async with page(agent) as one:
        await one.stream.send_all(b"\xff" * 1000)  # no frames at all
        with pytest.raises(Closed):
            while True:
                await one.hear()
    await nobody_watches(agent)
    assert (await agent.ask("GET", "/readyz")).status == 200


async def test_there_are_bounds(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of watches on a connection, and of connections; what went makes room."""
    monkeypatch.setattr(socket, "MOST_CONNECTIONS", 3)
    async with page(agent) as one, page(agent) as other:
        for number in range(socket.MOST_WATCHES):
            assert (await one.watch(f"/services?limit={number + 1}", f"w{number}"))["status"] == 200
        assert (await one.watch("/mesh", "more"))["status"] == 429
        assert (await one.watch("/mesh", "w0"))["status"] == 200
        with pytest.raises(Closed) as closed:
            async with page(agent):
                raise AssertionError
        assert closed.value.code == 403
        async with page(agent, by_port=False) as known:
            assert (await known.watch("/mesh"))["status"] == 200
        await other.close()
        with trio.fail_after(30):
            while agent.control.parts.watched.connections > 1:
                await trio.sleep(0.01)
        async with page(agent) as another:
            assert (await another.watch("/mesh"))["status"] == 200
    await nobody_watches(agent)


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://elsewhere.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
async def test_pages_of_others_do_not_get_in(agent: Running, headers: dict[str, str]) -> None:
    """By whatever a browser says of them; the agent's own does."""
    with pytest.raises(Closed) as closed:
        async with page(agent, **headers):
            raise AssertionError
    assert closed.value.code == 403
    async with page(agent, origin=f"http://127.0.0.1:{agent.admin_port}") as own:
        assert (await own.watch("/mesh"))["status"] == 200


@pytest.mark.parametrize("by_port", [True, False])
async def test_who_takes_nothing_is_let_go(agent: Running, monkeypatch: pytest.MonkeyPatch, by_port: bool) -> None:
    """It hears the newest of each answer, and after SEND_S nothing more; others hear all the while."""
    monkeypatch.setattr(guests, "SEND_S", 1.0)
    watched = agent.control.parts.watched
    async with page(agent, by_port=by_port, deflates=False) as slow, page(agent, by_port=by_port) as other:
        with trio.fail_after(60):
            number = 0
            while watched.connections > 1:
                number += 1
                try:
                    for name in range(20):
                        await slow.say({"watch": f"w{name}", "path": "/agent", "every_s": 60})
                except trio.BrokenResourceError:
                    pass
                assert (await other.watch("/mesh", f"m{number % 20}"))["status"] == 200
    await nobody_watches(agent)


async def test_who_floods_and_goes_leaves_nothing(agent: Running) -> None:
    """A connection that is over takes no place, whatever was said on it that nobody has heard: of one user there are
    never many on the socket."""
    for number in range(MAX_CONNECTIONS_EACH + 6):
        async with page(agent, by_port=False) as one:
            assert (await one.watch("/mesh"))["status"] == 200
            for _ in range(300 if number < 5 else 0):
                await one.say({"watch": "w", "path": "/mesh"})
        await nobody_watches(agent)
    text = (await agent.ask("GET", "/metrics")).body.decode()
    assert "shoal_live_watches 0" in text
    assert (await agent.ask("GET", f"{API}/mesh")).status == 200


async def test_who_only_asks_fills_no_memory(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal has a name of his: they wait until he takes them, and so does what he asks beyond."""
    monkeypatch.setattr(guests, "SEND_S", 3.0)
    waiting: list[int] = []
    put = socket._Connection._put

    def counted(connection: socket._Connection, name: str, status: int, body: bytes) -> None:
        put(connection, name, status, body)
        waiting.append(len(connection._waiting))

    monkeypatch.setattr(socket._Connection, "_put", counted)
    async with page(agent, deflates=False) as slow:
        with trio.move_on_after(30):
            try:
                for number in range(20_000):
                    await slow.say({"watch": f"{number}{'x' * 2000}", "path": "/nothing"})
            except trio.BrokenResourceError:
                pass
    await nobody_watches(agent)
    assert max(waiting) <= socket.MOST_WAITING
    async with page(agent) as other:
        assert (await other.watch("/mesh"))["status"] == 200
