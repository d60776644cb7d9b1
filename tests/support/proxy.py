"""A proxy worker inside the test's own Trio loop, with raw clients and raw upstreams on real loopback sockets."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from agent.frames import EndpointFrame, Limits, PolicyFrame
from agent.proxy.worker import Worker
from policies.together import Together

SERVICE = "pets.production"
CREDENTIALS = b"Proxy-Authorization: Basic %b\r\n" % base64.b64encode(b"shop.production:s3cret")
"""Of a service of this host, once it is entrusted."""
GET = b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"
AGENT = "127.0.0.1"
"""Where another agent is registered."""
STRANGER = "127.0.0.66"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def listening() -> tuple[socket.socket, int]:
    """A listening loopback socket and its port."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    sock.setblocking(False)
    return sock, sock.getsockname()[1]


def refusing_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def endpoint(port: int, identity: str = "", **more: Any) -> EndpointFrame:
    """An endpoint on loopback."""
    fields: dict[str, Any] = {
        "id": identity or f"i-{port}",
        "address": "127.0.0.1",
        "port": port,
        "version": "v1",
        "zone": "",
        "weight": 100.0,
        "metadata": {},
        "healthy": True,
        "draining": False,
        "suspect": False,
        "agent": "",
        "dial_address": "127.0.0.1",
        "dial_port": port,
        "via": False,
    }
    return EndpointFrame(**{**fields, **more})


def entrust(worker: Worker) -> None:
    """Have the worker know whose CREDENTIALS are."""
    worker.callers.configure({hashlib.sha256(b"s3cret").hexdigest(): "shop.production"})


def staged(
    worker: Worker,
    revision: int,
    endpoints: Sequence[EndpointFrame],
    service: str,
    documents: Mapping[str, object],
    agents: int = 1,
    audits: Mapping[str, object] | None = None,
) -> None:
    """A service's endpoints and policy documents, and those that are only watched, in force at once."""

    def framed(documents: Mapping[str, object]) -> dict[str, PolicyFrame]:
        return {
            kind: document
            if isinstance(document, PolicyFrame)
            else PolicyFrame(service, revision, msgspec.json.encode(document))
            for kind, document in documents.items()
        }

    policies, watched = framed(documents), framed(audits or {})
    refused = worker.table.stage(service, revision, endpoints, policies, worker.reactor.now, watched)
    assert [each for each in refused if not isinstance(documents[each.kind], PolicyFrame)] == []
    worker._commit(revision, agents)


def watched(worker: Worker, service: str = SERVICE) -> dict[str, int]:
    """By kind, how often a document that is only watched would have done something."""
    found: dict[str, int] = {}
    for (kind, _, _, would), number in worker.table.services[service].stats.audited().items():
        if would != "passed":
            found[kind] = found.get(kind, 0) + number
    return found


class Client:
    """A client that sees bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with a mark; what follows stays for the next call."""
        with trio.fail_after(60):
            while mark not in self.received:
                data = await self.stream.receive_some(65536)
                if not data:
                    raise AssertionError(f"closed before {mark!r}: {self.received!r}")
                self.received += data
        found, mark, self.received = self.received.partition(mark)
        return found + mark

    async def head(self) -> bytes:
        """The next head."""
        return await self.until(b"\r\n\r\n")

    async def ask(self, data: bytes, mark: bytes = b"ok") -> bytes:
        """Send, and take the answer up to a mark."""
        await self.send(data)
        return await self.until(mark)

    async def rest(self) -> bytes:
        """Everything until the proxy closes."""
        with trio.fail_after(60):
            while data := await self.stream.receive_some(65536):
                self.received += data
        return self.received


class Proxy:
    """The worker, and how to reach it."""

    def __init__(self, worker: Worker, nursery: trio.Nursery) -> None:
        self.worker = worker
        self.nursery = nursery
        self.outbound_port = self._listen(inbound=False)
        self.inbound_port = self._listen(inbound=True)
        self.revision = 0
        self.agents = 1
        """How many are in the mesh."""
        self.clients: list[Client] = []

    def _listen(self, *, inbound: bool) -> int:
        sock, port = listening()
        self.worker.listen(sock.detach(), inbound=inbound)
        return port

    def put(self, *endpoints: EndpointFrame, service: str = SERVICE, **documents: object) -> None:
        """A service's endpoints and policy documents, in force at once."""
        self.revision += 1
        staged(self.worker, self.revision, endpoints, service, documents, self.agents)

    async def client(self, *, inbound: bool = False, source: str = AGENT) -> Client:
        """A new connection, from another agent's address or from a STRANGER's."""
        port = self.inbound_port if inbound else self.outbound_port
        client = Client(await trio.open_tcp_stream("127.0.0.1", port, local_address=source))
        self.clients.append(client)
        return client

    async def upstream(self, handler: Callable[[Client], Awaitable[None]]) -> int:
        """Start a raw upstream; `handler` gets every connection. Returns the port."""
        sock, port = listening()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await handler(Client(stream))
                except (AssertionError, trio.BrokenResourceError):
                    pass  # the proxy closed: what it did is judged at the client

        self.nursery.start_soon(trio.serve_listeners, handle, [listener])
        return port


@asynccontextmanager
async def running_proxy(together: Together | None = None, **limits: Any) -> AsyncIterator[Proxy]:
    """A worker that runs as long as the block does."""
    worker = Worker(seed=1, together=together)
    worker.limits = Limits(**limits)
    worker.agents.learn({"another": AGENT}, "here")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.reactor.run)
            nursery.start_soon(worker.reactor.wheel.run)
            proxy = Proxy(worker, nursery)
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
                for client in proxy.clients:
                    client.stream.socket.close()
                for listener in worker.listeners:
                    listener.close()
    finally:
        worker.close()


async def always_ok(client: Client) -> None:
    """An upstream that answers 200 to every head it sees."""
    while True:
        await client.head()
        await client.send(OK)
