"""`shoal host add` where etcd asks who one is: the new host's user and role are made too, by whoever may."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.cli.identity.domain import take
from agent.cli.rights.granting import standing_of
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.etcd.stubs import load
from registry.etcd.users import Users
from registry.keys import Keys
from registry.store import Refused
from tests.support.etcd import running_etcd
from tests.support.operating import Mesh

_rpc, _ = load()
ROOT = ("--etcd-user", "root", "--etcd-password-file", "p")
ADA = ("--etcd-user", "ada", "--etcd-password-file", "p")


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), arguments=("--bcrypt-cost", "4")) as process:
        yield process


def as_user(etcd: EtcdProcess, user: str, password: str = "p") -> EtcdSettings:
    return EtcdSettings(endpoints=(etcd.url,), user=user, password=password)


@pytest.fixture
async def guarded(etcd: EtcdProcess, mesh: Mesh) -> AsyncIterator[Users]:
    """etcd's root. Ada is an operator of the mesh, which has an issuer; etcd asks who comes from now on."""
    await mesh.init("web-1")
    await mesh.shoal("mesh", "create", mesh.name, "--apply")
    (mesh.folder / "p").write_text("p\n")
    await mesh.shoal("mesh", "grant", "ada", "--as", "operator", "--password-file", "p", "--apply")
    async with Users.open(EtcdSettings(endpoints=(etcd.url,))) as users:
        await users.add_user("root", "p")
        await users.give("root", "root")
        await users._auth("AuthEnable", _rpc.AuthEnableRequest())
    async with Users.open(as_user(etcd, "root")) as users:
        yield users


async def test_its_user_writes_its_keys_and_no_others(etcd: EtcdProcess, mesh: Mesh, guarded: Users) -> None:
    """With a password that nobody but the operator's user can read, and the command says where it goes."""
    done = await mesh.shoal(*ROOT, "host", "add", "web-3", "-s", "*.staging")
    assert done.stdout.startswith("shoal join ")
    assert "web-3.password has its password in etcd: move it to web-3" in done.stderr and "warning" not in done.stderr
    file = mesh.folder / "web-3.password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    standing = await standing_of(guarded, mesh.keys)
    assert set(standing.users["web-3"]) == {f"shoal:{mesh.name}:agent", f"shoal:{mesh.name}:host:web-3"}
    async with EtcdStore.open(as_user(etcd, "web-3", file.read_text().strip())) as store:
        await store.put(mesh.keys.agent("web-3"), b"{}")
        await store.put(mesh.keys.request("web-3", "agent"), b"{}")
        for key in (mesh.keys.agent("web-1"), mesh.keys.identity("bundle"), Keys("other").agent("web-3")):
            with pytest.raises(Refused):
                await store.put(key, b"{}")


async def test_asked_again_it_changes_nothing_there(etcd: EtcdProcess, mesh: Mesh, guarded: Users) -> None:
    """The password stays what it is, also where its file is gone by now; a role that lacks a right gets it."""
    await mesh.shoal(*ROOT, "host", "add", "web-3")
    file = mesh.folder / "web-3.password"
    password = file.read_text().strip()
    file.unlink()
    done = await mesh.shoal(*ROOT, "host", "add", "web-3")
    assert not file.exists() and "password" not in done.stderr
    role = (await guarded.roles(f"shoal:{mesh.name}:host:"))[f"shoal:{mesh.name}:host:web-3"]
    await guarded.forbid(role.name, next(iter(role.grants)))
    assert "done: etcdctl role grant-permission" in (await mesh.shoal(*ROOT, "host", "add", "web-3")).stderr
    async with EtcdStore.open(as_user(etcd, "web-3", password)) as store:
        await store.put(mesh.keys.agent("web-3"), b"{}")


async def test_who_may_not_is_told_what_is_left(mesh: Mesh, guarded: Users) -> None:
    """The host is added, and its token printed; the line that makes the user is for who may, and does."""
    done = await mesh.shoal(*ADA, "host", "add", "web-3")
    assert done.stdout.startswith("shoal join ")
    line = "shoal mesh grant web-3 --password-file web-3.password --apply"
    assert "its user in etcd is not made" in done.stderr and line in done.stderr
    assert not (mesh.folder / "web-3.password").exists()
    left = (await mesh.json(*ADA, "host", "add", "web-4"))["left"]
    assert len(left) == 1 and "shoal mesh grant web-4" in left[0]
    assert "web-3" in (await take(guarded, mesh.name)).hosts
    await mesh.shoal(*ROOT, *line.split()[1:])
    assert "web-3" in (await standing_of(guarded, mesh.keys)).users


async def test_a_user_of_another_mesh_stays_that(mesh: Mesh, guarded: Users) -> None:
    """A host of that name there keeps its rights, and gets none here."""
    await guarded.add_role("shoal:other:host:web-3")
    await guarded.add_user("web-3", "q")
    await guarded.give("web-3", "shoal:other:host:web-3")
    done = await mesh.shoal(*ROOT, "host", "add", "web-3")
    assert "web-3 has rights in another mesh" in done.stderr
    assert (await standing_of(guarded, mesh.keys)).users["web-3"] == ("shoal:other:host:web-3",)


async def test_an_agent_that_lives_has_its_user_already(mesh: Mesh, guarded: Users) -> None:
    """As whom it writes is not known: no user of its name is made up."""
    await mesh.shoal(*ROOT, "host", "add", "web-1", "-s", "pets.production")
    assert "web-1" not in (await standing_of(guarded, mesh.keys)).users


async def test_a_password_of_the_operators_own(etcd: EtcdProcess, mesh: Mesh, guarded: Users) -> None:
    """In the file that he names."""
    (mesh.folder / "mine").write_text("secret\n")
    await mesh.shoal(*ROOT, "host", "add", "web-3", "--password-file", "mine")
    async with EtcdStore.open(as_user(etcd, "web-3", "secret")) as store:
        await store.put(mesh.keys.agent("web-3"), b"{}")


async def test_an_etcd_that_asks_nobody_gets_no_user(etcd: EtcdProcess, mesh: Mesh) -> None:
    """Nor a role."""
    await mesh.init("web-1")
    await mesh.shoal("host", "add", "web-3", "--password-file", "web-3.password")
    async with Users.open(EtcdSettings(endpoints=(etcd.url,))) as users:
        standing = await standing_of(users, mesh.keys)
        assert (standing.users, standing.roles) == ({}, {})
    assert not (mesh.folder / "web-3.password").exists()


async def test_who_is_put_out_and_comes_again(etcd: EtcdProcess, mesh: Mesh, guarded: Users, tmp_path: Path) -> None:
    """`shoal ca revoke host` takes the user away; added again, the host has another."""
    await mesh.shoal(*ROOT, "host", "add", "web-3")
    file = mesh.folder / "web-3.password"
    before = file.read_text().strip()
    done = await mesh.shoal(*ROOT, "ca", "revoke", "host", "web-3", "--reason", "stolen")
    assert "its user in etcd is gone: web-3" in done.stderr
    file.unlink()
    await mesh.shoal(*ROOT, "host", "add", "web-3")
    with pytest.raises(Refused):
        async with EtcdStore.open(as_user(etcd, "web-3", before)) as store:
            await store.put(mesh.keys.agent("web-3"), b"{}")
    async with EtcdStore.open(as_user(etcd, "web-3", file.read_text().strip())) as store:
        await store.put(mesh.keys.agent("web-3"), b"{}")
