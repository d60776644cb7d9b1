"""Doors between meshes: a caller here, a gateway there, another agent behind it, and everybody who tries without."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from agent.frames import Svid, Trust
from agent.identity.spiffe import SpiffeId, agent_id, person_id, service_id
from agent.proxy.request.explain import explain
from agent.proxy.worker import Worker
from agent.questions import Explain
from tests.support.identity import Authority, der
from tests.support.light import until
from tests.support.proxy import CREDENTIALS, OK, Client, Proxy, endpoint, entrust, running_proxy
from tests.support.tls import shown
from tests.support.tokens import provider, token

NOW_S = time.time()
EU, US, ASIA = (Authority(f"{name}.shoal", now_s=NOW_S) for name in ("eu", "us", "asia"))
PETS = "pets.production"
SHOP = service_id("us.shoal", "shop.production")
ASKED = b"GET /cats HTTP/1.1\r\nHost: %b\r\n%b\r\n"
EXPORT = {"to": ["us.shoal"], "gateways": ["gate-1"]}


def trusts(
    worker: Worker, folder: Path, own: Authority, host: str, *services: str, also: tuple[Authority, ...]
) -> None:
    """A worker's host holds these, and believes its own trust domain and others."""
    folder.mkdir(exist_ok=True)
    found: dict[str, Svid] = {}
    names = [agent_id(own.trust_domain, host), *(service_id(own.trust_domain, each) for each in services)]
    for name in names:
        files = shown(folder, name, own.svid(name, now_s=time.time()))
        found[name.service] = Svid(str(files.chain), str(files.key), time.time() + 3600)
    bundles = {each.trust_domain: der([each.root.certificate]) for each in (own, *also)}
    assert worker.take(Trust(own.trust_domain, found, bundles)) == [] and worker._refused == []


class Doors(NamedTuple):
    """Two meshes."""

    caller: Proxy
    """An agent of us.shoal."""
    gate: Proxy
    """gate-1 of eu.shoal."""
    callee: Proxy
    """web-1 of eu.shoal, with an instance."""
    instance: int
    folder: Path
    heads: list[bytes]
    """What the instance was sent."""

    def imports(self, **more: Any) -> None:
        """Here."""
        document = {
            "trust_domain": "eu.shoal",
            "remote_service": PETS,
            "gateways": [f"127.0.0.1:{self.gate.inbound_port}"],
            **more,
        }
        self.caller.put(service="pets.eu", **{"import": document})

    def exports(self, document: Any = EXPORT, **more: Any) -> None:
        """There: what the gateway and the agent behind it are told."""
        documents = {**({"export": document} if document is not None else {}), **more}
        far = {
            "dial_port": self.callee.inbound_port,
            "via": True,
            "agent": "web-1",
            "secured_until": time.time() + 3600,
        }
        self.gate.put(endpoint(self.instance, "a", **far), service=PETS, **documents)
        self.callee.put(endpoint(self.instance, "a", agent="web-1"), service=PETS, **documents)

    async def ask(self, more: bytes = CREDENTIALS, host: bytes = b"pets.eu") -> bytes:
        """A caller's request; all of the answer."""
        client = await self.caller.client()
        await client.send(ASKED % (host, more + b"Connection: close\r\n"))
        return await client.rest()

    def noted(self) -> str:
        """What the gateway tells who operates."""
        return " ".join(failure.reason for failure in self.gate.worker.security.failures)


@asynccontextmanager
async def doors(folder: Path) -> AsyncIterator[Doors]:
    """Everybody holds what he should, and each mesh believes the other."""
    heads: list[bytes] = []

    async def instance(client: Client) -> None:
        while True:
            heads.append(await client.head())
            await client.send(OK)

    async with running_proxy() as caller, running_proxy() as gate, running_proxy() as callee:
        for proxy, host in ((caller, "shop-1"), (gate, "gate-1"), (callee, "web-1")):
            proxy.worker.table.host = host
        entrust(caller.worker)
        trusts(caller.worker, folder / "us", US, "shop-1", "shop.production", also=(EU,))
        trusts(gate.worker, folder / "gate", EU, "gate-1", PETS, "payments.production", also=(US, ASIA))
        trusts(callee.worker, folder / "callee", EU, "web-1", PETS, also=(US, ASIA))
        found = Doors(caller, gate, callee, await callee.upstream(instance), folder, heads)
        found.imports()
        found.exports()
        yield found


