# mypyc: compiled
"""The tries of a request that is traced, and what is known of its trace while it is on its way."""

from __future__ import annotations

from agent.proxy.messages.flags import ERRORS
from agent.proxy.messages.head import ResponseHead
from agent.proxy.messages.words import far_flag
from agent.proxy.report.spans import SpanRing
from agent.proxy.request.attempt import Attempt, Party
from agent.proxy.request.tracing.telling import text
from agent.proxy.stream import ResponseHandler, Upstream
from policies.endpoint import Endpoint
from policies.kinds.trace.decide import Compiled


class Try:
    """What a try leaves of itself."""

    __slots__ = (
        "_span",
        "answered",
        "began",
        "cancelled",
        "ended",
        "endpoint",
        "error",
        "hedge",
        "number",
        "sent",
        "served",
        "status",
        "told",
    )

    def __init__(
        self, endpoint: Endpoint, number: int, began: float, told: bytes, *, served: bool, hedge: bool
    ) -> None:
        self.endpoint = endpoint
        self.number = number
        """Counts from 1."""
        self.began = began
        self.ended = 0.0
        """0: it goes on."""
        self.told = told
        """The span that the next hop is told."""
        self.served = served
        """Whether that is the span of the instance's side, for this agent hands the request to it for a caller of its
        own; else another agent makes that one, or the try's own is it."""
        self._span = b""
        self.hedge = hedge
        self.sent = False
        """Whether it was begun to be sent: else nobody there has seen it."""
        self.status = 0
        """0: there was no answer."""
        self.error = ""
        """What went wrong, in a word."""
        self.cancelled = False
        """Whether nobody waited for its answer."""
        self.answered: list[tuple[str, list[str]]] | None = None
        """Headers of its answer that are recorded."""

    def span(self, ring: SpanRing) -> bytes:
        """Its own, which is drawn when somebody is to hear of it: of most requests nobody does."""
        if not self._span:
            self._span = ring.new_span() if self.served else self.told
        return self._span


class Trace:
    """Of one request that may leave spans here."""

    __slots__ = ("copies", "first", "flags", "line", "parent", "rules", "sampled", "state", "trace", "tries")

    def __init__(
        self,
        rules: Compiled,
        trace: bytes,
        parent: bytes,
        flags: int,
        state: bytes,
        *,
        sampled: bool,
        first: bytes = b"",
        line: bytes = b"",
    ) -> None:
        self.rules = rules
        self.trace = trace
        self.parent = parent
        """Empty: it begins here."""
        self.flags = flags
        self.state = state
        self.sampled = sampled
        """Else it leaves some only if it fails, or is slow."""
        self.first = first
        """The span that its first try tells: it was drawn with the trace. Empty: there is none, or it is used."""
        self.line = line
        """What that try says, then; else empty."""
        self.tries: list[Try] = []
        self.copies: dict[ResponseHandler, tuple[bytes, bytes]] | None = None
        """The trace and the span of each."""


class TracedAttempt(Attempt):
    """A try that leaves a span."""

    __slots__ = ("_names", "_try")

    def __init__(self, exchange: Party, endpoint: Endpoint, number: int, kept: Try, names: list[str]) -> None:
        """`names`: of the answer's headers that are recorded, in lower case."""
        super().__init__(exchange, endpoint, number)
        self._try = kept
        self._names = names

    def send(self, up: Upstream) -> None:
        """The request, by this connection."""
        self._try.sent = True
        super().send(up)

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        self._note(head)
        super().on_response(head, body, complete)

    def on_switched(self, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        self._note(head)
        super().on_switched(head)

    def _note(self, head: ResponseHead) -> None:
        if head.status >= 400 and self.endpoint.via:
            error = ERRORS.get(far_flag(head, ours=not self.endpoint.expected), "")
            if error:  # the agent beside the instance has got no answer, either
                self._try.error = error
                return
        self._try.status = head.status
        for name in self._names:
            wanted = name.encode()
            values = [text(field.value) for field in head.fields if field.name == wanted]
            if values:
                answered = self._try.answered
                if answered is None:
                    answered = self._try.answered = []
                answered.append((name, values))

    def on_lost(self, reason: str, *, connecting: bool, sent: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole."""
        self._try.error = "connect" if connecting else "reset"
        super().on_lost(reason, connecting=connecting, sent=sent)

    def on_timeout(self, *, connecting: bool) -> None:
        """This attempt took longer than one may."""
        self._try.error = "connect_timeout" if connecting else "timeout"
        super().on_timeout(connecting=connecting)

    def on_bad_response(self, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        self._try.error = "bad_response"
        super().on_bad_response(reason)

    def cut(self) -> None:
        """Give the connection up: nobody waits for its answer."""
        if not self._try.error:
            self._try.cancelled = True
        super().cut()

    def give_back(self) -> None:
        """The endpoint is through with it."""
        if self.counted:
            kept = self._try
            kept.ended = self.exchange.reactor.now
            if self.insecure:
                kept.error = "tls"
            elif self.unable:
                kept.error = "agent"
        super().give_back()
