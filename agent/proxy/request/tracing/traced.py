# mypyc: compiled
"""A request in its trace: continued or begun, told to each try, and what is left of it as spans once it is over.

    A ─▶ its agent ─▶ B's agent ─▶ B        the spans of it, each the parent of the next:
         client, A's   server, B's          A's request · (each of its tries, where there were several) · B's serving it

Laws
- A hop is one span: `client` at the caller's agent, under the caller's name; `server` at the agent that hands it to the
  instance, under the service's. Where that is one agent it makes both.
- A request that took one try is one span. Where it took several, each is one of its own, beneath the request's.
- The next hop is told the span that it is made in: so a service that makes no spans, but passes `traceparent` on, is in
  its trace all the same.
- Without a document nothing of it is looked at, and headers go on as they are. So they do where a document is, but
  nothing is to be said that they do not say.
"""

from __future__ import annotations

from typing import Final

from agent.carried import Link, Span
from agent.proxy.messages.flags import AGENT_CANCELLED
from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.trace_context import RANDOM, SAMPLED, begun, continue_by, lines, traceparent, value_of
from agent.proxy.request.attempt import Attempt
from agent.proxy.request.audit.accountable import Accountable
from agent.proxy.request.tracing import telling
from agent.proxy.request.tracing.drawing import Drawn, draw, told, would_draw
from agent.proxy.request.tracing.telling import CLIENT, SERVER, Attributes
from agent.proxy.request.tracing.tries import Trace, TracedAttempt, Try
from agent.proxy.runtime import Runtime
from agent.proxy.stream import ResponseHandler, Stream
from agent.proxy.table.plan import Plan
from policies.decision import Edits
from policies.endpoint import Endpoint

NOBODY: Final = "shoal"
"""Whose span it is where nobody is known to call: the agent's."""
_OURS: Final = frozenset(("traceparent", "tracestate"))
_NO_HEADERS: Final[list[str]] = []


