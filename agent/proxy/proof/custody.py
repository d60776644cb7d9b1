# mypyc: compiled
"""Connections on which somebody was proven: they end when that is so no more.

Laws
- A connection outlives no certificate that it was proven by, of either side. A little before that it takes no other
  request; callers stop first, so that none is sent to a connection that is being closed.
- What is revoked ends at once, with what is under way.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from agent.proxy.budget import Guest
from agent.proxy.engine.reactor import INFINITY, Reactor, Timed
from agent.proxy.http1.pool import Pool
from agent.proxy.http1.secured import SecuredConnection
from agent.proxy.report.access import Recorder

if TYPE_CHECKING:
    from agent.identity.verdict import Identity
    from agent.proxy.proof.security import Security

LOOK_EVERY_S: Final = 1.0
CALLERS_STOP_S: Final = 15.0
"""Before the end."""
CALLEES_STOP_S: Final = 5.0


class Custody(Timed):
    """Of one worker."""

    __slots__ = ("_pool", "_reactor", "_recorder", "_security", "clients", "ended")

    def __init__(self, reactor: Reactor, recorder: Recorder, pool: Pool, security: Security) -> None:
        super().__init__()
        self._reactor = reactor
        self._recorder = recorder
        self._pool = pool
        self._security = security
        self.clients: dict[Guest, Identity] = {}
        """Who has proven on which connection who he is."""
        self.ended = 0
        """Connections that were cut, since ever."""

    def watch(self) -> None:
        """From now on, as long as there is a trust domain."""
        if self._security.trust_domain and self.deadline == INFINITY:
            self._reactor.wheel.arm(self, self._reactor.now + LOOK_EVERY_S)

    def on_deadline(self, now: float) -> None:
        """Look."""
        self._stop()
        self.watch()

    def look(self, *, withdrawn: bool) -> None:
        """Trust has changed; `withdrawn`: there is a root less, by which anybody may have been believed."""
        for connection in list(self._pool.secured):
            identity = connection.identity
            reason = self._security.is_over(identity, connection.ends_s) if identity is not None else ""
            if reason:
                self._cut(connection, reason)
            elif withdrawn:
                connection.retire()
        for guest, identity in list(self.clients.items()):
            if self._security.is_over(identity, identity.ends_s):
                self._cut_client(guest)
            elif withdrawn:
                guest.finish()
        self.watch()

    def _stop(self) -> None:
        now_s = self._recorder.epoch + self._reactor.now
        for connection in list(self._pool.secured):
            left_s = connection.ends_s - now_s
            if left_s <= 0.0:
                self._cut(connection, "a certificate that it was proven by has ended")
            elif left_s <= CALLERS_STOP_S:
                connection.retire()
        for guest, identity in list(self.clients.items()):
            left_s = identity.ends_s - now_s
            if left_s <= 0.0:
                self._cut_client(guest)
            elif left_s <= CALLEES_STOP_S:
                guest.finish()

    def _cut(self, connection: SecuredConnection, reason: str) -> None:
        self.ended += 1
        connection.on_broken(OSError(errno.EPROTO, reason))

    def _cut_client(self, guest: Guest) -> None:
        self.ended += 1
        guest.abort()
