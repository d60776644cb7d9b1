from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agent.control.host.own_ports import OwnPorts
from agent.control.host.programs import Programs
from agent.control.instances import checks
from agent.control.instances.checks import Check, Means, Subject, Unable, check, ours
from agent.settings.document import health_policy
from policies.kinds.health.decide import Transition
from policies.kinds.health.document import HealthPolicy
from registry.records import Instance
from tests.support.descriptors import none_left
from tests.support.proxy import Client, refusing_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready"


def policy(**fields: object) -> HealthPolicy:
    return health_policy({"interval": "50ms", "timeout": "2s", **fields})


def subject(port: int, address: str = "127.0.0.1") -> Subject:
    return Subject("pets.production", "a", Instance(address=address, port=port))


@asynccontextmanager
async def instance(answer: Callable[[Client], Awaitable[None]]) -> AsyncIterator[int]:
    """A listening instance; every connection goes to `answer`."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await answer(Client(stream))
            except (trio.BrokenResourceError, AssertionError):
                pass  # the check has seen enough

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("rule", "answer", "ok", "told"),
    [
        ({}, OK, True, "answered 200"),
        ({"body": "ready"}, OK, True, "answered 200"),
        ({"body": "warm"}, OK, False, "does not contain 'warm'"),
        ({"statuses": [204]}, OK, False, "answered 200"),
        ({"statuses": [204, 200]}, OK, True, "answered 200"),
        ({}, OK.replace(b"200 OK", b"503 No"), False, "answered 503"),
        ({}, OK.replace(b"200 OK", b"302 Moved"), False, "answered 302"),
        ({}, b"garbage\r\n\r\n", False, "http://127.0.0.1:"),
        ({}, b"", False, "http://127.0.0.1:"),
        ({"path": "//[x"}, OK, True, "answered 200"),
    ],
)
async def test_http(rule: dict[str, object], answer: bytes, ok: bool, told: str) -> None:
    """The status and the body decide; nothing that an instance answers is more than an unhealthy instance."""

    async def respond(client: Client) -> None:
        await client.head()
        await client.send(answer)

    async with instance(respond) as port:
        verdict = await check(subject(port), policy(http=rule))
    assert verdict.ok is ok
    assert told in verdict.reason


async def test_what_an_http_check_asks() -> None:
    """The document's method, path, host and headers; the service's name as Host when it says none."""
    heads: list[bytes] = []

    async def respond(client: Client) -> None:
        heads.append(await client.head())
        await client.send(OK)

    async with instance(respond) as port:
        await check(subject(port), policy(http={"path": "/live?x=1", "headers": {"x-check": "1"}}))
        await check(subject(1), policy(http={"method": "HEAD", "host": "other", "port": port}))
    assert heads[0].startswith(b"GET /live?x=1 HTTP/1.1\r\n")
    assert b"host: pets.production\r\n" in heads[0].lower()
    assert b"x-check: 1\r\n" in heads[0].lower()
    assert heads[1].startswith(b"HEAD /health HTTP/1.1\r\n")
    assert b"host: other\r\n" in heads[1].lower()


async def test_an_endless_body_is_read_in_part() -> None:
    """An instance that never stops talking costs its check, and no memory."""

    async def respond(client: Client) -> None:
        await client.head()
        await client.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await client.send(b"x" * 65536)

    async with instance(respond) as port:
        verdict = await check(subject(port), policy(http={"body": "never"}))
    assert not verdict.ok


@pytest.mark.parametrize(
    ("piece", "rule", "told"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", {}, "more than 8 interim answers"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", {"body": "x"}, "more than 8 interim answers"),
        (b"x-header: and so on\r\n", {}, "no HTTP/1.1"),
        (b"x", {}, "no HTTP/1.1"),
    ],
)
async def test_an_answer_that_never_begins_costs_little(piece: bytes, rule: dict[str, object], told: str) -> None:
    """Interim answers, and headers, without end: the check ends by its bounds, not by its time, after little work."""

    async def respond(client: Client) -> None:
        await client.head()
        await client.send(b"" if piece.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        while True:
            await client.send(piece * 1000)

    async with instance(respond) as port:
        with trio.fail_after(60):
            verdict = await check(subject(port), policy(http=rule, timeout="1h"))
    assert not verdict.ok and told in verdict.reason


async def test_eight_that_never_answer_take_no_core() -> None:
    """Eight instances with interim answers without end, checked over and over: what is read is bounded for each."""
    sent = 0

    async def respond(client: Client) -> None:
        nonlocal sent
        await client.head()
        while True:
            await client.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
            sent += 1

    told = Told()
    async with instance(respond) as port, trio.open_nursery() as nursery:
        checks = [Check(subject(port), policy(http={}, interval="10s", timeout="1h"), True, told) for _ in range(8)]
        for each in checks:
            nursery.start_soon(each.run)
        with trio.fail_after(60):
            while not all(each.asked for each in checks):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sent < 8 * 1000, "as much as fits the sockets, and no more: nobody read it"


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_small_pieces_have_a_bound(kind: str) -> None:
    """One byte at a time is not read to the end of what could be read, however long the check may take."""
    sent = 0

    async def respond(client: Client) -> None:
        nonlocal sent
        await client.until(b"\n")
        if kind == "http":
            await client.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await client.send(b"1\r\nx\r\n" if kind == "http" else b"x")
            sent += 1

    rule = {"body": "never"} if kind == "http" else {"send": "\n", "expect": "never"}
    async with instance(respond) as port:
        with trio.fail_after(60):
            verdict = await check(subject(port), policy(**{kind: rule}, timeout="1h"))
    assert not verdict.ok
    assert (
        "more than 1000 pieces" in verdict.reason or "does not contain" in verdict.reason or "65536" in verdict.reason
    )


@pytest.mark.parametrize(
    "words", [b"root:x:0:0:s3cret\r\n\r\n", b"HTTP/1.1 999999 s3cret\r\n\r\n", b"\x00s3cret\r\n\r\n"]
)
async def test_a_reason_has_nothing_of_what_was_read(words: bytes) -> None:
    """It stands in etcd: a policy must not be a way to read what answers."""

    async def respond(client: Client) -> None:
        await client.head()
        await client.send(words)

    async with instance(respond) as port:
        for rule in ({"http": {}}, {"http": {"body": "x"}}, {"tcp": {"send": "\r\n\r\n", "expect": "nix"}}):
            verdict = await check(subject(port), policy(**rule))
            assert not verdict.ok and "s3cret" not in verdict.reason and "root" not in verdict.reason


@pytest.mark.parametrize("rule", [{"http": {"method": "DELETE", "path": "/instances/a/b"}}, {"tcp": {}}])
async def test_no_check_asks_an_agent(rule: dict[str, object]) -> None:
    """Whoever said so, agent.toml included: an agent's listener is not connected to."""
    asked = False

    async def respond(client: Client) -> None:
        nonlocal asked
        asked = True

    async with instance(respond) as port:
        means = Means(Programs(), OwnPorts([("admin", ("127.0.0.1", port))]))
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            verdict = await check(subject(port, address), policy(**rule), means)
            assert verdict == (
                False,
                f"{address}:{port} is this agent's own admin listener, which is never asked by a check",
            )
    assert not asked


