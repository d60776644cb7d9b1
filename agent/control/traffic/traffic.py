"""What workers hand over, and to whom."""

from __future__ import annotations

from collections.abc import Callable

import trio

from agent.control.asking.answering import Answering
from agent.control.mesh.table import Table
from agent.control.records.records import Records
from agent.control.traffic.following import Following
from agent.control.traffic.peers import Peers
from agent.control.traffic.request_store import FindSecret, RequestStore
from agent.control.traffic.shadow import ShadowTallies
from agent.control.traffic.shared_limits import SharedLimits, asked
from agent.control.traffic.tapping import Tapping
from agent.control.traffic.transitions import Transitions
from agent.control.workers.fleet import Fleet
from agent.frames import Follow, Followed, Peer, Tap, Transition
from agent.hooks.receivers import Receivers
from agent.hooks.targets import Targets
from agent.settings.document import Settings


class Traffic:
    """A part for each of their frames."""

    def __init__(
        self,
        settings: Settings,
        table: Table,
        secret: FindSecret,
        receivers: Receivers,
        tell: Callable[[list[Transition]], None],
        peers: Peers,
        records: Records,
        answering: Answering,
    ) -> None:
        """`secret` and `receivers`: which secrets there are for brokers, and who may be sent them. `tell` is handed
        what breakers and ejectors turned to."""
        self.limits = SharedLimits(table, settings.host, settings.inbound.agents, peers)
        self.shadow = ShadowTallies(table)
        self.requests = RequestStore(
            settings.state_path / "topics", settings.topics.max_bytes, Targets(settings.hooks.allow), secret, receivers
        )
        self._records = records
        self.following = Following(settings.host, answering, recorded=records.wants("access"))
        self.tapping = Tapping(settings.host, answering)
        self.transitions = Transitions(tell)

    def on_records(self, lines: bytes, count: int) -> None:
        """What workers say of requests that ended."""
        self._records.offer("access", lines, count)
        self.following.on_records(lines)

    def on_followed(self, told: Followed) -> None:
        """What workers have picked for who follows requests, or taps them: each knows its own by the number."""
        self.following.on_followed(told)
        self.tapping.on_followed(told)

    def follows(self) -> list[Follow | Tap]:
        """What a new worker has to know of them."""
        return [*self.following.frames(), *self.tapping.frames()]

    def on_peer(self, told: Peer) -> tuple[int, bytes]:
        """What another agent asks this one: status and body."""
        return asked(told.path, told.body, self.limits, told.address, told.identity)

    def start(self, nursery: trio.Nursery, fleet: Fleet) -> None:
        """Everything that goes on by itself."""
        self.following.connect(fleet.publish)
        self.tapping.connect(fleet.publish)
        nursery.start_soon(self.following.run)
        nursery.start_soon(self.tapping.run)
        nursery.start_soon(self.limits.run, fleet)
        nursery.start_soon(self.shadow.run)
        nursery.start_soon(self.requests.run)
