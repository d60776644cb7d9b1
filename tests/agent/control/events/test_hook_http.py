"""A hook's delivery against receivers that mean ill, or repeat what they were sent."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from agent.control.events.hook_http import HookClient
from agent.control.host.programs import Programs
from agent.hooks.receivers import Receivers
from agent.hooks.scrubbing import LEFT_OUT
from agent.hooks.steps import Done, Failed
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import sample
from tests.support.proxy import Client

SECRET = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


@asynccontextmanager
async def receiver(answer: Callable[[Client, bytes], Awaitable[None]]) -> AsyncIterator[int]:
    """Every request's head goes to `answer`."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            client = Client(stream)
            try:
                await answer(client, await client.head())
            except (trio.BrokenResourceError, AssertionError):
                pass  # the caller has read enough

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def client(folder: Path, *hosts: str, programs: Programs | None = None) -> HookClient:
    (folder / "token").write_text(SECRET + "\n")
    return HookClient(["127.0.0.1"], folder, receivers=Receivers({"token": hosts}), programs=programs)


def hook(**fields: Any) -> Hook:
    made = msgspec.convert({"timeout": "60s", **fields}, Hook)
    made.check("$")
    return made


def to(port: int, **fields: Any) -> Hook:
    return hook(target={"url": f"http://127.0.0.1:{port}/"}, secret={"file": "token"}, **fields)


async def test_what_a_receiver_repeats_is_left_out(tmp_path: Path) -> None:
    """An answer with the token in it: the status is told, and that its words are left out; other words are told."""
    echoes = True

    async def answer(client: Client, head: bytes) -> None:
        assert SECRET.encode() in head
        body = head if echoes else b"out of order"
        await client.send(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with receiver(answer) as port:
        found = await client(tmp_path, "127.0.0.1").deliver(sample(), to(port))
        assert found == Failed(f"status 500: {LEFT_OUT}", True)
        echoes = False
        found = await client(tmp_path, "127.0.0.1").deliver(sample(), to(port))
        assert found == Failed("status 500: out of order", True)


async def test_a_secret_is_sent_to_nobody_that_the_settings_do_not_name(tmp_path: Path) -> None:
    """Not even a connection is made."""
    asked = False

    async def answer(client: Client, head: bytes) -> None:
        nonlocal asked
        asked = True

    async with receiver(answer) as port:
        for hosts in ((), ("api.github.com",), (f"127.0.0.1:{port + 1}",)):
            found = await client(tmp_path, *hosts).deliver(sample(), to(port))
            assert isinstance(found, Failed) and "[hooks.secrets]: token = [" in found.reason
    assert not asked


async def test_an_address_that_is_a_secret_is_not_told(tmp_path: Path) -> None:
    """Neither when nobody may call it, nor when it is none at all."""
    secret = hook(format="slack", target={"url": {"file": "token"}})
    made = client(tmp_path)
    for value in ("https://10.9.8.7/s3cretpath", "https://nowhere.invalid/s3cretpath", SECRET, "https://[s3cretpath/"):
        (tmp_path / "token").write_text(value)
        with trio.fail_after(60):
            found = await made.deliver(sample(), secret)
        assert isinstance(found, Failed)
        assert not any(piece in found.reason for piece in ("s3cret", "10.9.8.7", "nowhere", SECRET[:8])), found


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x-more: and so on\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n", b"x" * 1024 + b"\r\n400\r\n"),
    ],
    ids=["interim", "headers", "small", "large"],
)
async def test_an_answer_without_end_costs_little(head: bytes, piece: bytes, tmp_path: Path) -> None:
    """It is read within bounds, whatever it is that does not end, and not for as long as the hook has time."""

    async def answer(client: Client, _: bytes) -> None:
        await client.send(head)
        while True:
            await client.send(piece * 100)

    async with receiver(answer) as port:
        before = time.process_time()
        with trio.fail_after(60):
            found = await client(tmp_path).deliver(sample(), hook(target={"url": f"http://127.0.0.1:{port}/"}))
        assert time.process_time() - before < 10
    assert isinstance(found, Done | Failed)
    assert not isinstance(found, Failed) or "no whole answer" not in found.reason


async def test_a_program_where_they_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event on standard input; what it says is not told, nor anything of the agent's environment known to it."""
    monkeypatch.setenv("SHOAL_HOOK_TOKEN", SECRET)
    script = 'cat > "$0"; env >> "$0"; echo s3cret; exit 3'
    run = hook(format="exec", exec={"command": ["/bin/sh", "-c", script, str(tmp_path / "note")]})
    assert isinstance(await client(tmp_path).deliver(sample(), run), Failed)
    assert not (tmp_path / "note").exists()
    found = await client(tmp_path, programs=Programs()).deliver(sample(), run)
    assert found == Failed("exit status 3", True)
    said = (tmp_path / "note").read_text()
    assert sample().id in said and "SHOAL_EVENT_NAME=instance.unhealthy" in said and SECRET not in said