def python(folder: Path, own: Authority, whose: SpiffeId, port: int, sni: str | None, said: bytes) -> bytes:
    """A client of another kind, with a certificate: what it hears until the end."""
    import socket

    folder.mkdir(exist_ok=True)
    files = shown(folder, whose, own.svid(whose, now_s=time.time()))
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(der([EU.root.certificate])[0]))
    context.check_hostname = False
    context.load_cert_chain(files.chain, files.key)
    heard = b""
    with (
        socket.create_connection(("127.0.0.1", port), 30) as sock,
        context.wrap_socket(sock, server_hostname=sni) as tls,
    ):
        tls.sendall(said)
        while data := tls.recv(65536):
            heard += data
    return heard


async def from_outside(
    found: Doors,
    *,
    own: Authority = US,
    whose: SpiffeId = SHOP,
    sni: str | None = PETS,
    host: bytes = b"pets.production",
    more: bytes = b"",
    proxy: Proxy | None = None,
) -> bytes:
    """What somebody gets who speaks for himself."""
    port = (proxy or found.gate).inbound_port
    said = ASKED % (host, more + b"Connection: close\r\n")
    return await trio.to_thread.run_sync(python, found.folder / "python", own, whose, port, sni, said)


async def test_a_service_of_another_mesh_answers(tmp_path: Path) -> None:
    """By its gateway and the agent behind it: three proven hops. The instance is told who calls, its own name, and
    nothing of what the service is called here."""
    async with doors(tmp_path) as found:
        answer = await found.ask()
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ok")
        (head,) = found.heads
        assert b"host: pets.production\r\n" in head.lower()
        assert b"x-shoal-caller: spiffe://us.shoal/svc/shop.production\r\n" in head
        assert b"pets.eu" not in head and b"gateway" not in head
        stats = found.gate.worker.table.services[PETS].stats
        assert stats.outside == {"us.shoal": 1} and stats.callers == {}


RULED = {
    "shop": ([{"allow": ["spiffe://us.shoal/svc/shop.production"]}], 200),
    "all of its domain": ([{"allow": ["spiffe://us.shoal/*"]}], 200),
    "anybody": ([{"allow": "anybody"}], 200),
    "denied before": ([{"deny": ["spiffe://us.shoal/svc/*.production"]}, {"allow": "anybody"}], 403),
    "another service": ([{"allow": ["spiffe://us.shoal/svc/till.production"]}], 403),
    "another domain": ([{"allow": ["spiffe://asia.shoal/*"]}], 403),
    "our services": ([{"allow": ["*"]}], 403),
    "ours of that name": ([{"allow": ["shop.production"]}], 403),
    "the gateway's host": ([{"allow": ["spiffe://eu.shoal/*"]}], 403),
    "no service of ours": ([{"allow": "anonymous"}], 200),
}


@pytest.mark.parametrize("outbound", [False, True], ids=["beside the instance", "at the gateway too"])
@pytest.mark.parametrize("name", RULED)
async def test_rules_know_who_came_in(tmp_path: Path, name: str, outbound: bool) -> None:
    """By whom he has proven to be, and never as the gateway that hands him on, nor as one of ours of the same name."""
    rules, status = RULED[name]
    async with doors(tmp_path) as found:
        found.exports(authz={"rules": rules, "outbound": outbound})
        answer = await found.ask()
        assert answer.startswith(b"HTTP/1.1 %d" % status) and len(found.heads) == (status == 200)
        assert status == 200 or b'"reason":"not allowed"' in answer


async def test_a_person_of_ours_is_not_let_in_by_a_gateway(tmp_path: Path) -> None:
    """He is nobody of the mesh, and nobody of another: what is exported is not there for him as it is for strangers."""
    async with doors(tmp_path) as found:
        ada = person_id("eu.shoal", "ada")
        answer = await from_outside(found, own=EU, whose=ada)
        assert found.gate.worker.table.services[PETS].stats.outside == {} and b"x-shoal-policy: export" not in answer


async def test_a_caller_that_is_not_known_is_its_host(tmp_path: Path) -> None:
    """Which is somebody of the trust domain, and no service."""
    async with doors(tmp_path) as found:
        assert (await found.ask(b"")).startswith(b"HTTP/1.1 200")
        assert b"x-shoal-caller: spiffe://us.shoal/agent/shop-1\r\n" in found.heads[0]


