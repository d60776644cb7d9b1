# mypyc: compiled
"""Which endpoint a request goes to, beyond what its balancer says: what something speaks against is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.proxy import guards

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from policies.endpoint import Endpoint
    from policies.kinds.balance.decide import Balancer

PASS_OVER: Final = 16


def usable(exchange: Exchange, endpoint: Endpoint, now: float) -> bool:
    """Whether nothing speaks against an endpoint now; if so, its breaker counts on the request."""
    load = endpoint.load
    if load.refused_until > now:
        return False
    circuit = load.circuit
    if circuit is None or exchange.target is None:
        return True
    reason = circuit.enter(now, exchange.worker.rng, 0, 0)
    guards.tell_transition(exchange.worker, exchange.target, endpoint.id, circuit.take_transition())
    breaker = exchange.target.plan.breaker
    return not reason or (breaker is not None and breaker.audit)


def passing_over(exchange: Exchange, balancer: Balancer, refusing: Endpoint, now: float) -> Endpoint:
    """Another endpoint than those that refused a connection a moment ago, were ejected, or whose breakers are open;
    the picked one when that goes for all.

    Without this a dead instance costs its whole share in retries until its health check notices, and on a busy
    service the retry budget is gone before that.
    """
    avoid = [*exchange.tried, refusing]
    for _ in range(PASS_OVER):
        other = balancer.pick(exchange.key, now, exchange.worker.rng, avoid)
        if other is None or other in avoid:
            return refusing
        if usable(exchange, other, now):
            return other
        avoid.append(other)
    return refusing
