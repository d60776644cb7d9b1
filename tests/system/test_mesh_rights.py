"""Roles of etcd, one for each host: what the walk of deploy/README.md makes, tried on an etcd that asks who one is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import EtcdProcess, find_binary
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.store import Compare, Put, Refused, Store, prefix_end
from tests.support.etcd import running_etcd
from tests.support.mesh import ROOT, Mesh, until

WALKS = re.findall(r"```sh\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL)
WALK = [walk for walk in WALKS if "SHOAL_ETCD_PASSWORD" in walk]
"""The other one, with certificates, is tests/test_deploy.py's."""
KEYS, OTHER = Keys("default"), Keys("staging")
READABLE = ["acks", "agents", "claims", "hosts", "identity", "instances", "last_good", "policies", "signed", "versions"]
EVERYWHERE = (
    *("acks/web-1", "acks/web-2", "agents/web-1", "agents/web-10", "agents/web-2", "seen/web-1", "seen/web-2"),
    *("versions/web-1", "versions/web-2", "hosts/web-1/trust", "hosts/web-1/instances/pets/a", "hosts/web-10/trust"),
    *("hosts/web-1/health/pets/a", "hosts/web-2/health/pets/a", "hosts/web-2/instances/pets/a", "hosts/web-2/trust"),
    *("requests/web-1/agent", "requests/web-2/agent", "instances/pets/a", "health/pets/a", "policies/route/pets"),
    *("audits/route/pets", "confirmed/policies", "confirmed/hosts", "identity/bundle", "identity/grants/pets"),
    *("identity/hosts/web-1", "identity/issuers/web-1", "identity/joins/a", "identity/revocations"),
    *("identity/trust/there", "signing/web-1/agent", "signed/web-1/agent", "last_good/route/pets", "held/route/pets"),
    *("rejected/route/pets", "audits_rejected/route/pets", "claims/pets", "conditions/pets", "events/1", "told/1"),
    *("undelivered/1", "tallies/pets/web-1", "mistake/1"),
    *("hosts/web-1/events/1", "hosts/web-2/events/1", "reports/web-1/tallies/pets", "reports/web-2/tallies/pets"),
)
"""A key of each sort, without the prefix of its mesh."""
SHARED = {"claims/pets", "conditions/pets", "events/1", "told/1", "undelivered/1"}
KEEPING = {"last_good/route/pets", "held/route/pets", "rejected/route/pets", "audits_rejected/route/pets"}
OPERATORS = {
    *("policies/route/pets", "audits/route/pets", "confirmed/policies", "confirmed/hosts", "instances/pets/a"),
    *("health/pets/a", "undelivered/1", *(key for key in EVERYWHERE if key.startswith("identity/"))),
}


def of_host(host: str) -> set[str]:
    """What is one host's by docs/identity.md."""
    alone = {f"{room}/{host}" for room in ("acks", "agents", "seen", "versions")}
    own = tuple(f"{room}/{host}/" for room in ("hosts", "reports", "requests"))
    return {key for key in EVERYWHERE if key in alone or key.startswith(own)}


WRITES = {
    "web-1": of_host("web-1") | SHARED | KEEPING,
    "web-2": of_host("web-2") | SHARED | KEEPING,
    "ada": OPERATORS,
    "grafana": set[str](),
}


