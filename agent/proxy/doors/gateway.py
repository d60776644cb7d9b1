# mypyc: compiled
"""A request of a caller of another trust domain, at the agent of a gateway: in, and out again to an instance.

Laws
- It is to the service that the caller has proven this agent to be, and Host says the same; whatever else is asked for
  is answered in the same words, whether it is there or not.
- It goes only where documents export: each service that its way leads to, every level of documents (`Walk.resolve`).
  Out of the mesh it never goes, neither to others' gateways nor to a host.
- No header says who calls. It is nobody of ours, by whatever name; the agent beside the instance is told who it is, by
  a hop on which both agents are proven.
"""

from __future__ import annotations

from agent.proxy.messages import words
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.verdict import Refuse
from agent.proxy.request.outbound import Outbound
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from agent.proxy.table.table import service_name
from policies.kinds.shed.decide import Store
from policies.stranger import Stranger


class Gateway(Outbound):
    """One of them."""

    __slots__ = ()

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        identity = down.peer.identity
        assert identity is not None, "who is not proven is no stranger"
        self.stranger = Stranger(str(identity.id), runtime.table.host)

    @property
    def inbound(self) -> bool:
        """It came by that listener, and is sent on."""
        return False

    def sender(self) -> int:
        """Nobody's words are believed less."""
        return words.STRANGER

    def find_service(self) -> Service | None:
        """The one that this agent has proven to be."""
        called = self.down.peer.called
        if not called or service_name(self.request.host) != called:
            return None
        return self.runtime.table.services.get(called)

    def on_no_service(self) -> None:
        """Nothing is there for it, or it asks for something else than it has called."""
        called = self.down.peer.called or "no service"
        host = self.request.host.decode("latin-1")[:200]
        self.refuse(Refuse(Refusal(421, "export", f"it has called {called}, and asks for {host!r}", unsent=True)))

    def begin(self, plan: Plan, refusal: Refusal | None) -> None:
        """Out again."""
        assert self.service is not None and self.stranger is not None
        if refusal is not None:
            self.refuse(Refuse(refusal))
            return
        self.service.stats.note_outside(self.stranger.domain)
        self.retry = plan.retry
        self.go_out()

    def store(self, way: Store) -> bool:
        """Not at all: who replays it would send it as one of ours."""
        return False

    def refuse(self, refuse: Refuse) -> None:
        """In the mesh's own name; whom it is not there for is noted beside handshakes that came to nothing."""
        if self.stranger is not None and refuse.refusal.status == 421:
            note = f"{self.stranger.id}: {refuse.refusal.reason}"
            self.runtime.security.note(self.down.peer.address, note)
        super().refuse(refuse)
