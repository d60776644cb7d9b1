"""Who may log in, as `shoal person` says it."""

from __future__ import annotations

import pytest

from agent.cli.identity.domain import take
from registry.keys import Keys
from tests.support.operating import Mesh

BROKEN = [b'{"role": "root"}', b"{", b"", b"[]", b'{"rank": "view"}']


@pytest.mark.parametrize("value", BROKEN, ids=[value.decode() or "empty" for value in BROKEN])
async def test_whom_nobody_can_read_is_listed_and_can_be_removed(mesh: Mesh, value: bytes) -> None:
    """A slip in etcdctl demotes nobody, so the list has him, with the reason; `rm` needs no mending first."""
    await mesh.init("web-1")
    await mesh.shoal("person", "add", "ann")
    key = Keys(mesh.name).identity("people", "ada")
    await mesh.store.put(key, value)
    told = await mesh.json("person", "list", code=1)
    assert [(row["person"], row["role"]) for row in told] == [("ann", "view"), ("ada", None)]
    assert told[1]["description"].startswith("cannot be read: ")
    await mesh.shoal("person", "rm", "ada")
    assert [row["person"] for row in await mesh.json("person", "list")] == ["ann"]
    assert key not in (await take(mesh.store, mesh.name)).items


async def test_who_is_revoked_need_not_be_read(mesh: Mesh) -> None:
    """It ends at once, and in one transaction."""
    await mesh.init("web-1")
    await mesh.store.put(Keys(mesh.name).identity("people", "ada"), b"{")
    await mesh.shoal("ca", "revoke", "person", "ada")
    domain = await take(mesh.store, mesh.name)
    assert domain.malformed == {} and not domain.people


async def test_adding_does_not_write_over_what_nobody_can_read(mesh: Mesh) -> None:
    """Somebody may have meant something by it."""
    await mesh.init("web-1")
    await mesh.store.put(Keys(mesh.name).identity("people", "ada"), b"{")
    done = await mesh.shoal("person", "add", "ada", code=1)
    assert "cannot be read" in done.stderr


async def test_a_role_is_changed_without_another_token(mesh: Mesh) -> None:
    """And whoever is nobody does not become somebody by it."""
    await mesh.init("web-1")
    await mesh.shoal("person", "add", "ada", "--description", "on call")
    tokens = set((await take(mesh.store, mesh.name)).joins)
    await mesh.shoal("person", "set", "ada", "--role", "operate")
    domain = await take(mesh.store, mesh.name)
    assert (domain.people["ada"].role, domain.people["ada"].description) == ("operate", "on call")
    assert set(domain.joins) == tokens
    await mesh.shoal("person", "set", "ada", "--description", "")
    assert (await take(mesh.store, mesh.name)).people["ada"].description == ""
    assert "`shoal person add bob`" in (await mesh.shoal("person", "set", "bob", "--role", "view", code=1)).stderr
    assert "--role" in (await mesh.shoal("person", "set", "ada", code=2)).stderr
    await mesh.store.put(Keys(mesh.name).identity("people", "eve"), b"{")
    assert "cannot be read" in (await mesh.shoal("person", "set", "eve", "--role", "view", code=1)).stderr
