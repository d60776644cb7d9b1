# mypyc: compiled
"""What is learnt of endpoints by trying them: their own breakers, and who does worse than the others."""

from __future__ import annotations

import random
from typing import Final

from agent.proxy.engine.reactor import Reactor, Timed
from agent.proxy.report.stats import count
from agent.proxy.table.lasting import Book
from agent.proxy.table.service import Service
from agent.proxy.table.table import Table
from policies.endpoint import Endpoint, Judgement
from policies.kinds.outlier.ejector import (
    CONNECT,
    GATEWAY,
    OK,
    RESET,
    SERVER_ERROR,
    TIMEOUT,
    Ejected,
    Record,
    Returned,
)
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
    load, ok = endpoint.load, outcome == OK
    if gated and load.circuit is not None:
        target.tell_transition(endpoint.id, load.circuit.leave(ok, latency_s, now, rng, inside_s), audit=False)
        if load.circuit.state == "open":
            load.refused_until = max(load.refused_until, now + load.circuit.retry_after_s(now))
    if load.watched is not None:
        _watch(target, endpoint, load.watched, ok, latency_s, now, rng)
        if target.audits is not None:
            _observe(target, target.audits, endpoint, load.watched, outcome, latency_s, now, rng)
    if target.ejector is not None:
        _observe(target, target, endpoint, load, outcome, latency_s, now, rng)


def _observe(
    target: Service,
    book: Book,
    endpoint: Endpoint,
    judgement: Judgement,
    outcome: int,
    latency_s: float,
    now: float,
    rng: random.Random,
) -> None:
    ejector, record = book.ejector, judgement.record
    if ejector is not None and record is not None:
        ejected = ejector.observe(endpoint.id, record, outcome, latency_s, now, rng, len(target.plan.endpoints))
        if ejected is not None:
            eject(target, ejected, audit=book is not target)


def _watch(
    target: Service,
    endpoint: Endpoint,
    judgement: Judgement,
    ok: bool,
    latency_s: float,
    now: float,
    rng: random.Random,
) -> None:
    """An endpoint's breaker that is only watched: it is asked for what has just ended, which it could not keep out."""
    circuit, watched = judgement.circuit, target.plan.watched
    if circuit is None or watched is None or watched.breaker is None:
        return
    refused = circuit.enter(now, rng, 0)
    change = circuit.take_transition()
    if not refused:
        target.tell_transition(endpoint.id, change, audit=True)
        change = circuit.leave(ok, latency_s, now, rng)
    target.tell_transition(endpoint.id, change, audit=True)
    would = "endpoint refused" if refused else "passed"
    target.stats.note_audit("breaker", watched.breaker.in_force.key, "passed", would)


def eject(target: Service, ejected: Ejected, *, audit: bool) -> None:
    """Pass an endpoint over for a while; or tell that a document would, that is only watched."""
    load, watched = target.loads.get(ejected.id), target.plan.watched
    if load is None:
        return
    if not audit:
        load.refused_until = max(load.refused_until, ejected.until)
        count(target.stats.ejections, ejected.id)
    elif watched is not None and watched.ejection is not None:
        target.stats.note_audit("outlier", watched.ejection.in_force.key, "passed", "ejected")
    target.news.add("outlier", target.name, ejected.id, "in", "ejected", ejected.reason, audit=audit)


def spare(target: Service, endpoint: Endpoint, wanted_s: float, now: float) -> None:
    """Pass an endpoint over that asks for it, as long as at least half of those that can take requests are not: what it
    says may be about one kind of request only, and the others would have all of its load."""
    able = [e for e in target.plan.endpoints if e.healthy and not e.draining and e.id != endpoint.id]
    out = sum([1 for e in able if e.load.refused_until > now])
    if 2 * (out + 1) <= len(able) + 1:
        endpoint.load.refused_until = max(endpoint.load.refused_until, now + min(wanted_s, SPARED_S))


def take_back(target: Service, returned: Returned, *, audit: bool) -> None:
    """An endpoint takes requests again."""
    load = target.loads.get(returned.id)
    if load is not None and not audit:
        load.refused_until = 0.0
    target.news.add("outlier", target.name, returned.id, "ejected", "in", returned.reason, audit=audit)


class Judge(Timed):
    """Compares the endpoints of one service with each other, at intervals, as long as there is an outlier policy: one
    that is in force, or one that is only watched."""

    __slots__ = ("_audit", "_reactor", "_rng", "_service", "_table")

    def __init__(
        self, reactor: Reactor, rng: random.Random, table: Table, service: Service, *, audit: bool = False
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._rng = rng
        self._table = table
        self._service = service
        self._audit = audit
        self._rearm(reactor.now)

    def _rearm(self, now: float) -> None:
        plan = self._service.plan
        asked = plan.watched if self._audit else plan.enforced
        if asked is not None and asked.ejection is not None:
            self._reactor.wheel.arm(self, now + asked.ejection.rules.interval_s)

    def on_deadline(self, now: float) -> None:
        """Judge, and come again."""
        service = self._service
        book: Book | None = service.audits if self._audit else service
        if book is None:
            return
        ejector = book.ejector
        if ejector is None or self._table.services.get(service.name) is not service:
            book.judge = None
            return
        self._rearm(now)
        endpoints = service.plan.endpoints
        healthy = {e.id for e in endpoints if e.healthy}
        records: dict[str, Record] = {}
        for each in endpoints:
            judgement: Judgement | None = each.load.watched if self._audit else each.load
            if judgement is not None and judgement.record is not None:
                records[each.id] = judgement.record
        for verdict in ejector.judge(records, healthy, now, self._rng):
            if isinstance(verdict, Ejected):
                eject(service, verdict, audit=self._audit)
            else:
                take_back(service, verdict, audit=self._audit)


def begin_judging(reactor: Reactor, rng: random.Random, table: Table, service: Service) -> None:
    """Have a service's ejectors called, where nobody does."""
    if service.ejector is not None and service.judge is None:
        service.judge = Judge(reactor, rng, table, service)
    audits = service.audits
    if audits is not None and audits.ejector is not None and audits.judge is None:
        audits.judge = Judge(reactor, rng, table, service, audit=True)
