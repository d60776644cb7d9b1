"""Suspects are asked whether they live: a TCP connection, for what a mass deletion took away and nobody believes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

import trio

from agent.control.mesh.mass_deletion import FAILURES, Suspect
from agent.control.mesh.table import Table

EVERY_S: Final = 1.0
TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 64


class Answer(Enum):
    """What a connection attempt told. Silence and a missing route may be about us, and are not believed at once."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NONE = "none"


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
        answer = await _ask(suspect.address, suspect.port)
    if answer is Answer.ACCEPTED:
        failures.pop(identity, None)
        return
    failures[identity] = failures.get(identity, 0) + 1
    if answer is Answer.REFUSED or failures[identity] >= FAILURES:
        failures.pop(identity)
        gone.append(identity)


async def _ask(address: str, port: int) -> Answer:
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    with trio.socket.socket(family) as sock, trio.move_on_after(TIMEOUT_S):
        try:
            await sock.connect((address, port))
        except ConnectionRefusedError:
            return Answer.REFUSED
        except OSError:
            return Answer.NONE
        return Answer.ACCEPTED
    return Answer.NONE
