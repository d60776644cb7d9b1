"""Copies of requests, on real sockets: what arrives where, and that the request itself never notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from agent.frames import Compared
from agent.proxy import pacing
from agent.proxy.request import mirroring
from tests.support.proxy import (
    CREDENTIALS,
    GET,
    OK,
    Client,
    Proxy,
    always_ok,
    endpoint,
    entrust,
    refusing_port,
    running_proxy,
    watched,
)

STAGE = "pets.staging"
POST = b"POST /new?x=1 HTTP/1.1\r\nHost: pets.production\r\nX-User: ann\r\n"
EVERYTHING: dict[str, Any] = {"copies": [{"to": STAGE, "writes": True, "timeout": "300ms"}]}


class Stage:
    """Where copies go. Keeps every request, whole, and answers as it is told."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.requests: list[tuple[bytes, bytes]] = []
        self.closed = 0

    async def __call__(self, client: Client) -> None:
        try:
            while True:
                head = await client.head()
                body = b""
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        size = int(line[15:])
                        while len(client.received) < size:
                            client.received += await client.stream.receive_some(65536)
                        body, client.received = client.received[:size], client.received[size:]
                    elif line == b"transfer-encoding: chunked":
                        body = await client.until(b"0\r\n\r\n")
                self.requests.append((head, body))
                if self.answer:
                    await client.send(self.answer)
        finally:
            self.closed += 1


async def staged(proxy: Proxy, stage: Stage, document: dict[str, Any] = EVERYTHING) -> None:
    """A service that answers at once, and the stage behind it."""
    proxy.put(endpoint(await proxy.upstream(stage), agent=""), service=STAGE)
    proxy.put(endpoint(await proxy.upstream(always_ok)), shadow=document)


def copies(proxy: Proxy) -> dict[str, int]:
    return proxy.worker.table.services["pets.production"].stats.copies


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.005)


async def settled(proxy: Proxy) -> None:
    """No copy is under way, and nothing counts one."""
    services = proxy.worker.table.services
    await eventually(lambda: services["pets.production"].copying == 0)
    for service in services.values():
        assert all(e.load.active == 0 for e in service.plan.endpoints)


