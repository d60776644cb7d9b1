from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.cli.identity.expelling import expel
from agent.cli.identity.founding import Wanted, found
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.etcd.stubs import load
from registry.etcd.users import remove_user
from registry.keys import Keys
from registry.store import Refused
from tests.support.asking import Hosts
from tests.support.etcd import running_etcd

_rpc, _ = load()
MESH = "default"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), arguments=("--bcrypt-cost", "4")) as process:
        yield process


@asynccontextmanager
async def as_user(etcd: EtcdProcess, user: str) -> AsyncIterator[EtcdStore]:
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,), user=user, password="p")) as store:
        yield store


async def guard(store: EtcdStore, *users: str) -> None:
    """Users, each of whom may write all of the mesh, and root; etcd asks who comes from now on."""
    prefix = Keys(MESH).prefix.encode()
    everything = {"key": prefix, "range_end": prefix[:-1] + b"0", "permType": 2}
    await store._repeatable("Auth", "RoleAdd", _rpc.AuthRoleAddRequest(name="mesh"))
    await store._repeatable(
        "Auth", "RoleGrantPermission", _rpc.AuthRoleGrantPermissionRequest(name="mesh", perm=everything)
    )
    for user in ("root", *users):
        await store._repeatable("Auth", "UserAdd", _rpc.AuthUserAddRequest(name=user, password="p"))
        role = "root" if user == "root" else "mesh"
        await store._repeatable("Auth", "UserGrantRole", _rpc.AuthUserGrantRoleRequest(user=user, role=role))
    await store._repeatable("Auth", "AuthEnable", _rpc.AuthEnableRequest())


async def test_a_host_that_is_put_out_writes_no_more(etcd: EtcdProcess, tmp_path: Path) -> None:
    """Its user is gone, and its tokens are void; who may not take users away is told, and the rest is done."""
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        await guard(store, "web-1", "web-2", "ada")
    async with as_user(etcd, "root") as root, as_user(etcd, "ada") as ada, as_user(etcd, "web-1") as web_1:
        await Hosts(web_1).live("web-1", services=("pets.production",))
        await found(root, Wanted(mesh=MESH, key=tmp_path / "root.key", issuers=("web-1", "web-2"), timeout_s=0))
        told = await expel(root, MESH, "web-1", "stolen", "root", "root", force=False)
        assert "its user in etcd is gone: web-1" in told.done
        with pytest.raises(Refused):
            await web_1.put(Keys(MESH).agent("web-1"), b"{}")
        told = await expel(ada, MESH, "web-2", "", "ada", "ada", force=True)
        assert any("its user in etcd may be there still" in line for line in told.left)
        assert any("only issuer" in line for line in told.left)
        assert (await root.get(Keys(MESH).identity("hosts", "web-2"))) is None
        told = await expel(root, MESH, "ada", "", "ada", "ada", force=True)
        assert any("it is yours" in line for line in told.left)
        assert await remove_user(root, "web-2")
        assert not await remove_user(root, "web-2")
        with pytest.raises(Refused, match="own root"):
            await remove_user(root, "root")
