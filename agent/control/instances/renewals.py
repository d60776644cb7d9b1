"""Registrations that somebody has to say again, or they end: `renew_within`.

`shoal run` says its registration every two seconds; when it is killed, its instance ends by itself, before another
program has its port and is taken for it.

Laws
- What was loaded from disk has its whole time from then on: while the agent was away nobody could renew anything.
- A registration without a length of time stays until it is taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from agent.control.instances.registration import Identity

LEAST_S: Final = 2.0
MOST_S: Final = 24 * 3600.0
ABANDONED_S: Final = 1.0
"""How long word has that an instance which nobody renewed takes nothing new."""
OVERDUE: Final = 0.5
"""Of its time: who has not renewed for so long does not seem to be there any more."""


class Renewals:
    """Which instances have to be renewed, and until when."""

    def __init__(self) -> None:
        self._within: dict[Identity, float] = {}
        self._until: dict[Identity, float] = {}
        """On Trio's clock (s)."""
        self._loaded: dict[str, Any] = {}
        self._wake = trio.Event()

    def renewed(self, identity: Identity, within_s: float | None) -> None:
        """It was registered, or registered again, now."""
        if within_s is None:
            self.forget(identity)
            return
        self._within[identity] = within_s
        self._until[identity] = trio.current_time() + within_s
        self._wake.set()

    def forget(self, identity: Identity) -> None:
        """It has left, or stays without that."""
        self._within.pop(identity, None)
        self._until.pop(identity, None)

    def left_s(self, identity: Identity) -> float | None:
        """How long until it ends (s)."""
        until = self._until.get(identity)
        return None if until is None else max(0.0, until - trio.current_time())

    def is_overdue(self, identity: Identity) -> bool:
        """Whether nobody has renewed it for so long that nobody seems to be there; never of what stays for ever."""
        left_s = self.left_s(identity)
        return left_s is not None and left_s < (1 - OVERDUE) * self._within[identity]

    def saved(self) -> dict[str, float]:
        """For the disk, beside the registrations, so that an agent which knows nothing of it reads those."""
        return {"/".join(identity): within_s for identity, within_s in self._within.items()}

    def load(self, saved: Any) -> None:
        """What was saved; nothing where it makes no sense."""
        self._loaded = saved if isinstance(saved, dict) else {}

    def loaded(self, identity: Identity) -> None:
        """An instance is there again that was saved."""
        within_s = self._loaded.get("/".join(identity))
        if isinstance(within_s, int | float) and LEAST_S <= within_s <= MOST_S:
            self.renewed(identity, float(within_s))

    async def run(self, end: Callable[[Identity, float], None]) -> None:
        """Call `end` with each that nobody renewed, and how long it lasted without, until cancelled."""
        while True:
            now = trio.current_time()
            for identity in [identity for identity, until in self._until.items() if until <= now]:
                within_s = self._within[identity]
                self.forget(identity)
                end(identity, within_s)
            self._wake = trio.Event()
            with trio.move_on_at(min(self._until.values(), default=float("inf"))):
                await self._wake.wait()
