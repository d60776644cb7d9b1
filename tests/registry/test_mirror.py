"""The mirror: whatever is put, deleted, compacted, cut or replaced, it ends equal to etcd, revision by revision."""

from __future__ import annotations

import secrets
import socket
import threading
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.backoff import Backoff
from registry.etcd.server import EtcdProcess, free_port
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.mirror import Mirror, Update
from registry.store import Delete, Put, Store, Unavailable, prefix_end
from tests.registry.test_store_contract import compact
from tests.support.etcd import cluster_of, leader_of, running_etcd
from tests.support.memory import MemoryStore

START, END = "/m/", "/m0"


class Owner:
    """What the owner of a mirror makes of its updates; checks the laws as they come."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.revision = 0
        self.updates: list[Update] = []

    def __call__(self, update: Update) -> None:
        if not update.resync:
            assert update.revision > self.revision, "a revision came twice, or out of order"
            assert all(change.revision > self.revision for change in update.changes)
        revisions = [change.revision for change in update.changes]
        assert revisions == sorted(revisions)
        for change in update.changes:
            if change.value is None:
                self.keys.pop(change.key, None)
            else:
                self.keys[change.key] = change.value
        self.revision = update.revision
        self.updates.append(update)


async def until(owner: Owner, keys: dict[str, bytes], seconds: float = 60) -> None:
    """Wait until the owner has just these keys."""
    with trio.fail_after(seconds):
        while owner.keys != keys:
            await trio.sleep(0.005)


def mirror(store: Store, owner: Owner, start: str = START, end: str = END, silence_s: float = 5) -> Mirror:
    return Mirror(store, start, end, owner, silence_s=silence_s, backoff=Backoff(0.01, 0.05))


_NAMES = st.sampled_from(["a", "b", "c", "d"])
_PUT = st.tuples(st.just("put"), st.lists(_NAMES, min_size=1, max_size=3, unique=True))
_DELETE = st.tuples(st.just("delete"), st.lists(_NAMES, min_size=1, max_size=3, unique=True))
_FAULT = st.tuples(
    st.sampled_from(["cut", "compact", "silence", "down", "up", "replace", "restore", "settle"]), st.just([])
)


@settings(max_examples=150)
@given(st.lists(st.one_of(_PUT, _PUT, _DELETE, _FAULT), max_size=40))
def test_the_mirror_ends_equal_to_the_store(steps: list[tuple[str, list[str]]]) -> None:
    """The model is the store; the faults are all that it can do."""

    async def main() -> None:
        store = MemoryStore()
        owner = Owner()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror(store, owner, silence_s=1).run)
            for number, (action, names) in enumerate(steps):
                await step(store, action, names, number)
            store.down = False
            await trio.sleep(30)
            assert owner.keys == {key: kv.value for key, kv in store._keys.items()}
            nursery.cancel_scope.cancel()

    async def step(store: MemoryStore, action: str, names: list[str], number: int) -> None:
        down, store.down = store.down, False
        value = str(number).encode()
        if action == "put":
            await store.transact((), [Put(START + name, value) for name in names])
        elif action == "delete":
            await store.transact((), [Delete(START + name) for name in names])
        elif action == "settle":
            await trio.sleep(10)
        elif action == "replace":
            store.replace(cluster_id=store.cluster_id + 1, revision=1)
            await store.put(START + "new", value)
        elif action == "restore":
            store.down = True
            store.cut()
            await trio.sleep(12)
            store.replace(revision=max(1, store.revision - 3))
            store.down = False
        elif action == "compact":
            store.compact(store.revision)
        elif action in ("cut", "silence"):
            getattr(store, action)()
        store.down = action == "down" or (down and action != "up")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_on_a_real_etcd(etcd: EtcdProcess) -> None:
    """Puts, transactions, deletes, and compactions while the stream is broken."""
    prefix = f"/mirror/{secrets.token_hex(6)}/"
    owner = Owner()
    async with trio.open_nursery() as nursery:
        store = EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
        writer = EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
        nursery.start_soon(mirror(store, owner, prefix, prefix_end(prefix)).run)
        model: dict[str, bytes] = {}
        for n in range(60):
            key = f"{prefix}{n % 7}"
            if n % 5 == 4:
                revision = await writer.delete(key)
                model.pop(key, None)
            else:
                revision = await writer.put(key, b"%d" % n)
                model[key] = b"%d" % n
            if n % 20 == 10:
                await until(owner, model)
                store._channel.close()
                store._channel = None
                await writer.put(prefix + "gap", b"%d" % n)
                model[prefix + "gap"] = b"%d" % n
                await compact(writer, revision)
        await until(owner, model)
        nursery.cancel_scope.cancel()
    await store.aclose()
    await writer.aclose()


async def test_etcd_killed_and_started_again(tmp_path: Path) -> None:
    """The mirror says that it is disconnected, keeps what it has, and catches up."""
    with running_etcd(tmp_path) as etcd:
        store = EtcdStore(EtcdSettings(endpoints=(etcd.url,), timeout_s=2))
        owner = Owner()
        mirrored = mirror(store, owner)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirrored.run)
            await store.put("/m/a", b"1")
            await until(owner, {"/m/a": b"1"})
            etcd.kill()
            with trio.fail_after(60):
                while mirrored.state.connected:
                    await trio.sleep(0.01)
            assert owner.keys == {"/m/a": b"1"}
            etcd.start()
            await store.put("/m/b", b"2")
            await until(owner, {"/m/a": b"1", "/m/b": b"2"})
            nursery.cancel_scope.cancel()
        await store.aclose()


async def test_etcd_replaced_by_another(tmp_path: Path) -> None:
    """Same address, other data: everything is diffed, and what is gone is deleted."""
    port = free_port()
    owner = Owner()
    first, second = EtcdProcess(tmp_path / "1", client_port=port), EtcdProcess(tmp_path / "2", client_port=port)
    store = EtcdStore(EtcdSettings(endpoints=(first.url,), timeout_s=2))
    async with trio.open_nursery() as nursery:
        with first:
            nursery.start_soon(mirror(store, owner).run)
            for n in range(20):
                await store.put("/m/a", b"%d" % n)
            await store.put("/m/b", b"1")
            await until(owner, {"/m/a": b"19", "/m/b": b"1"})
        with second:
            await store.put("/m/a", b"other")
            await until(owner, {"/m/a": b"other"})
            nursery.cancel_scope.cancel()
    await store.aclose()


async def test_a_stream_that_is_open_but_dead(etcd: EtcdProcess) -> None:
    """A link that swallows everything: noticed by silence, and left for a new connection."""
    prefix = f"/mirror/{secrets.token_hex(6)}/"
    relay = Relay(etcd.client_port)
    store = EtcdStore(EtcdSettings(endpoints=(f"http://127.0.0.1:{relay.port}",), timeout_s=2))
    writer = EtcdStore(EtcdSettings(endpoints=(etcd.url,)))
    owner = Owner()
    mirrored = mirror(store, owner, prefix, prefix_end(prefix), silence_s=0.3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirrored.run)
        await writer.put(prefix + "a", b"1")
        await until(owner, {prefix + "a": b"1"})
        relay.swallow()
        await writer.put(prefix + "a", b"2")
        with trio.fail_after(60):
            while mirrored.state.connected:
                await trio.sleep(0.01)
        relay.cut()
        await until(owner, {prefix + "a": b"2"})
        nursery.cancel_scope.cancel()
    await store.aclose()
    await writer.aclose()
    relay.close()


async def test_a_cluster_whose_leader_is_killed(tmp_path: Path) -> None:
    """Three members; writes go on after the leader's death, and the mirror has every one of them."""
    members = cluster_of(3, tmp_path, ["--heartbeat-interval", "50", "--election-timeout", "500"])
    for member in members:
        member.start(wait=False)
    for member in members:
        await trio.to_thread.run_sync(member.wait)
    endpoints = tuple(member.url for member in members)
    writer = EtcdStore(EtcdSettings(endpoints=endpoints, timeout_s=3))
    stores = [EtcdStore(EtcdSettings(endpoints=(*endpoints[n:], *endpoints[:n]), timeout_s=3)) for n in range(3)]
    owners = [Owner() for _ in stores]
    model: dict[str, bytes] = {}
    try:
        async with trio.open_nursery() as nursery:
            for store, owner in zip(stores, owners, strict=True):
                nursery.start_soon(mirror(store, owner, silence_s=1).run)
            for n in range(90):
                if n == 30:
                    (await leader_of(members)).kill()
                await put_surely(writer, f"/m/{n % 10}", b"%d" % n)
                model[f"/m/{n % 10}"] = b"%d" % n
            for owner in owners:
                await until(owner, model)
            nursery.cancel_scope.cancel()
    finally:
        for store in (*stores, writer):
            await store.aclose()
        for member in members:
            member.stop()


