# mypyc: compiled
"""Whether a request's trace is sampled: by what its caller has decided, or drawn. The same for requests and for
explanations of them."""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.trace_context import SAMPLED, TraceContext, read
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.request.walk import Walk
from policies.kinds.trace.decide import DRAWN, FOLLOWED, PACED, Begun, Compiled, drawn

TRACE_BITS: Final = 128


class Drawn:
    """What was decided of one trace."""

    __slots__ = ("context", "number", "sampled", "why")

    def __init__(self, context: TraceContext | None, number: int, sampled: bool, why: str) -> None:
        self.context = context
        """What the request's head says; None: a trace begins."""
        self.number = number
        """Of the trace, where it was drawn."""
        self.sampled = sampled
        self.why = why


def draw(walk: Walk, rules: Compiled, begun: Begun, *, of_agent: bool, takes: bool) -> Drawn:
    """Decide. `of_agent`: the caller's agent has decided already; `takes`: what is drawn counts for the rate."""
    context = read(walk.request)
    if context is not None and (rules.follows or of_agent):
        return Drawn(context, 0, context.flags & SAMPLED != 0, FOLLOWED)
    number = int(context.trace, 16) if context is not None else walk.rng.getrandbits(TRACE_BITS) or 1
    return _drawn(walk, rules, begun, context, number, takes)


def would_draw(walk: Walk, rules: Compiled, begun: Begun, number: int, *, of_agent: bool) -> bool:
    """Whether a document that is only watched would have this trace sampled; `number`: of one that begins."""
    context = read(walk.request)
    if context is not None and (rules.follows or of_agent):
        return context.flags & SAMPLED != 0
    return _drawn(walk, rules, begun, context, int(context.trace, 16) if context is not None else number, True).sampled


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


def told(in_force: InForce | None, rules: Compiled, found: Drawn) -> Entry:
    """The words of it, for explanations."""
    reason = found.why
    if not found.sampled and rules.late:
        found_late = ["fails"] if rules.errors else []
        found_late += [f"takes longer than {rules.slower_s:g} s"] if rules.slower_s else []
        reason = f"{reason}; it leaves a span here all the same if it {' or '.join(found_late)}"
    return entry(in_force, "trace", "trace", "sampled" if found.sampled else "not sampled", reason)
