# mypyc: compiled
"""How a request ends: with an answer of the mesh's own, or behind an instance's; counted, recorded, accounted for.

Laws
- Each request ends exactly once, in `end`: its endpoint's load, its breaker's count and its waits are given back there.
- What answers of the mesh's own say of those who may try again is said here, for every kind of refusal.
"""

from __future__ import annotations

from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages import answers, flags, words
from agent.proxy.messages.origin import sampled_trace
from agent.proxy.phases.verdict import Refuse
from agent.proxy.report import story
from agent.proxy.report.signals import CANCELLED, Signals
from agent.proxy.report.stats import count
from agent.proxy.request.attempt import Attempt
from agent.proxy.request.tracing.traced import Traced


class Ending(Traced):
    """A request that ends."""

    __slots__ = ()

    @property
    def no_retry(self) -> bool:
        """Whether all tries that there may be of what failed were made: those before us should make none."""
        return False

    def mark_tried(self) -> bytes:
        """The field that tells those before us."""
        return b"x-shoal-no-retry: 1\r\n"

    def cut(self) -> Attempt | None:
        """Give up what is under way; returns it, for what there is to learn from it."""
        attempt = self.attempt
        if attempt is not None:
            attempt.cut()
        return attempt

    def refuse(self, refuse: Refuse) -> None:
        """Answer in the mesh's own name."""
        if self.answers_later(refuse):
            return
        refusal = refuse.refusal
        if not refuse.counted:
            self._count_refusal(refusal.policy)
        self.learn_of(refusal)
        self.why, self.flag = refusal.reason, refusal.whose
        said = self.say(refuse)
        if refuse.resets:
            self.status = refusal.status
            self.end()
            self.down.abort()
            return
        body = refuse.body
        fields = answers.refusal_fields(said, typed=body is None)
        fields += refuse.fields
        if self.no_retry:
            fields.append(self.mark_tried())
        if self.inbound and self.down.peer.agent:
            fields.append(words.flagged(said.whose))
        if body is None:
            body = answers.refusal_body(said, self.request_id)
        self.answer(said.status, fields, body)

    def is_second_hop(self) -> bool:
        """Whether another agent has handed the request over."""
        peer = self.down.peer
        return self.inbound and (peer.agent or bool(peer.host))

    def _count_refusal(self, policy: str) -> None:
        """By hop: another agent that has handed the request over counts what becomes of it, too."""
        service = self.service
        if service is None:
            count(self.runtime.refused, policy)
        elif self.is_second_hop():
            count(service.stats.refused_second, policy)
        else:
            count(service.stats.refused, policy)

    def answer(self, status: int, fields: list[bytes], body: bytes) -> None:
        """Whole, and of the mesh's own."""
        if self.explained is not None:
            self.tell_why(fields)
        if self.left is not None:
            fields.append(self.left.lines())
        if self.tapped is not None:
            self.tapped.on_own(fields, body)
        self.cut()
        self.status = status
        if self.request.method != b"HEAD":
            self.bytes_out += len(body)
        self.down.send_own(status, fields, body)
        self.end()

    def tell_why(self, fields: list[bytes]) -> None:
        """To who calls, where he has asked; it is noted for those who tap, too."""
        if self.explained is not None and (self.tapped is None or self.tapped.asks_why):
            fields.append(story.explain_field(self.explained, self.endpoint, self.inbound))

    def on_end(self) -> None:
        """It is about to be over."""

    def end(self) -> None:
        """Count, record, part. Nothing of this request happens afterwards."""
        if self.over:
            return
        self.over = True
        if self.stands_at != INFINITY:
            self.reactor.wheel.forget(self)
        last = self.attempt
        if last is not None:
            last.give_back()
            self.attempt = None  # they refer to each other: garbage that only a collection would find
        self.forget_tunnel()
        if self.hearing is not None:
            self.stop_hearing()
        self.forget_word()
        self.on_end()
        duration_s = self.reactor.now - self.started
        if self.trace is not None:
            self.end_trace(self.trace, duration_s)
        entered, self.entered = self.entered, None
        if entered is not None:
            entered.ended(self, self.proof, self.proof_s)
        service = self.service
        if service is not None:
            stats = service.stats
            stats.active -= 1
            stats.bytes_in += self.bytes_in
            stats.bytes_out += self.bytes_out
            self._signal(stats.signals, duration_s)
        if self.runtime.recorder.wanted:
            self.record(duration_s, last)
        if self.denied is not None or self.accounts:
            self.account(duration_s)
        self.down.on_handler_end()

    def _signal(self, signals: Signals, duration_s: float) -> None:
        """Have it counted for its edge."""
        endpoint = self.endpoint
        first, peer = True, ""
        if self.inbound:
            sender = self.down.peer
            peer = sender.host
            first = not peer and not sender.agent
        elif endpoint is not None and endpoint.via:
            peer = endpoint.agent
        stranger = self.stranger
        key = (
            first,
            self.caller if stranger is None else stranger.whose,
            self.rule,
            endpoint.version if endpoint is not None else "",
            peer,
        )
        status = self.status
        if self.flag:
            assert self.service is not None
            count(self.service.stats.flagged, f"{self.flag}\t{'first' if first else 'second'}")
            if not status and not first and self.flag != flags.AGENT_CUT:
                status = CANCELLED
        if not signals.observe(key, status, duration_s, self.reactor.now):
            return
        trace = self.trace
        id = sampled_trace(self.request) if trace is None else trace.trace if trace.sampled else b""
        if id:
            signals.remember(key, id.decode(), duration_s, self.runtime.recorder.epoch + self.reactor.now)