async def test_tcp() -> None:
    """A connection is enough, unless the document says what to send and what has to come back."""

    async def respond(client: Client) -> None:
        await client.until(b"PING\r\n")
        await client.send(b"+PO")
        await client.send(b"NG\r\n")

    async with instance(respond) as port:
        assert (await check(subject(port), policy(tcp={}))).ok
        assert (await check(subject(port), policy(tcp={"send": "PING\r\n", "expect": "+PONG"}))).ok
        bad = await check(subject(port), policy(tcp={"send": "PING\r\n", "expect": "-ERR"}))
    assert not bad.ok
    assert "closed before it sent '-ERR'" in bad.reason
    refused = await check(subject(refusing_port()), policy(tcp={}))
    assert not refused.ok


async def test_silence_is_a_failure_within_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """A check that hangs ends with its time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        verdict = await check(subject(silent.getsockname()[1]), policy(http={}, timeout="1s"))
    assert (verdict.ok, verdict.reason) == (False, "no answer within 1 s")


@pytest.mark.parametrize(
    ("script", "ok", "told"),
    [
        ('test "$ADDRESS:$PORT $SERVICE/$INSTANCE" = "127.0.0.1:7 pets.production/a"', True, "ended with 0"),
        ("echo no disk; exit 3", False, "/bin/sh ended with 3"),
        ("kill -9 $$", False, "ended with -9"),
        ("yes | head -c 100000", True, "ended with 0"),
        ("yes", False, "said more than 1048576 bytes, and was ended"),
    ],
)
async def test_command(script: str, ok: bool, told: str) -> None:
    """The exit status decides and is told; what it says is not: it may have read what nobody else may."""
    verdict = await check(subject(7), policy(command={"argv": ["/bin/sh", "-c", script]}, timeout="10s"))
    assert verdict.ok is ok
    assert told in verdict.reason
    assert "disk" not in verdict.reason


async def test_a_command_that_is_not_there() -> None:
    """A missing program is an unhealthy instance with a reason, not a broken agent."""
    verdict = await check(subject(7), policy(command={"argv": ["/no/such/program"]}))
    assert verdict == (False, "/no/such/program: no program that can be run")


@pytest.mark.parametrize("script", ["echo $$ > {0}; exec sleep 1000", "sleep 1000 & echo $! > {0}"])
async def test_a_command_leaves_nothing_behind(script: str, tmp_path: Path) -> None:
    """One that hangs is ended with its time-out, and one that leaves a child behind does not hold its check."""
    note = tmp_path / "pid"
    argv = ["/bin/sh", "-c", script.format(note)]
    with trio.fail_after(60):
        verdict = await check(subject(7), policy(command={"argv": argv}, timeout="500ms"))
        assert verdict.ok is ("&" in script)
        while runs(int(note.read_text())):
            await trio.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there, and not just waiting to be collected by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Told:
    """Collects transitions."""

    def __init__(self) -> None:
        self.transitions: list[Transition] = []
        self._changed = trio.Event()

    def __call__(self, transition: Transition) -> None:
        self.transitions.append(transition)
        self._changed.set()

    async def until(self, healthy: bool) -> None:
        with trio.fail_after(60):
            while not self.transitions or self.transitions[-1].healthy is not healthy:
                self._changed = trio.Event()
                await self._changed.wait()


async def test_only_transitions_are_told() -> None:
    """Up at the first success, down after `fall` failures in a row; in between there is nothing to say."""
    up = True
    asked = failed = 0

    async def respond(client: Client) -> None:
        nonlocal asked, failed
        asked += 1
        await client.head()
        failed += not up
        await client.send(OK if up else OK.replace(b"200", b"503"))

    told = Told()
    async with instance(respond) as port, trio.open_nursery() as nursery:
        nursery.start_soon(Check(subject(port), policy(http={}, fall=3), None, told).run)
        await told.until(True)
        while asked < 4:
            await trio.sleep(0.01)
        up = False
        await told.until(False)
        nursery.cancel_scope.cancel()
    assert [t.healthy for t in told.transitions] == [True, False]
    assert failed >= 3


async def test_another_document_applies_at_once() -> None:
    """A policy that was put does not wait for the end of an hour's interval, and the verdict stays meanwhile."""

    async def respond(client: Client) -> None:
        await client.head()
        await client.send(OK)

    told = Told()
    async with instance(respond) as port, trio.open_nursery() as nursery:
        checking = Check(subject(port), policy(http={}, interval="1h", jitter=0), None, told)
        nursery.start_soon(checking.run)
        await told.until(True)
        checking.adopt(policy(http={"statuses": [299]}, fall=1))
        await told.until(False)
        nursery.cancel_scope.cancel()
    assert len(told.transitions) == 2


