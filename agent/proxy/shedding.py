# mypyc: compiled
"""Load shedding as one request meets it: let in or not, beside the instance; where it goes instead, at its caller's.

Laws
- Decided where the load is: by the agent that hands the request to an instance of its own host, before it does.
- Whoever is not let in is told so (503, Retry-After, x-shoal-shed). Callers' agents take it for what it is: no failure
  of the endpoint, nothing to try again, but a reason to take the next way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.proxy import story
from agent.proxy.answers import Refusal
from agent.proxy.reactor import Timed
from agent.proxy.stats import count
from agent.proxy.view import HeadView
from policies.decision import Forward, Respond
from policies.kinds.shed.decide import Store

if TYPE_CHECKING:
    from agent.proxy.attempt import Attempt
    from agent.proxy.exchange import Exchange
    from agent.proxy.head import ResponseHead
    from agent.proxy.table import Service
    from agent.proxy.worker import Worker
    from policies.endpoint import Endpoint

CALM_S: Final = 10.0
"""After so long without a refusal it is over."""
CPU_EVERY_S: Final = 0.25
MARK: Final = b"x-shoal-shed: 1\r\n"


def let_in(exchange: Exchange, service: Service, endpoint: Endpoint) -> str:
    """Whether an instance of this host may have the request: empty when it may; else why not."""
    shed, limiter = service.plan.shed, service.limiter
    worker = exchange.worker
    if shed is None or limiter is None or endpoint.via or (endpoint.agent and endpoint.agent != worker.table.host):
        return ""
    if exchange.view is None:
        exchange.view = HeadView(exchange.request, exchange.caller)
    reason = limiter.enter(shed.compiled.priority(exchange.view), worker.reactor.now)
    if exchange.explained is not None:
        exchange.explained.append(story.shed(service.plan, reason))
    if not reason:
        exchange.let_in = limiter
        return ""
    if shed.audit:
        count(service.stats.audit, "shed")
        return ""
    return reason


def turn_away(exchange: Exchange, service: Service, reason: str) -> None:
    """It may not: tell the calling agent, or, where that is us, take a way out."""
    count(service.stats.shed, "refused")
    _note(exchange.worker, service, reason)
    if exchange.down.inbound:
        shed = service.plan.shed
        refuse(exchange, reason, shed.compiled.retry_after_s if shed is not None else 1)
    else:
        elsewhere(exchange, reason)


def elsewhere(exchange: Exchange, reason: str) -> None:
    """At the caller's: the next way out that leads somewhere, or the refusal."""
    plan, service = exchange.plan, exchange.service
    assert plan is not None and service is not None
    exchange.part_from_breaker()
    shed = plan.shed
    if shed is None or shed.audit:
        refuse(exchange, reason, 1)
        return
    ways = shed.compiled.ways
    while exchange.ways_tried < len(ways):
        way = ways[exchange.ways_tried]
        exchange.ways_tried += 1
        if isinstance(way, Respond):
            count(service.stats.shed, "answered")
            _answer(exchange, way, reason, shed.compiled.retry_after_s)
            return
        if isinstance(way, Store):
            if exchange.worker.stores.takes(exchange, way):
                exchange.keep(way)
                return
            continue
        if exchange.can_repeat and _leads_somewhere(exchange, service, way):
            count(service.stats.shed, "elsewhere")
            exchange.divert(way)
            return
    refuse(exchange, reason, shed.compiled.retry_after_s)


def _leads_somewhere(exchange: Exchange, service: Service, way: Forward) -> bool:
    target = exchange.worker.table.target(service, way)
    if isinstance(target, Refusal):
        return False
    return any(
        endpoint.healthy and not endpoint.draining and (way.subset is None or way.subset.selects(endpoint))
        for endpoint in target.plan.endpoints
    )


def refuse(exchange: Exchange, reason: str, retry_after_s: int) -> None:
    """Say that it is too much."""
    exchange.refuse(Refusal(503, "shed", reason, retry_after_s), [MARK])


def _answer(exchange: Exchange, way: Respond, reason: str, retry_after_s: int) -> None:
    extra = story.header_lines(way.headers)
    refusal = Refusal(way.status, "shed", reason, retry_after_s if way.status >= 500 else 0)
    exchange.refuse(refusal, extra, way.body or None)


def heard(attempt: Attempt, head: ResponseHead) -> None:
    """An instance answered: its own word about its load, if it has one."""
    exchange = attempt.exchange
    service = exchange.target or exchange.service
    if service is None or service.limiter is None or service.plan.shed is None:
        return
    wanted = service.plan.shed.compiled.load_header
    if not wanted:
        return
    for field in head.fields:
        if field.name == wanted:
            try:
                value = float(field.value[:32])
            except ValueError:
                return
            if value >= 0:  # and no NaN
                service.limiter.note_load(value)
            return


def _note(worker: Worker, service: Service, reason: str) -> None:
    """Tell that it has begun, and have it told when it is over."""
    service.shed_at = worker.reactor.now
    if service.relief is None:
        service.relief = Relief(worker, service)
        worker.happen("shed", service.name, "", "calm", "shedding", reason)


class Relief(Timed):
    """Tells when a service sheds no more."""

    __slots__ = ("_service", "_worker")

    def __init__(self, worker: Worker, service: Service) -> None:
        super().__init__()
        self._worker = worker
        self._service = service
        worker.reactor.wheel.arm(self, worker.reactor.now + CALM_S)

    def on_deadline(self, now: float) -> None:
        """Is it?"""
        service = self._service
        if now - service.shed_at < CALM_S:
            self._worker.reactor.wheel.arm(self, service.shed_at + CALM_S)
            return
        service.relief = None
        self._worker.happen("shed", service.name, "", "shedding", "calm", f"nothing was refused for {CALM_S:g} s")


class CpuWatch(Timed):
    """Tells limiters how busy the host is, as long as any wants to know."""

    __slots__ = ("_busy", "_total", "_worker", "running")

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self._busy = 0
        self._total = 0
        self.running = False

    def start(self) -> None:
        """From now on."""
        if not self.running:
            self.running = True
            self._worker.reactor.wheel.arm(self, self._worker.reactor.now + CPU_EVERY_S)

    def on_deadline(self, now: float) -> None:
        """Look, tell, and come again."""
        services = self._worker.table.services.values()
        wanting = [
            s for s in services if s.limiter is not None and s.plan.shed is not None and s.plan.shed.compiled.cpu
        ]
        if not wanting:
            self.running = False
            return
        self._worker.reactor.wheel.arm(self, now + CPU_EVERY_S)
        busy, total = cpu_ticks()
        if self._total and total > self._total:
            percent = 100.0 * (busy - self._busy) / (total - self._total)
            for service in wanting:
                if service.limiter is not None:
                    service.limiter.note_cpu(percent)
        self._busy, self._total = busy, total


def cpu_ticks() -> tuple[int, int]:
    """Of all CPUs since the start of the machine: busy, and in all. (0, 0) where that cannot be read."""
    try:
        with open("/proc/stat", "rb") as file:
            figures = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    idle = figures[3] + figures[4] if len(figures) > 4 else 0
    return sum(figures) - idle, sum(figures)
