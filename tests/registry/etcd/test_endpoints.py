"""Several endpoints, of which some are dead or say nothing; and what etcd's errors become."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import trio

from registry.etcd.server import EtcdProcess, free_port
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.etcd.wire import translate
from registry.store import Compacted, LeaseGone, NoSpace, Put, Refused, StoreError, TooLarge, Unavailable, prefix_end


@pytest.fixture
def mute() -> Iterator[str]:
    """It takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(params=["dead", "mute"])
async def store(request: pytest.FixtureRequest, etcd: EtcdProcess, mute: str) -> AsyncIterator[EtcdStore]:
    """Its first endpoint is of no use."""
    first = mute if request.param == "mute" else f"http://127.0.0.1:{free_port()}"
    made = EtcdStore(EtcdSettings(endpoints=(first, etcd.url), timeout_s=0.6))
    yield made
    await made.aclose()


@pytest.fixture
def prefix() -> str:
    return f"/endpoints/{secrets.token_hex(6)}/"


async def test_what_may_be_repeated_is_done_elsewhere(store: EtcdStore, prefix: str) -> None:
    """The caller of a call notices nothing, and later ones go where it worked."""
    assert await store.put(prefix + "a", b"1") > 0
    assert store._at == 1
    found = await store.range(prefix, prefix_end(prefix))
    assert [kv.value for kv in found.items] == [b"1"]
    assert store._at == 1


async def test_a_lease_is_renewed_elsewhere(store: EtcdStore, etcd: EtcdProcess) -> None:
    """Within the time of one call: a lease has not many of them to live."""
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as other:
        lease = await other.grant(60)
    assert await store.keep_alive(lease) > 0
    await store.revoke(lease)


async def test_what_may_not_be_repeated_is_not(store: EtcdStore, prefix: str) -> None:
    """Nobody knows whether a transaction without an answer was carried out; the next one is asked elsewhere."""
    with pytest.raises(Unavailable):
        await store.transact((), [Put(prefix + "a", b"1")])
    assert (await store.transact((), [Put(prefix + "a", b"2")])).succeeded


async def test_a_watch_is_opened_elsewhere(store: EtcdStore, prefix: str) -> None:
    """At the second attempt of its owner."""
    with trio.fail_after(60):
        with pytest.raises(Unavailable):
            async with store.watch(prefix, prefix_end(prefix), 0):
                pass
        async with store.watch(prefix, prefix_end(prefix), 0) as watch:
            revision = await store.put(prefix + "a", b"1")
            assert (await watch.receive()).revision == revision


async def test_calls_that_fail_together_turn_away_once(store: EtcdStore, prefix: str) -> None:
    """Each of them turning to the next endpoint would end where it began, on the dead one."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(store.put, f"{prefix}{n}", b"1")
    assert store._at == 1


async def test_no_endpoint_answers() -> None:
    """An error in the time of one call, that says what is wrong; then the store can be closed."""
    endpoints = tuple(f"http://127.0.0.1:{free_port()}" for _ in range(2))
    store = EtcdStore(EtcdSettings(endpoints=endpoints, timeout_s=0.3))
    for operation in (store.get, store.delete):
        with trio.fail_after(60), pytest.raises(Unavailable, match="Connection refused"):
            await operation("/a")
    await store.aclose()


async def test_a_connection_that_takes_its_time(etcd: EtcdProcess, prefix: str) -> None:
    """One over a long way, or to a busy member, is not given up for the next one, which is as far away."""

    async def pump(one: trio.SocketStream, other: trio.SocketStream) -> None:
        async for data in one:
            await other.send_all(data)

    async def relay(client: trio.SocketStream) -> None:
        await trio.sleep(0.3)
        member = await trio.open_tcp_stream("127.0.0.1", etcd.client_port)
        with trio.CancelScope() as scope:
            async with client, member, trio.open_nursery() as both:
                both.start_soon(pump, member, client)
                await pump(client, member)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, relay, 0)
        port = listeners[0].socket.getsockname()[1]
        settings = EtcdSettings(endpoints=(f"http://127.0.0.1:{port}",) * 2, timeout_s=4)
        async with EtcdStore.open(settings) as store:
            assert await store.put(prefix + "a", b"1") > 0
            assert store._at == 0
        nursery.cancel_scope.cancel()


class Failed(grpc.RpcError):
    """As gRPC raises it."""

    def __init__(self, code: str, details: str) -> None:
        self._code, self._details = grpc.StatusCode[code], details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("NOT_FOUND", "etcdserver: requested lease not found", LeaseGone),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Compacted),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", NoSpace),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Unavailable),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (2 vs. 1)", TooLarge),
        ("INVALID_ARGUMENT", "etcdserver: request is too large", TooLarge),
        ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", TooLarge),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", Refused),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", Refused),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Refused),
        ("UNAVAILABLE", "etcdserver: no leader", Unavailable),
        ("UNAVAILABLE", "etcdserver: request timed out", Unavailable),
        ("DEADLINE_EXCEEDED", "", Unavailable),
        ("UNKNOWN", "whatever", Unavailable),
    ],
)
def test_what_an_error_of_etcd_becomes(code: str, details: str, kind: type[StoreError]) -> None:
    """What helps: waiting, nothing, less, a new lease, a fresh range."""
    assert type(translate(Failed(code, details))) is kind