async def put_surely(store: EtcdStore, key: str, value: bytes) -> None:
    with trio.fail_after(60):
        while True:
            try:
                await store.put(key, value)
                return
            except Unavailable:
                await trio.sleep(0.05)


class Relay:
    """A TCP relay in threads, that can swallow everything while it keeps its connections open."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._swallowing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                if not self._swallowing.is_set():
                    other.sendall(data)
        except OSError:
            pass

    def swallow(self) -> None:
        """From now on nothing arrives."""
        self._swallowing.set()

    def cut(self) -> None:
        """Close what is open; new connections work."""
        self._swallowing.clear()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """End it."""
        self._listener.close()
        for sock in self._sockets:
            sock.close()


@pytest.mark.parametrize("endpoint", ["", "localhost", "ftp://a:1", "http://:1", "http://a:b"])
def test_endpoints_that_are_none(endpoint: str) -> None:
    """Refused with what would be right."""
    with pytest.raises(ValueError, match="endpoint"):
        EtcdStore(EtcdSettings(endpoints=(endpoint,)))


# Another etcd.


async def followed(store: MemoryStore, owner: Owner, **more: float) -> Mirror:
    return Mirror(store, START, END, owner, backoff=Backoff(0.01, 0.05), **more)


@pytest.mark.parametrize(
    ("cluster", "grown", "away_s", "said"),
    [
        (2, 0, 1, "cluster id"),
        (None, 0, 1, "revision"),
        (None, 0, 30, "revision"),
        (None, 20, 30, "history"),
        (2, 20, 30, "cluster id"),
    ],
)
async def test_another_etcd_is_called_so(
    autojump_clock: trio.testing.MockClock, cluster: int | None, grown: int, away_s: float, said: str
) -> None:
    """Another id, a lower revision, or, where it has outgrown the old one, another history."""
    store, owner = MemoryStore(), Owner()
    await store.put("/m/a", b"1")
    await store.put("/m/b", b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon((await followed(store, owner)).run)
        await until(owner, {"/m/a": b"1", "/m/b": b"1"})
        assert [update.another for update in owner.updates] == [""]
        store.down = True
        store.cut()
        await trio.sleep(away_s)
        store.down = False
        store.replace(cluster_id=cluster)
        for _ in range(grown):
            await store.put("/m/other", b"2")
        await trio.sleep(5)
        await until(owner, {"/m/other": b"2"} if grown else {})
        assert said in owner.updates[-1].another
        nursery.cancel_scope.cancel()


async def test_what_is_known_from_before_a_restart_counts(autojump_clock: trio.testing.MockClock) -> None:
    """The table on disk knows which etcd it is of; the same one is not called another, whatever happened in it."""
    store = MemoryStore()
    for n in range(5):
        await store.put("/m/a", b"%d" % n)
    known = store.cluster_id, store.revision, ("/m/a", store.revision)
    for cluster, called in ((None, False), (store.cluster_id + 1, True)):
        if cluster is not None:
            store.replace(cluster_id=cluster)
        await store.delete("/m/a")
        await store.put("/m/b", b"1")
        owner = Owner()
        mirrored = await followed(store, owner)
        mirrored.expect(*known)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirrored.run)
            await until(owner, {"/m/b": b"1"})
            nursery.cancel_scope.cancel()
        assert bool(owner.updates[0].another) is called


async def test_a_silent_difference_is_found(autojump_clock: trio.testing.MockClock) -> None:
    """A watch tells what happens, and nothing of what was lost: keys and revisions are compared now and then."""
    store, owner = MemoryStore(), Owner()
    for name in "abc":
        await store.put(f"/m/{name}", b"1")
    async with trio.open_nursery() as nursery:
        mirrored = await followed(store, owner, audit_s=60)
        nursery.start_soon(mirrored.run)
        await until(owner, {f"/m/{name}": b"1" for name in "abc"})
        await trio.sleep(200)
        assert mirrored.state.resyncs == 1, "nothing differs"
        del store._keys["/m/b"]
        await until(owner, {"/m/a": b"1", "/m/c": b"1"}, 200)
        assert mirrored.state.resyncs == 2 and owner.updates[-1].another == ""
        nursery.cancel_scope.cancel()


def _absences(events: list[dict[str, object]]) -> list[dict[str, object]]:
    """Without what a log always says of etcd: that it is back, and what is told of it."""
    return [
        {k: v for k, v in event.items() if k not in ("event", "log_level")}
        for event in events
        if event["event"] == "etcd is back"
    ]


async def _away(store: MemoryStore, seconds: float) -> None:
    """Out of reach for so long, while somebody else puts two keys."""
    store.down = True
    store.cut()
    await trio.sleep(seconds)
    store.down = False
    await store.put("/m/b", b"1")
    await store.put("/m/b", b"2")
    await trio.sleep(5)


@pytest.mark.parametrize("seconds", [3, 60])
async def test_it_is_told_when_etcd_is_back(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """For how long it was away, and what was missed: whether the watch goes on or everything is read again."""
    store, owner = MemoryStore(), Owner()
    await store.put("/m/a", b"1")
    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror(store, owner).run)
            await trio.sleep(1)
            assert not _absences(events), "nothing was away"
            left = store.revision
            await _away(store, seconds)
            nursery.cancel_scope.cancel()
    (told,) = _absences(events)
    assert told["revision"] == store.revision
    assert told["revisions_caught_up"] == store.revision - left
    assert seconds <= float(str(told["away_s"])) <= seconds + 5
    assert [event["event"] for event in events].count("etcd is away; what is known stays in force") == 1


async def test_what_is_put_elsewhere_is_no_change_of_ours(autojump_clock: trio.testing.MockClock) -> None:
    """A snapshot is younger than what is in it: who takes one needs nobody to catch up with its revision."""
    store, owner = MemoryStore(), Owner()
    ours = await store.put("/m/a", b"1")
    await store.put("/elsewhere", b"1")
    async with trio.open_nursery() as nursery:
        mirrored = mirror(store, owner)
        nursery.start_soon(mirrored.run)
        await trio.sleep(1)
        assert (owner.revision, mirrored.newest_change(owner.revision)) == (store.revision, ours)
        await store.put("/m/b", b"1")
        gone = await store.delete("/m/b")
        await trio.sleep(1)
        assert mirrored.newest_change(gone) == gone == owner.revision, "it came by the watch"
        store.down = True
        store.cut()
        await trio.sleep(60)
        store.down = False
        await store.put("/elsewhere", b"2")
        await trio.sleep(5)
        assert mirrored.state.resyncs == 2 and owner.revision == store.revision > gone
        assert mirrored.newest_change(owner.revision) == gone, "which no key shows any more"
        assert mirrored.newest_change(gone) == gone
        nursery.cancel_scope.cancel()


async def test_etcd_that_was_away_at_the_start(autojump_clock: trio.testing.MockClock) -> None:
    """The first word of it is told too; nothing was caught up with, for nothing was known."""
    store, owner = MemoryStore(), Owner()
    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror(store, owner).run)
            await _away(store, 20)
            nursery.cancel_scope.cancel()
    (told,) = _absences(events)
    assert "revisions_caught_up" not in told
    assert float(str(told["away_s"])) >= 20


async def test_another_etcd_is_back(autojump_clock: trio.testing.MockClock) -> None:
    """Its revisions are not those that were left: nothing is counted with them."""
    store, owner = MemoryStore(), Owner()
    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror(store, owner).run)
            await trio.sleep(1)
            store.down = True
            store.cut()
            await trio.sleep(20)
            store.replace(cluster_id=7, revision=500)
            store.down = False
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    (told,) = _absences(events)
    assert told == {"away_s": told["away_s"], "revision": 500}