async def test_a_verdict_from_before_is_kept_until_it_changes() -> None:
    """An instance that was healthy before a restart is not told anew, and not for the first failure."""
    told = Told()
    checking = Check(subject(refusing_port()), policy(tcp={}, fall=2), True, told)
    assert not checking.adopt_verdict(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checking.run)
        await told.until(False)
        nursery.cancel_scope.cancel()
    assert [t.healthy for t in told.transitions] == [False]


async def test_an_instance_that_tells_by_itself() -> None:
    """Its word counts at once; without any for longer than its ttl it counts as failing."""
    told = Told()
    checking = Check(subject(7), policy(ttl="100ms", fall=1), None, told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checking.run)
        checking.hear(True, "warm")
        assert [t.reason for t in told.transitions] == ["warm"]
        await told.until(False)
        nursery.cancel_scope.cancel()
    assert "nothing heard from it for" in told.transitions[-1].reason


# What fails on this host.

SENT_NOWHERE = "255.255.255.255"
"""An address that no route leads to."""


@pytest.mark.parametrize("rule", [{"http": {"path": "/"}}, {"tcp": {}}, {"command": {"argv": ["true"]}}], ids=str)
async def test_no_descriptor_is_no_verdict(rule: dict[str, object]) -> None:
    """Nothing is said of the instance, whatever way it is asked."""

    async def answer(client: Client) -> None:
        await client.send(OK)

    async with instance(answer) as port:
        assert (await check(subject(port), policy(**rule))).reason
        with none_left():
            found = await check(subject(port), policy(**rule))
        assert isinstance(found, Unable) and found.reason.startswith("this host cannot check it: ")
        assert "Too many open files" in found.reason