@pytest.mark.parametrize(
    ("framing", "body", "arrives"),
    [
        (b"Content-Length: 5\r\n\r\n", b"hello", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_a_copy_is_the_request_and_says_that_it_is_one(framing: bytes, body: bytes, arrives: bytes) -> None:
    """Its path, fields, body and id; marked with its role; and on connections that are used again."""
    async with running_proxy() as proxy:
        stage = Stage()
        await staged(proxy, stage)
        client = await proxy.client()
        for number in (1, 2, 3):
            assert await client.ask(POST + b"X-Request-Id: r-%d\r\n" % number + framing + body)
            await eventually(lambda number=number: len(stage.requests) == number)  # type: ignore[misc]
            await settled(proxy)
        for number, (head, body) in enumerate(stage.requests, 1):
            lines = head.split(b"\r\n")
            assert lines[0] == b"POST /new?x=1 HTTP/1.1" and body == arrives
            assert b"x-shoal-shadow: shadow" in lines and b"X-User: ann" in lines
            assert b"X-Request-Id: r-%d" % number in lines
            assert sum(line.startswith(b"x-shoal-deadline:") for line in lines) == 1
        assert copies(proxy) == {"answered": 3} and stage.closed == 0


@pytest.mark.parametrize(
    ("request_", "document"),
    [
        (POST + b"Content-Length: 2\r\n\r\nhi", {"copies": [{"to": STAGE}]}),
        (GET[:-2] + CREDENTIALS + b"X-Shoal-Shadow: shadow\r\n\r\n", EVERYTHING),
        (GET, {"copies": [{"to": STAGE, "match": {"path": {"exact": "/other"}}}]}),
        (GET, {**EVERYTHING, "mode": "audit"}),
    ],
)
async def test_what_is_not_copied(request_: bytes, document: dict[str, Any]) -> None:
    """Writes without leave, copies, what does not match, and under a document that is only watched."""
    async with running_proxy() as proxy:
        stage = Stage()
        await staged(proxy, stage, document)
        entrust(proxy.worker)
        assert (await (await proxy.client()).ask(request_)).startswith(b"HTTP/1.1 200")
        await trio.sleep(0.05)
        assert stage.requests == [] and copies(proxy) == {}
        assert watched(proxy.worker) == ({"shadow": 1} if "mode" in document else {})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + b"x" * 3_000_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chaos\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
    ids=["hangs", "floods", "ambiguous", "switches", "lies"],
)
async def test_a_bad_stage_is_its_own_affair(answer: bytes) -> None:
    """The request has its answer; the copy's connection is closed; nothing is left over."""
    async with running_proxy() as proxy:
        stage = Stage(answer)
        await staged(proxy, stage)
        client = await proxy.client()
        for _ in range(3):
            await client.ask(GET)
        await eventually(lambda: stage.closed == 3)
        await settled(proxy)
        assert sum(copies(proxy).values()) == 3 and copies(proxy).keys() <= {"failed", "answered"}
        assert proxy.worker.pool.opened == proxy.worker.pool.idle == 1


async def test_one_that_only_fails_gets_a_pause() -> None:
    """Five in a row, and then none for a while; and when it has mended, all again."""
    async with running_proxy() as proxy:
        stage = Stage(b"nonsense\r\n\r\n")
        await staged(proxy, stage)
        client = await proxy.client()
        for number in range(1, 6):
            await client.ask(GET)
            await eventually(lambda number=number: copies(proxy) == {"failed": number})  # type: ignore[misc]
        await client.ask(GET)
        await eventually(lambda: copies(proxy) == {"failed": 5, "dropped": 1})
        stage.answer = OK
        await trio.sleep(1.1 * mirroring.HOLD_S)
        for number in range(1, 4):
            await client.ask(GET)
            await eventually(lambda number=number: copies(proxy).get("answered") == number)  # type: ignore[misc]


async def test_large_answers_are_read_at_a_pace() -> None:
    """More than may be read in a moment: each comes to its end all the same, one after the other, and is reused."""
    async with running_proxy() as proxy:
        size = 5 * pacing.PERIOD_BYTES // 2
        stage = Stage(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await staged(proxy, stage, {"copies": [{"to": STAGE, "timeout": "30s"}]})
        clients = [await proxy.client() for _ in range(6)]
        for client in clients:
            await client.ask(GET)
        pace = proxy.worker.pace
        await eventually(lambda: bool(pace._waiting) and pace._left <= 0)
        await eventually(lambda: copies(proxy) == {"answered": 6})
        assert stage.closed == 0
        await clients[0].ask(GET)
        await eventually(lambda: copies(proxy) == {"answered": 7})
        await settled(proxy)


async def test_a_stage_that_is_not_there() -> None:
    """Refused connections, no endpoint, no such service: counted, and nothing else."""
    async with running_proxy() as proxy:
        await staged(proxy, Stage())
        client = await proxy.client()
        proxy.put(endpoint(refusing_port()), service=STAGE)
        await client.ask(GET)
        await eventually(lambda: copies(proxy) == {"failed": 1})
        proxy.put(service=STAGE)
        await client.ask(GET)
        await eventually(lambda: copies(proxy) == {"failed": 1, "dropped": 1})
        proxy.worker.table.gone(STAGE)
        proxy.worker._commit(99, 1)
        await client.ask(GET)
        await eventually(lambda: copies(proxy) == {"failed": 1, "dropped": 2})
        await settled(proxy)


async def test_bounds() -> None:
    """More at a time than allowed, and bodies larger than allowed, are dropped; bodies are not collected in vain."""
    async with running_proxy() as proxy:
        stage = Stage(b"")
        await staged(proxy, stage, {**EVERYTHING, "limits": {"concurrency": 2, "max_body": 10}})
        clients = [await proxy.client() for _ in range(5)]
        for client in clients:
            await client.ask(GET)
        assert copies(proxy)["dropped"] == 3
        await settled(proxy)
        await clients[0].ask(POST + b"Content-Length: 11\r\n\r\nhello world")
        await eventually(lambda: copies(proxy)["dropped"] == 4)
        assert len(stage.requests) == 2
        await settled(proxy)


async def test_a_request_that_never_comes_whole_is_not_copied() -> None:
    """Its client went away."""
    async with running_proxy() as proxy:
        stage = Stage()
        await staged(proxy, stage)
        client = await proxy.client()
        await client.send(POST + b"Content-Length: 50\r\n\r\nhello")
        await trio.sleep(0.05)
        await client.stream.aclose()
        await eventually(lambda: copies(proxy) == {"dropped": 1})
        await settled(proxy)
        assert stage.requests == []


async def test_three_answers_go_to_control() -> None:
    """Of the request and of both copies: status, fields, body up to the limit, time, and what went wrong."""
    async with running_proxy() as proxy:
        sent: list[Compared] = []

        def compare(frame: Compared) -> bool:
            sent.append(frame)
            return len(sent) < 3

        proxy.worker.connect(lambda frame: None, compare, lambda frame: False, lambda frame: False)
        candidate = Stage(b"HTTP/1.1 418 Teapot\r\nX-Pot: small\r\nContent-Length: 2000\r\n\r\n" + b"y" * 2000)
        ports = [await proxy.upstream(always_ok) for _ in range(2)] + [await proxy.upstream(candidate)]
        document = {
            "compare": {"primary": "v1", "candidate": {"version": "v2"}, "max_answer": 1024, "timeout": "200ms"}
        }
        route = {"rules": [{"split": [{"version": "v1"}]}]}
        serving = [endpoint(port) for port in ports[:2]]
        proxy.put(*serving, endpoint(ports[2], version="v2"), shadow=document, route=route)
        client = await proxy.client()
        await client.ask(GET.replace(b"GET / ", b"GET /cats?secret=1 "))
        await eventually(lambda: len(sent) == 1)
        (frame,) = sent
        assert frame.request.version == "v1" and frame.request.target == "/cats?secret=1"
        answers = frame.answers
        assert answers["primary"].body == answers["secondary"].body == b"ok"
        assert (answers["candidate"].status, answers["candidate"].truncated) == (418, True)
        assert answers["candidate"].body == b"y" * 1024 and ("x-pot", "small") in answers["candidate"].headers
        candidate.answer = b""
        await client.ask(GET)
        await eventually(lambda: len(sent) == 2)
        assert sent[1].answers["candidate"].error == "no answer in time"
        await client.ask(GET)
        await eventually(lambda: copies(proxy).get("uncompared") == 1)
        await settled(proxy)


COMPARE: dict[str, Any] = {"primary": "v1", "candidate": {"version": "v2"}, "timeout": "200ms"}
TWIN = "pets.twin"
BY_USER: dict[str, Any] = {"hash": [{"header": "x-user"}]}


class Served:
    """An instance that says which one it is, and counts what it was asked for by role."""

    def __init__(self, name: str, pause_s: float = 0.0) -> None:
        self.name = name
        self.pause_s = pause_s
        self.asked: list[str] = []

    async def __call__(self, client: Client) -> None:
        while True:
            head = await client.head()
            role = next((line[16:] for line in head.split(b"\r\n") if line.startswith(b"x-shoal-shadow: ")), b"primary")
            self.asked.append(role.decode())
            await trio.sleep(self.pause_s if role == b"primary" else 0.0)
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.name), self.name.encode()))