async def test_an_instance_beside_the_gateway_is_handed_the_request(tmp_path: Path) -> None:
    """Without another hop, past the same inbound phases."""
    async with doors(tmp_path) as found:
        found.gate.put(endpoint(found.instance, "a", agent="gate-1"), service=PETS, export=EXPORT)
        assert (await found.ask()).startswith(b"HTTP/1.1 200")
        assert b"x-shoal-caller: spiffe://us.shoal/svc/shop.production\r\n" in found.heads[0]
        assert found.gate.worker.pool.lanes == {}


async def test_host_is_what_it_is_called_there(tmp_path: Path) -> None:
    """Whatever was asked for, and whatever a route makes of it: also as a fallback of a service of ours."""
    async with doors(tmp_path) as found:
        rule = {"name": "all", "split": [{"service": "pets.eu", "weight": 100}], "rewrite": {"host": "zoo.example"}}
        found.caller.put(service="pets.here", route={"rules": [rule]})
        assert (await found.ask(host=b"pets.here")).startswith(b"HTTP/1.1 200")
        assert b"host: pets.production\r\n" in found.heads[0].lower() and b"zoo" not in found.heads[0]


DENIED: dict[str, Any] = {
    "nothing is exported": {"export": None},
    "to another trust domain": {"export": {**EXPORT, "to": ["asia.shoal"]}},
    "to another caller": {"export": {**EXPORT, "to": ["spiffe://us.shoal/svc/web.production"]}},
    "to nobody": {"export": {**EXPORT, "to": []}},
    "by way of another gateway": {"export": {**EXPORT, "gateways": ["gate-2"]}},
    "by way of none": {"export": {"to": ["us.shoal"]}},
    "and isolated": {"isolation": {"allow": ["*"], "anonymous": True}},
    "only watched": {"export": {**EXPORT, "mode": "audit"}},
}


@pytest.mark.parametrize("name", DENIED)
async def test_who_may_not_is_told_nothing(tmp_path: Path, name: str) -> None:
    """421, and the same words as for what nobody has; why is for who operates."""
    async with doors(tmp_path) as found:
        documents = dict(DENIED[name])
        found.exports(documents.pop("export", EXPORT), **documents)
        denied = await from_outside(found)
        nobody = await from_outside(found, sni="payments.production", host=b"payments.production")
        for answer in (denied, nobody):
            assert answer.startswith(b"HTTP/1.1 421")
            assert b"x-shoal-policy: export\r\n" in answer
            assert b"nothing of this name is here for whoever calls" in answer
            assert not any(word in answer for word in (b"isolation", b"gate", b"eu.shoal", b"pets", b"payments"))
        assert found.heads == []
        assert "spiffe://us.shoal/svc/shop.production: " in found.noted()
        assert (await found.ask()).startswith(b"HTTP/1.1 421"), "and so is the caller of an import"


async def test_each_level_has_to_let_it_pass(tmp_path: Path) -> None:
    """A fence of the mesh narrows, and exports nothing by itself."""
    from agent.frames import PolicyFrame

    def level(key: str, text: bytes, *wider: PolicyFrame) -> PolicyFrame:
        return PolicyFrame(key, 7, text, wider=wider)

    fence = level("*", b'{"to": ["asia.shoal"]}')
    open_ = level("*", b'{"to": ["asia.shoal", "us.shoal"]}')
    own = b'{"to": ["us.shoal"], "gateways": ["gate-1"]}'
    async with doors(tmp_path) as found:
        for document, status in (
            (level(PETS, own, fence), b"421"),
            (level(PETS, own, open_), b"200"),
            (open_, b"421"),
            (PolicyFrame(PETS, 7, b"", "nobody knows"), b"421"),
            (PolicyFrame(PETS, 7, own, wider=(PolicyFrame("*", 3, b"", "nobody knows"),)), b"421"),
        ):
            found.exports(document)
            assert (await found.ask()).split()[1] == status, document


async def test_isolation_that_names_who_calls(tmp_path: Path) -> None:
    """Lets it pass, at the gateway and at the instance's agent."""
    async with doors(tmp_path) as found:
        for allow, status in (("spiffe://us.shoal", b"200"), ("spiffe://us.shoal/svc/web", b"421"), ("*", b"421")):
            found.exports(isolation={"allow": [allow]})
            assert (await found.ask()).split()[1] == status


