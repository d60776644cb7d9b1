# mypyc: compiled
"""What protects services and those who call them: rate limits, faults, breakers and outlier ejection, as one request
meets them. The decisions are those of `policies`; here they are asked, told of, and counted.

A document in audit mode is asked like any other; what it would have done is counted, and not done.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from agent.proxy import story
from agent.proxy.answers import Refusal
from agent.proxy.reactor import Timed
from agent.proxy.stats import count
from policies.decision import Forward, Respond
from policies.kinds.breaker.circuit import Transition
from policies.kinds.fault.decide import Injected
from policies.kinds.outlier.ejector import CONNECT, GATEWAY, OK, RESET, SERVER_ERROR, TIMEOUT, Ejected, Returned
from policies.kinds.ratelimit.buckets import fields as limit_fields
from policies.kinds.retry.policy import Failure

if TYPE_CHECKING:
    from agent.proxy.attempt import Attempt
    from agent.proxy.exchange import Exchange
    from agent.proxy.table import Service
    from agent.proxy.worker import Worker

MAX_FALLBACKS: Final = 3
"""Fallbacks of fallbacks that a request may go through."""

_OUTCOMES: Final = {Failure.CONNECT: CONNECT, Failure.RESET: RESET, Failure.TIMEOUT: TIMEOUT, Failure.STATUS: GATEWAY}

log = logging.getLogger("shoal.worker")


def outcome_of(status: int) -> int:
    """Of an answer with a status."""
    if status < 500:
        return OK
    return GATEWAY if 502 <= status <= 504 else SERVER_ERROR


def outcome_of_failure(failure: Failure) -> int:
    """Of a try without an answer."""
    return _OUTCOMES[failure]


# Rate limits and faults: before anything else.


def limit(exchange: Exchange) -> bool:
    """Whether the request was refused, because it is one too many."""
    plan, service, view = exchange.plan, exchange.service, exchange.view
    assert plan is not None and service is not None and view is not None and plan.limits is not None
    assert service.buckets is not None
    limited = plan.limits.compiled.decide(service.buckets, view, exchange.worker.reactor.now)
    if exchange.explained is not None:
        exchange.explained.append(story.limited(plan, limited))
    if limited is None:
        return False
    count(service.stats.limited, limited.name)
    if plan.limits.audit:
        count(service.stats.audit, "ratelimit")
        return False
    extra = story.header_lines(limit_fields(limited))
    body = limited.body.encode() if limited.body else None
    exchange.refuse(Refusal(limited.status, "ratelimit", limited.reason, unsent=True), extra, body)
    return True


def inject(exchange: Exchange) -> Injected | None:
    """What a fault policy does to the request, if anything."""
    plan, service, view = exchange.plan, exchange.service, exchange.view
    assert plan is not None and service is not None and view is not None and plan.fault is not None
    injected = plan.fault.compiled.decide(view, time.time(), exchange.worker.rng)
    if injected is None:
        return None
    if exchange.explained is not None:
        exchange.explained.append(story.injected(plan, injected))
    count(service.stats.faults, injected.rule)
    if plan.fault.audit:
        count(service.stats.audit, "fault")
        return None
    return injected


# The breaker of a service.


def admits(exchange: Exchange, target: Service) -> bool:
    """Whether the breaker of the service that a request goes to lets it pass; if not, the fallback was begun."""
    breaker, circuit = target.plan.breaker, target.circuit
    if breaker is None or circuit is None:
        return True
    worker = exchange.worker
    now = worker.reactor.now
    reason = circuit.enter(now, worker.rng, target.connecting, target.connections)
    tell_transition(worker, target, "", circuit.take_transition())
    if exchange.explained is not None:
        exchange.explained.append(story.breaker(target.plan, circuit.state, reason))
    if not reason:
        exchange.entered = target
        return True
    if breaker.audit:
        count(target.stats.audit, "breaker")
        return True
    count(target.stats.refused, "breaker")
    fallback = breaker.compiled.fallback
    retry_after_s = max(1, int(circuit.retry_after_s(now) + 0.999))
    if isinstance(fallback, Forward):
        exchange.fall_back(target, fallback, reason)
    else:
        _answer(exchange, fallback, reason, retry_after_s)
    return False


def _answer(exchange: Exchange, fallback: Respond, reason: str, retry_after_s: int) -> None:
    extra = story.header_lines(fallback.headers)
    refusal = Refusal(fallback.status, "breaker", reason, retry_after_s if fallback.status >= 500 else 0, unsent=True)
    exchange.refuse(refusal, extra, fallback.body or None, counted=True)


def leave(exchange: Exchange, target: Service, *, retried: bool) -> None:
    """The request ended that the breaker let pass."""
    circuit, breaker = target.circuit, target.plan.breaker
    if circuit is None:
        return
    if retried:
        circuit.retry_ended()
    worker = exchange.worker
    now = worker.reactor.now
    if breaker is None or not exchange.status:
        circuit.abandon(now)
        return
    ok = not breaker.compiled.failure(exchange.status)
    tell_transition(worker, target, "", circuit.leave(ok, now - exchange.started, now, worker.rng))


def part(exchange: Exchange, target: Service, *, retried: bool) -> None:
    """The request goes elsewhere, and says nothing of the service whose breaker let it pass."""
    circuit = target.circuit
    if circuit is not None:
        if retried:
            circuit.retry_ended()
        circuit.abandon(exchange.worker.reactor.now)


# Endpoints: a breaker for each, and ejection.


def observe(attempt: Attempt, target: Service, outcome: int) -> None:
    """A try at an endpoint came to an end."""
    worker = attempt.exchange.worker
    now = worker.reactor.now
    latency_s = now - attempt.began
    endpoint = attempt.endpoint
    load = endpoint.load
    if attempt.gated and load.circuit is not None:
        attempt.gated = False
        tell_transition(worker, target, endpoint.id, load.circuit.leave(outcome == OK, latency_s, now, worker.rng))
        if load.circuit.state == "open":
            load.refused_until = max(load.refused_until, now + load.circuit.retry_after_s(now))
    ejector = target.ejector
    if ejector is not None and load.record is not None:
        ejected = ejector.observe(
            endpoint.id, load.record, outcome, latency_s, now, worker.rng, len(target.plan.endpoints)
        )
        if ejected is not None:
            eject(worker, target, ejected)


def eject(worker: Worker, target: Service, ejected: Ejected) -> None:
    """Pass an endpoint over for a while."""
    outlier, load = target.plan.outlier, target.loads.get(ejected.id)
    if outlier is None or load is None:
        return
    if outlier.audit:
        count(target.stats.audit, "outlier")
    else:
        load.refused_until = max(load.refused_until, ejected.until)
    count(target.stats.ejections, ejected.id)
    worker.happen("outlier", target.name, ejected.id, "in", "ejected", ejected.reason, audit=outlier.audit)


def take_back(worker: Worker, target: Service, returned: Returned) -> None:
    """An endpoint takes requests again."""
    load = target.loads.get(returned.id)
    if load is not None:
        load.refused_until = 0.0
    worker.happen("outlier", target.name, returned.id, "ejected", "in", returned.reason)


class Judge(Timed):
    """Compares the endpoints of one service with each other, at intervals, as long as there is an outlier policy."""

    __slots__ = ("_service", "_worker")

    def __init__(self, worker: Worker, service: Service) -> None:
        super().__init__()
        self._worker = worker
        self._service = service
        self._rearm(worker.reactor.now)

    def _rearm(self, now: float) -> None:
        outlier = self._service.plan.outlier
        if outlier is not None:
            self._worker.reactor.wheel.arm(self, now + outlier.compiled.interval_s)

    def on_deadline(self, now: float) -> None:
        """Judge, and come again."""
        service, worker = self._service, self._worker
        if service.ejector is None or worker.table.services.get(service.name) is not service:
            service.judge = None
            return
        self._rearm(now)
        endpoints = service.plan.endpoints
        healthy = {e.id for e in endpoints if e.healthy}
        records = {e.id: e.load.record for e in endpoints if e.load.record is not None}
        for verdict in service.ejector.judge(records, healthy, now, worker.rng):
            if isinstance(verdict, Ejected):
                eject(worker, service, verdict)
            else:
                take_back(worker, service, verdict)


def tell_transition(worker: Worker, target: Service, endpoint: str, transition: Transition | None) -> None:
    """Count and tell that a breaker changed its state."""
    if transition is None:
        return
    count(target.stats.transitions, transition.after)
    breaker = target.plan.breaker
    audit = breaker is not None and breaker.audit
    worker.happen("breaker", target.name, endpoint, transition.before, transition.after, transition.reason, audit=audit)
