"""Hosts with identities at a store in memory, on a clock of the test's own; and an operator."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import trio
from cryptography import x509

from agent.control.identity.around import Around
from agent.control.identity.identity import AgentIdentity
from agent.control.identity.way import NoAnswer
from agent.frames import Peer, Trust
from agent.identity.bundles import Bundle, bundle_document
from agent.identity.certificates import (
    INTERMEDIATE_S,
    SERIAL_BYTES,
    Terms,
    make_intermediate,
    read_request,
    serial_of,
    to_pem,
)
from registry.identity_records import Holds, IssuerRecord, Request, Signed
from registry.keys import Keys
from registry.mirror import Mirror, Update
from registry.records import Record, decode, encode
from registry.store import Store
from tests.support.identity import NOW_S, TRUST_DOMAIN, Authority
from tests.support.memory import MemoryStore

KEYS = Keys()
_ahead: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("ahead", 0.0)
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def clock(off_s: float = 0.0) -> float:
    """Seconds of the epoch, by Trio's clock; `off_s`: how far it is off."""
    return NOW_S + trio.current_time() % 1e9 + _ahead.get() + off_s


def leap(seconds: float) -> None:
    """Time passes for everybody's clock at once, and for nothing else: it is seen with the next look."""
    _ahead.set(_ahead.get() + seconds)


async def at_once(work: Callable[..., Any], *about: Any) -> Any:
    """In no thread: while one works, Trio's clock of tests jumps on."""
    await trio.lowlevel.checkpoint()
    return work(*about)


class Operator:
    """Whoever has the root's key, and the right to write `identity/`."""

    def __init__(self, store: Store, authority: Authority | None = None) -> None:
        self.store = store
        self.authority = authority or Authority()

    async def put(self, what: str, whose: str = "", value: Any = None) -> None:
        """A key under identity/: a record, text, or nothing in it."""
        text = encode(value) if isinstance(value, Record) else value if isinstance(value, bytes) else b"{}"
        await self.store.put(KEYS.identity(what, whose), text)

    async def put_bundle(self, sequence: int = 1, roots: tuple[Any, ...] = ()) -> None:
        bundle = Bundle(TRUST_DOMAIN, roots or (self.authority.root.certificate,), sequence)
        await self.put("bundle", value=bundle_document(bundle))

    async def add(self, host: str, *services: str) -> None:
        """A host, and grants for it alone."""
        await self.put("hosts", host)
        for service in services:
            await self.put("grants", service, f'{{"hosts": ["{host}"]}}'.encode())

    async def make_issuer(self, host: str, lifetime: str = "", lasts_s: float = INTERMEDIATE_S) -> None:
        """Let a host issue: wait for its request, and sign that."""
        await self.put("issuers", host, IssuerRecord(lifetime=lifetime))
        found = await until(lambda: self.store.get(KEYS.request(host, "issuer")))
        key = read_request(decode(Request, found.value).csr.encode())
        terms = Terms(serial_of(os.urandom(SERIAL_BYTES)), clock(), lasts_s)
        above = make_intermediate(self.authority.root, key, TRUST_DOMAIN, host, terms)
        await self.put("issuers", host, IssuerRecord(chain=to_pem([above]).decode(), lifetime=lifetime))


