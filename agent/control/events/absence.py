"""When what vanished in etcd says nothing of who had put it: etcd was away or stalled, and leases ran out meanwhile.

Laws
- Who cannot tell whether others could renew calls nobody lost: not for as long as a lease lasts since etcd is back, nor
  since our own lease ran out, though we live. Until then who lives has put its keys again.
- What is told of others at all is told a moment later: of one stall all leases run out, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from agent.control.host.clock import now_text
from policies.kinds.webhook.event import Value

UNREACHABLE_S: Final = 5.0
LOOK_S: Final = 0.2
MOMENT_S: Final = 1.0
"""From the first lease that runs out of several to our own, and to the keys that are put again."""


class Tell(Protocol):
    """`EventDetector.tell`."""

    def __call__(
        self, name: str, parts: Mapping[str, str], data: Mapping[str, Value], time: str = ""
    ) -> None: ...  # pragma: no cover


class Absence:
    """Of etcd, as one agent sees it. Times are Trio's."""

    def __init__(self, host: str, lease_s: float) -> None:
        self._host = host
        self._lease_s = lease_s
        self._doubts_until = -math.inf

    def note(self) -> None:
        """Etcd is away, or our own lease has run out."""
        self._doubts_until = trio.current_time() + self._lease_s

    def believed_at(self, seen_at: float) -> float:
        """When it may be said of others that they are lost, who were seen to be gone at a time."""
        return max(seen_at + MOMENT_S, self._doubts_until)

    async def watch(self, connected: Callable[[], bool], tell: Tell) -> None:
        """Tell, once etcd is back, that it could not be reached; `connected()` says whether it can."""
        while True:
            while connected():  # noqa: ASYNC110 - the mirror's state is a plain value
                await trio.sleep(LOOK_S)
            began, at = trio.current_time(), now_text()
            while not connected():
                self.note()
                await trio.sleep(LOOK_S)
            self.note()
            away_s = trio.current_time() - began
            if away_s >= UNREACHABLE_S:
                parts = {"host": self._host}
                tell("etcd.unreachable", parts, {"reason": f"for {away_s:.0f} s"}, time=at)
                tell("etcd.back", parts, {"reason": f"after {away_s:.0f} s"})
