"""A hop between two agents: who is on either side of it is proven before anything is sent, or nothing is."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from agent.frames import Svid, Trust
from agent.identity.revocations import Revocations, Revoked
from agent.identity.spiffe import SpiffeId, service_id
from agent.proxy.http1.pool import LANES_KEPT
from agent.proxy.worker import Worker
from tests.support.identity import PETS, SHOP, TRUST_DOMAIN
from tests.support.light import until
from tests.support.proxy import (
    CREDENTIALS,
    OK,
    Client,
    Proxy,
    endpoint,
    entrust,
    listening,
    running_proxy,
)
from tests.support.tls import OURS, ROOTS, STRANGER, WEB, shown

GET = b"GET / HTTP/1.1\r\nHost: pets.production\r\n%b\r\n"
PERMISSIVE, STRICT = {"mtls": "permissive"}, {"mtls": "strict"}
CALLER = service_id(TRUST_DOMAIN, "shop.production")


def proves(
    worker: Worker,
    folder: Path,
    *names: SpiffeId,
    lifetime_s: float = 3600.0,
    revoked: Revocations | None = None,
    bundles: dict[str, list[bytes]] | None = None,
) -> None:
    """A worker has certificates of these, and of its agent."""
    found: dict[str, Svid] = {}
    for name in (WEB, *names):
        files = shown(folder, name, OURS.svid(name, lifetime_s=lifetime_s, now_s=time.time()))
        found[name.service] = Svid(str(files.chain), str(files.key), time.time() + lifetime_s)
    document = revoked.document() if revoked is not None else b""
    assert worker.take(Trust(TRUST_DOMAIN, found, bundles or {TRUST_DOMAIN: ROOTS}, document)) == []
    assert worker._refused == []


class Hop(NamedTuple):
    """A caller's agent, a callee's, and an instance there."""

    caller: Proxy
    callee: Proxy
    folder: Path
    heads: list[bytes]
    """What the instance was sent."""
    wire: list[bytes]
    """What has passed between the agents, both ways."""
    wired: int
    """Where the caller's agent dials the callee's."""

    def leads(self, *more: Any, mode: object = PERMISSIVE, **fields: Any) -> None:
        """The caller's agent is told of the instance."""
        far = {"dial_port": self.wired, "via": True, "agent": "web-1", "secured_until": time.time() + 3600}
        self.caller.put(endpoint(self.instance, "a", **{**far, **fields}), *more, tls=mode)

    @property
    def instance(self) -> int:
        return next(iter(self.callee.worker.table.services["pets.production"].plan.endpoints)).port

    async def ask(self, more: bytes = b"", mark: bytes = b"\r\n\r\n") -> bytes:
        """A caller's request; the answer's head."""
        client = await self.caller.client()
        return await client.ask(GET % more, mark)


@asynccontextmanager
async def hop(folder: Path) -> AsyncIterator[Hop]:
    """Both sides can prove who they are; the caller is told of the instance by `leads`."""
    heads: list[bytes] = []
    wire: list[bytes] = []

    async def instance(client: Client) -> None:
        while True:
            heads.append(await client.head())
            await client.send(OK)

    async with running_proxy() as caller, running_proxy() as callee:
        for worker, host in ((caller.worker, "here"), (callee.worker, "web-1")):
            worker.table.host = host
        entrust(caller.worker)
        callee.put(endpoint(await callee.upstream(instance), "a", agent="web-1"))
        sock, port = listening()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

        async def pass_on(stream: trio.SocketStream) -> None:
            there = await trio.open_tcp_stream("127.0.0.1", callee.inbound_port)

            async def one_way(source: trio.SocketStream, target: trio.SocketStream) -> None:
                try:
                    async for data in source:
                        wire.append(bytes(data))
                        await target.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                await target.aclose()

            async with stream, there, trio.open_nursery() as nursery:
                nursery.start_soon(one_way, stream, there)
                nursery.start_soon(one_way, there, stream)

        callee.nursery.start_soon(trio.serve_listeners, pass_on, [listener])
        (folder / "caller").mkdir(), (folder / "callee").mkdir()
        proves(caller.worker, folder / "caller", CALLER)
        proves(callee.worker, folder / "callee", PETS)
        yield Hop(caller, callee, folder, heads, wire, port)


