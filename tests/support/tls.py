"""Both sides of TLS on real loopback sockets, in the test's own loop: ours, and Python's blocking one in threads."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from cryptography import x509

from agent.identity.certificates import to_pem
from agent.identity.revocations import Revocations
from agent.identity.spiffe import SpiffeId, agent_id
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import verify
from agent.proxy.engine.credentials import AGENT, Shown, choosing, client_context, server_context
from agent.proxy.engine.half_open import HalfOpen
from agent.proxy.engine.handshake import Handshake, Outcome
from agent.proxy.engine.reactor import READ, WRITE, Reactor
from agent.proxy.engine.tls import TlsSocket
from tests.support.identity import PETS, SHOP, TRUST_DOMAIN, Authority, der, key_pem
from tests.support.light import until

OURS = Authority(now_s=time.time())
STRANGER = Authority("stranger.example", now_s=time.time())
ROOTS = der([OURS.root.certificate])
WEB = agent_id(TRUST_DOMAIN, "web-1")
PATIENCE_S = 60


def shown(folder: Path, identity: SpiffeId, chain: list[x509.Certificate] | None = None) -> Shown:
    """Somebody's SVID in files."""
    name = str(identity).replace("/", "_")
    files = Shown(folder / f"{name}.pem", folder / f"{name}.key")
    files.chain.write_bytes(to_pem(chain or OURS.svid(identity)))
    files.key.write_bytes(key_pem(str(identity)))
    return files


def judging(
    expected: SpiffeId | None = None, revocations: Revocations | None = None, off_s: float = 0.0
) -> Callable[[list[bytes], ssl.SSLContext], Identity | Refused]:
    """The core's function, with our bundle; `off_s`: how far our clock is off."""
    return lambda chain, context: verify(
        chain, OURS.bundles, revocations or Revocations(), time.time() + off_s, expected
    )


def services(folder: Path, *names: SpiffeId) -> dict[str, Shown]:
    """What an agent serves, by what SNI calls it."""
    return {AGENT: shown(folder, WEB), **{name.service: shown(folder, name) for name in names or (PETS, SHOP)}}


class Echo:
    """Says again what it hears, and what came of it."""

    def __init__(self, reactor: Reactor, sock: TlsSocket, identity: Identity, answer: bytes = b"") -> None:
        self.reactor, self.sock, self.identity = reactor, sock, identity
        self.heard = bytearray()
        self.events = 0
        self.ended = False
        self.broken: OSError | None = None
        self.silent = False
        self.answer = answer
        """What it says in place of what it hears."""
        self._out = bytearray()
        self.fd = sock.fileno()
        reactor.add(self.fd, self.on_event)
        if sock.pending():
            self.on_event(READ)

    def on_event(self, events: int) -> None:
        self.events += 1
        if events & WRITE:
            self.say(b"")
        if events & ~WRITE:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self.broken = error
                self.close()
                return
            self.heard += data
            if not data:
                self.ended = True
                self.reactor.modify(self.fd, 0)
            elif not self.silent:
                self.say(self.answer or data)

    def say(self, data: bytes) -> None:
        self._out += data
        try:
            while self._out:
                del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # nobody takes it: what is wrong, reading says
        self.reactor.modify(self.fd, (READ | WRITE if self._out else READ) if not self.ended else 0)

    def close(self) -> None:
        self.reactor.remove(self.fd)
        self.sock.close()


class Loop:
    """A reactor in the test's loop, servers and clients of ours in it."""

    def __init__(self, reactor: Reactor | None = None) -> None:
        self.reactor = reactor or Reactor()
        self.half_open = HalfOpen(self.reactor)
        self.failed: list[str] = []
        self.plain: list[socket.socket] = []
        self.secured: list[Echo] = []
        self.handshakes: list[Handshake] = []
        self.listeners: list[socket.socket] = []
        self.take: Callable[[TlsSocket, Identity], Any] = self._echo

    def _echo(self, sock: TlsSocket, identity: Identity) -> None:
        self.secured.append(Echo(self.reactor, sock, identity))

    def serve(
        self,
        shown: Mapping[str, Shown],
        judge: Callable[[list[bytes], ssl.SSLContext], Identity | Refused] | None = None,
        *,
        permissive: bool = False,
    ) -> int:
        """A port of ours."""
        context = choosing({name: server_context(each, ROOTS) for name, each in shown.items()})
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        sock.setblocking(False)
        outcome = Outcome(
            lambda *found: self.take(*found), self.failed.append, self.plain.append if permissive else None
        )

        def accept(events: int) -> None:
            with suppress(BlockingIOError):
                while True:
                    client, _ = sock.accept()
                    client.setblocking(False)
                    self.handshakes.append(
                        Handshake(self.reactor, client, context, judge or judging(), outcome, self.half_open)
                    )

        self.reactor.add(sock.fileno(), accept)
        self.listeners.append(sock)
        return int(sock.getsockname()[1])

    async def call(
        self, port: int, caller: Shown, expected: SpiffeId, sni: str | None = None, **more: Any
    ) -> Echo | str:
        """A client of ours: what came of it. It says nothing by itself."""
        found: list[Echo | str] = []

        def secured(sock: TlsSocket, identity: Identity) -> None:
            echo = Echo(self.reactor, sock, identity)
            echo.silent = True
            found.append(echo)

        sock = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(("127.0.0.1", port))
        context = client_context(caller, more.get("roots", ROOTS))
        judge = judging(expected, more.get("revocations"), more.get("off_s", 0.0))
        name = expected.service if sni is None else sni
        Handshake(self.reactor, sock, context, judge, Outcome(secured, found.append), sni=name)
        await until(lambda: found)
        return found[0]

    def close(self) -> None:
        for echo in self.secured:
            echo.sock._sock.close()
        for handshake in self.handshakes:
            handshake.abort()
        for sock in self.listeners + self.plain:
            sock.close()


@asynccontextmanager
async def running_loop(reactor: Reactor | None = None) -> AsyncIterator[Loop]:
    """Served until the end of the block; in a reactor that somebody else runs, or in one of its own."""
    loop = Loop(reactor)
    async with trio.open_nursery() as nursery:
        if reactor is None:
            nursery.start_soon(loop.reactor.run)
            nursery.start_soon(loop.reactor.wheel.run)
        try:
            yield loop
        finally:
            nursery.cancel_scope.cancel()
            loop.close()
    if reactor is None:
        loop.reactor.close()


def python_context(caller: Shown | None, protocols: list[str] | None = None) -> ssl.SSLContext:
    """A client that is none of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=b"".join(ROOTS))
    if caller is not None:
        context.load_cert_chain(caller.chain, caller.key)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def python_client(port: int, context: ssl.SSLContext, sni: str = "pets.production", **more: Any) -> ssl.SSLSocket:
    """Connected, blocking, and with its handshake done."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    return context.wrap_socket(sock, server_hostname=sni, suppress_ragged_eofs=False, **more)


async def in_thread(function: Callable[..., Any], *given: Any) -> Any:
    """What blocks, beside the loop."""
    with trio.fail_after(PATIENCE_S):
        return await trio.to_thread.run_sync(function, *given)
