"""A real etcd that asks who one is: tokens that run out, users that change, and what is said to whom."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from registry.backoff import Backoff
from registry.etcd.server import EtcdProcess, find_binary
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.mirror import Mirror, Update
from registry.store import LeaseGone, Put, Refused, StoreError
from tests.support.etcd import running_etcd

ROLE = ("role", "grant-permission", "agent", "--prefix=true", "readwrite", "/m/")
FAST = ("--bcrypt-cost", "4")


def etcdctl(etcd: EtcdProcess, *arguments: str) -> None:
    command = [find_binary("etcdctl"), "--endpoints", etcd.url, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def ask_for_users(etcd: EtcdProcess) -> None:
    for words in ("user add root:secret", "user grant-role root root", "role add agent", "user add agent:secret"):
        etcdctl(etcd, *words.split())
    etcdctl(etcd, *ROLE)
    etcdctl(etcd, "user", "grant-role", "agent", "agent")
    etcdctl(etcd, "auth", "enable")


def agent(etcd: EtcdProcess, password: str = "secret") -> EtcdStore:
    return EtcdStore(EtcdSettings(endpoints=(etcd.url,), user="agent", password=password))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """Its tokens are signed, live for a second, and are void after every change of users and roles."""
    folder = tmp_path_factory.mktemp("jwt")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (folder / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "public").write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    token = f"jwt,pub-key={folder}/public,priv-key={folder}/key,sign-method=ES256,ttl=1s"
    with running_etcd(folder, arguments=("--auth-token", token, *FAST)) as etcd:
        ask_for_users(etcd)
        yield etcd


OPERATIONS: dict[str, Callable[[EtcdStore], Awaitable[object]]] = {
    "get": lambda store: store.get("/m/a"),
    "range": lambda store: store.range("/m/", "/m0"),
    "put": lambda store: store.put("/m/a", b"1"),
    "transact": lambda store: store.transact((), [Put("/m/a", b"1")]),
    "grant": lambda store: store.grant(60),
    "watch": lambda store: watched(store),
}


async def watched(store: EtcdStore, start: str = "/m/", end: str = "/m0") -> int:
    async with store.watch(start, end, 0) as watch:
        return watch.revision


async def expired(store: EtcdStore, every_s: float = 0.1) -> None:
    """Wait until etcd does not take the store's token any more; the store has not been told.

    To ask for it with a simple token gives that new life, so one waits longer than it lasts.
    """
    other = EtcdStore(store._settings)
    with trio.fail_after(60):
        while True:
            token = other._token = store._token
            await other.get("/m/a")
            if other._token != token:
                break
            await trio.sleep(every_s)
    await other.aclose()


async def test_operations_go_on_when_the_token_has_run_out(signed: EtcdProcess) -> None:
    """Each of them is made again with a new token; nobody hears of it."""
    store = agent(signed)
    await store.put("/m/a", b"1")
    await expired(store)
    old = store._token
    for name, operation in OPERATIONS.items():
        store._token = old
        await operation(store)
        assert store._token not in (None, old), name
    await store.aclose()


async def test_several_calls_that_meet_the_end_of_a_token(signed: EtcdProcess) -> None:
    """All of them get through, also those that were refused after another had thrown the old token away."""
    store = agent(signed)
    store._token = "void"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(store.put, f"/m/{n}", b"1")
            nursery.start_soon(watched, store)
    await store.aclose()


async def test_a_mirror_lives_longer_than_its_token(signed: EtcdProcess) -> None:
    """What is watched goes on being watched, also over a broken connection."""
    updates: list[Update] = []
    store, writer = agent(signed), agent(signed)
    mirror = Mirror(store, "/m/", "/m0", updates.append, backoff=Backoff(0.01, 0.05))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror.run)
            await arrived(updates, await writer.put("/m/b", b"1"))
            store._token = "void"
            await arrived(updates, await writer.put("/m/b", b"2"))
            store._open().close()
            store._channel = None
            await arrived(updates, await writer.put("/m/b", b"3"))
            nursery.cancel_scope.cancel()
    assert mirror.state.resyncs == 1
    await store.aclose()
    await writer.aclose()


async def test_a_mirror_that_is_refused(signed: EtcdProcess) -> None:
    """Says that it is refused, not that etcd is away; and begins as soon as it is granted what it needs."""
    root = ("--user", "root:secret", "user")
    etcdctl(signed, *root, "add", "newcomer:secret")
    settings = EtcdSettings(endpoints=(signed.url,), user="newcomer", password="secret")
    updates: list[Update] = []
    with trio.fail_after(60), capture_logs() as logs:
        async with EtcdStore.open(settings) as store, trio.open_nursery() as nursery:
            mirror = Mirror(store, "/m/", "/m0", updates.append, backoff=Backoff(0.01, 0.05))
            nursery.start_soon(mirror.run)
            while "permission denied: /m/" not in mirror.state.error:
                await trio.sleep(0.005)
            etcdctl(signed, *root, "grant-role", "newcomer", "agent")
            await arrived(updates, 1)
            nursery.cancel_scope.cancel()
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "etcd refuses us; what is known stays in force"
    ]


async def arrived(updates: list[Update], revision: int) -> None:
    while not updates or updates[-1].revision < revision:
        await trio.sleep(0.005)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_changed_role_voids_tokens(signed: EtcdProcess, name: str) -> None:
    """Signed tokens carry the revision of the roles: one that is older is replaced."""
    store = agent(signed)
    await store.put("/m/a", b"1")
    etcdctl(signed, "--user", "root:secret", *ROLE)
    await OPERATIONS[name](store)
    await store.aclose()


async def test_tokens_that_etcd_forgot(tmp_path: Path) -> None:
    """etcd's simple tokens do not outlive its process; leases and their owners do."""
    with running_etcd(tmp_path, arguments=FAST) as etcd:
        ask_for_users(etcd)
        store = agent(etcd)
        lease = await store.grant(60)
        await store.put("/m/a", b"1", lease=lease)
        etcd.stop()
        etcd.start()
        assert await store.keep_alive(lease) > 0
        assert await watched(store) > 0
        assert await store.put("/m/a", b"2", lease=lease) > 0
        await store.revoke(lease)
        assert await store.get("/m/a") is None
        await store.aclose()