class Host:
    """One agent's identity."""

    def __init__(
        self, store: Store, host: str, folder: Path, *services: str, off_s: float = 0.0, socket: str = ""
    ) -> None:
        """`socket`: of a Workload API, which it asks."""
        self.socket = socket
        self.inherited = b""
        self.store = store
        self.host = host
        self.services = set(services)
        self.off_s = off_s
        self.alive: set[str] = {host}
        self.lease = 0
        self.proven: list[Trust] = [Trust()]
        self.told: list[tuple[str, str, str]] = []
        """Events: type, service, reason."""
        self.folder = folder / host
        self.mesh: list[Host] = []
        self.asked: list[str] = []
        """Questions that it was asked."""
        self.identity = self._made()
        self.mirror = Mirror(store, *KEYS.watched, self._deliver)
        self.scope = trio.CancelScope()

    def _made(self) -> AgentIdentity:
        return AgentIdentity(
            Around(
                store=self.store,
                keys=KEYS,
                host=self.host,
                folder=self.folder,
                lease=lambda: self.lease,
                services=lambda: self.services,
                alive=lambda: self.alive,
                strict=lambda: False,
                prove=self.proven.append,
                proves=self._proves,
                tell=lambda kind, parts, data: self.told.append((kind, parts.get("service", ""), data["reason"])),
                clock=lambda: clock(self.off_s),
                chance=Random(1),
                serials=os.urandom,
                disk=at_once,
                ask=self._ask,
                workload_socket=self.socket,
                inherited=self.inherited,
            )
        )

    async def _proves(self) -> bool:
        return True

    async def _ask(self, host: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """As over mTLS: the other one knows who asks by what this one shows."""
        other = next((each for each in self.mesh if each.host == host and each is not self), None)
        await trio.sleep(0.01)
        if other is None or other.scope.cancel_called:
            raise NoAnswer("refused")
        who = f"spiffe://{TRUST_DOMAIN}/agent/{self.host}" if "" in self.shown else ""
        return await other.answers(path, body, who)

    async def answers(self, path: str, body: bytes, who: str = "") -> tuple[int, bytes]:
        """What this host says to a question of somebody who has proven who he is, or has not."""
        send, receive = trio.open_memory_channel[tuple[int, bytes]](1)
        self.asked.append(path)
        self.identity.asked(Peer(1, path, body, "10.0.0.9", who), lambda *answer: send.send_nowait(answer))
        return await receive.receive()

    def _deliver(self, update: Update) -> None:
        self.identity.hear(update.changes, resync=update.resync, another=bool(update.another))

    @property
    def shown(self) -> dict[str, Any]:
        """What workers show now."""
        return self.proven[-1].shown

    def shows(self, *services: str) -> bool:
        """Whether it shows just these, the agent under the empty name, none of them ended."""
        now_s = clock(self.off_s)
        return set(self.shown) == set(services) and all(svid.ends_s > now_s for svid in self.shown.values())

    @property
    def problems(self) -> dict[str, str]:
        """As /state has them."""
        return {each["name"]: each["reason"] for each in self.identity.as_state().get("problems", [])}

    async def holds(self) -> Holds | None:
        """What the mesh is told."""
        found = await self.store.get(KEYS.trust(self.host))
        return decode(Holds, found.value) if found is not None else None

    async def signed(self, name: str) -> Signed | None:
        """What it was answered."""
        found = await self.store.get(KEYS.signed(self.host, name))
        return decode(Signed, found.value) if found is not None else None

    async def run(self) -> None:
        """Until `scope` is cancelled, as by a kill: nothing is said."""
        self.identity.load()
        await self.identity.first()
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._renew)
                nursery.start_soon(self.mirror.run)
                nursery.start_soon(self.identity.run)

    async def _renew(self) -> None:
        while True:
            try:
                if not self.lease:
                    self.lease = await self.store.grant(15)
                await self.store.keep_alive(self.lease)
            except Exception:  # of whichever sort: there is none, and it is tried again
                self.lease = 0
            await trio.sleep(5)

    def again(self) -> Host:
        """The same host, started anew."""
        self.scope.cancel()
        folder = self.folder.parent
        return Host(self.store, self.host, folder, *self.services, off_s=self.off_s, socket=self.socket)

    def executed_anew(self) -> Host:
        """The same, with what is handed over then."""
        host = self.again()
        host.inherited = self.identity.handed_over()
        host.identity = host._made()
        return host


async def until(question: Any, patience_s: float = 120.0) -> Any:
    """Ask (a function, perhaps an async one) until the answer is true; returns it."""
    with trio.fail_after(patience_s):
        while True:
            answer = question()
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer:
                return answer
            await trio.sleep(0.05)


class Mesh:
    """A store, an operator, and hosts that run."""

    def __init__(self, folder: Path, nursery: trio.Nursery, store: Any = None) -> None:
        self.store = store or MemoryStore()
        self.operator = Operator(self.store)
        self.folder = folder
        self.nursery = nursery
        self.hosts: list[Host] = []

    def host(self, name: str, *services: str, off_s: float = 0.0, socket: str = "") -> Host:
        """A host that runs."""
        return self.start(Host(self.store, name, self.folder, *services, off_s=off_s, socket=socket))

    def start(self, host: Host) -> Host:
        """One more, or one again."""
        self.hosts = [each for each in self.hosts if each.host != host.host] + [host]
        for each in self.hosts:
            each.alive = {other.host for other in self.hosts}
            each.mesh = self.hosts
        self.nursery.start_soon(host.run)
        return host

    def restart(self, host: Host) -> Host:
        """Kill and start it."""
        return self.start(host.again())

    def kill(self, host: Host) -> None:
        """Without a word; its lease runs out."""
        host.scope.cancel()
        self.hosts.remove(host)
        for each in self.hosts:
            each.alive = {other.host for other in self.hosts}
            each.mesh = self.hosts

    async def with_issuer(self, *names: str, lifetime: str = "") -> list[Host]:
        """A bundle, and hosts that issue."""
        await self.operator.put_bundle()
        hosts = [self.host(name) for name in names]
        for name in names:
            await self.operator.add(name)
            await self.operator.make_issuer(name, lifetime)
        await until(lambda: all(host.identity.as_state()["issuing"] for host in hosts))
        return hosts


@asynccontextmanager
async def running(folder: Path, store: Any = None) -> AsyncIterator[Mesh]:
    """A mesh for a test."""
    async with trio.open_nursery() as nursery:
        yield Mesh(folder, nursery, store)
        nursery.cancel_scope.cancel()


def leaf(path: str) -> x509.Certificate:
    """Of a file that workers read."""
    return x509.load_pem_x509_certificates(Path(path).read_bytes())[0]


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
