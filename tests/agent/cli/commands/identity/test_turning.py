"""`shoal ca rotate root`, with hosts that hear late, each by itself, and hold what they have until there is another."""

from __future__ import annotations

from random import Random

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.cli.identity.domain import now_s, take
from agent.cli.identity.issuers import fingerprint, root_above
from agent.cli.identity.root_key import terms
from agent.identity.bundles import Bundle
from agent.identity.certificates import INTERMEDIATE_S, ROOT_S, Issuer, make_intermediate, make_root, to_pem
from agent.identity.revocations import Revocations
from agent.identity.verdict import Identity
from agent.identity.verification import verify
from tests.support.identity import der, key
from tests.support.operating import Mesh

ISSUER = "web-1"
HOSTS = ("web-1", "web-2", "web-3")


class Crowd:
    """Agents, one of which hears of what stands, or renews, at a time; after each, all meet all."""

    def __init__(self, mesh: Mesh, deaf: str = "") -> None:
        self.mesh = mesh
        self.deaf = deaf
        self.believed: dict[str, Bundle] = {}
        self.shown: dict[str, list[x509.Certificate]] = {}
        self.wishes: dict[str, object] = {}
        self.met = 0
        self._rng = Random(7)

    async def begin(self) -> None:
        await self.mesh.init(ISSUER)
        for host in HOSTS:
            if host != ISSUER:
                await self.mesh.hosts.live(host)
            await self.mesh.shoal("host", "add", host)
            await self.mesh.hosts.ask(host, "agent")
        await self.mesh.hosts.answer(ISSUER)
        for host in HOSTS:
            await self.hear(host)

    async def hear(self, host: str) -> None:
        """One agent: the bundle, and what it is to renew."""
        domain = await take(self.mesh.store, self.mesh.name)
        wish = domain.hosts[host].renew_before
        if self.wishes.get(host, wish) != wish:
            await self.mesh.hosts.ask(host, "agent")
            await self.mesh.hosts.answer(ISSUER)
            domain = await take(self.mesh.store, self.mesh.name)
        self.wishes[host] = wish
        self.believed[host] = domain.required()
        self.shown[host] = x509.load_pem_x509_certificates(domain.signed[host, "agent"].chain.encode())
        await self.mesh.hosts.hold(host)
        self.meet()

    def meet(self) -> None:
        for one, bundle in self.believed.items():
            for other, chain in self.shown.items():
                found = verify(der(chain), {bundle.trust_domain: bundle}, Revocations(), now_s())
                assert isinstance(found, Identity), (one, other, found)
                self.met += 1

    async def go_on(self) -> None:
        while True:
            await self.hear(self._rng.choice([host for host in HOSTS if host != self.deaf]))
            await trio.sleep(0.02)


async def test_nobody_meets_whom_it_does_not_believe_while_the_root_is_replaced(mesh: Mesh) -> None:
    """There, and with the first key back again; at the end each holds what leads to the one root that is left."""
    crowd = Crowd(mesh)
    await crowd.begin()
    (old,) = (await take(mesh.store, mesh.name)).required().roots
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.go_on)
        done = await mesh.shoal("ca", "rotate", "root", "--root-key", "new.key", "-t", "100")
        (new,) = (await take(mesh.store, mesh.name)).required().roots
        assert new != old
        assert "3 of 3" in done.stderr
        await mesh.shoal("ca", "rotate", "root", "--root-key", str(mesh.key), "-t", "100", code=0)
        nursery.cancel_scope.cancel()
    domain = await take(mesh.store, mesh.name)
    root = domain.required().roots[0]
    assert root.public_key() == old.public_key()
    assert domain.required().sequence == 5
    assert root_above(domain, ISSUER) == root
    assert all(holds.roots == [fingerprint(root)] for holds in domain.holds.values())
    assert crowd.met > 100


