# mypyc: compiled
"""Whether a failed attempt is followed by another, and what those before us are told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.proxy import story
from agent.proxy.head import ResponseHead
from agent.proxy.reactor import INFINITY
from agent.proxy.stats import count
from policies.kinds.retry import decide as retrying
from policies.kinds.retry.decide import Again, Enough
from policies.kinds.retry.policy import Failure

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

REFUSED_S: Final = 1.0
"""For how long an endpoint that refused a connection is passed over, while there is another."""
TROUBLED_S: Final = 1.0
"""For how long the failures of a service count as those of what it calls, when such a call has failed."""
_CALLER_DECIDES: Final = Enough("the calling agent decides about another try")


def verdict(
    exchange: Exchange,
    failure: Failure,
    reason: str,
    *,
    sent: bool,
    status: int | None = None,
    after_s: float | None = None,
) -> Again | Enough:
    """What retry says of a failed attempt. The inbound hop never tries again: the caller's agent does."""
    plan, service = exchange.plan, exchange.service
    assert plan is not None and service is not None
    count(service.stats.failures, failure.name.lower())
    now = exchange.worker.reactor.now
    if failure is Failure.CONNECT and exchange.endpoint is not None:
        exchange.endpoint.load.refused_until = now + REFUSED_S
    if exchange.down.inbound:
        return _CALLER_DECIDES
    found = retrying.decide(
        exchange.retry,
        method=exchange.request.method.decode(),
        attempts=exchange.attempts,
        failure=failure,
        status=status,
        sent=sent,
        replayable=exchange.can_repeat,
        budget=plan.budget,
        now=now,
        rng=exchange.worker.rng,
        retry_after_s=after_s,
        remaining_s=None if exchange.whole_deadline == INFINITY else exchange.whole_deadline - now,
        tried_deeper=exchange.no_retry or fails_deeper(exchange),
    )
    if isinstance(found, Again) and exchange.entered is not None and not exchange.counts_retry:
        circuit = exchange.entered.circuit
        exchange.counts_retry = circuit is not None and circuit.may_retry()
        if circuit is not None and not exchange.counts_retry:
            found = Enough("as many retries as the breaker allows are under way", final=True)
    if isinstance(found, Enough) and (exchange.attempts > 1 or found.final):
        exchange.no_retry = True
        if exchange.caller:
            exchange.worker.troubled[exchange.caller] = now + TROUBLED_S
    if exchange.explained is not None:
        exchange.explained.append(story.retried(plan, failure, reason, found))
    return found


def fails_deeper(exchange: Exchange) -> bool:
    """Whether calls that the service itself makes through this worker failed a moment ago, all tries made: then its
    own failures come from there, and services pass no header of ours on."""
    service = exchange.service
    return service is not None and exchange.worker.troubled.get(service.name, 0.0) > exchange.worker.reactor.now


def retry_after(head: ResponseHead) -> float | None:
    """Seconds that an answer asks to wait, if it does."""
    for field in head.fields:
        if field.name == b"retry-after" and field.value.isdigit():
            return float(field.value[:6])
    return None