OUTSIDE: dict[str, Any] = {
    "another service by SNI": {"sni": "payments.production"},
    "another service by Host": {"host": b"payments.production"},
    "a name that nobody has": {"host": b"nobody.production"},
    "the agent itself": {"sni": "agent.shoal", "host": b"agent.shoal"},
    "the agent, by a service": {"host": b"agent.shoal"},
    "no name": {"sni": None},
    "an instance by a word": {"sni": "agent.shoal", "more": b"x-shoal-endpoint: pets.production/a\r\n"},
}


@pytest.mark.parametrize("name", OUTSIDE)
async def test_what_is_not_exported_is_not_there(tmp_path: Path, name: str) -> None:
    """However it is asked for."""
    async with doors(tmp_path) as found:
        found.gate.put(endpoint(found.instance, "p", agent="gate-1"), service="payments.production")
        answer = await from_outside(found, **OUTSIDE[name])
        assert answer.startswith(b"HTTP/1.1 421") and found.heads == []
        assert b"nothing of this name is here for whoever calls" in answer


async def test_only_gateways_take_anybody_in(tmp_path: Path) -> None:
    """The agent beside the instance has the certificate, and is none."""
    async with doors(tmp_path) as found:
        assert (await from_outside(found, proxy=found.callee)).startswith(b"HTTP/1.1 421")
        assert found.heads == []


WORDS = (
    b"x-shoal-caller: payments.production\r\n",
    b"x-shoal-caller: spiffe://asia.shoal/svc/bank\r\n",
    CREDENTIALS,
    b"x-shoal-explain: 1\r\n",
    b"x-shoal-deadline: 1\r\n",
    b"x-shoal-endpoint: payments.production/p\r\n",
    b"x-shoal-priority: 9\r\nx-shoal-replay: 1\r\nx-shoal-shadow: primary\r\n",
)


@pytest.mark.parametrize("more", WORDS)
async def test_no_header_from_outside_says_anything(tmp_path: Path, more: bytes) -> None:
    """Whoever is proven is who calls."""
    async with doors(tmp_path) as found:
        entrust(found.gate.worker)
        answer = await from_outside(found, more=more)
        assert answer.startswith(b"HTTP/1.1 200") and b"x-shoal-explain" not in answer
        (head,) = found.heads
        assert b"x-shoal-caller: spiffe://us.shoal/svc/shop.production\r\n" in head
        assert not any(word in head for word in (b"payments", b"asia", b"proxy-auth", b"priority", b"replay"))


async def test_who_is_handed_on_is_believed_from_gateways_only(tmp_path: Path) -> None:
    """Another host's agent, a service of ours, and an agent in plain text name him in vain."""
    async with doors(tmp_path) as found:
        word = b"x-shoal-caller: spiffe://us.shoal/svc/shop.production\r\nx-shoal-endpoint: pets.production/a\r\n"
        for whose, status in (
            (agent_id("eu.shoal", "gate-1"), b"200"),
            (agent_id("eu.shoal", "web-2"), b"421"),
            (service_id("eu.shoal", "shop.production"), b"421"),
        ):
            answer = await from_outside(found, own=EU, whose=whose, more=word, proxy=found.callee)
            assert answer.split()[1] == status, whose
        client = await found.callee.client(inbound=True)
        await client.send(ASKED % (b"pets.production", word + b"Connection: close\r\n"))
        assert (await client.rest()).split()[1] == b"421"
        assert len(found.heads) == 1


async def test_behind_the_gateway_is_nothing_in_plain_text(tmp_path: Path) -> None:
    """Whatever `tls` says there: without a certificate of the service, 503, and the caller is told nothing of why."""
    async with doors(tmp_path) as found:
        far = {"dial_port": found.callee.inbound_port, "via": True, "agent": "web-1", "secured_until": 0.0}
        found.gate.put(endpoint(found.instance, "a", **far), service=PETS, export=EXPORT, tls={"mtls": "off"})
        answer = await from_outside(found)
        assert answer.startswith(b"HTTP/1.1 503") and found.heads == []
        assert not any(word in answer for word in (b"web-1", b"127.0.0.1", b"certificate"))