def run(etcd: EtcdProcess, folder: Path, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """As an operator does, in a shell, as etcd's root."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    shoal = commands / "shoal"
    shoal.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
    shoal.chmod(0o755)
    environ = {
        "PATH": f"{commands}:{Path(find_binary('etcdctl')).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "ETCDCTL_ENDPOINTS": etcd.url,
        "SHOAL_ETCD": etcd.url,
        "HOME": str(folder),
    }
    return subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=check
    )


ROOT_USER = "export SHOAL_ETCD_USER=root SHOAL_ETCD_PASSWORD=its-password ETCDCTL_USER=root:its-password\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rights")


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[EtcdProcess]:
    """An etcd after the walk."""
    (walk,) = WALK
    with running_etcd(folder / "etcd", arguments=("--bcrypt-cost", "4")) as etcd:
        told = run(etcd, folder, walk).stdout
        assert re.search(r"^web-1 +agent host:web-1", told, re.MULTILINE) and "missing" not in told
        yield etcd


def settings(etcd: EtcdProcess, folder: Path, user: str) -> EtcdSettings:
    password = (folder / f"{user}.password").read_text().strip()
    return EtcdSettings(endpoints=(etcd.url,), user=user, password=password)


async def written(store: Store, keys: Keys) -> set[str]:
    """What may be written there: asked, and not done."""
    found = set()
    for key in EVERYWHERE:
        try:
            await store.transact([Compare(keys.prefix, create_revision=2**62)], [Put(f"{keys.prefix}{key}", b"")])
        except Refused:
            try:
                await store.put(f"{keys.prefix}{key}", b"")  # the comparison was of what may not be read
            except Refused:
                continue
        found.add(key)
    return found


@pytest.mark.parametrize("user", WRITES)
async def test_what_a_user_may_do(guarded: EtcdProcess, folder: Path, user: str) -> None:
    """It reads its mesh, writes what the page says, and nothing else; of another mesh it sees nothing."""
    run(guarded, folder, f"{ROOT_USER} shoal mesh create staging --apply")
    async with EtcdStore.open(settings(guarded, folder, user)) as store:
        await store.range(KEYS.prefix, prefix_end(KEYS.prefix))
        async with store.watch(*KEYS.watched, 0) as watch:
            assert watch.revision > 0
        assert await written(store, KEYS) == WRITES[user]
        assert await written(store, OTHER) == set()
        for start, end in (("/shoal/", "/shoal0"), (OTHER.prefix, prefix_end(OTHER.prefix)), ("a", "z"), ("", "\0")):
            with pytest.raises(Refused):
                await store.range(start, end)
        for room in READABLE:
            with pytest.raises(Refused):
                await store.get(f"{OTHER.prefix}{room}/a")


async def test_the_first_issuer(guarded: EtcdProcess, folder: Path) -> None:
    """Signs, and keeps what holds in place of a policy; agents do not from then on."""
    grant = "shoal mesh grant ca-1 --as issuer --password-file ca-1.password --apply --mesh staging\n"
    more = "shoal mesh grant db-1 --password-file db-1.password --apply --mesh staging\n"
    run(guarded, folder, f"{ROOT_USER} shoal mesh create staging --apply\n{grant}{more}")
    signing = {"signing/web-1/agent", "signed/web-1/agent", "identity/joins/a", "identity/revocations"}
    async with EtcdStore.open(settings(guarded, folder, "ca-1")) as store:
        assert await written(store, OTHER) == SHARED | KEEPING | signing
        assert await written(store, KEYS) == set()
        await store.put(OTHER.agent("ca-1"), b"{}")
    async with EtcdStore.open(settings(guarded, folder, "db-1")) as store:
        assert await written(store, OTHER) == SHARED
        await store.put(OTHER.agent("db-1"), b"{}")


def test_what_is_printed_is_what_is_done(guarded: EtcdProcess, folder: Path) -> None:
    """`etcdctl` that is told so makes the same roles and users; said again there is nothing to do."""
    printed = "\n".join(
        run(guarded, folder, f"shoal mesh {words}").stdout
        for words in ("create printed", "grant web-9 --mesh printed", "grant eve --as reader --mesh printed")
    )
    run(guarded, folder, ROOT_USER + printed)
    shown = run(guarded, folder, f"{ROOT_USER} shoal mesh show --mesh printed")
    assert re.search(r"^web-9 +agent host:web-9", shown.stdout, re.MULTILINE) and "missing" not in shown.stderr
    again = run(guarded, folder, f"{ROOT_USER} shoal mesh create printed --apply")
    assert "nothing is to be done" in again.stderr


def test_what_is_missing_is_shown_and_mended(guarded: EtcdProcess, folder: Path) -> None:
    """A right that somebody took away, and one that somebody gave."""
    role = "shoal:mended:agent"
    run(guarded, folder, f"{ROOT_USER} shoal mesh create mended --apply")
    run(guarded, folder, f"{ROOT_USER} etcdctl role revoke-permission {role} --prefix=true /shoal/mended/claims/")
    run(
        guarded,
        folder,
        f"{ROOT_USER} etcdctl role grant-permission {role} --prefix=true readwrite /shoal/mended/policies/",
    )
    shown = run(guarded, folder, f"{ROOT_USER} shoal mesh show --mesh mended", check=False)
    assert shown.returncode == 1
    assert (
        f"missing: etcdctl role grant-permission {role} --prefix=true readwrite /shoal/mended/claims/" in shown.stderr
    )
    assert f"missing: etcdctl role revoke-permission {role} --prefix=true /shoal/mended/policies/" in shown.stderr
    run(guarded, folder, f"{ROOT_USER} shoal mesh create mended --apply")
    assert run(guarded, folder, f"{ROOT_USER} shoal mesh show --mesh mended").returncode == 0


def test_what_is_refused(guarded: EtcdProcess, folder: Path) -> None:
    """A user of another mesh, a name that is none, and who has no right to grant rights."""
    other = run(guarded, folder, f"{ROOT_USER} shoal mesh grant web-1 --mesh staging --apply", check=False)
    assert other.returncode == 1 and "web-1 has rights in another mesh" in other.stderr
    for words in ("create No.Name", "grant a/b", "grant web-1 --as emperor"):
        assert run(guarded, folder, f"shoal mesh {words}", check=False).returncode == 2
    mine = f"export SHOAL_ETCD_USER=web-1 SHOAL_ETCD_PASSWORD={(folder / 'web-1.password').read_text()}\n"
    no = run(guarded, folder, f"{mine} shoal mesh grant web-3 --apply", check=False)
    assert no.returncode == 3 and "permission denied" in no.stderr
    assert oct((folder / "web-1.password").stat().st_mode)[-3:] == "600"


def test_agents_of_such_a_mesh(tmp_path: Path) -> None:
    """Two hosts with a user each serve each other, with all that agents write; one whose rights do not suffice says
    which it lacks, and neither it nor the others stop serving."""
    with running_mesh_with_roles(tmp_path) as mesh:
        alpha, beta = (mesh.agent(host, address, start=False) for host, address in HOSTS.items())
        for agent in (alpha, beta):
            named = f'[etcd]\nuser = "{agent.host}"\npassword_file = "{tmp_path / agent.host}.password"\n'
            agent.path.write_text(agent.path.read_text().replace("[etcd]\n", named))
            agent.start()
        mesh.instance(alpha)
        until("an answer", lambda: beta.ask().status == 200)
        until("versions", lambda: len(beta.state()["agents"]) == 2)
        assert [agent.state()["etcd"]["not_allowed"] for agent in (alpha, beta)] == [[], []]
        assert "permission denied" not in alpha.log.read_text() + beta.log.read_text()
        (endpoint,) = beta.state()["services"]["pets.production"]["endpoints"]
        assert endpoint["id"].endswith("@alpha")

        role = "shoal:default:agent"
        run(
            mesh.etcd,
            tmp_path,
            f"{ROOT_USER} etcdctl role revoke-permission {role} --prefix=true /shoal/default/claims/",
        )
        beta.stop()
        beta.start()
        until("it is named", lambda: beta.state()["etcd"]["not_allowed"] == ["/shoal/default/claims/"])
        assert "etcd does not let this agent write what it has to" in beta.log.read_text()
        assert beta.ask().status == 200


HOSTS = {"alpha": "127.0.0.1", "beta": "127.0.0.2"}


class running_mesh_with_roles:
    """A mesh whose etcd asks who one is, with a user for each of the hosts."""

    def __init__(self, folder: Path) -> None:
        self._mesh = Mesh(folder, "--bcrypt-cost", "4")
        self._folder = folder

    def __enter__(self) -> Mesh:
        self._mesh.etcd.start()
        walk = WALK[0].replace("web-1", "alpha").replace("web-2", "beta")
        run(self._mesh.etcd, self._folder, walk)
        return self._mesh

    def __exit__(self, *_: object) -> None:
        self._mesh.end()
