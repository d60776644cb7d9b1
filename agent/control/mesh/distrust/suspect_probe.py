"""Suspects are asked whether they live: a TCP connection, the way that requests would go, for what etcd forgot.

Laws
- Who refuses wherever it could be is gone at once; who is silent, after FAILURES times. What failed on our side (no
  descriptor, no route, no memory) is no verdict, and counts as silence at most.
- Who accepts stays, and requests go to where it accepted; for how long, `doubts` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, TypeAlias

import trio

from agent.control.host.own_ports import Place
from agent.control.mesh.distrust.doubts import FAILURES, Identity, Suspect
from agent.control.mesh.table import Table
from agent.process.descriptors import OURS

EVERY_S: Final = 1.0
TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 64


class Answer(Enum):
    """What a connection attempt told. Silence and a missing route may be about us, and are not believed at once."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NONE = "none"
    NOT_ASKED = "we could not ask"


Found: TypeAlias = tuple[Iterable[Identity], Iterable[tuple[Identity, Place]]]
"""Who is gone, and who answers where."""


async def probe_suspects(table: Table, found: Callable[[Found], None]) -> None:
    """Until cancelled: probe every suspect each second; tells who refuses, fails often enough or was kept for long
    enough, and who answers."""
    failures: dict[Identity, int] = {}
    while True:
        await trio.sleep(EVERY_S)
        suspects = [*table.suspects, *table.suspects.lost_agents()]
        if not suspects:
            failures.clear()
            continue
        gone: list[Identity] = []
        alive: list[tuple[Identity, Place]] = []
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for suspect in suspects:
                nursery.start_soon(_probe, suspect, limit, failures, gone, alive)
        found(([*gone, *table.suspects.outlived(table.agents, trio.current_time())], alive))


async def _probe(
    suspect: Suspect,
    limit: trio.CapacityLimiter,
    failures: dict[Identity, int],
    gone: list[Identity],
    alive: list[tuple[Identity, Place]],
) -> None:
    identity = (suspect.service, suspect.id)
    answers = []
    for place in suspect.places:
        async with limit:
            answer = await _ask(*place)
        if answer is Answer.ACCEPTED:
            failures.pop(identity, None)
            alive.append((identity, place))
            return
        answers.append(answer)
    if Answer.NOT_ASKED in answers:
        return
    failures[identity] = failures.get(identity, 0) + 1
    if all(answer is Answer.REFUSED for answer in answers) or failures[identity] >= FAILURES:
        failures.pop(identity)
        gone.append(identity)


async def _ask(address: str, port: int) -> Answer:
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    try:
        with trio.socket.socket(family) as sock, trio.move_on_after(TIMEOUT_S):
            await sock.connect((address, port))
            return Answer.ACCEPTED
    except ConnectionRefusedError:
        return Answer.REFUSED
    except OSError as error:
        return Answer.NOT_ASKED if error.errno in OURS else Answer.NONE
    return Answer.NONE
