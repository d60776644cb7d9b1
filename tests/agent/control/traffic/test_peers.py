"""Questions to other agents over TLS: who is there is judged first, and nothing is said to anybody else."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio

from agent.control.identity.way import NoAnswer, Way, client_context
from agent.control.mesh.table import Table
from agent.control.traffic.peers import Peers
from agent.identity.certificates import to_pem
from agent.identity.revocations import Revocations
from agent.identity.spiffe import SpiffeId, agent_id
from agent.identity.verdict import Refused
from agent.identity.verification import verify
from registry.identity_records import Holds
from registry.keys import Keys
from registry.records import encode
from registry.store import Change
from tests.support.identity import PETS, TRUST_DOMAIN, Authority, der, key_pem

KEYS = Keys()
OURS = Authority(now_s=time.time())
STRANGER = Authority("stranger.example", now_s=time.time())
HERE, THERE = agent_id(TRUST_DOMAIN, "here"), agent_id(TRUST_DOMAIN, "there")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def pem(folder: Path, identity: SpiffeId, of: Authority = OURS) -> Path:
    """A certificate and its key, in one file."""
    path = folder / f"{str(identity).rpartition('/')[2]}.pem"
    path.write_bytes(key_pem(str(identity)) + to_pem(of.svid(identity)))
    return path


@asynccontextmanager
async def answering(shown: Path | None, heard: list[bytes]) -> AsyncIterator[int]:
    """Somebody at a port; without a certificate in plain text."""

    async def serve(context: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        try:
            peer = trio.SSLStream(stream, context, server_side=True) if context is not None else stream
            heard.append(await peer.receive_some())
            await peer.send_all(ANSWER)
        except (trio.BrokenResourceError, ssl.SSLError):
            pass

    context = None
    if shown is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(partial(trio.serve_listeners, partial(serve, context), [listener]))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def peers(folder: Path, port: int, *, secured: bool = True) -> Peers:
    """As the agent of `here` knows that of `there`."""
    ends = datetime.fromtimestamp(time.time() + 3600, UTC)
    known = Table(KEYS, "here")
    record = json.dumps({"address": "127.0.0.1", "inbound_port": port}).encode()
    holds = encode(Holds(trust_domain=TRUST_DOMAIN, bundle=1, agent=ends if secured else None))
    known.apply([Change(KEYS.agent("there"), record, 2), Change(KEYS.trust("there"), holds, 2)], 2)

    def judge(chain: list[bytes]) -> str:
        found = verify(chain, OURS.bundles, Revocations(), time.time(), THERE)
        return found.reason if isinstance(found, Refused) else ""

    way = Way(client_context(pem(folder, HERE), der([OURS.root.certificate])), "agent.shoal", judge)
    return Peers(known, lambda host: way)


async def test_who_is_meant_is_asked(tmp_path: Path) -> None:
    """And answers; in plain text where it holds nothing."""
    for secured in (True, False):
        heard: list[bytes] = []
        async with answering(pem(tmp_path, THERE) if secured else None, heard) as port:
            asking = peers(tmp_path, port, secured=secured)
            assert await asking.ask("there", "/shares", b"question", 20) == (200, b"ok")
            await asking.aclose()
        assert heard[0].startswith(b"POST /shares HTTP/1.1\r\nhost: agent.shoal\r\n".replace(b"host", heard[0][23:27]))


@pytest.mark.parametrize("who", ["a service", "another agent", "a stranger", "plain text"])
async def test_nobody_else_hears_the_question(tmp_path: Path, who: str) -> None:
    """Whoever is at that address; and there is no way back to plain text."""
    shown = {
        "a service": lambda: pem(tmp_path, PETS),
        "another agent": lambda: pem(tmp_path, agent_id(TRUST_DOMAIN, "beyond")),
        "a stranger": lambda: pem(tmp_path, THERE, STRANGER),
        "plain text": lambda: None,
    }[who]()
    heard: list[bytes] = []
    async with answering(shown, heard) as port:
        asking = peers(tmp_path, port)
        with pytest.raises(NoAnswer) as said:
            await asking.ask("there", "/shares", b"question", 20)
        await asking.aclose()
    assert b"question" not in b"".join(heard) and b"POST" not in b"".join(heard)
    if who in ("a service", "another agent"):
        assert "identity refused, nothing was sent" in str(said.value)


async def test_silence_is_bounded(tmp_path: Path) -> None:
    """And told in words, as is an agent that does not live."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        asking = peers(tmp_path, listener.socket.getsockname()[1])
        with pytest.raises(NoAnswer, match=r"no answer within 0\.1 s"):
            await asking.ask("there", "/shares", b"question", 0.1)
        with pytest.raises(NoAnswer, match="no such agent"):
            await asking.ask("nowhere", "/shares", b"question", 0.1)
        await asking.aclose()
        await listener.aclose()
        nursery.cancel_scope.cancel()


async def test_connections_to_hosts_that_are_gone_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are many; those to hosts that live are kept and used again."""
    monkeypatch.setattr("agent.control.traffic.peers.SPARE", 0)
    heard: list[bytes] = []
    async with answering(None, heard) as port:
        asking = peers(tmp_path, port, secured=False)
        record = json.dumps({"address": "127.0.0.1", "inbound_port": port}).encode()
        hosts = [f"h{number}" for number in range(5)]
        asking._table.apply([Change(KEYS.agent(host), record, 3) for host in hosts], 3)
        for host in ("there", *hosts):
            assert await asking.ask(host, "/shares", b"question", 20) == (200, b"ok")
        asking._table.apply([Change(KEYS.agent(host), None, 4) for host in hosts], 4)
        assert len(asking._plain) == 6
        assert await asking.ask("there", "/shares", b"question", 20) == (200, b"ok")
        assert list(asking._plain) == ["there"]
        await asking.aclose()