async def test_both_sides_are_proven_and_nothing_is_read_on_the_way(tmp_path: Path) -> None:
    """The instance is told who calls by what its agent has seen proven; nothing of the request is in plain text."""
    async with hop(tmp_path) as found:
        found.leads()
        assert (await found.ask(CREDENTIALS)).startswith(b"HTTP/1.1 200")
        assert b"x-shoal-caller: shop.production\r\n" in found.heads[0]
        assert not any(word in b"".join(found.wire) for word in (b"GET /", b"shoal-caller", b"HTTP/1.1"))
        assert found.callee.worker.security.half_open.secured == 1


async def test_a_caller_that_is_not_known_is_the_agents_word(tmp_path: Path) -> None:
    """The agent shows its own certificate, and no service is named as the caller."""
    async with hop(tmp_path) as found:
        found.leads()
        assert (await found.ask()).startswith(b"HTTP/1.1 200")
        assert b"x-shoal-caller" not in found.heads[0]


async def test_callers_do_not_share_connections(tmp_path: Path) -> None:
    """Who is proven on a connection is the only one to use it."""
    async with hop(tmp_path) as found:
        found.leads()
        for more in (CREDENTIALS, b"", CREDENTIALS, b""):
            assert (await found.ask(more, b"ok")).startswith(b"HTTP/1.1 200")
        pool = found.caller.worker.pool
        assert (pool.connects, pool.reused, pool.opened) == (2, 2, 2)
        assert set(pool.lanes) == {("shop.production", "pets.production"), ("", "pets.production")}
        named = [b"x-shoal-caller" in head for head in found.heads]
        assert named == [True, False, True, False]


async def test_lanes_to_services_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """Of a thousand that came and went there are a bounded number; whoever has a connection keeps it. One that was in
    use meanwhile is closed behind its answer, since nobody would find it."""
    async with hop(tmp_path) as found:
        found.leads()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        worker = found.caller.worker
        pool, ours = worker.pool, worker.pool.lanes["shop.production", "pets.production"]
        for n in range(1000):
            assert pool.lane("", f"callee-{n}.production", worker.security) is not None
            assert len(pool.lanes) <= LANES_KEPT
        assert pool.lanes["shop.production", "pets.production"] is ours
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        assert (pool.connects, pool.reused, pool.idle) == (1, 1, 1)
        stream = pool.take(ours, ("127.0.0.1", found.wired), verify=False)
        assert stream is not None
        pool.lanes.clear()
        pool.put(stream)
        assert stream.connection.closed and pool.idle == 0


def _python_client(folder: Path, whose: SpiffeId, port: int, sni: str, said: bytes, chain: Any = None) -> bytes:
    files = shown(folder, whose, chain)
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(ROOTS[0]))
    context.check_hostname = False
    context.load_cert_chain(files.chain, files.key)
    with socket.create_connection(("127.0.0.1", port)) as sock, context.wrap_socket(sock, server_hostname=sni) as tls:
        tls.sendall(said)
        heard = b""
        while data := tls.recv(65536):
            heard += data
            if heard.endswith(b"ok") or b"\n" in heard[-1:]:
                break
        return heard


async def test_no_header_names_the_caller(tmp_path: Path) -> None:
    """Whoever is proven is told, whatever he says; an agent that says it of another is not believed either."""
    async with hop(tmp_path) as found:
        for whose, named in ((SHOP, b"x-shoal-caller: shop.production\r\n"), (WEB, b"")):
            said = GET % b"x-shoal-caller: payments.production\r\n"
            await trio.to_thread.run_sync(
                _python_client, tmp_path, whose, found.callee.inbound_port, "pets.production", said
            )
            head = found.heads.pop()
            assert b"payments" not in head
            assert named in head and (bool(named) or b"x-shoal-caller" not in head)


@pytest.mark.parametrize("sni", ["agent.shoal", "shop.production"])
async def test_a_connection_is_to_the_service_that_was_proven(tmp_path: Path, sni: str) -> None:
    """What was opened to the agent itself, or to another service of it, serves no requests to this one: 421."""
    async with hop(tmp_path) as found:
        proves(found.callee.worker, tmp_path / "callee", PETS, SHOP)
        heard = await trio.to_thread.run_sync(
            _python_client, tmp_path, SHOP, found.callee.inbound_port, sni, GET % b"connection: close\r\n"
        )
        assert heard.startswith(b"HTTP/1.1 421") and found.heads == []


async def test_who_is_somebody_else_gets_nothing(tmp_path: Path) -> None:
    """An agent that answers to the name with another's certificate: 503, with whom it proved to be."""
    async with hop(tmp_path) as found:
        files = shown(tmp_path / "callee", SHOP)
        svid = Svid(str(files.chain), str(files.key), time.time() + 3600)
        agents = shown(tmp_path / "callee", WEB)
        own = Svid(str(agents.chain), str(agents.key), time.time() + 3600)
        found.callee.worker.take(Trust(TRUST_DOMAIN, {"": own, "pets.production": svid}, {TRUST_DOMAIN: ROOTS}))
        found.leads()
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"where spiffe://default.shoal/svc/pets.production was expected" in answer
        assert found.heads == []


