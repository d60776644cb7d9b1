from __future__ import annotations

import pytest
import trio

from agent.cli.identity.domain import now_s, take
from agent.identity.tokens import TOKEN_S, anchor_of, digest_of, read_token
from tests.support.operating import Mesh


async def test_a_host_is_added_with_its_grants_and_a_token(mesh: Mesh) -> None:
    """One command to paste, of which etcd has a digest only; it says whom to believe, and where."""
    await mesh.init("web-1")
    done = await mesh.shoal("host", "add", "web-3", "-s", "*.staging", "-s", "pets/production", "--description", "new")
    command, join, text = done.stdout.split()
    assert (command, join) == ("shoal", "join")
    token = read_token(text)
    domain = await take(mesh.store, mesh.name)
    assert domain.granted("web-3") == ["*.staging", "pets.production"]
    assert domain.hosts["web-3"].description == "new"
    assert [(name, held.host) for name, held in domain.joins.items()] == [(digest_of(token.secret), "web-3")]
    assert abs(token.until - now_s() - TOKEN_S) < 600
    assert [(place.host, place.address, place.port) for place in token.issuers] == [("web-1", "127.0.0.1", 15006)]
    assert (token.root_name, token.root_key) == anchor_of(domain.required().roots[0])
    assert all(token.secret.encode() not in item.value for item in domain.items.values())


async def test_a_new_token_is_instead_of_the_one_before(mesh: Mesh) -> None:
    """Who was handed the first, and lost it, lets nobody in; other hosts' tokens stay."""
    await mesh.init("web-1")
    other = read_token((await mesh.json("host", "add", "web-4"))["token"])
    await mesh.shoal("host", "add", "web-3")
    last = read_token((await mesh.json("host", "add", "web-3"))["token"])
    joins = (await take(mesh.store, mesh.name)).joins
    assert set(joins) == {digest_of(other.secret), digest_of(last.secret)}


async def test_a_host_that_lives_needs_no_token(mesh: Mesh) -> None:
    """Its agent asks by its own rights in etcd: no secret is made that nobody wants."""
    await mesh.init("web-1")
    done = await mesh.shoal("host", "add", "web-1", "--service", "pets.production")
    assert done.stdout == ""
    assert (await take(mesh.store, mesh.name)).joins == {}


async def test_grants_at_once_all_stand(mesh: Mesh) -> None:
    """Two operators add their hosts to one pattern: the list has both."""
    await mesh.init("web-1")
    async with trio.open_nursery() as nursery:
        for host in ("web-2", "web-3", "web-4"):
            nursery.start_soon(lambda name=host: mesh.shoal("host", "add", name, "-s", "pets.production", apart=True))
    assert (await take(mesh.store, mesh.name)).grants["pets.production"].hosts == ["web-2", "web-3", "web-4"]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["web 3"], 2, "cannot be proven"),
        (["x" * 65], 2, "cannot be proven"),
        (["web-3", "-s", "pets.*"], 2, "not a DNS label"),
    ],
)
async def test_what_cannot_be_proven_is_not_added(mesh: Mesh, words: list[str], code: int, why: str) -> None:
    """And nothing is written."""
    await mesh.init("web-1")
    before = (await take(mesh.store, mesh.name)).items
    assert why in (await mesh.shoal("host", "add", *words, code=code)).stderr
    assert (await take(mesh.store, mesh.name)).items == before


async def test_without_an_issuer_nobody_is_invited(mesh: Mesh) -> None:
    """Neither before there is a CA, nor while nobody could let the host in; nothing is written half."""
    assert "`shoal ca init` makes one" in (await mesh.shoal("host", "add", "web-3", code=1)).stderr
    await mesh.shoal("ca", "init", "--issuer", "web-1", "--timeout", "0")
    told = await mesh.shoal("host", "add", "web-3", "--service", "pets", code=1)
    assert "no issuer has an intermediate yet" in told.stderr
    domain = await take(mesh.store, mesh.name)
    assert ("web-3" in domain.hosts, domain.grants) == (False, {})


async def test_a_grant_that_cannot_be_read_is_not_written_over(mesh: Mesh) -> None:
    """Somebody meant something by it: it is named, to be mended."""
    await mesh.init("web-1")
    await mesh.store.put(mesh.keys.identity("grants", "pets"), b'{"host": "web-2"}')
    told = await mesh.shoal("host", "add", "web-1", "--service", "pets", code=1)
    assert "identity/grants/pets cannot be read" in told.stderr


async def test_hosts_are_listed_and_taken_out(mesh: Mesh) -> None:
    """One grant, or all of it; an issuer's part goes too, and what it holds is said to go on."""
    await mesh.init("web-1")
    await mesh.shoal("host", "add", "web-1", "-s", "pets.production", "-s", "shop.production")
    await mesh.hosts.ask("web-1", "agent")
    await mesh.hosts.answer("web-1")
    await mesh.hosts.hold("web-1")
    await mesh.shoal("host", "add", "web-3", "-s", "shop.production")
    rows = {row["host"]: row for row in await mesh.json("host", "list")}
    assert rows["web-1"]["granted"] == ["pets.production", "shop.production"]
    assert (rows["web-1"]["holds"], rows["web-1"]["token_until"]) == (1, None)
    assert (rows["web-3"]["holds"], rows["web-3"]["lives"]) == (0, False)
    assert rows["web-3"]["token_until"]
    await mesh.shoal("host", "rm", "web-1", "-s", "shop.production")
    assert (await take(mesh.store, mesh.name)).grants["shop.production"].hosts == ["web-3"]
    told = await mesh.shoal("host", "rm", "web-1")
    assert "shoal ca revoke host web-1" in told.stderr
    await mesh.shoal("host", "rm", "web-3")
    domain = await take(mesh.store, mesh.name)
    assert (domain.hosts, domain.grants, domain.issuers, domain.joins) == ({}, {}, {}, {})
    assert "no host of this mesh" in (await mesh.shoal("host", "rm", "web-3", code=1)).stderr
    assert "has no grant for" in (await mesh.shoal("host", "rm", "web-3", "-s", "pets", code=1)).stderr
