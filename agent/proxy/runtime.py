# mypyc: compiled
"""What the parts of one worker share. It knows nobody who makes requests of it: exchanges name it, not it them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

from agent.frames import Audited, Compared, Store, ToControl
from agent.process.lateness import Lateness
from agent.proxy.budget import Budget
from agent.proxy.control.peers import Peers
from agent.proxy.control.recording import Recordings
from agent.proxy.control.storing import Stores
from agent.proxy.engine.connection import Connection
from agent.proxy.given_up import GivenUp
from agent.proxy.http1.pool import Pool
from agent.proxy.judges.judges import Judges
from agent.proxy.judges.opa import Opas
from agent.proxy.judges.question import Asker
from agent.proxy.messages.answers import Refusal
from agent.proxy.pacing import Pace
from agent.proxy.proof.custody import Custody
from agent.proxy.proof.origins import Origins
from agent.proxy.proof.vouching import Vouching
from agent.proxy.report.access import Recorder
from agent.proxy.report.audit import AuditRing
from agent.proxy.report.news import News
from agent.proxy.report.spans import SpanRing
from agent.proxy.report.stats import count
from agent.proxy.resolver import Resolver
from agent.proxy.stream import Server
from agent.proxy.table.callers import Callers
from agent.proxy.table.foreign import Foreign
from agent.proxy.table.table import Table
from policies.together import Together

LATE_S: Final = 0.05
"""A loop that is less late than this served an ordinary batch of requests."""


class Runtime(Server):
    """Of one worker."""

    def __init__(
        self, seed: int | None = None, given_up: GivenUp | None = None, together: Together | None = None
    ) -> None:
        """`given_up` and `together` are shared by the workers of one agent; without them this one is alone."""
        super().__init__()
        self.rng = random.Random(seed)
        self.vouching = Vouching(self.agents)
        self.pool = Pool(self.reactor, self.heads)
        self.lateness = Lateness(LATE_S)
        self.news = News()
        self.together = together
        self.table = Table(self.news, together)
        self.callers = Callers()
        self.foreign = Foreign(self.news, Resolver().resolve)
        self.recorder = Recorder()
        self.audit = AuditRing()
        self.spans = SpanRing(random.Random(None if seed is None else f"spans {seed}"))
        self.recordings = Recordings(self.reactor)
        self.origins = Origins(self.security.note)
        self.custody = Custody(self.reactor, self.recorder, self.pool, self.security)
        self.refused: dict[str, int] = {}
        """Answers of the mesh's own that no service stands behind, by policy."""
        self.peers = Peers(self.refused)
        self.stores = Stores()
        self.judges = Judges(self.reactor)
        self.opas = opas = Opas(self.pool)
        self.judges.opa = Asker(opas.hindrance, opas.send, opas.forget, opas.prepare)
        self.pace = Pace(self.reactor)
        self.given_up = GivenUp() if given_up is None else given_up
        self.outbound = Budget(inbound=False)
        self.inbound = Budget(inbound=True)
        self.connections: set[Connection] = set()
        self.accepted = 0
        self._compare: Callable[[Compared], bool] | None = None
        self._send_later: Callable[[ToControl], None] | None = None
        self._request_prefix = os.urandom(6).hex().encode()
        self._request_number = 0

    def connect(
        self,
        send: Callable[[ToControl], None],
        compare: Callable[[Compared], bool],
        store: Callable[[Store], bool],
        record: Callable[[Audited], bool],
    ) -> None:
        """Where frames for control go."""
        self.peers.connect(send)
        self._send_later = send
        self.stores.connect(store)
        self.recordings.connect(record)
        self._compare = compare

    def send_comparison(self, frame: Compared) -> bool:
        """Answers for control to compare; False when it has enough to do."""
        return self._compare is not None and self._compare(frame)

    def next_request_id(self) -> bytes:
        """Unique over workers and restarts."""
        self._request_number += 1
        return b"%b-%x" % (self._request_prefix, self._request_number)

    def on_refused(self, refusal: Refusal, address: str, inbound: bool, said: bytes) -> None:
        """A client was refused before there was a request: `said` is what came of one."""
        count(self.refused, refusal.policy)
        if self.recorder.wanted:
            now = self.reactor.now
            self.recorder.record_refused(now, inbound, address, said, refusal.status, refusal.reason, refusal.whose)