async def test_who_is_not_known_there_is_told_so(tmp_path: Path) -> None:
    """An agent without that service's certificate answers to no such name."""
    async with hop(tmp_path) as found:
        proves(found.callee.worker, tmp_path / "callee", SHOP)
        found.leads()
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"identity refused" in answer and b"nothing was sent" in answer


async def test_a_post_goes_elsewhere_when_an_identity_is_refused(tmp_path: Path) -> None:
    """Nothing was sent: any request may be tried at another instance."""
    async with hop(tmp_path) as found, running_proxy() as third:
        third.worker.table.host = "web-2"
        third.put(endpoint(1, "b", agent="web-2"))
        (tmp_path / "third").mkdir()
        proves(third.worker, tmp_path / "third", SHOP)
        far = {"dial_port": third.inbound_port, "via": True, "agent": "web-2", "secured_until": time.time() + 60}
        found.leads(endpoint(1, "b", **far))
        client = await found.caller.client()
        for _ in range(6):
            said = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n%b\r\nhi" % CREDENTIALS
            assert (await client.ask(said)).startswith(b"HTTP/1.1 200")


async def test_permissive_is_plain_text_to_whom_holds_nothing(tmp_path: Path) -> None:
    """And it is counted whose agent that is; strict answers 503 instead, and says whose policy and why."""
    async with hop(tmp_path) as found:
        found.leads(secured_until=0.0)
        assert (await found.ask(CREDENTIALS)).startswith(b"HTTP/1.1 200")
        stats = found.caller.worker.table.services["pets.production"].stats
        assert stats.plain == {"web-1": 1}
        callee = found.callee.worker.table.services["pets.production"]
        assert callee.stats.plain == {}
        found.callee.put(endpoint(found.instance, "a", agent="web-1"), tls=PERMISSIVE)
        assert (await found.ask(CREDENTIALS)).startswith(b"HTTP/1.1 200")
        assert callee.stats.plain == {"127.0.0.1": 1}
        found.leads(mode=STRICT, secured_until=0.0)
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"x-shoal-policy: tls\r\n" in answer
        assert b"the agent of web-1 holds no certificate of pets.production (tls/pets.production of revision" in answer
        found.leads(mode=STRICT, secured_until=time.time() - 1)
        assert b"any more: it has ended" in await found.ask(CREDENTIALS, b"}")
        found.leads(mode=STRICT)
        assert (await found.ask(CREDENTIALS)).startswith(b"HTTP/1.1 200")


async def test_strict_sends_nothing_where_this_agent_has_nothing_to_show(tmp_path: Path) -> None:
    """Not in plain text either."""
    async with hop(tmp_path) as found:
        found.caller.worker.take(Trust())
        found.leads(mode=STRICT)
        assert b"this agent holds no certificate" in await found.ask(CREDENTIALS, b"}")
        found.leads()
        assert (await found.ask(CREDENTIALS)).startswith(b"HTTP/1.1 200")


async def test_what_is_off_is_plain_text(tmp_path: Path) -> None:
    """Whatever both sides could prove; a document that is not there is the same."""
    async with hop(tmp_path) as found:
        for mode in ({"mtls": "off"}, None):
            found.leads(mode=mode) if mode else found.caller.put(
                endpoint(1, "a", dial_port=found.wired, via=True, agent="web-1", secured_until=time.time() + 60)
            )
            found.wire.clear()
            assert (await found.ask()).startswith(b"HTTP/1.1 200")
            assert b"GET /" in b"".join(found.wire)


async def test_a_garbled_handshake_does_not_become_plain_text(tmp_path: Path) -> None:
    """Whoever stands between answers with something else: the request fails, also where plain text would be allowed."""
    async with hop(tmp_path) as found:
        heard: list[bytes] = []

        async def garbles(client: Client) -> None:
            data = await client.stream.receive_some(65536)
            heard.append(bytes(data))
            await client.send(b"HTTP/1.1 400 no TLS here\r\n\r\n")

        found.leads(dial_port=await found.caller.upstream(garbles))
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"nothing was sent" in answer
        assert heard and not any(b"GET" in each for each in heard)


