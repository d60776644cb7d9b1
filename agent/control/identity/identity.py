"""Who this host can prove to be. Without a trust bundle in etcd: nothing, nothing is asked, and no library is loaded.

What is about identity comes with the agent's one watch (`hear`). From the first bundle on, or when one was believed
before a restart, the rest of this room is imported and goes on (`engaged`); at once where the settings name a Workload
API (`workload`).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
import trio

from agent.control.identity.around import BELIEVED, Around, Reply
from agent.control.identity.way import Way
from agent.frames import Peer
from agent.identity.verdict import Refused, Visitor
from registry.store import Change

if TYPE_CHECKING:
    from agent.control.identity.engaged import Engaged
    from agent.control.identity.workload.attached import Attached

log = structlog.get_logger()


class AgentIdentity:
    """Of one agent."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._room = f"{around.keys.prefix}identity/"
        self._bundle = around.keys.identity("bundle")
        self._trust = around.keys.trust(around.host)
        self._heard: dict[str, Change] = {}
        """What stands, until a bundle does."""
        self._known = False
        """Whether etcd has told all of it."""
        self._engaged: Engaged | Attached | None = None
        self._begun = trio.Event()

    def load(self) -> None:
        """What was believed and held before a restart."""
        if self._around.workload_socket or (self._around.folder / BELIEVED).exists():
            self._engage()

    async def first(self) -> None:
        """Wait, not for long, for what the Workload API gives, if that is to be asked; behind `load`."""
        if self._engaged is not None:
            await self._engaged.first()

    def handed_over(self) -> bytes:
        """What is on no disk, for the process that is executed next."""
        return self._engaged.handed_over() if self._engaged is not None else b""

    def hear(self, changes: Sequence[Change], *, resync: bool = False, another: bool = False) -> None:
        """What happened in etcd. `resync`: changes come with a snapshot. `another`: of another etcd than before."""
        mine = [change for change in changes if change.key.startswith(self._room) or change.key == self._trust]
        whole, self._known = resync and not self._known, True
        if self._engaged is None:
            self._heard.update((change.key, change) for change in mine)
            if not any(change.key == self._bundle and change.value is not None for change in mine):
                return
            mine, self._heard = sorted(self._heard.values(), key=lambda change: change.revision), {}
            self._engage()
        if self._engaged is not None:
            self._engaged.hear(mine, whole=whole, another=another)

    def way(self, host: str) -> Way | None:
        """How to ask another host's agent that holds an SVID; None: nothing is proven here."""
        return self._engaged.way(host) if self._engaged is not None else None

    def door(self, *, tokens: bool = False) -> ssl.SSLContext | None:
        """What people who ask this agent are shown, and have to show, where it does not take tokens instead; None:
        nothing is proven here."""
        return self._engaged.door(tokens=tokens) if self._engaged is not None else None

    def visitor(self, chain: Sequence[bytes]) -> Visitor | Refused:
        """Who asks, by the chain (DER) of a connection, by all that is known now."""
        return self._engaged.visitor(chain) if self._engaged is not None else Refused("nothing is proven here")

    def asked(self, told: Peer, reply: Reply) -> None:
        """A question of another host's: SIGN or JOIN."""
        if self._engaged is None:
            reply(503, b"no trust bundle is known here")
        else:
            self._engaged.asked(told, reply)

    def _engage(self) -> None:
        # 9 MB, which a mesh without identity need not have
        if self._around.workload_socket:
            from agent.control.identity.workload.attached import Attached

            log.info("identity: by the Workload API", socket=self._around.workload_socket)
            self._engaged = Attached(self._around)
        else:
            from agent.control.identity.engaged import Engaged

            log.info("identity: a trust bundle stands")
            self._engaged = Engaged(self._around)
        self._engaged.load()
        self._begun.set()

    async def run(self) -> None:
        """Until cancelled."""
        await self._begun.wait()
        if self._engaged is not None:
            await self._engaged.run()

    @property
    def expelled(self) -> frozenset[str]:
        """Hosts that are revoked, and belong to the mesh no more: nothing that was theirs is to be called."""
        return self._engaged.standing.expelled if self._engaged is not None else frozenset()

    @property
    def malformed(self) -> dict[str, str]:
        """Keys that are not believed, and why."""
        return self._engaged.malformed if self._engaged is not None else {}

    def as_state(self) -> dict[str, Any]:
        """What /state shows; empty without a bundle."""
        return self._engaged.as_state() if self._engaged is not None else {}

    def gauges(self) -> dict[str, float]:
        """For metrics; none without a bundle."""
        return self._engaged.gauges() if self._engaged is not None else {}

    def counters(self) -> dict[tuple[str, ...], float]:
        """For metrics; none without a bundle."""
        return self._engaged.counters() if self._engaged is not None else {}
