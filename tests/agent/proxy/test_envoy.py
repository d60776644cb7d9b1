"""A real Envoy, with its SPIFFE validator, takes our SVIDs and shows its own: both ways, and both refuse."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from agent.identity.certificates import to_pem
from registry.etcd.server import free_port
from tests.support.envoy import cluster, listener, running_envoy, tls_context
from tests.support.identity import PETS, SHOP, TRUST_DOMAIN
from tests.support.light import until
from tests.support.proxy import OK
from tests.support.tls import OURS, STRANGER, WEB, Echo, in_thread, running_loop, services, shown

pytest.importorskip("envoy", reason="the extra `bench` has Envoy")

GET = b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(to_pem([OURS.root.certificate]))
    return path


async def test_we_call_envoy(tmp_path: Path, root: Path) -> None:
    """It takes our SVID, and we its; another caller than the one that it wants is refused by it, another service than
    the one that we want by us."""
    pets, shop = shown(tmp_path, PETS), shown(tmp_path, SHOP)
    transport = tls_context("Downstream", pets, TRUST_DOMAIN, root, str(SHOP), require_client_certificate=True)
    answer = {"direct_response": {"status": 200, "body": {"inline_string": "from envoy"}}}
    port = free_port()
    with running_envoy(tmp_path, [listener("pets", port, answer, transport)], []):
        async with running_loop() as loop:
            client = await loop.call(port, shop, PETS)
            assert isinstance(client, Echo) and client.identity.id == PETS
            client.say(GET)
            await until(lambda: client.heard.endswith(b"from envoy"))
            assert client.heard.startswith(b"HTTP/1.1 200 OK")
            client.close()

            wrong = await loop.call(port, shown(tmp_path, WEB), PETS)
            assert isinstance(wrong, Echo)  # through, before it was judged: it says no line
            await until(lambda: wrong.broken or wrong.ended)
            assert wrong.heard == b"" and "identity refused by the other side" in str(wrong.broken), wrong.ended

            assert await loop.call(port, shop, SHOP) == f"this is {PETS}, where {SHOP} was expected; nothing was sent"


async def test_envoy_calls_us(tmp_path: Path, root: Path) -> None:
    """For a program without an SVID: with one of ours, to the service that SNI names; and it refuses another's."""
    shop = shown(tmp_path, SHOP)

    async with running_loop() as loop:
        loop.take = lambda *found: loop.secured.append(Echo(loop.reactor, *found, answer=OK))
        good = loop.serve(services(tmp_path))
        bad = loop.serve({**services(tmp_path), "pets.production": shown(tmp_path, SHOP)})
        foreign = shown(tmp_path, PETS._replace(trust_domain="stranger.example"), None)
        foreign.chain.write_bytes(to_pem(STRANGER.svid(PETS._replace(trust_domain="stranger.example"))))
        unknown = loop.serve({**services(tmp_path), "pets.production": foreign})
        transport = tls_context("Upstream", shop, TRUST_DOMAIN, root, str(PETS), sni="pets.production")
        ports = {name: free_port() for name in ("good", "bad", "unknown")}
        with running_envoy(
            tmp_path,
            [listener(name, port, {"route": {"cluster": name}}) for name, port in ports.items()],
            [cluster(name, port, transport) for name, port in (("good", good), ("bad", bad), ("unknown", unknown))],
        ):

            def ask(name: str) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", ports[name], timeout=60)
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    return answer.status, answer.read()
                finally:
                    connection.close()

            assert await in_thread(ask, "good") == (200, b"ok")
            assert loop.secured[0].identity.id == SHOP and loop.secured[0].heard.startswith(b"GET / HTTP/1.1")
            for name in ("bad", "unknown"):
                status, _ = await in_thread(ask, name)
                assert status == 503
            assert len(loop.secured) == 1 and len(loop.failed) >= 2
            assert all(reason.startswith("identity refused by the other side") for reason in loop.failed), loop.failed
