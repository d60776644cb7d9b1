# mypyc: compiled
"""Whether a request's trace is sampled: by what its caller has decided, or drawn. The same for requests and for
explanations of them."""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.trace_context import (
    SAMPLED,
    TraceContext,
    continue_by,
    digits,
    lines,
    read,
    traceparent,
)
from agent.proxy.report.spans import SPAN_BYTES
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.request.walk import Walk
from agent.proxy.table.lasting import Book
from policies.kinds.trace.decide import CROWDED, DRAWN, FOLLOWED, PACED, Begun, Compiled, drawn

TRACE_BYTES: Final = 16
_BOTH_BYTES: Final = TRACE_BYTES + SPAN_BYTES
_NO_SPAN: Final = b"0" * 16
_SUPPOSED: Final = b"5" * 16
"""The span of a request that nobody makes."""


class Drawn:
    """What was decided of one trace."""

    __slots__ = ("context", "number", "sampled", "why")

    def __init__(self, context: TraceContext | None, number: int, sampled: bool, why: str) -> None:
        self.context = context
        """What the request's head says; None: a trace begins."""
        self.number = number
        """By which it was drawn: the trace's; of one that begins with that of a span before it (`ids`)."""
        self.sampled = sampled
        self.why = why


def draw(walk: Walk, rules: Compiled, book: Book, *, of_agent: bool, takes: bool) -> Drawn:
    """Decide. `of_agent`: the caller's agent has decided already; `takes`: what is drawn or followed counts for its
    rate."""
    context, begun = read(walk.request), book.begun
    if context is not None and (rules.follows or of_agent):
        return _followed(walk, rules, book.followed, context, of_agent, takes)
    number = int(context.trace, 16) if context is not None else walk.rng.getrandbits(_BOTH_BYTES * 8)
    return _drawn(walk, rules, begun, context, number, takes)


def ids(number: int) -> tuple[bytes, bytes]:
    """Of a trace that begins, and of a span in it: they are drawn together, since each drawing takes time."""
    both = digits(number, _BOTH_BYTES)
    trace, span = both[2 * SPAN_BYTES :], both[: 2 * SPAN_BYTES]
    return (_SUPPOSED + trace[16:] if trace[:16] == _NO_SPAN else trace), (_SUPPOSED if span == _NO_SPAN else span)


def _followed(
    walk: Walk, rules: Compiled, followed: Begun, context: TraceContext, of_agent: bool, takes: bool
) -> Drawn:
    sampled = context.flags & SAMPLED != 0
    rate = rules.follow_rate
    if rate and sampled and not of_agent:
        now = walk.reactor.now
        if not (followed.take(rate, now) if takes else followed.has_room(rate, now)):
            return Drawn(context, 0, False, CROWDED)
    return Drawn(context, 0, sampled, FOLLOWED)


def would_draw(walk: Walk, rules: Compiled, book: Book, number: int, *, of_agent: bool) -> bool:
    """Whether a document that is only watched would have this trace sampled; `number`: of one that begins."""
    context = read(walk.request)
    if context is not None and (rules.follows or of_agent):
        return _followed(walk, rules, book.followed, context, of_agent, True).sampled
    return _drawn(
        walk, rules, book.begun, context, int(context.trace, 16) if context is not None else number, True
    ).sampled


def _drawn(walk: Walk, rules: Compiled, begun: Begun, context: TraceContext | None, number: int, takes: bool) -> Drawn:
    least = rules.least(walk.view if rules.looks else None)
    if rules.looks:
        walk.forget_view()  # it is judged as it is once its path is settled
    if not drawn(number, least):
        return Drawn(context, number, False, DRAWN)
    if rules.rate:
        now = walk.reactor.now
        if not (begun.take(rules.rate, now) if takes else begun.has_room(rules.rate, now)):
            return Drawn(context, number, False, PACED)
    return Drawn(context, number, True, DRAWN)


def suppose(walk: Walk, in_force: InForce | None, rules: Compiled, book: Book, *, of_agent: bool) -> Entry:
    """What would be decided, in words. Nothing is counted; the agent of the next host, which is asked as the hop would
    come, is told of it as by the hop."""
    found = draw(walk, rules, book, of_agent=of_agent, takes=False)
    if found.context is None or (found.context.flags & SAMPLED != 0) != found.sampled:
        request = walk.request
        trace = ids(found.number)[0] if found.context is None else found.context.trace
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