class Traced(Accountable):
    """A request that may be traced."""

    __slots__ = ("trace", "trace_line")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.trace: Trace | None = None
        """None: it leaves no spans here."""
        self.trace_line = b""
        """What every try says of its trace, where it leaves none; empty: what stands in the head goes on as it is."""

    # At its beginning.

    def begin_trace(self, plan: Plan) -> None:
        """Continue its trace, or begin one, as documents want it. Asked only where there are any."""
        rules, service = plan.tracing, self.service
        assert service is not None
        of_agent = self.inbound and self.down.peer.agent
        if rules is None:
            self._watch_trace(plan, None, of_agent=of_agent)
            return
        found = draw(self, rules, service, of_agent=of_agent, takes=True)
        if self.explained is not None:
            self.explained.append(told(plan.policies.get("trace"), rules, found))
        if plan.watched is not None:
            self._watch_trace(plan, found, of_agent=of_agent)
        context, ring = found.context, self.runtime.spans
        keeps = ring.wanted and (found.sampled or rules.late)
        if context is None:
            line, flags = found.line, RANDOM
            if keeps or found.sampled:
                trace, span = begun(line)
                if found.sampled:
                    flags = RANDOM | SAMPLED
                    line = lines(traceparent(trace, span, flags), b"")
                if keeps:
                    self.trace = Trace(rules, trace, b"", flags, b"", sampled=found.sampled, first=span, line=line)
            if not keeps:
                self.trace_line = line
            continue_by(self.request, value_of(line))
            return
        flags = context.flags & RANDOM | (SAMPLED if found.sampled else 0)
        if not keeps and context.plain and flags == context.flags:
            return
        value = traceparent(context.trace, context.parent, flags)
        if keeps:
            self.trace = Trace(rules, context.trace, context.parent, flags, context.state, sampled=found.sampled)
        else:
            self.trace_line = lines(value, context.state)
        continue_by(self.request, value)

    def begin_line(self) -> bytes:
        """Of a trace that begins."""
        return self.runtime.spans.begin()

    def _watch_trace(self, plan: Plan, found: Drawn | None, *, of_agent: bool) -> None:
        """Of a document that is only watched nothing is done: what it would have sampled is counted."""
        watched, service = plan.watched, self.service
        if watched is None or watched.tracing is None or service is None:
            return
        line = found.line if found is not None else self.begin_line()
        would = would_draw(self, watched.tracing, watched.book, line, of_agent=of_agent)
        done = found is not None and found.sampled
        service.stats.note_audit("trace", watched.policies["trace"].key, _WORDS[done], _WORDS[would])

    # On its way.

    def new_attempt(self, endpoint: Endpoint) -> Attempt:
        """The next try; its number is that of the tries."""
        trace = self.trace
        if trace is None:
            return Attempt(self, endpoint, self.attempts)
        told = trace.first if trace.first else self.runtime.spans.new_span()
        served = not self.inbound and self.is_here(endpoint)
        hedge = self.attempt is not None
        kept = Try(endpoint, self.attempts, self.reactor.now, told, served=served, hedge=hedge)
        trace.first = b""
        trace.tries.append(kept)
        return TracedAttempt(self, endpoint, self.attempts, kept, trace.rules.response_headers)

    def lines_for(self, endpoint: Endpoint, attempt: int, left_s: float) -> list[bytes]:
        """With the span that it is made in, unless a route has something to say of that."""
        found = super().lines_for(endpoint, attempt, left_s)
        line, trace = self.trace_line, self.trace
        if trace is not None:
            line = trace.line
            if not line or attempt > 1:
                line = lines(traceparent(trace.trace, trace.tries[attempt - 1].told, trace.flags), trace.state)
        if line:
            forward = self.forward
            edits = forward.request_headers if forward is not None else None
            if edits is None or not _edits_trace(edits):
                found.append(line)
        return found

    # Copies of it.

    def lines_for_copy(self, copy: ResponseHandler, endpoint: Endpoint, left_s: float) -> list[bytes]:
        """A copy is a trace of its own, which has a link to the request's: nobody waits for it."""
        trace = self.trace
        if trace is None:
            return self.lines_for(endpoint, 1, left_s)
        ring = self.runtime.spans
        copied, span = begun(ring.begin())
        if trace.copies is None:
            trace.copies = {}
        trace.copies[copy] = (copied, span)
        found = super().lines_for(endpoint, 1, left_s)
        found.append(lines(traceparent(copied, span, trace.flags | RANDOM), b""))
        return found

    def on_copy_end(
        self, copy: ResponseHandler, endpoint: Endpoint, role: str, began: float, status: int, error: str
    ) -> None:
        """A copy is over."""
        trace = self.trace
        if trace is None or trace.copies is None or copy not in trace.copies:
            return
        copied, span = trace.copies.pop(copy)
        if not trace.sampled:
            return
        attributes = self._asked(CLIENT)
        telling.add_endpoint(attributes, endpoint)
        attributes["shoal.shadow"] = role
        failed = telling.add_outcome(attributes, CLIENT, status, error)
        name = telling.name(self.request, str(attributes.get("url.template", "")))
        made = Span(*self._when(began, self.reactor.now), self._whose(), name, CLIENT, copied.decode(), span.decode())
        made.flags, made.error, made.attributes = trace.flags | RANDOM, failed, attributes
        if trace.tries:
            made.links = [Link(trace.trace.decode(), trace.tries[0].span(self.runtime.spans).decode())]
        self.runtime.spans.add(made)

    def note_late(self) -> None:
        """What was under way and is cut has taken too long: it failed, and nobody left."""
        if self.trace is not None:
            for each in self.trace.tries:
                if each.cancelled and (each.status or not self.response_began):
                    each.cancelled, each.error = False, "timeout"

    # Once it is over.

    def end_trace(self, trace: Trace, duration_s: float) -> None:
        """Leave its spans, if it is to leave any."""
        broken = ""
        for each in trace.tries:
            if each.status and each.error:
                broken = each.error
        kept = "" if trace.sampled else trace.rules.keeps(self.status >= 500 or bool(broken), duration_s)
        if trace.sampled or kept:
            self._leave(trace, duration_s, broken, kept)

    def _leave(self, trace: Trace, duration_s: float, broken: str, kept: str) -> None:
        ring, tries = self.runtime.spans, trace.tries
        kind = SERVER if self.inbound else CLIENT
        attributes = self._asked(kind)
        template = trace.rules.template(str(attributes["url.path"]))
        if template:
            attributes["http.route" if kind == SERVER else "url.template"] = template
        self._tell_decisions(trace, attributes)
        if kept:
            attributes["shoal.kept"] = kept
        single = len(tries) == 1
        error = tries[0].error if single else broken
        if not error and not self.status and self.flag != AGENT_CANCELLED:
            error = "cancelled"
        failed = telling.add_outcome(attributes, kind, self.status, error)
        name = telling.name(self.request, template)
        own = tries[0].span(ring) if single else ring.new_span()
        if single:
            self._tell_try(attributes, tries[0])
        elif tries:
            attributes["shoal.attempts"] = len(tries)
        service = self.target if self.target is not None else self.service
        whose = service.name if self.inbound and service is not None else self._whose()
        span = self._span(trace, whose, name, kind, own, trace.parent, self.started, self.started + duration_s)
        span.remote, span.error, span.attributes = bool(trace.parent), failed, attributes
        ring.add(span)
        for each in tries:
            if not single:
                self._leave_try(trace, each, name, own)
            if each.served and each.sent:
                self._leave_served(trace, each, template)

    def _leave_try(self, trace: Trace, kept: Try, name: str, parent: bytes) -> None:
        """One of several."""
        attributes = self._asked(CLIENT)
        self._tell_try(attributes, kept)
        attributes["shoal.try"] = "hedge" if kept.hedge else "first" if kept.number == 1 else "retry"
        ring = self.runtime.spans
        span = self._span(trace, self._whose(), name, CLIENT, kept.span(ring), parent, kept.began, kept.ended)
        span.error = telling.add_outcome(attributes, CLIENT, kept.status, kept.error)
        span.attributes = attributes
        ring.add(span)

    def _leave_served(self, trace: Trace, kept: Try, template: str) -> None:
        """What the instance's side of it was, where that is this agent too."""
        attributes = self._asked(SERVER)
        if template:
            attributes["http.route"] = template
        telling.add_endpoint(attributes, kept.endpoint)
        name = telling.name(self.request, template)
        ring, whose = self.runtime.spans, kept.endpoint.service
        span = self._span(trace, whose, name, SERVER, kept.told, kept.span(ring), kept.began, kept.ended)
        span.error = telling.add_outcome(attributes, SERVER, kept.status, kept.error)
        span.attributes = attributes
        ring.add(span)

    def _span(
        self, trace: Trace, whose: str, name: str, kind: str, id: bytes, parent: bytes, began: float, ended: float
    ) -> Span:
        time, duration_s = self._when(began, ended or self.reactor.now)
        made = Span(time, duration_s, whose, name, kind, trace.trace.decode(), id.decode(), parent.decode())
        made.state, made.flags = trace.state.decode("latin-1"), trace.flags
        return made

    def _when(self, began: float, ended: float) -> tuple[float, float]:
        """Unix time of its beginning, and how long it took (s)."""
        return self.runtime.spans.epoch + began, ended - began if ended > began else 0.0

    def _whose(self) -> str:
        """Who makes the request."""
        return self.caller if self.caller and self.stranger is None else NOBODY

    # What is told.

    def _asked(self, kind: str) -> Attributes:
        """What was asked for, and of whom."""
        request, service = self.request, self.service
        path = self.recorded_target().partition(b"?")[0].decode("latin-1")
        found = telling.asked(request, path, service.name if service is not None else "")
        found["shoal.request_id"] = self.request_id.decode("latin-1")[:256]
        if kind == CLIENT:
            found["url.full"] = f"http://{request.host.decode('latin-1')[:256]}{found['url.path']}"
            found["peer.service"] = self.target.name if self.target is not None else str(found["server.address"])
            return found
        if self.caller and self.stranger is None:
            found["shoal.caller"] = self.caller
        elif self.stranger is not None:
            found["shoal.caller"] = self.stranger.id
        client = self.vouched or self.down.peer.client
        if client:
            found["client.address"] = client
        return found

    def _tell_decisions(self, trace: Trace, attributes: Attributes) -> None:
        """What was decided on its way, and which of its headers are recorded."""
        if self.rule:
            attributes["shoal.route"] = self.rule
        if self.hold is not None:
            attributes["shoal.fault"] = self.hold.what
        refuse = self.denied
        if refuse is not None:
            attributes["shoal.policy"] = refuse.refusal.policy
            attributes["shoal.reason"] = refuse.refusal.reason[: telling.MAX_TEXT]
        for name in trace.rules.headers:
            if not self.is_secret(name):
                wanted = name.encode()
                values = [telling.text(each.value) for each in self.request.fields if each.name == wanted]
                if values:
                    attributes[f"http.request.header.{name}"] = values

    def _tell_try(self, attributes: Attributes, kept: Try) -> None:
        """Where it went, and what came of it."""
        telling.add_endpoint(attributes, kept.endpoint)
        if kept.number > 1:
            attributes["http.request.resend_count"] = kept.number - 1
        if kept.cancelled:
            attributes["shoal.cancelled"] = True
        for name, values in kept.answered or ():
            attributes[f"http.response.header.{name}"] = values


def _edits_trace(edits: Edits) -> bool:
    """Whether a route says itself what is told of a trace."""
    if not _OURS.isdisjoint(edits.remove):
        return True
    return any(name.lower() in _OURS for name, _ in (*edits.set, *edits.add))


_WORDS: Final = ("not sampled", "sampled")