async def test_who_came_in_does_not_go_out_again(tmp_path: Path) -> None:
    """No route leads him to what is imported there, even where that is exported too, nor to what is not exported."""
    async with doors(tmp_path) as found:
        document = {"trust_domain": "us.shoal", "remote_service": "a", "gateways": ["127.0.0.1:9"]}
        found.gate.put(service="pets.us", export=EXPORT, **{"import": document})
        found.gate.put(endpoint(found.instance, "s", agent="gate-1"), service="secret.production")
        for target in ("pets.us", "secret.production"):
            found.exports(route={"rules": [{"split": [{"service": target, "weight": 100}]}]})
            answer = await from_outside(found)
            assert answer.startswith(b"HTTP/1.1 503") and found.heads == []
            assert target.encode() not in answer
        assert found.gate.worker.pool.connects == 0


MISSING: dict[str, Any] = {
    "the other's bundle": ((), b"no bundle of eu.shoal is believed here"),
    "any certificate": (None, b"this agent holds no certificate"),
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("tls", [None, "off", "permissive", "strict"])
async def test_what_is_missing_here_is_said(tmp_path: Path, name: str, tls: str | None) -> None:
    """503 in words, and nothing is sent in plain text."""
    async with doors(tmp_path) as found:
        also, words = MISSING[name]
        if also is None:
            found.caller.worker.take(Trust("us.shoal", {}, {"us.shoal": der([US.root.certificate]), "eu.shoal": []}))
        else:
            trusts(found.caller.worker, tmp_path / "us", US, "shop-1", "shop.production", also=also)
        found.imports()
        if tls is not None:
            place = [f"127.0.0.1:{found.gate.inbound_port}"]
            document = {"trust_domain": "eu.shoal", "remote_service": PETS, "gateways": place}
            found.caller.put(service="pets.eu", tls={"mtls": tls}, **{"import": document})
        answer = await found.ask()
        assert answer.startswith(b"HTTP/1.1 503") and b"x-shoal-policy: tls\r\n" in answer
        assert words in answer and b"import/pets.eu" in answer
        assert found.gate.worker.accepted == 0


async def test_a_gateway_that_is_somebody_else(tmp_path: Path) -> None:
    """Gets nothing: who answers has to be that service of that trust domain."""
    async with doors(tmp_path) as found:
        for own in (ASIA, US):
            trusts(found.gate.worker, tmp_path / own.trust_domain, own, "gate-1", PETS, also=(US, EU))
            trusts(found.caller.worker, tmp_path / "us", US, "shop-1", "shop.production", also=(EU, ASIA))
            answer = await found.ask()
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"where spiffe://eu.shoal/svc/pets.production was expected" in answer
        assert found.heads == []


@pytest.mark.parametrize("side", ["caller", "gate"])
async def test_a_bundle_that_goes_ends_connections(tmp_path: Path, side: str) -> None:
    """Those that live, at once; and no other is made, in words."""
    async with doors(tmp_path) as found:
        client = await found.caller.client()
        assert (await client.ask(ASKED % (b"pets.eu", CREDENTIALS))).startswith(b"HTTP/1.1 200")
        assert len(found.gate.worker.custody.clients) == 1
        if side == "caller":
            trusts(found.caller.worker, tmp_path / "us", US, "shop-1", "shop.production", also=())
        else:
            trusts(found.gate.worker, tmp_path / "gate", EU, "gate-1", PETS, also=(ASIA,))
        await until(lambda: not found.gate.worker.custody.clients)
        answer = await found.ask()
        said = b"no bundle of eu.shoal" if side == "caller" else b"identity refused by the other side: unknown ca"
        assert answer.startswith(b"HTTP/1.1 503") and said in answer
        assert len(found.heads) == 1


async def test_a_gateway_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """Also by a POST: nothing was sent."""
    async with doors(tmp_path) as found:
        found.imports(gateways=["127.0.0.1:9", f"127.0.0.1:{found.gate.inbound_port}"])
        for _ in range(6):
            client = await found.caller.client()
            said = b"POST / HTTP/1.1\r\nHost: pets.eu\r\nContent-Length: 2\r\n%b\r\nhi" % CREDENTIALS
            assert (await client.ask(said)).startswith(b"HTTP/1.1 200")


async def test_ways_out_lead_there(tmp_path: Path) -> None:
    """What has no room here, or is broken, is served there."""
    async with doors(tmp_path) as found:

        async def broken(client: Client) -> None:
            while True:
                await client.head()
                await client.send(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")

        port = await found.caller.upstream(broken)
        trip = {"trip": {"consecutive": 1}, "fallback": {"service": "pets.eu"}}
        found.caller.put(endpoint(port, "a"), service="pets.here", breaker=trip, retry={"attempts": 1})
        answers = [(await found.ask(host=b"pets.here")).split()[1] for _ in range(4)]
        assert answers == [b"500", b"200", b"200", b"200"]


async def test_an_import_comes_and_goes(tmp_path: Path) -> None:
    """Gateways change, what is learnt of those that stay is kept, and without the document none is left."""
    async with doors(tmp_path) as found:
        assert (await found.ask()).startswith(b"HTTP/1.1 200")
        service = found.caller.worker.table.services["pets.eu"]
        (first,) = service.plan.endpoints
        found.imports(gateways=["127.0.0.1:9", f"127.0.0.1:{found.gate.inbound_port}"])
        kept = next(each for each in service.plan.endpoints if each.port == first.port)
        assert kept.load is first.load and len(service.loads) == 2
        found.caller.put(endpoint(1, "x"), service="pets.eu")
        assert [each.id for each in service.plan.endpoints] == ["x"] and set(service.loads) == {"x"}
        found.caller.put(endpoint(1, "x"), service="pets.eu", **{"import": {
            "trust_domain": "eu.shoal", "remote_service": PETS, "gateways": ["127.0.0.1:9"]}})  # fmt: skip
        assert [each.id for each in service.plan.endpoints] == ["gateway 127.0.0.1:9"]


async def test_it_is_explained(tmp_path: Path) -> None:
    """Which gateway, and whom it has to prove to be; and to a gateway, whether somebody would be let in."""
    async with doors(tmp_path) as found:
        told = explain(found.caller.worker, Explain(url="http://pets.eu/"))
        assert told["endpoint"]["expected"] == "spiffe://eu.shoal/svc/pets.production" and "hop" not in told
        assert any("spiffe://eu.shoal/svc/pets.production" in row["decision"] for row in told["decisions"])
        assert told["decisions"][0]["policy"] == "import/pets.eu"
        assert told["decisions"][0]["reason"].startswith("1 gateways of another mesh")
        told = explain(found.gate.worker, Explain(url=f"http://{PETS}/", caller=str(SHOP)))
        assert told["status"] is None and told["hop"].gateway == "gate-1"
        assert explain(found.callee.worker, told["hop"])["status"] is None
        told = explain(found.gate.worker, Explain(url=f"http://{PETS}/", caller="spiffe://asia.shoal/svc/x"))
        assert told["status"] == 421
        assert any("policies/export/pets.production" in row["reason"] for row in told["decisions"])
        assert explain(found.callee.worker, Explain(url=f"http://{PETS}/", caller=str(SHOP)))["status"] == 421
        assert found.heads == []


async def test_people_are_known_on_both_sides_of_a_door(tmp_path: Path) -> None:
    """By each mesh's own documents: ours before it leaves, theirs at the gateway and beside the instance. What ours
    keeps from instances does not leave."""
    made = token({"iss": "https://login", "aud": "lamps", "sub": "ann", "exp": time.time() + 600}).encode()
    bearer = b"authorization: Bearer %b\r\nx-user: root\r\n" % made
    authn = {"providers": [provider()], "headers": {"x-user": "sub"}}
    async with doors(tmp_path) as two:
        two.imports()
        two.exports(authn=authn)
        assert (await two.ask()).startswith(b"HTTP/1.1 401") and two.heads == []
        assert two.callee.worker.table.services[PETS].stats.authenticated == {}, "the gateway has refused it"
        assert (await two.ask(bearer + CREDENTIALS)).startswith(b"HTTP/1.1 200")
        assert b"\r\nx-user: ann\r\n" in two.heads[0] and b"root" not in two.heads[0] and made in two.heads[0]
        document: dict[str, Any] = {"trust_domain": "eu.shoal", "remote_service": PETS}
        document["gateways"] = [f"127.0.0.1:{two.gate.inbound_port}"]
        two.caller.put(service="pets.eu", **{"import": document, "authn": {**authn, "forward": False}})
        two.exports(authn={**authn, "required": False})
        assert (await two.ask()).startswith(b"HTTP/1.1 401"), "ours"
        assert (await two.ask(bearer + CREDENTIALS)).startswith(b"HTTP/1.1 200")
        assert made not in two.heads[1] and b"x-user" not in two.heads[1].lower()