async def test_a_renewed_certificate_is_used_by_new_connections(tmp_path: Path) -> None:
    """Those that are there go on; no request fails."""
    async with hop(tmp_path) as found:
        found.leads()
        for _ in range(3):
            assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
            proves(found.caller.worker, tmp_path / "caller", CALLER)
            proves(found.callee.worker, tmp_path / "callee", PETS)
        assert found.caller.worker.pool.connects == 1
        client = next(iter(found.caller.worker.pool.secured))
        client.close()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("side", ["caller", "callee"])
async def test_a_connection_ends_with_the_certificate_that_it_was_proven_by(tmp_path: Path, side: str) -> None:
    """Of either side, and before that nothing is sent by it any more."""
    async with hop(tmp_path) as found:
        proxy = getattr(found, side)
        proves(proxy.worker, tmp_path / side, PETS if side == "callee" else CALLER, lifetime_s=1000.0)
        found.leads()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        pool, recorder = found.caller.worker.pool, found.caller.worker.recorder
        assert pool.opened == 1
        recorder.epoch += 990.0  # a clock that is there already
        await until(lambda: pool.opened == 0)
        recorder.epoch -= 990.0
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        assert found.caller.worker.custody.ended == 0
        found.callee.worker.recorder.epoch += 3601.0
        await until(lambda: pool.opened == 0)
        assert found.callee.worker.custody.ended == 1


@pytest.mark.parametrize("subject", ["service", "host", "serial"])
@pytest.mark.parametrize("side", ["caller", "callee"])
async def test_what_is_revoked_ends_at_once(tmp_path: Path, side: str, subject: str) -> None:
    """With what is under way: the other side hears of it, and lets nothing more pass."""
    async with hop(tmp_path) as found:
        found.leads()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        (connection,) = found.caller.worker.pool.secured
        (guest,) = found.callee.worker.custody.clients
        identity = connection.identity if side == "callee" else found.callee.worker.custody.clients[guest]
        assert identity is not None
        values = {"service": identity.id.service, "host": identity.host, "serial": f"{identity.serial:x}"}
        now = datetime.now(UTC)
        entry: dict[str, Any] = {subject: values[subject], "until": now.replace(year=now.year + 1)}
        if subject != "serial":
            entry["before"] = now.replace(year=now.year + 1)
        hears = found.caller if side == "callee" else found.callee
        shows = (CALLER, "caller") if side == "callee" else (PETS, "callee")
        proves(hears.worker, tmp_path / shows[1], shows[0], revoked=Revocations([Revoked(**entry)]))
        await until(lambda: found.caller.worker.pool.opened == 0)
        assert hears.worker.custody.ended == 1
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and b"revoked" in answer


async def test_what_a_root_that_is_gone_has_proven_is_not_used_any_more(tmp_path: Path) -> None:
    """The connection ends behind what is under way; a handshake finds nobody to believe."""
    async with hop(tmp_path) as found:
        found.leads()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        other = [STRANGER.root.certificate.public_bytes(Encoding.DER)]
        proves(found.caller.worker, tmp_path / "caller", CALLER, bundles={TRUST_DOMAIN: other})
        assert found.caller.worker.pool.opened == 0
        answer = await found.ask(CREDENTIALS, b"}")
        assert answer.startswith(b"HTTP/1.1 503") and found.caller.worker.custody.ended == 0


async def test_a_certificate_that_cannot_be_loaded_costs_its_service_only(tmp_path: Path) -> None:
    """The agent, and its other services, are proven as before."""
    async with hop(tmp_path) as found:
        broken = tmp_path / "broken"
        broken.write_bytes(b"no certificate")
        files, own = shown(tmp_path / "callee", PETS), shown(tmp_path / "callee", WEB)
        ends = time.time() + 3600
        told = {
            "": Svid(str(own.chain), str(own.key), ends),
            "pets.production": Svid(str(files.chain), str(files.key), ends),
            "shop.production": Svid(str(broken), str(tmp_path / "none"), ends),
        }
        found.callee.worker.take(Trust(TRUST_DOMAIN, told, {TRUST_DOMAIN: ROOTS}))
        found.leads()
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")


async def test_a_service_is_proven_before_its_agent_is(tmp_path: Path) -> None:
    """Certificates come one by one, and whoever hears of the service's calls it."""
    async with hop(tmp_path) as found:
        files = shown(tmp_path / "callee", PETS)
        told = {"pets.production": Svid(str(files.chain), str(files.key), time.time() + 3600)}
        found.callee.worker.take(Trust(TRUST_DOMAIN, told, {TRUST_DOMAIN: ROOTS}))
        found.leads(mode=STRICT)
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")
        found.caller.worker.take(Trust())
        own = shown(tmp_path / "caller", CALLER)
        told = {"shop.production": Svid(str(own.chain), str(own.key), time.time() + 3600)}
        found.caller.worker.take(Trust(TRUST_DOMAIN, told, {TRUST_DOMAIN: ROOTS}))
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")


