"""A lease is renewed by a thread of its own, on a channel of its own, whatever the loop of the process is doing.

Laws
- The thread has an owner: it ends with the `async with` block that began it, and is waited for.
- It renews, and nothing else. Which lease there is, and what becomes of one that is gone, is `registry.lease`'s.
- Its channel goes where the store's go: through the settings' proxy, or through none.
- It renews only while `alive` says so: who hangs for ever must not keep a lease for ever, or what it answered for would
  stand in etcd with nobody behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import structlog
import trio

from registry.etcd.proxying import through
from registry.etcd.stream import grpc
from registry.etcd.stubs import load
from registry.etcd.wire import address_of, credentials, is_authentication_off, is_stale_token, translate
from registry.store import LeaseGone, NotTrusted, StoreError, Unavailable

_rpc, _stubs = load()
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)
_AGAIN_S: Final = 0.2
log = structlog.get_logger()


class Renewer(Protocol):
    """Renews leases by calls that block."""

    def renew(self, lease: int, timeout_s: float) -> None:
        """Raises LeaseGone, or another StoreError."""
        ...

    def close(self) -> None:
        """End a call that is under way, from another thread."""
        ...


class Settings(Protocol):
    """What is needed of registry.etcd.store.EtcdSettings."""

    @property
    def endpoints(self) -> tuple[str, ...]: ...
    @property
    def ca(self) -> str: ...
    @property
    def cert(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def proxy(self) -> str: ...


class EtcdRenewer:
    """Renewer on an etcd cluster."""

    def __init__(self, settings: Settings) -> None:
        """Raises as EtcdStore does."""
        self._settings = settings
        self._addresses = [address_of(endpoint) for endpoint in settings.endpoints]
        secure = any(secure for _, secure in self._addresses)
        self._credentials = credentials(settings.ca, settings.cert, settings.key) if secure else None
        self._options = (*_OPTIONS, *through(settings.proxy))
        self._at = 0
        self._channel: Any = None
        self._token = ""

    def renew(self, lease: int, timeout_s: float) -> None:
        """One try, at the endpoint that answered last; after a failure at the next."""
        for attempt in range(2):
            try:
                return self._once(lease, timeout_s)
            except grpc.RpcError as error:
                if attempt == 0 and self._settings.user and is_stale_token(error):
                    self._token = ""
                    continue
                raise self._translated(error) from None
            except ValueError:
                raise Unavailable("the channel was closed") from None

    def _once(self, lease: int, timeout_s: float) -> None:
        channel = self._open()
        metadata = [("hasleader", "true")]
        if self._settings.user:
            self._token = self._token or self._authenticate(channel, timeout_s)
            metadata += [("token", self._token)] if self._token else []
        requests = iter((_rpc.LeaseKeepAliveRequest(ID=lease),))
        call = _stubs.LeaseStub(channel).LeaseKeepAlive(requests, timeout=timeout_s, metadata=metadata)
        try:
            answer = next(call, None)
        finally:
            call.cancel()
        if answer is None:
            raise Unavailable("no answer to a lease's renewal")
        if answer.TTL <= 0:
            raise LeaseGone(f"lease {lease:x} has run out")

    def _authenticate(self, channel: Any, timeout_s: float) -> str:
        request = _rpc.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
        try:
            return str(_stubs.AuthStub(channel).Authenticate(request, timeout=timeout_s).token)
        except grpc.RpcError as error:
            if is_authentication_off(error):
                return ""
            raise

    def _open(self) -> Any:
        if self._channel is None:
            address, secure = self._addresses[self._at]
            self._channel = (
                grpc.secure_channel(address, self._credentials, options=self._options)
                if secure
                else grpc.insecure_channel(address, options=self._options)
            )
        return self._channel

    def _translated(self, error: Any) -> StoreError:
        translated = translate(error)
        if isinstance(translated, Unavailable | NotTrusted) and len(self._addresses) > 1:
            self._at = (self._at + 1) % len(self._addresses)
            self.close()
        return translated

    def close(self) -> None:
        """Calls on a closed channel end at once."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


class Renewal:
    """The thread. `lease` says what is renewed; 0: nothing."""

    def __init__(self, renewer: Renewer, ttl_s: int, alive: Callable[[], bool] = lambda: True) -> None:
        self._renewer = renewer
        self._pause_s = ttl_s / 3
        self._alive = alive
        self._changed = threading.Condition()
        self._lease = 0
        self._ending = False
        self.error = ""
        """Why the last renewal failed; empty when it did not."""
        self.renewed = 0
        """How often."""

    @property
    def lease(self) -> int:
        """Which one."""
        return self._lease

    @lease.setter
    def lease(self, lease: int) -> None:
        with self._changed:
            self._lease = lease
            self._changed.notify()

    @asynccontextmanager
    async def running(self, on_gone: Callable[[int], None]) -> AsyncIterator[None]:
        """Renew for the length of a block. `on_gone` is called on the loop, with the lease that is gone."""
        token = trio.lowlevel.current_trio_token()
        self._ending = False
        thread = threading.Thread(target=self._run, args=(token, on_gone), name="shoal-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._ending = True
                self._changed.notify()
            self._renewer.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(thread.join)
            self._renewer.close()  # a try that was under way may have opened another channel

    # In the thread.

    def _run(self, token: trio.lowlevel.TrioToken, on_gone: Callable[[int], None]) -> None:
        lease, due = 0, 0.0
        while True:
            with self._changed:
                if self._ending:
                    return
                if self._lease != lease:
                    lease, due = self._lease, time.monotonic()
                if not lease or time.monotonic() < due:
                    self._changed.wait(due - time.monotonic() if lease else None)
                    continue
            due = time.monotonic() + self._renew(lease, token, on_gone)

    def _renew(self, lease: int, token: trio.lowlevel.TrioToken, on_gone: Callable[[int], None]) -> float:
        """Returns when to come again, in seconds from now."""
        if not self._alive():
            return _AGAIN_S
        began = time.monotonic()
        try:
            self._renewer.renew(lease, max(0.5, self._pause_s))
        except LeaseGone:
            self.lease = 0
            try:
                token.run_sync_soon(on_gone, lease)
            except trio.RunFinishedError:
                pass
            return self._pause_s
        except StoreError as error:
            if not self.error and not self._ending:
                log.warning("the lease is not renewed; trying on", error=str(error))
            self.error = str(error)
            return _AGAIN_S
        self.error = ""
        self.renewed += 1
        return self._pause_s - (time.monotonic() - began)
