# mypyc: compiled
"""Idle upstream connections, by the address they lead to; the one used last is used first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.proxy.reactor import Reactor

if TYPE_CHECKING:
    from agent.proxy.upstream import Upstream

MAX_IDLE_PER_ADDRESS: Final = 256
IDLE_S: Final = 55.0
"""Below the 60 s after which many servers close."""


class Pool:
    """Decides and holds; connecting and closing is done by the connections themselves."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._idle: dict[tuple[str, int], list[Upstream]] = {}
        self.opened = 0
        """Upstream connections open now, busy or idle."""
        self.reused = 0
        self.connects = 0

    def take(self, dial: tuple[str, int], *, verify: bool) -> Upstream | None:
        """An idle connection to an address. `verify` costs a system call and rules out one that is already closed."""
        idle = self._idle.get(dial)
        while idle:
            upstream = idle.pop()
            if verify and upstream.is_stale():
                upstream.close()
                continue
            self.reused += 1
            return upstream
        return None

    def put(self, upstream: Upstream) -> None:
        """Keep a connection for the next request; or close it, where there are plenty."""
        idle = self._idle.get(upstream.dial)
        if idle is None:
            idle = self._idle[upstream.dial] = []
        if len(idle) >= MAX_IDLE_PER_ADDRESS:
            upstream.close()
            return
        idle.append(upstream)
        upstream.arm(self._reactor.now + IDLE_S)

    def forget(self, upstream: Upstream) -> None:
        """An idle connection closed."""
        idle = self._idle.get(upstream.dial)
        if idle is not None and upstream in idle:
            idle.remove(upstream)
            if not idle:
                del self._idle[upstream.dial]

    def drop(self, dial: tuple[str, int]) -> None:
        """Close every idle connection to an address that nobody has any more."""
        for upstream in self._idle.pop(dial, []):
            upstream.close()

    def close(self) -> None:
        """Close every idle connection."""
        for dial in list(self._idle):
            self.drop(dial)

    @property
    def idle(self) -> int:
        """Idle connections, over all addresses."""
        return sum(map(len, self._idle.values()))
