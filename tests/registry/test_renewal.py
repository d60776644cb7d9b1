"""A lease lives while its loop is late, and dies when the loop is taken for dead: real etcd, really blocked loop."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from registry.etcd.renewer import EtcdRenewer
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.lease import Holder
from registry.renewal import Renewal
from registry.store import LeaseGone, Unavailable
from tests.support.tunnel import Tunnel

TTL_S = 2


class Rival:
    """Looks at a key from a loop and a thread of its own."""

    def __init__(self, settings: EtcdSettings, key: str) -> None:
        self._settings = settings
        self._key = key

    def standing_for(self, wanted_s: float) -> bool:
        """Whether the key stands all the time."""
        return trio.run(self._standing_for, wanted_s)

    async def _standing_for(self, wanted_s: float) -> bool:
        async with EtcdStore.open(self._settings) as store:
            ends = trio.current_time() + wanted_s
            while trio.current_time() < ends:
                if await store.get(self._key) is None:
                    return False
                await trio.sleep(0.1)
        return True


def settings_of(etcd: EtcdProcess) -> EtcdSettings:
    return EtcdSettings(endpoints=(etcd.url,))


@asynccontextmanager
async def held(etcd: EtcdProcess, renewal: Renewal, key: str) -> AsyncIterator[Holder]:
    async with EtcdStore.open(settings_of(etcd)) as store, trio.open_nursery() as nursery:
        holder = Holder(store, TTL_S, renewal=renewal)
        async with holder.renewing():
            nursery.start_soon(holder.run)
            holder.put(key, b"1")
            with trio.fail_after(60):
                await holder.settled()
            yield holder
        nursery.cancel_scope.cancel()


def block_until(event: threading.Event) -> None:
    """A loop that does nothing else: pure Python, and the interpreter's lock changes hands as it does."""
    ends = time.monotonic() + 60
    while not event.is_set() and time.monotonic() < ends:
        pass


async def test_a_lease_lives_while_the_loop_is_blocked(etcd: EtcdProcess) -> None:
    """For longer than three times its length, in which nothing of the loop runs."""
    key = f"/renewal/{secrets.token_hex(6)}"
    renewal = Renewal(EtcdRenewer(settings_of(etcd)), TTL_S)
    async with held(etcd, renewal, key) as holder:
        lease, found, looked = holder.lease, [], threading.Event()

        def look() -> None:
            found.append(Rival(settings_of(etcd), key).standing_for(3.5 * TTL_S))
            looked.set()

        thread = threading.Thread(target=look)
        thread.start()
        block_until(looked)
        thread.join()
        assert found == [True]
        assert holder.lease == lease and holder.regrants == 1
        assert renewal.renewed > 2


async def test_who_is_taken_for_dead_loses_the_lease(etcd: EtcdProcess) -> None:
    """And comes back with another one, and every key on it."""
    key = f"/renewal/{secrets.token_hex(6)}"
    lives = threading.Event()
    lives.set()
    renewal = Renewal(EtcdRenewer(settings_of(etcd)), TTL_S, lives.is_set)
    async with held(etcd, renewal, key) as holder, EtcdStore.open(settings_of(etcd)) as store:
        lease = holder.lease
        lives.clear()
        with trio.fail_after(60):
            while await store.get(key) is not None:
                await trio.sleep(0.1)
            lives.set()
            while (found := await store.get(key)) is None or found.lease == lease:
                await trio.sleep(0.1)
        assert holder.lease == found.lease != lease
        assert holder.regrants == 2


async def test_the_thread_ends_with_its_owner(etcd: EtcdProcess) -> None:
    """It is waited for, also when it is in the middle of a call."""
    renewal = Renewal(EtcdRenewer(settings_of(etcd)), TTL_S)
    async with held(etcd, renewal, f"/renewal/{secrets.token_hex(6)}"):
        assert "shoal-lease" in [thread.name for thread in threading.enumerate()]
    assert "shoal-lease" not in [thread.name for thread in threading.enumerate()]


class Strange:
    """A renewer that says what it is told to, and how often it was asked."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.asked: list[int] = []

    def renew(self, lease: int, timeout_s: float) -> None:
        self.asked.append(lease)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    def close(self) -> None:
        pass


async def test_what_fails_is_tried_again_and_what_is_gone_is_told_once() -> None:
    """An error is no end; a lease that is gone is not renewed any more."""
    renewer = Strange(Unavailable("away"), None, LeaseGone("gone"))
    renewal = Renewal(renewer, 1)
    gone: list[int] = []
    told = trio.Event()

    def on_gone(lease: int) -> None:
        gone.append(lease)
        told.set()

    with trio.fail_after(60):
        async with renewal.running(on_gone):
            renewal.lease = 7
            await told.wait()
            assert renewal.lease == 0
            renewal.lease = 8
            while renewer.asked[-1] != 8:
                await trio.sleep(0.01)
    assert gone == [7]
    assert renewer.asked[:3] == [7, 7, 7]


async def test_renewals_go_where_the_settings_say(etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel of one's own is no way around the proxy, nor one to a proxy that only the environment names."""
    monkeypatch.setenv("no_proxy", "*,127.0.0.1")
    with Tunnel() as tunnel, Tunnel() as other:
        monkeypatch.setenv("http_proxy", other.url)
        monkeypatch.setenv("grpc_proxy", other.url)
        for proxy, heard in (("", []), (tunnel.url, [f"CONNECT 127.0.0.1:{etcd.client_port} HTTP/1.1"])):
            settings = EtcdSettings(endpoints=(etcd.url,), proxy=proxy)
            async with EtcdStore.open(settings) as store:
                lease = await store.grant(30)
            tunnel.heard.clear()
            renewer = EtcdRenewer(settings)
            await trio.to_thread.run_sync(renewer.renew, lease, 20.0)
            renewer.close()
            assert tunnel.heard == heard
        assert other.heard == []