class Comparing:
    """A proxy whose comparisons are caught."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.sent: list[Compared] = []
        proxy.worker.connect(lambda frame: None, self._compare, lambda frame: False, lambda frame: False)

    def _compare(self, frame: Compared) -> bool:
        self.sent.append(frame)
        return True

    async def ask(self, mark: bytes, count: int = 1) -> None:
        """So many requests, and what control is told of each."""
        client = await self.proxy.client()
        for _ in range(count):
            before = len(self.sent)
            await client.ask(GET[:-2] + b"X-User: ann\r\n\r\n", mark)
            await eventually(lambda before=before: len(self.sent) > before)  # type: ignore[misc]
        await settled(self.proxy)


@pytest.mark.parametrize(
    "balance",
    [
        {"algorithm": "least-request"},
        {"algorithm": "round-robin"},
        {"algorithm": "weighted"},
        {"algorithm": "ring-hash", **BY_USER},
        {"algorithm": "maglev", **BY_USER},
        {"sticky": {"header": "x-user"}},
    ],
    ids=str,
)
async def test_the_secondary_is_another_instance(balance: dict[str, Any]) -> None:
    """However endpoints are chosen, also where a user's requests all belong to one."""
    async with running_proxy() as proxy:
        comparing = Comparing(proxy)
        served = [Served("v1-a"), Served("v1-b"), Served("v2-c")]
        places = [endpoint(await proxy.upstream(each), version=each.name[:2]) for each in served]
        route = {"rules": [{"split": [{"version": "v1"}]}]}
        proxy.put(*places, shadow={"compare": COMPARE}, balance=balance, route=route)
        await comparing.ask(b"v1-", 20)
        for frame in comparing.sent:
            assert frame.request.unusable == "" and set(frame.answers) == {"primary", "secondary", "candidate"}
            assert {frame.answers[role].body for role in ("primary", "secondary")} == {b"v1-a", b"v1-b"}