async def test_simple_tokens_with_a_short_life(tmp_path: Path) -> None:
    """And users that are asked for while the store is in use: agents are given theirs before, and go on."""
    with running_etcd(tmp_path, arguments=("--auth-token-ttl", "1", *FAST)) as etcd:
        store = agent(etcd)
        await store.put("/m/a", b"1")
        lease = await store.grant(60)
        assert store._token == "", "etcd asks for no users yet"
        ask_for_users(etcd)
        for operation in OPERATIONS.values():
            await operation(store)
        old = store._token
        assert old
        await expired(store, every_s=2.2)
        for operation in (*OPERATIONS.values(), lambda _: store.keep_alive(lease)):
            store._token = old
            await operation(store)
        await store.aclose()


async def refusal(operation: Awaitable[object]) -> str:
    with pytest.raises(StoreError) as caught:
        await operation
    assert type(caught.value) in (Refused, LeaseGone)
    return str(caught.value)


async def test_what_is_said_to_whom_etcd_refuses(signed: EtcdProcess) -> None:
    """At once, and never as if etcd were away."""
    store, guesser = agent(signed), agent(signed, "guess")
    nobody = EtcdStore(EtcdSettings(endpoints=(signed.url,)))
    assert "user and a password" in await refusal(nobody.put("/m/a", b"1"))
    said = await refusal(watched(nobody))
    assert "permission denied" in said or "user name is empty" in said, "what etcd 3.4 says, or 3.5"
    assert "invalid user ID or password" in await refusal(guesser.put("/m/a", b"1"))
    assert "invalid user ID or password" in await refusal(watched(guesser))
    for operation in (store.get("/x"), store.put("/x", b"1"), store.transact((), [Put("/x", b"1")])):
        assert (await refusal(operation)).endswith("permission denied: /x")
    assert "from /m/ to /x" in await refusal(watched(store, "/m/", "/x"))
    assert await store.put("/m/a", b"1") > 0
    for each in (store, guesser, nobody):
        await each.aclose()
