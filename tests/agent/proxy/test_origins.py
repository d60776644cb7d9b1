"""Instances that speak TLS themselves, as real servers: verified like any of the web, or nothing is sent to them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.instances.client_certificates import _look
from agent.frames import ClientCertificate, Configure
from agent.proxy.worker import Worker
from tests.support.light import until
from tests.support.proxy import CREDENTIALS, GET, OK, Client, Proxy, endpoint, entrust, listening, running_proxy
from tests.support.web_pki import DAY_S, NAME, certificate, kept, root, server_context

POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """One that speaks TLS, and what it has heard."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.port = 0
        self.heads: list[bytes] = []
        self.spoken: list[tuple[str | None, str | None]] = []
        """Version and ALPN, a connection."""
        self.names: list[str | None] = []
        """What SNI said."""
        self.shown: list[Any] = []
        """What clients showed."""
        self.open = 0
        context.sni_callback = self._on_sni  # type: ignore[assignment]

    def _on_sni(self, tls: Any, name: str | None, _: Any) -> None:
        self.names.append(name)

    async def serve(self, stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        self.open += 1
        try:
            try:
                await tls.do_handshake()
            except trio.BrokenResourceError:
                await stream.send_all(tls._outgoing.read())  # an alert, which trio keeps to itself
                raise
            self.spoken.append((tls.version(), tls.selected_alpn_protocol()))
            self.shown.append(tls.getpeercert())
            heard = b""
            while data := await tls.receive_some(65536):
                heard += data
                while b"\r\n\r\n" in heard:
                    head, _, heard = heard.partition(b"\r\n\r\n")
                    length = 2 if b"content-length: 2" in head.lower() else 0
                    while len(heard) < length:
                        heard += await tls.receive_some(65536)
                    heard = heard[length:]
                    self.heads.append(head)
                    await tls.send_all(OK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1
            await trio.aclose_forcefully(tls)


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[Server]:
    """A server beside the proxy."""
    server = Server(context)
    sock, server.port = listening()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


def origin(**fields: Any) -> dict[str, Any]:
    """A document whose instances speak TLS."""
    return {"mtls": "strict", "origin": {"speaks": "tls", "name": NAME, "ca": root(), **fields}}


def shows(worker: Worker, folder: Path) -> dict[str, ClientCertificate]:
    """Have the worker know what is in a folder of client certificates, as control looks at it."""
    found = _look(folder, {})
    assert worker.take(Configure(host="here", client_certificates=found)) == []
    return found


async def ask(proxy: Proxy, said: bytes = GET, mark: bytes = b"ok") -> bytes:
    client = await proxy.client()
    return await client.ask(said, mark)


async def test_it_is_verified_and_asked(tmp_path: Path) -> None:
    """By its host name, which SNI says; the connection is kept, for whoever calls."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        entrust(proxy.worker)
        proxy.put(endpoint(server.port, "a"), tls=origin())
        for _ in range(3):
            assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        named = b"GET / HTTP/1.1\r\nHost: pets.production\r\n%b\r\n" % CREDENTIALS
        assert (await ask(proxy, named)).startswith(b"HTTP/1.1 200")
        assert (await ask(proxy, POST)).startswith(b"HTTP/1.1 200")
        assert server.names == [NAME] and server.spoken == [("TLSv1.3", "http/1.1")]
        assert proxy.worker.pool.connects == 1 and proxy.worker.pool.reused == 4
        assert list(proxy.worker.pool.origins) == ["pets.production"]


@pytest.mark.parametrize("mode", ["off", "permissive", "strict"])
async def test_it_is_asked_by_tls_whatever_hops_are(tmp_path: Path, mode: str) -> None:
    """What instances speak is another thing than what agents do."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        proxy.put(endpoint(server.port, "a"), tls={**origin(), "mtls": mode})
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")


async def test_tls_1_2_is_enough(tmp_path: Path) -> None:
    """And a server that knows no ALPN is spoken HTTP/1.1 to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(kept(tmp_path / "server.pem", certificate(NAME)))
    async with running_proxy() as proxy, serving(context) as server:
        proxy.put(endpoint(server.port, "a"), tls=origin())
        for _ in range(2):
            assert (await ask(proxy, POST)).startswith(b"HTTP/1.1 200")
        assert server.spoken == [("TLSv1.2", None)]


@pytest.mark.parametrize(
    ("shown", "fields", "why"),
    [
        (certificate("db.example"), {}, b"Hostname mismatch, certificate is not valid for 'db.internal'"),
        (certificate(NAME, []), {}, b"Hostname mismatch, certificate is not valid for 'db.internal'"),
        (certificate(NAME, ["*.example"]), {}, b"Hostname mismatch"),
        (certificate(NAME, above="another"), {}, b"unable to get local issuer certificate"),
        (certificate(NAME), {"ca": root("another")}, b"unable to get local issuer certificate"),
        (certificate(NAME), {"ca": ""}, b"unable to get local issuer certificate"),
        (certificate(NAME, since_s=-2 * DAY_S, until_s=-DAY_S), {}, b"certificate has expired"),
        (certificate(NAME, since_s=DAY_S, until_s=2 * DAY_S), {}, b"certificate is not yet valid"),
    ],
    ids=["name", "a common name only", "domain", "root", "not that root", "none of the system", "expired", "early"],
)
async def test_who_is_not_the_one_gets_nothing(
    tmp_path: Path, shown: bytes, fields: dict[str, Any], why: bytes
) -> None:
    """503 in words, as for a connection that could not be made; and it is listed as a handshake that failed."""
    async with running_proxy() as proxy, serving(server_context(tmp_path, shown)) as server:
        proxy.put(endpoint(server.port, "a"), tls=origin(**fields))
        answer = await ask(proxy, POST, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"x-shoal-policy: endpoint\r\n" in answer
        assert b"x-shoal-reason: cannot connect to" in answer
        assert b"its certificate is not believed: " in answer and why in answer and b"nothing was sent" in answer
        assert server.heads == []
        failed = proxy.worker.security.failures
        assert failed and failed[-1].address == f"pets.production at 127.0.0.1:{server.port}"
        assert why.decode() in failed[-1].reason
        assert proxy.worker.table.services["pets.production"].stats.failures["connect"] >= 1


async def test_what_is_no_server_of_tls_gets_no_request(tmp_path: Path) -> None:
    """Nor does plain text reach it; another instance that is right gets the request, whatever the method."""
    heard: list[bytes] = []

    async def plain(client: Client) -> None:
        heard.append(bytes(await client.stream.receive_some(65536)))
        await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        port = await proxy.upstream(plain)
        proxy.put(endpoint(port, "a"), endpoint(server.port, "b"), tls=origin())
        for _ in range(6):
            assert (await ask(proxy, POST)).startswith(b"HTTP/1.1 200")
        assert heard and not any(b"POST" in each for each in heard)
        assert len(server.heads) == 6


async def test_a_server_that_drips_its_handshake_has_the_time_to_connect(tmp_path: Path) -> None:
    """No more: a request is tried elsewhere, or told."""
    async with running_proxy() as proxy:

        async def drips(client: Client) -> None:
            await client.stream.receive_some(65536)
            for byte in b"\x16\x03\x03\x0f\xff" + bytes(4096):
                await client.send(bytes([byte]))
                await trio.sleep(0.02)

        proxy.put(
            endpoint(await proxy.upstream(drips), "a"),
            tls=origin(),
            timeout={"connect": "200ms"},
            retry={"attempts": 1},
        )
        answer = await ask(proxy, GET, b"}")
        assert answer.startswith(b"HTTP/1.1 504") and b"in time" in answer
        await until(lambda: proxy.worker.pool.opened == 0)


async def test_a_connection_carries_no_one_elses_requests(tmp_path: Path) -> None:
    """Two services at one address, each with its own document: each has a connection of its own."""
    shown = certificate("both", [NAME, "other.internal"])
    async with running_proxy() as proxy, serving(server_context(tmp_path, shown)) as server:
        proxy.put(endpoint(server.port, "a"), tls=origin())
        proxy.put(endpoint(server.port, "b"), service="vets.production", tls=origin(name="other.internal"))
        for _ in range(2):
            assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
            assert (await ask(proxy, GET.replace(b"pets", b"vets"))).startswith(b"HTTP/1.1 200")
        assert server.names == [NAME, "other.internal"]


# Client certificates.


async def test_a_client_certificate_is_shown_that_the_document_asks_for(tmp_path: Path) -> None:
    """The host's, by the service that is called; without the word it is not shown."""
    kept(tmp_path / "pets.production.pem", certificate("our host", []))
    wants = server_context(tmp_path, clients=root())
    async with running_proxy() as proxy, serving(wants) as server:
        shows(proxy.worker, tmp_path)
        proxy.put(endpoint(server.port, "a"), tls=origin(client_certificate=True))
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        assert server.shown[-1]["subject"] == ((("commonName", "our host"),),)
        proxy.put(endpoint(server.port, "a"), tls=origin())
        answer = await ask(proxy, POST, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"certificate required" in answer
        assert b"nothing was read of the request" in answer and len(server.heads) == 1
        assert "certificate required" in proxy.worker.security.failures[-1].reason


async def test_a_server_of_tls_1_2_wants_a_client_certificate(tmp_path: Path) -> None:
    """It says so within the handshake."""
    kept(tmp_path / "pets.production.pem", certificate("our host", []))
    wants = server_context(tmp_path, clients=root(), most=ssl.TLSVersion.TLSv1_2)
    async with running_proxy() as proxy, serving(wants) as server:
        shows(proxy.worker, tmp_path)
        proxy.put(endpoint(server.port, "a"), tls=origin())
        answer = await ask(proxy, POST, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"nothing was sent" in answer and server.heads == []
        proxy.put(endpoint(server.port, "a"), tls=origin(client_certificate=True))
        assert (await ask(proxy, POST)).startswith(b"HTTP/1.1 200")


async def test_who_is_refused_by_one_instance_goes_to_another(tmp_path: Path) -> None:
    """A server of TLS 1.3 refuses us behind the request, of which it has read nothing: a POST may go elsewhere."""
    (tmp_path / "b").mkdir()
    wants = server_context(tmp_path, clients=root())
    another = server_context(tmp_path / "b")
    async with running_proxy() as proxy, serving(wants) as picky, serving(another) as server:
        proxy.put(endpoint(picky.port, "a"), endpoint(server.port, "b"), tls=origin())
        for _ in range(6):
            assert (await ask(proxy, POST)).startswith(b"HTTP/1.1 200")
        assert picky.heads == [] and len(server.heads) == 6 and picky.names


@pytest.mark.parametrize(
    ("file", "mode", "why"),
    [
        (None, 0o600, "this host has none for pets.production"),
        (certificate("our host", []), 0o640, "may be read or written by others (0640), and has a key in it: chmod 600"),
        (certificate("our host", []), 0o604, "may be read or written by others (0604)"),
        (b"no certificate", 0o600, "has no certificate and the key to it, in PEM"),
        (
            certificate("our host", []).partition(b"-----BEGIN PRIVATE")[0],
            0o600,
            "has no certificate and the key to it",
        ),
        (b"", 0o600, "has no certificate and the key to it, in PEM"),
    ],
    ids=["none", "the group reads it", "others read it", "no PEM", "no key", "empty"],
)
async def test_without_a_client_certificate_nothing_is_dialled(
    tmp_path: Path, file: bytes | None, mode: int, why: str
) -> None:
    """503 by the policy, with the file and what would be right."""
    if file is not None:
        kept(tmp_path / "pets.production.pem", file, mode)
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        shows(proxy.worker, tmp_path)
        proxy.put(endpoint(server.port, "a"), tls=origin(client_certificate=True))
        answer = await ask(proxy, GET, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"x-shoal-policy: tls\r\n" in answer
        assert why.encode() in answer and b"it wants a client certificate" in answer
        assert server.names == []


async def test_another_client_certificate_is_shown_from_the_next_connection_on(tmp_path: Path) -> None:
    """Old connections finish and go; a file that is of no use changes nothing, and one that is gone ends it."""
    path = kept(tmp_path / "pets.production.pem", certificate("the first", []))
    async with running_proxy() as proxy, serving(server_context(tmp_path, clients=root())) as server:
        worker = proxy.worker
        shows(worker, tmp_path)
        proxy.put(endpoint(server.port, "a"), tls=origin(client_certificate=True))
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        kept(path, certificate("the second", []))
        shows(worker, tmp_path)
        assert worker.pool.idle == 0
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        assert server.shown[-1]["subject"] == ((("commonName", "the second"),),)
        for file, mode in ((b"garbage", 0o600), (certificate("the third", []), 0o644)):
            kept(path, file, mode)
            assert shows(worker, tmp_path)["pets.production"].reason
            for _ in range(2):
                next(iter(worker.pool.origins["pets.production"].open)).close()
                assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
            assert server.shown[-1]["subject"] == ((("commonName", "the second"),),)
        path.unlink()
        shows(worker, tmp_path)
        assert worker.pool.idle == 0
        assert b"this host has none for pets.production" in await ask(proxy, GET, b"}")


# Changes.


async def test_a_document_that_changes_under_load_fails_nothing(tmp_path: Path) -> None:
    """To TLS, to another name and root, and back: connections of before are not used any more, and go."""
    shown = certificate("both", [NAME, "other.internal"])
    async with running_proxy() as proxy, serving(server_context(tmp_path, shown)) as server:
        worker = proxy.worker
        documents = [origin(), origin(name="other.internal"), origin(ca=root("another") + root())]
        proxy.put(endpoint(server.port, "a"), tls=documents[0])
        answers: list[bytes] = []
        done = trio.Event()

        async def caller() -> None:
            client = await proxy.client()
            while not done.is_set():
                answers.append((await client.ask(POST))[:12])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(caller)
            for turn in range(30):
                asked = len(answers)
                proxy.put(endpoint(server.port, "a"), tls=documents[turn % 3])
                await until(lambda asked=asked: len(answers) > asked + 20)
            done.set()
        assert set(answers) == {b"HTTP/1.1 200"}
        last = worker.pool.origins["pets.production"]
        await until(lambda: worker.pool.opened == len(last.open) == worker.pool.idle)
        await until(lambda: server.open == worker.pool.opened)


async def test_connections_go_with_the_document(tmp_path: Path) -> None:
    """Without anybody asking: when it says something else, when it is deleted, and when the service is gone."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        worker = proxy.worker

        def another() -> None:
            proxy.put(endpoint(server.port, "a"), tls=origin(ca=root("another")))

        def deleted() -> None:
            proxy.put(endpoint(server.port, "a"))

        def gone() -> None:
            worker.table.gone("pets.production")
            worker._commit(proxy.revision, 1)

        for end in (another, deleted, gone):
            proxy.put(endpoint(server.port, "a"), tls=origin())
            assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
            assert worker.pool.opened == 1
            proxy.put(endpoint(server.port, "a"), tls=origin())  # put again is nothing new
            assert worker.pool.opened == 1
            end()
            await until(lambda: worker.pool.opened == 0)
            assert worker.pool.origins == {}


# Who dials.


async def test_the_agent_beside_it_dials_an_instance(tmp_path: Path) -> None:
    """For a caller of its own host, and for one of another's: the hop between agents is what documents say of hops."""
    async with (
        running_proxy() as caller,
        running_proxy() as callee,
        serving(server_context(tmp_path)) as server,
    ):
        caller.worker.table.host, callee.worker.table.host = "here", "web-1"
        callee.put(endpoint(server.port, "a", agent="web-1"), tls={**origin(), "mtls": "off"})
        far = endpoint(server.port, "a", agent="web-1", via=True, dial_port=callee.inbound_port)
        caller.put(far, tls={**origin(), "mtls": "off"})
        assert (await ask(callee, POST)).startswith(b"HTTP/1.1 200")
        assert (await ask(caller, POST)).startswith(b"HTTP/1.1 200")
        assert caller.worker.pool.origins == {} and server.names == [NAME]
        callee.put(endpoint(server.port, "a", agent="web-1"), tls={**origin(name="other"), "mtls": "off"})
        answer = await ask(caller, POST, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"Hostname mismatch" in answer
        assert len(server.heads) == 2


async def test_an_instance_whose_agent_is_gone_is_dialled_by_the_callers(tmp_path: Path) -> None:
    """It proves by itself who it is, so strict lets it be."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        proxy.put(endpoint(server.port, "a", agent="lost"), tls=origin())
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")


async def test_a_copy_goes_by_tls_too(tmp_path: Path) -> None:
    """Shadow's target may be such a service."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:

        async def plain(client: Client) -> None:
            while True:
                await client.head()
                await client.send(OK)

        proxy.put(endpoint(server.port, "s"), service="canary.production", tls=origin())
        proxy.put(
            endpoint(await proxy.upstream(plain), "a"), shadow={"copies": [{"to": "canary.production", "percent": 100}]}
        )
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        await until(lambda: server.heads)
        assert server.names == [NAME]


async def test_a_name_may_end_with_a_dot(tmp_path: Path) -> None:
    """As DNS has it; SNI says it without."""
    async with running_proxy() as proxy, serving(server_context(tmp_path)) as server:
        proxy.put(endpoint(server.port, "a"), tls=origin(name=f"{NAME}."))
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        assert server.names == [NAME]


async def test_what_a_document_names_may_be_the_server_itself(tmp_path: Path) -> None:
    """A certificate that nobody else has signed."""
    alone = certificate(NAME, above=NAME)
    async with running_proxy() as proxy, serving(server_context(tmp_path, alone)) as server:
        proxy.put(endpoint(server.port, "a"), tls=origin(ca=alone.partition(b"-----BEGIN PRIVATE")[0].decode()))
        assert (await ask(proxy)).startswith(b"HTTP/1.1 200")
        assert server.heads