@pytest.mark.parametrize("rule", [{"http": {"path": "/"}}, {"tcp": {}}], ids=str)
async def test_no_route_is_no_verdict(rule: dict[str, object]) -> None:
    """This host has no way to it."""
    found = await check(subject(80, SENT_NOWHERE), policy(**rule))
    assert isinstance(found, Unable) and "Network is unreachable" in found.reason


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.ENETDOWN]
)
def test_whose_fault_it_is(code: int) -> None:
    """Of this host, when every attempt failed here; also as Trio wraps it."""
    here, there = OSError(code, os.strerror(code)), ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    alone, two, mixed = OSError("all failed"), OSError("all failed"), OSError("all failed")
    alone.__cause__ = here
    two.__cause__ = ExceptionGroup("all failed", [here, here])
    mixed.__cause__ = ExceptionGroup("all failed", [here, there])
    assert ours(here) and ours(alone) and ours(two)
    assert not ours(there) and not ours(mixed) and not ours(TimeoutError()) and not ours(ValueError())


async def test_the_last_verdict_stays_while_it_cannot_be_asked() -> None:
    """Told is why, and not that it is ill; then it is asked again."""
    told: list[Transition] = []

    async def answer(client: Client) -> None:
        await client.send(OK)

    async with instance(answer) as port, trio.open_nursery() as nursery:
        one = Check(subject(port), policy(tcp={}, fall=1), None, told.append)
        nursery.start_soon(one.run)
        with trio.fail_after(60):
            while not one.healthy:
                await trio.sleep(0.01)
            with none_left():
                for _ in range(3):
                    one.unable = ""
                    while not one.unable:
                        await trio.sleep(0.01)
            assert one.healthy and len(told) == 1 and "Too many open files" in one.unable
            while one.unable:
                await trio.sleep(0.01)
        assert one.healthy and len(told) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("initially", [True, False])
async def test_a_newcomer_that_cannot_be_asked_stays_what_it_is(initially: bool) -> None:
    """People see why; and its first answer makes it healthy at once."""
    told: list[Transition] = []
    one = Check(subject(80, SENT_NOWHERE), policy(tcp={}, fall=2, initially=initially), None, told.append)
    with trio.move_on_after(0.6):
        await one.run()
    assert one.healthy is initially and "unreachable" in one.unable
    assert [each.healthy for each in told] == ([] if initially else [False])
    assert initially or "unreachable" in told[0].reason
    assert not one._tracker.known


async def test_a_mistake_of_the_checker_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checks, "_tcp", broken)
    found = await check(subject(80), policy(tcp={}))
    assert found == Unable("the check itself failed, see the agent's log: ZeroDivisionError")
