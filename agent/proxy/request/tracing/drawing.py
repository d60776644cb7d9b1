# mypyc: compiled
"""Whether a request's trace is sampled: by what its caller has decided, or drawn. The same for requests and for
explanations of them."""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.trace_context import (
    SAMPLED,
    TraceContext,
    begun,
    continue_by,
    digits_of,
    lines,
    read,
    traceparent,
)
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.request.walk import Walk
from agent.proxy.table.lasting import Book
from policies.kinds.trace.decide import CROWDED, DRAWN, FOLLOWED, PACED, Begun, Compiled, drawn

_SUPPOSED: Final = b"5" * 16
"""The span of a request that nobody makes."""


class Drawn:
    """What was decided of one trace."""

    __slots__ = ("context", "line", "sampled", "why")

    def __init__(self, context: TraceContext | None, line: bytes, sampled: bool, why: str) -> None:
        self.context = context
        """What the request's head says; None: a trace begins."""
        self.line = line
        """Of one that begins: as the next hop is told it, unless it is sampled (`SpanRing.begin`)."""
        self.sampled = sampled
        self.why = why


def draw(walk: Walk, rules: Compiled, book: Book, *, of_agent: bool, takes: bool) -> Drawn:
    """Decide. `of_agent`: the caller's agent has decided already; `takes`: what is drawn or followed counts for its
    rate."""
    context = read(walk.request)
    if context is not None and (rules.follows or of_agent):
        return _followed(walk, rules, book.followed, context, of_agent, takes)
    line = walk.begin_line() if context is None else b""
    return _drawn(walk, rules, book.begun, context, line, takes)


def _followed(
    walk: Walk, rules: Compiled, followed: Begun, context: TraceContext, of_agent: bool, takes: bool
) -> Drawn:
    sampled = context.flags & SAMPLED != 0
    rate = rules.follow_rate
    if rate and sampled and not of_agent:
        now = walk.reactor.now
        if not (followed.take(rate, now) if takes else followed.has_room(rate, now)):
            return Drawn(context, b"", False, CROWDED)
    return Drawn(context, b"", sampled, FOLLOWED)


def would_draw(walk: Walk, rules: Compiled, book: Book, line: bytes, *, of_agent: bool) -> bool:
    """Whether a document that is only watched would have this trace sampled; `line`: of one that begins."""
    context = read(walk.request)
    if context is not None and (rules.follows or of_agent):
        return _followed(walk, rules, book.followed, context, of_agent, True).sampled
    return _drawn(walk, rules, book.begun, context, line, True).sampled


def _drawn(walk: Walk, rules: Compiled, paced: Begun, context: TraceContext | None, line: bytes, takes: bool) -> Drawn:
    least = rules.least(walk.view if rules.looks else None)
    if rules.looks:
        walk.forget_view()  # it is judged as it is once its path is settled
    if not drawn(context.trace[18:] if context is not None else digits_of(line), least):
        return Drawn(context, line, False, DRAWN)
    if rules.rate:
        now = walk.reactor.now
        if not (paced.take(rules.rate, now) if takes else paced.has_room(rules.rate, now)):
            return Drawn(context, line, False, PACED)
    return Drawn(context, line, True, DRAWN)


def suppose(walk: Walk, in_force: InForce | None, rules: Compiled, book: Book, *, of_agent: bool) -> Entry:
    """What would be decided, in words. Nothing is counted; the agent of the next host, which is asked as the hop would
    come, is told of it as by the hop."""
    found = draw(walk, rules, book, of_agent=of_agent, takes=False)
    if found.context is None or (found.context.flags & SAMPLED != 0) != found.sampled:
        request = walk.request
        trace = begun(found.line)[0] if found.context is None else found.context.trace
        value = traceparent(trace, _SUPPOSED, SAMPLED if found.sampled else 0)
        continue_by(request, value)
        request.wires.append(lines(value, b""))
    return told(in_force, rules, found)


def told(in_force: InForce | None, rules: Compiled, found: Drawn) -> Entry:
    """The words of it, for explanations."""
    reason = found.why
    if not found.sampled and rules.late:
        found_late = ["fails"] if rules.errors else []
        found_late += [f"takes longer than {rules.slower_s:g} s"] if rules.slower_s else []
        reason = f"{reason}; it leaves a span here all the same if it {' or '.join(found_late)}"
    return entry(in_force, "trace", "trace", "sampled" if found.sampled else "not sampled", reason)
