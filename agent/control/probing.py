"""Suspects are asked whether they live: a TCP connection, for what a mass deletion took away and nobody believes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from agent.control.distrust import FAILURES, Suspect
from agent.control.table import Table

EVERY_S: Final = 1.0
TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 64


async def probe_suspects(table: Table, drop: Callable[[Iterable[tuple[str, str]]], None]) -> None:
    """Until cancelled: probe every suspect each second; those that refuse, or fail often enough, are dropped."""
    failures: dict[tuple[str, str], int] = {}
    while True:
        await trio.sleep(EVERY_S)
        suspects = list(table.suspects())
        if not suspects:
            failures.clear()
            continue
        gone: list[tuple[str, str]] = []
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for suspect in suspects:
                nursery.start_soon(_probe, suspect, limit, failures, gone)
        drop(gone)


async def _probe(
    suspect: Suspect, limit: trio.CapacityLimiter, failures: dict[tuple[str, str], int], gone: list[tuple[str, str]]
) -> None:
    identity = (suspect.service, suspect.id)
    async with limit:
        with trio.move_on_after(TIMEOUT_S) as scope:
            try:
                await (await trio.open_tcp_stream(suspect.address, suspect.port)).aclose()
            except OSError:
                gone.append(identity)
                return
    if not scope.cancelled_caught:
        failures.pop(identity, None)
        return
    failures[identity] = failures.get(identity, 0) + 1
    if failures[identity] >= FAILURES:
        gone.append(identity)
