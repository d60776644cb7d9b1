# mypyc: compiled
"""What is learnt of endpoints by trying them: their own breakers, and who does worse than the others."""

from __future__ import annotations

import random
from typing import Final

from agent.proxy.engine.reactor import Reactor, Timed
from agent.proxy.report.stats import count
from agent.proxy.table.service import Service
from agent.proxy.table.table import Table
from policies.endpoint import Endpoint
from policies.kinds.outlier.ejector import CONNECT, GATEWAY, OK, RESET, SERVER_ERROR, TIMEOUT, Ejected, Returned
from policies.kinds.retry.policy import Failure

HANG_S: Final = 1.0
_HANG_TIMES: Final = 3.0
SPARED_S: Final = 30.0
"""For how long an endpoint that asks for it is passed over at most."""
_OUTCOMES: Final = {Failure.CONNECT: CONNECT, Failure.RESET: RESET, Failure.TIMEOUT: TIMEOUT, Failure.STATUS: GATEWAY}


def outcome_of(status: int) -> int:
    """Of an answer with a status."""
    if status < 500:
        return OK
    return GATEWAY if 502 <= status <= 504 else SERVER_ERROR


def outcome_of_failure(failure: Failure) -> int:
    """Of a try without an answer."""
    return _OUTCOMES[failure]


def hangs(usual_s: float, waited_s: float) -> bool:
    """Whether a client that gives up after so long was kept waiting: a client of no patience proves nothing of whom it
    asked, and one that is never answered gives up some time. `usual_s`: what good answers take; 0: nobody knows."""
    return waited_s >= max(HANG_S, _HANG_TIMES * usual_s)


def usual_s(endpoint: Endpoint) -> float:
    """What good answers of an endpoint take, as far as somebody judges it."""
    load = endpoint.load
    if load.record is not None:
        return load.record.usual_s
    return load.circuit.usual_s if load.circuit is not None else 0.0


def observe(
    target: Service,
    endpoint: Endpoint,
    outcome: int,
    latency_s: float,
    now: float,
    rng: random.Random,
    gated: bool,
    inside_s: float,
) -> None:
    """A try at an endpoint, that was begun `inside_s` ago, came to an end. `gated`: its breaker counts it."""
    load = endpoint.load
    if gated and load.circuit is not None:
        breaker = target.plan.breaker
        audit = breaker is not None and breaker.audit
        change = load.circuit.leave(outcome == OK, latency_s, now, rng, inside_s)
        target.tell_transition(endpoint.id, change, audit=audit)
        if load.circuit.state == "open" and not audit:
            load.refused_until = max(load.refused_until, now + load.circuit.retry_after_s(now))
    ejector = target.ejector
    if ejector is not None and load.record is not None:
        ejected = ejector.observe(endpoint.id, load.record, outcome, latency_s, now, rng, len(target.plan.endpoints))
        if ejected is not None:
            eject(target, ejected)


def eject(target: Service, ejected: Ejected) -> None:
    """Pass an endpoint over for a while."""
    outlier, load = target.plan.outlier, target.loads.get(ejected.id)
    if outlier is None or load is None:
        return
    if outlier.audit:
        count(target.stats.audit, "outlier")
    else:
        load.refused_until = max(load.refused_until, ejected.until)
    count(target.stats.ejections, ejected.id)
    target.news.add("outlier", target.name, ejected.id, "in", "ejected", ejected.reason, audit=outlier.audit)


def spare(target: Service, endpoint: Endpoint, wanted_s: float, now: float) -> None:
    """Pass an endpoint over that asks for it, as long as at least half of those that can take requests are not: what it
    says may be about one kind of request only, and the others would have all of its load."""
    able = [e for e in target.plan.endpoints if e.healthy and not e.draining and e.id != endpoint.id]
    out = sum([1 for e in able if e.load.refused_until > now])
    if 2 * (out + 1) <= len(able) + 1:
        endpoint.load.refused_until = max(endpoint.load.refused_until, now + min(wanted_s, SPARED_S))


def take_back(target: Service, returned: Returned) -> None:
    """An endpoint takes requests again."""
    load = target.loads.get(returned.id)
    if load is not None:
        load.refused_until = 0.0
    target.news.add("outlier", target.name, returned.id, "ejected", "in", returned.reason)


class Judge(Timed):
    """Compares the endpoints of one service with each other, at intervals, as long as there is an outlier policy."""

    __slots__ = ("_reactor", "_rng", "_service", "_table")

    def __init__(self, reactor: Reactor, rng: random.Random, table: Table, service: Service) -> None:
        super().__init__()
        self._reactor = reactor
        self._rng = rng
        self._table = table
        self._service = service
        self._rearm(reactor.now)

    def _rearm(self, now: float) -> None:
        outlier = self._service.plan.outlier
        if outlier is not None:
            self._reactor.wheel.arm(self, now + outlier.rules.interval_s)

    def on_deadline(self, now: float) -> None:
        """Judge, and come again."""
        service = self._service
        if service.ejector is None or self._table.services.get(service.name) is not service:
            service.judge = None
            return
        self._rearm(now)
        endpoints = service.plan.endpoints
        healthy = {e.id for e in endpoints if e.healthy}
        records = {e.id: e.load.record for e in endpoints if e.load.record is not None}
        for verdict in service.ejector.judge(records, healthy, now, self._rng):
            if isinstance(verdict, Ejected):
                eject(service, verdict)
            else:
                take_back(service, verdict)
