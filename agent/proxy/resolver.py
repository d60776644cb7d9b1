# mypyc: interpreted, because it waits for threads, and only for names that are new
"""Addresses of hosts outside the mesh, by the host's own resolver, in threads: the loop waits for nobody's DNS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from agent.proxy.table.foreign import RESOLVE_S

MOST_AT_ONCE: Final = 8
"""Threads; who comes when all of them wait for DNS waits for one of them, no longer than for an answer."""
MOST_WAITING: Final = 256


class Resolver:
    """Of one worker."""

    def __init__(self) -> None:
        self._threads: trio.CapacityLimiter | None = None
        self._waiting = 0

    def resolve(self, name: str, port: int, done: Callable[[list[str], str], None]) -> None:
        """Have `done` called, later: with addresses, or with none and why."""
        if self._waiting >= MOST_WAITING:
            done([], "too many names are being looked up")
            return
        self._waiting += 1
        trio.lowlevel.spawn_system_task(self._resolve, name, port, done)

    async def _resolve(self, name: str, port: int, done: Callable[[list[str], str], None]) -> None:
        if self._threads is None:
            self._threads = trio.CapacityLimiter(MOST_AT_ONCE)
        found: list[str] = []
        why = "no answer in time"
        try:
            with trio.move_on_after(RESOLVE_S):
                found = await trio.to_thread.run_sync(
                    look_up, name, port, abandon_on_cancel=True, limiter=self._threads
                )
                why = "it has none"
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
        finally:
            self._waiting -= 1
        done(found, why)


def look_up(name: str, port: int) -> list[str]:
    """Addresses, each once, as the host prefers them. Raises OSError, UnicodeError."""
    rows = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))
