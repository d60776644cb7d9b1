# mypyc: compiled
"""A second attempt beside one that takes long (`hedge` of retry): when it is begun, and which one wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.proxy import choosing, shedding, story
from agent.proxy.attempt import Attempt
from agent.proxy.stats import count
from policies.kinds.retry import decide as retrying

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


def begin(exchange: Exchange, attempt: Attempt) -> None:
    """The first attempt takes long: another beside it, where that cannot do work twice."""
    plan, balancer = exchange.plan, exchange.balancer
    assert plan is not None and balancer is not None and exchange.service is not None
    now = exchange.worker.reactor.now
    avoid = [*exchange.tried, attempt.endpoint]
    endpoint = balancer.pick(exchange.key, now, exchange.worker.rng, avoid)
    if endpoint is None or endpoint in avoid or not exchange.request_sent:
        return
    method = exchange.request.method.decode()
    if not retrying.may_hedge(
        exchange.retry,
        method=method,
        attempts=exchange.attempts,
        replayable=exchange.can_repeat,
        budget=plan.budget,
        now=now,
    ):
        return
    target = exchange.target
    if target is not None and target.plan.shed is not None and shedding.let_in(exchange, target, endpoint):
        return
    if not choosing.usable(exchange, endpoint, now):
        if exchange.let_in is not None:
            exchange.let_in.abandon()
            exchange.let_in = None
        return
    count(exchange.service.stats.failures, "hedges")
    if exchange.explained is not None:
        exchange.explained.append(story.hedged(plan, attempt.endpoint, endpoint, now - attempt.began))
    exchange.attempts += 1
    gated = endpoint.load.circuit is not None
    exchange.hedge = hedge = Attempt(exchange, endpoint, exchange.attempts, gated)
    hedge.start()


def lose(exchange: Exchange, attempt: Attempt, outcome: int) -> None:
    """Of two attempts under way one failed: the other goes on alone."""
    attempt.observe(outcome)
    exchange.tried.append(attempt.endpoint)
    if exchange.hedge is not attempt:
        exchange.attempt = exchange.hedge
    exchange.hedge = None


def win(exchange: Exchange, attempt: Attempt) -> None:
    """Of two attempts under way one has its answer: nobody waits for the other."""
    other = exchange.hedge
    if other is attempt:
        other = exchange.attempt
        assert exchange.service is not None
        count(exchange.service.stats.failures, "hedges_won")
    exchange.attempt, exchange.hedge = attempt, None
    exchange.endpoint = attempt.endpoint
    if other is not None:
        other.cut()
        other.give_back()