async def test_trust_that_makes_no_sense_leaves_all_as_it_was(tmp_path: Path) -> None:
    """And control is told."""
    async with hop(tmp_path) as found:
        found.leads()
        found.caller.worker.take(Trust(TRUST_DOMAIN, {}, {TRUST_DOMAIN: [b"no certificate"]}))
        assert found.caller.worker._refused.pop().reason.startswith("a frame 'trust' failed")
        found.caller.worker.take(Trust(TRUST_DOMAIN, {}, {TRUST_DOMAIN: ROOTS}, b"no document"))
        assert found.caller.worker._refused.pop().reason.startswith("a frame 'trust' failed")
        assert (await found.ask(CREDENTIALS, b"ok")).startswith(b"HTTP/1.1 200")


async def test_questions_of_agents_are_proven_where_all_is_strict(tmp_path: Path) -> None:
    """An address makes nobody an agent then; a service's certificate is none of an agent's, and one of another service
    asks nothing."""
    said = b"POST /nothing HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: 0\r\nconnection: close\r\n\r\n"
    async with hop(tmp_path) as found:
        worker = found.callee.worker
        worker.peers.connect(lambda asked: worker.peers.answer(asked.id, 404, asked.identity.encode()))
        client = await found.callee.client(inbound=True)
        assert (await client.ask(said, b"\r\n")).startswith(b"HTTP/1.1 404")
        files = shown(tmp_path / "callee", PETS)
        own = shown(tmp_path / "callee", WEB)
        ends = time.time() + 3600
        told = {
            "": Svid(str(own.chain), str(own.key), ends),
            "pets.production": Svid(str(files.chain), str(files.key), ends),
        }
        worker.take(Trust(TRUST_DOMAIN, told, {TRUST_DOMAIN: ROOTS}, proven_only=True))
        client = await found.callee.client(inbound=True)
        assert (await client.ask(said, b"\r\n")).startswith(b"HTTP/1.1 403")
        for sni, status in (("agent.shoal", b"404"), ("pets.production", b"403")):
            heard = await trio.to_thread.run_sync(_python_client, tmp_path, WEB, found.callee.inbound_port, sni, said)
            assert heard.startswith(b"HTTP/1.1 " + status), heard
        assert b"spiffe://default.shoal/agent/web-1" in await trio.to_thread.run_sync(
            _python_client, tmp_path, WEB, found.callee.inbound_port, "agent.shoal", said
        )


async def test_a_federated_caller_is_no_agent_of_ours(tmp_path: Path) -> None:
    """Its words are not believed, and no service of ours is named; but it is known who it is, and what is exported."""
    async with hop(tmp_path) as found:
        both = {TRUST_DOMAIN: ROOTS, "stranger.example": [STRANGER.root.certificate.public_bytes(Encoding.DER)]}
        proves(found.callee.worker, tmp_path / "callee", PETS, bundles=both)
        partner = service_id("stranger.example", "shop.production")
        said = GET % b"x-shoal-caller: shop.production\r\nx-shoal-endpoint: pets.production/a\r\n"
        port = found.callee.inbound_port
        chain = STRANGER.svid(partner)
        heard = await trio.to_thread.run_sync(_python_client, tmp_path, partner, port, "pets.production", said, chain)
        assert heard.startswith(b"HTTP/1.1 421") and found.heads == []
        export = {"to": ["stranger.example"], "gateways": ["web-1"]}
        found.callee.put(endpoint(found.instance, "a", agent="web-1"), export=export)
        await trio.to_thread.run_sync(_python_client, tmp_path, partner, port, "pets.production", said, chain)
        assert b"x-shoal-caller: spiffe://stranger.example/svc/shop.production\r\n" in found.heads[0]
        assert found.heads[0].count(b"x-shoal-caller") == 1


async def test_drain_waits_for_handshakes(tmp_path: Path) -> None:
    """Who has begun one is heard, or its time is over."""
    async with hop(tmp_path) as found:
        worker = found.callee.worker
        stream = await trio.open_tcp_stream("127.0.0.1", found.callee.inbound_port)
        await until(lambda: len(worker.security.half_open) == 1)
        worker.drain()
        assert not worker.drained.is_set()
        await stream.aclose()
        await until(worker.drained.is_set)