@pytest.mark.parametrize("twin", [False, True], ids=["alone", "the twin is the very process"])
async def test_where_nobody_else_could_be_asked_nothing_is(twin: bool) -> None:
    """No copy is sent, to the candidate neither, and control hears why; one process is never two answers."""
    async with running_proxy() as proxy:
        comparing = Comparing(proxy)
        one, other = Served("v1-a"), Served("v2-c")
        places = [endpoint(await proxy.upstream(one)), endpoint(await proxy.upstream(other), version="v2")]
        if twin:
            proxy.put(endpoint(places[0].port, "of-the-twin"), service=TWIN)
        compare = {**COMPARE, **({"secondary": {"to": TWIN}} if twin else {})}
        route = {"rules": [{"split": [{"version": "v1"}]}]}
        proxy.put(*places, shadow={"compare": compare}, route=route)
        await comparing.ask(b"v1-a", 3)
        assert [(frame.request.unusable, frame.answers) for frame in comparing.sent] == [(mirroring.ALONE, {})] * 3
        assert one.asked == ["primary"] * 3 and other.asked == []
        assert copies(proxy) == {"dropped": 6}


async def test_a_secondary_that_answers_the_request_itself_in_the_end_is_none() -> None:
    """The first try breaks after the copies have left, and the next goes to where the second copy went."""
    async with running_proxy() as proxy:
        comparing = Comparing(proxy)

        async def breaks(client: Client) -> None:
            await client.head()
            await eventually(lambda: "secondary" in good.asked)

        good, other = Served("v1-b"), Served("v2-c")
        bad = endpoint(await proxy.upstream(breaks), weight=1_000_000.0)
        places = [endpoint(await proxy.upstream(good), weight=0.001)]
        candidate = endpoint(await proxy.upstream(other), version="v2")
        route = {"rules": [{"split": [{"version": "v1"}]}]}
        proxy.put(bad, *places, candidate, shadow={"compare": COMPARE}, route=route, balance={"algorithm": "weighted"})
        await comparing.ask(b"v1-b")
        assert [frame.request.unusable for frame in comparing.sent] == [mirroring.SAME]
        assert sorted(good.asked) == ["primary", "secondary"]
