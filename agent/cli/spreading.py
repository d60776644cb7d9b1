"""How far a revision of etcd has come: the live agents that do not run it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from registry.census import Census
    from registry.store import Store

ASK_EVERY_S: Final = 0.05


class Laggard(msgspec.Struct, frozen=True):
    """A live agent that does not run the revision yet."""

    host: str
    runs: int
    """0: it has not said yet what it runs."""

    def __str__(self) -> str:
        return f"{self.host} runs {self.runs}" if self.runs else f"{self.host} has not said what it runs"


def laggards(census: Census, revision: int) -> list[Laggard]:
    """The live agents, those with a lease, whose slowest worker is behind a revision."""
    runs = {host: census.acks[host].revision if host in census.acks else 0 for host in census.agents}
    return [Laggard(host, ran) for host, ran in sorted(runs.items()) if ran < revision]


async def spread(store: Store, mesh: str, revision: int) -> None:
    """Returns when every live agent runs a revision; whoever calls bounds it in time."""
    import trio

    from registry.census import take

    while True:
        if not laggards(await take(store, mesh, "agents", "acks"), revision):
            return
        await trio.sleep(ASK_EVERY_S)
