"""A lease is renewed by a thread of its own, whatever the loop of the process is doing.

Laws
- The thread has an owner: it ends with the `async with` block that began it, and is waited for.
- It renews, and nothing else. Which lease there is, and what becomes of one that is gone, is `registry.lease`'s.
- It renews only while `alive` says so: who hangs for ever must not keep a lease for ever, or what it answered for would
  stand in etcd with nobody behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog
import trio

from registry.store import LeaseGone, StoreError

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
    async def running(
        self, on_gone: Callable[[int], None], on_first: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Renew for the length of a block. Called on the loop are `on_gone`, with the lease that is gone, and
        `on_first` after the first renewal."""
        token = trio.lowlevel.current_trio_token()
        self._ending = False
        thread = threading.Thread(target=self._run, args=(token, on_gone, on_first), name="shoal-lease", daemon=True)
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

    def _run(
        self, token: trio.lowlevel.TrioToken, on_gone: Callable[[int], None], on_first: Callable[[], None]
    ) -> None:
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
            before = self.renewed
            due = time.monotonic() + self._renew(lease, token, on_gone)
            if self.renewed and not before:
                _tell(token, on_first)

    def _renew(self, lease: int, token: trio.lowlevel.TrioToken, on_gone: Callable[[int], None]) -> float:
        """Returns when to come again, in seconds from now."""
        if not self._alive():
            return _AGAIN_S
        began = time.monotonic()
        try:
            self._renewer.renew(lease, max(0.5, self._pause_s))
        except LeaseGone:
            self.lease = 0
            _tell(token, on_gone, lease)
            return self._pause_s
        except StoreError as error:
            if not self.error and not self._ending:
                log.warning("the lease is not renewed; trying on", error=str(error))
            self.error = str(error)
            return _AGAIN_S
        self.error = ""
        self.renewed += 1
        return self._pause_s - (time.monotonic() - began)


def _tell(token: trio.lowlevel.TrioToken, what: Callable[..., None], *of: object) -> None:
    try:
        token.run_sync_soon(what, *of)
    except trio.RunFinishedError:
        pass