async def test_a_root_does_not_go_while_somebody_needs_it(mesh: Mesh) -> None:
    """Who has not heard, or has not renewed, is named; broken off it goes on; --force says who is cut off."""
    crowd = Crowd(mesh, deaf="web-3")
    await crowd.begin()
    (old,) = (await take(mesh.store, mesh.name)).required().roots
    rotate = ("ca", "rotate", "root", "--root-key", "new.key", "-t")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.go_on)
        first = await mesh.shoal(*rotate, "2", code=1)
        assert "web-3 do not believe it yet" in first.stderr
        assert (await take(mesh.store, mesh.name)).required().roots[0] == old
        crowd.wishes["web-3"] = None
        await crowd.hear("web-3")
        again = await mesh.shoal(*rotate, "5", code=1)
        assert "web-3 do not hold what leads to it yet" in again.stderr
        assert len((await take(mesh.store, mesh.name)).required().roots) == 2
        nursery.cancel_scope.cancel()
    forced = await mesh.shoal(*rotate, "0", "--force")
    assert "web-3 do not hold what leads to it yet, and will be cut off" in forced.stderr
    (left,) = (await take(mesh.store, mesh.name)).required().roots
    assert left != old
    assert "the only one already" in (await mesh.shoal(*rotate, "0", code=1)).stderr


async def test_a_new_root_is_taken_back_unless_it_is_in_use(mesh: Mesh) -> None:
    """And no third one comes in meanwhile, whose key would be made for nothing."""
    crowd = Crowd(mesh)
    await crowd.begin()
    assert "nothing to be taken back" in (await mesh.shoal("ca", "rotate", "root", "--abort", code=1)).stderr
    await mesh.shoal("ca", "rotate", "root", "--root-key", "new.key", "-t", "0", code=1)
    third = await mesh.shoal("ca", "rotate", "root", "--root-key", "third.key", "-t", "0", code=1)
    assert "on its way in" in third.stderr
    assert not (mesh.folder / "third.key").exists()
    await mesh.shoal("ca", "rotate", "root", "--abort")
    assert len((await take(mesh.store, mesh.name)).required().roots) == 1
    await mesh.shoal("ca", "rotate", "root", "--root-key", "new.key", "-t", "0", code=1)
    for host in HOSTS:
        await crowd.hear(host)
    await mesh.shoal("ca", "rotate", "root", "--root-key", "new.key", "-t", "0", code=1)
    used = await mesh.shoal("ca", "rotate", "root", "--abort", code=1)
    assert "it is in use (issuer web-1)" in used.stderr
    assert "where the new root's key is" in (await mesh.shoal("ca", "rotate", "root", code=2)).stderr


async def test_another_cas_root_takes_its_turn(mesh: Mesh) -> None:
    """Its intermediates are imported in between; the same command goes on."""
    crowd = Crowd(mesh)
    await crowd.begin()
    theirs = rsa.generate_private_key(65537, 2048)
    domain = f"{mesh.name}.shoal"
    root = Issuer(make_root(theirs, domain, terms(now_s(), ROOT_S)), theirs)
    (mesh.folder / "theirs.pem").write_bytes(to_pem([root.certificate]))
    rotate = ("ca", "rotate", "root", "--external", "theirs.pem", "-t")
    await mesh.shoal(*rotate, "0", code=1)
    for host in HOSTS:
        await crowd.hear(host)
    told = await mesh.shoal(*rotate, "0", code=1)
    assert "issuer web-1 have no intermediate of it" in told.stderr
    public = key("web-1 issuer").public_key()
    made = make_intermediate(root, public, domain, ISSUER, terms(now_s(), INTERMEDIATE_S))
    (mesh.folder / "web-1.pem").write_bytes(to_pem([made]))
    await mesh.shoal("ca", "import", "web-1.pem")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.go_on)
        await mesh.shoal(*rotate, "100")
        nursery.cancel_scope.cancel()
    assert (await take(mesh.store, mesh.name)).required().roots == (root.certificate,)


@pytest.mark.parametrize("many", [130])
async def test_a_mesh_of_more_hosts_than_a_transaction_takes(mesh: Mesh, many: int) -> None:
    """All are asked to renew; and a host of as many grants is put out whole."""
    await mesh.init(ISSUER)
    for number in range(many):
        await mesh.store.put(mesh.keys.identity("hosts", f"h{number}"), b"{}")
        await mesh.store.put(mesh.keys.identity("grants", f"s{number}"), b'{"hosts": ["h1"]}')
        await mesh.hosts.ask("h1", f"svc/s{number}", whose="one")
    told = await mesh.json("ca", "rotate", "leaf", "-t", "0")
    assert len(told["hosts"]) == many + 1
    domain = await take(mesh.store, mesh.name)
    assert all(host.renew_before is not None for host in domain.hosts.values())
    await mesh.shoal("ca", "revoke", "host", "h1")
    domain = await take(mesh.store, mesh.name)
    assert (domain.grants, domain.requests.keys() - {(ISSUER, "issuer")}) == ({}, set())
