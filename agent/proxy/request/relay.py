# mypyc: compiled
"""What passes between a client and an endpoint: bodies both ways, at the pace of the slower side, and for how long.

Laws
- A body is passed on as it comes. What of it may be needed again is kept, up to a bound; beyond that it is sent once.
- Whoever takes less than he is sent has the other side wait: nothing is collected.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages.head import NO_BODY, RequestHead, ResponseHead
from agent.proxy.report.taps import Tapped
from agent.proxy.request.attempt import Attempt, Party
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream, Upstream
from agent.proxy.table.plan import Plan
from policies.decision import Limits
from policies.kinds.outlier import ejector
from policies.kinds.timeout.decide import Timeouts

FLOWS_S: Final = 10.0
"""An answer that flows for so long says no more of an endpoint's health than it has said by then."""
_NOTHING: Final[list[bytes]] = []


class Tunnel:
    """After 101, or CONNECT: bytes go both ways, unread, with back-pressure, until both sides are through, or nothing
    has come from either for `idle_s` (0: no limit)."""

    __slots__ = ("_exchange", "_idle_s")

    def __init__(self, exchange: Party, idle_s: float) -> None:
        self._exchange = exchange
        self._idle_s = idle_s

    def on_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        exchange = self._exchange
        exchange.bytes_out += len(data)
        exchange.down.send_body(data)
        up = exchange.upstream()
        if up is not None and exchange.down.full:
            up.pause_reading()
        self.touch()

    def on_client_data(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self._exchange
        up = exchange.upstream()
        if up is None:
            return
        exchange.bytes_in += len(data)
        up.send_body(data)
        if up.full and exchange.upstream() is up:
            exchange.down.pause_reading()
        self.touch()

    def on_eof(self, *, from_upstream: bool) -> None:
        """One side has said all it has to say. The other may finish; when both have, it is over."""
        exchange = self._exchange
        if exchange.down.half_close(from_upstream=from_upstream):
            exchange.end_tunnel()
            return
        up = exchange.upstream()
        if not from_upstream and up is not None:
            up.finish_writing()

    def touch(self) -> None:
        """It is not idle."""
        exchange = self._exchange
        if not exchange.down.closed:
            exchange.down.arm(exchange.reactor.now + (self._idle_s or INFINITY))

    @property
    def silent(self) -> str:
        """Why it ends, when its time is over."""
        return f"upgraded, and no byte either way for {self._idle_s:g} s (idle)"


class Kept:
    """Of a request's body, what may be needed again."""

    __slots__ = ("pieces", "size", "trailers")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        """Of all that came, in bytes."""
        self.trailers: list[bytes] = []


class Relay(Party):
    """The bodies of one exchange."""

    __slots__ = ("_kept", "_tunnel", "answered_at", "attempt", "due", "status", "tapped")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.attempt: Attempt | None = None
        """Under way, or the one whose answer is relayed."""
        self.answered_at = -1.0
        """When the head of the answer came that is passed on; negative: none has."""
        self.due = INFINITY
        """When the client's side is next told that nothing came in time (monotonic seconds)."""
        self.status = 0
        """Of the answer, once it begins."""
        self._kept: Kept | None = None if request.framing == NO_BODY else Kept()
        """What a later attempt needs again; None once it is too much, or there is no body."""
        self._tunnel: Tunnel | None = None
        self.tapped: Tapped | None = None
        """What is noted of it for those who tap its service; None: nothing."""

    @property
    def response_began(self) -> bool:
        """Whether there is no way back."""
        return self.status != 0

    @property
    def switched(self) -> bool:
        """Whether bytes go both ways, unread."""
        return self._tunnel is not None

    # Time.

    def begin_clock(self, plan: Plan) -> None:
        """The request's time begins."""
        self.begin_by(plan, plan.timeouts)

    def begin_by(self, plan: Plan, timeouts: Timeouts) -> None:
        """By these times of a plan."""
        self.asked_deadline = self.whole_deadline
        self.allowed_s, self.try_s = timeouts.request_s, timeouts.try_s
        if plan.bounds_whole_request and timeouts.request_s:
            self.whole_deadline = min(self.whole_deadline, self.started + timeouts.request_s)
        self.arm_phase(self.started)

    def retime(self, limits: Limits) -> None:
        """By its rule, whose times stand in place of the service's; what the caller asked for bounds them as those."""
        if limits.try_s:
            self.try_s = limits.try_s
        if limits.request_s:
            self.allowed_s = limits.request_s
            self.whole_deadline = min(self.asked_deadline, self.started + limits.request_s)
            self.arm_phase(self.reactor.now)

    def arm_phase(self, now: float) -> None:
        """The client side's deadline for what comes next: the rest of the body, the answer's head, or its body."""
        plan = self.plan
        if plan is None:
            return  # waiting for the table, with a deadline of its own
        phase_s = plan.timeouts.idle_s if self.response_began or not self.request_sent else self.allowed_s
        deadline = now + (phase_s or INFINITY)
        whole = self.whole_deadline
        self.due = whole if whole < deadline else deadline
        self.down.arm(self.due)

    # The request's body.

    def kept_body(self) -> list[bytes]:
        """The body as far as it has come."""
        kept = self._kept
        return kept.pieces if kept is not None else _NOTHING

    def kept_trailers(self) -> list[bytes] | None:
        """What comes behind it; None: more of it is to come."""
        if not self.request_sent:
            return None
        return self._kept.trailers if self._kept is not None else _NOTHING

    @property
    def can_repeat(self) -> bool:
        """Whether all of the request is there to be sent again."""
        kept = self._kept
        return kept.size <= self.retry.max_body if kept is not None else self.request.framing == NO_BODY

    def on_request_data(self, data: bytes) -> None:
        """A piece of the body."""
        self.bytes_in += len(data)
        if self.tapped is not None:
            self.tapped.request.on_data(data)
        up = self._taking()
        self._keep(data, sending=up is not None)
        if up is not None:
            up.send_body(data)
            attempt = self.attempt
            if attempt is not None and up is attempt.up and up.full:
                attempt.hold_up()
        elif self._kept is not None and self._kept.size > self.retry.max_body:
            self.on_too_large()
        if not self.response_began:
            self.arm_phase(self.reactor.now)

    def _taking(self) -> Upstream | None:
        """Who takes what comes of the body at once."""
        attempt = self.attempt
        return attempt.up if attempt is not None and attempt.sending else None

    def _keep(self, data: bytes, *, sending: bool) -> None:
        kept = self._kept
        if kept is not None:
            kept.size += len(data)
            if sending and kept.size > self.retry.max_body:
                self._kept = None
            else:
                kept.pieces.append(data)

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        self.request_sent = True
        self.sent_at = self.reactor.now
        if trailers:
            trailers = self.trailing(trailers)
        if self._kept is not None:
            self._kept.trailers = trailers
        up = self._taking()
        if up is not None:
            up.end_body(trailers)
        if not self.response_began:
            if up is not None and self.attempt is not None and self.attempt.up is up:
                self.attempt.arm(self.sent_at)
            self.arm_phase(self.sent_at)

    def on_too_large(self) -> None:
        """More of the body than is kept, and nobody takes it yet."""
        self.down.pause_reading()

    # The answer's body.

    def begin_answer(self, head: ResponseHead, extra: list[bytes], body: bytes, complete: bool) -> None:
        """Its head, and all of the body if it came along."""
        self._kept = None
        edits = self.forward.response_headers if self.forward is not None else None
        self.bytes_out += len(body)
        if self.tapped is not None:
            self.tapped.on_answer(head.fields, body)
        self.down.send_response(head, extra, body, complete, edits)
        if complete:
            self._complete()
        else:
            self.arm_phase(self.reactor.now)

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        self.pass_body(data)

    def pass_body(self, data: bytes) -> None:
        """To the client."""
        self.bytes_out += len(data)
        if self.tapped is not None:
            self.tapped.answer.on_data(data)
        down = self.down
        down.send_body(data)
        attempt = self.attempt
        now = self.reactor.now
        if attempt is not None:
            if attempt.up is not None and down.full:
                attempt.up.pause_reading()
            if not attempt.judged and now - attempt.began > FLOWS_S:
                self.count_as_good(attempt)
        self.arm_phase(now)

    def count_as_good(self, attempt: Attempt) -> None:
        """Its answer has flowed for so long that it counts as good, whatever becomes of it."""
        raise NotImplementedError

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        self.end_answer(trailers)

    def end_answer(self, trailers: list[bytes]) -> None:
        """All of it has been passed on."""
        self.down.end_body(trailers)
        self._complete()

    def _complete(self) -> None:
        if self.attempt is not None:
            self.attempt.release(reusable=self.request_sent)
        self.end()

    def upstream(self) -> Upstream | None:
        """The connection that the answer comes by, if there is one now."""
        return self.attempt.up if self.attempt is not None else None

    def on_drained(self) -> None:
        """The client took what was held for it: the upstream may go on."""
        if self.attempt is not None and self.attempt.up is not None:
            self.attempt.up.resume_reading()

    # Upgrade.

    def unfinished(self, limit: str) -> str:
        """Why an answer that has begun ends when its time is over."""
        return self._tunnel.silent if self._tunnel is not None else f"the answer did not come whole within {limit}"

    def on_switched(self, attempt: Attempt, head: ResponseHead) -> None:
        """101, or 200 to CONNECT: from here on bytes go both ways, unread."""
        self.status = head.status
        self.answered_at = self.reactor.now
        attempt.observe(ejector.OK)
        assert self.plan is not None
        self._tunnel = Tunnel(self, self.plan.timeouts.tunnel_s)
        if attempt.up is not None:
            attempt.up.arm(INFINITY)  # the try is over
        if self.tapped is not None:
            self.tapped.on_answer(head.fields, b"")
        self.down.begin_tunnel(head)
        self._tunnel.touch()

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._tunnel is not None:
            self._tunnel.on_client_data(data)

    def on_tunnel_eof(self) -> None:
        """The client has said all it has to say."""
        if self._tunnel is not None:
            self._tunnel.on_eof(from_upstream=False)

    def on_upstream_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        if self._tunnel is not None:
            self._tunnel.on_data(data)

    def on_upstream_eof(self) -> None:
        """The upstream has said all it has to say."""
        if self._tunnel is not None:
            self._tunnel.on_eof(from_upstream=True)

    def end_tunnel(self) -> None:
        """Both sides are through."""
        self.cut()
        self.end()
        self.down.close_soon()

    # The end.

    def forget_tunnel(self) -> None:
        """They refer to each other: garbage that only a collection would find."""
        self._tunnel = None

    def cut(self) -> Attempt | None:
        """Give up what is under way; returns it, for what there is to learn from it."""
        raise NotImplementedError

    def end(self) -> None:
        """It is over."""
        raise NotImplementedError
