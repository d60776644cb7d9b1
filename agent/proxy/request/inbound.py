# mypyc: compiled
"""What the agent beside an instance does: let in, and deliver to the one that the calling agent picked.

It never tries again: it tells the caller's agent that no instance saw the request (`x-shoal-unsent`), or that there is
too much (`x-shoal-shed`), and that agent decides.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages import flags
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import SHOAL_ENDPOINT, ResponseHead
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.stats import count
from agent.proxy.request.attempt import REFUSED_S, Attempt
from agent.proxy.request.exchange import Exchange
from agent.proxy.table.connections import Connections
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.kinds.retry.policy import Failure
from policies.kinds.tls.decide import PERMISSIVE

AT_BOTH_ENDS: Final = frozenset({"isolation", "path"})
"""Kinds of which both agents ask the same of the same request."""


class Inbound(Exchange):
    """A request from another agent, or from a caller without one."""

    __slots__ = ()

    def find_service(self) -> Service | None:
        """The one that is asked for; where a rule has rewritten the Host into no name of the mesh, that of the instance
        which the calling agent picked."""
        table = self.runtime.table
        service = table.find(self.request.host)
        if service is None:
            wanted = self.request.special_value(SHOAL_ENDPOINT)
            if wanted is not None:
                service = table.services.get(wanted.decode("latin-1").rpartition("/")[0])
        return service

    def begin_clock(self, plan: Plan) -> None:
        """Which rule decided is the calling agent's to know: what it says is left counts, up to the longest of them."""
        longest = plan.longest
        self.begin_by(plan, longest if longest is not plan.timeouts and self.down.peer.agent else plan.timeouts)

    def begin(self, plan: Plan, refusal: Refusal | None) -> None:
        """To the instance."""
        wanted = self.request.special_value(SHOAL_ENDPOINT)
        peer = self.down.peer
        if refusal is None and peer.identity is not None:
            refusal = self._misdirected(plan, wanted)
        elif plan.tls is not None and plan.tls.mode == PERMISSIVE:
            assert self.service is not None
            self.service.stats.note_plain(peer.address)
        if refusal is not None:
            self.refuse(Refuse(refusal))
        else:
            self.come_in(wanted)

    def _misdirected(self, plan: Plan, wanted: bytes | None) -> Refusal | None:
        """Who has had one service proven does not get another by the same connection (RFC 9110 section 15.5.20)."""
        service = plan.service if wanted is None else wanted.decode("latin-1").rpartition("/")[0]
        called = self.down.peer.called
        if called == service:
            return None
        proven = called or "this agent itself"
        reason = f"this connection is to {proven}, and the request to {service}"
        return Refusal(421, "tls", reason, unsent=True, flag=flags.CLIENT_MISDIRECTED)

    def count_audit(self, phase: Phase, done: Verdict | None, verdict: Verdict | None) -> None:
        """What is asked at both ends the calling agent has counted; of one of another mesh nobody here hears that."""
        if phase.kind not in AT_BOTH_ENDS or self.stranger is not None or not self.is_second_hop():
            super().count_audit(phase, done, verdict)

    def tally(self) -> Connections | None:
        """Breakers count connections at the callers'."""
        return None

    def judge(self, attempt: Attempt, outcome: int, latency_s: float) -> None:
        """Callers do."""

    def on_response(self, attempt: Attempt, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        if attempt.held is not None:
            self.note_load(head)
        self.relay(attempt, head, body, complete)

    def on_failed(
        self, attempt: Attempt, failure: Failure, reason: str, *, sent: bool, timed_out: bool = False
    ) -> None:
        """Whoever called decides about another try."""
        if not self.response_began:
            assert self.service is not None
            count(self.service.stats.failures, attempt.what(failure))
            if failure is Failure.CONNECT and not attempt.unable:
                attempt.endpoint.load.refused_until = self.reactor.now + REFUSED_S
        super().on_failed(attempt, failure, reason, sent=sent, timed_out=timed_out)
