# mypyc: compiled
"""How busy this host is, for limiters that want to know; and when a service that shed load is over it."""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.reactor import Reactor, Timed
from agent.proxy.messages.head import ResponseHead
from agent.proxy.table.lasting import Lasting
from agent.proxy.table.service import Service
from agent.proxy.table.table import Table
from policies.kinds.shed.limiter import Limiter

CALM_S: Final = 10.0
"""After so long without a refusal it is over."""
CPU_EVERY_S: Final = 0.25


def note_shed(reactor: Reactor, state: Lasting, reason: str) -> None:
    """Tell that load is shed, and have it told when that is over."""
    state.shed_at = reactor.now
    if state.relief is None:
        state.relief = Relief(reactor, state)
        state.news.add("shed", state.name, "", "calm", "shedding", reason)


def note_load(service: Service, head: ResponseHead) -> None:
    """An instance's own word about its load, if it has one, for the limiters that want it."""
    if service.limiter is not None and service.plan.shed is not None:
        _note_load(service.limiter, service.plan.shed.compiled.load_header, head)
    audits, watched = service.audits, service.plan.watched
    if audits is not None and watched is not None and audits.limiter is not None and watched.shed is not None:
        _note_load(audits.limiter, watched.shed.compiled.load_header, head)


def _note_load(limiter: Limiter, wanted: bytes, head: ResponseHead) -> None:
    if not wanted:
        return
    for field in head.fields:
        if field.name == wanted:
            try:
                value = float(field.value[:32])
            except ValueError:
                return
            if value >= 0:  # and no NaN
                limiter.note_load(value)
            return


def cpu_limiters(service: Service) -> list[Limiter]:
    """Of a service, those that want to know how busy the host is."""
    found: list[Limiter] = []
    if service.limiter is not None and service.plan.shed is not None and service.plan.shed.compiled.cpu:
        found.append(service.limiter)
    audits, watched = service.audits, service.plan.watched
    watches = watched is not None and watched.shed is not None and watched.shed.compiled.cpu
    if watches and audits is not None and audits.limiter is not None:
        found.append(audits.limiter)
    return found


class Relief(Timed):
    """Tells when a service sheds no more."""

    __slots__ = ("_reactor", "_state")

    def __init__(self, reactor: Reactor, state: Lasting) -> None:
        super().__init__()
        self._reactor = reactor
        self._state = state
        reactor.wheel.arm(self, reactor.now + CALM_S)

    def on_deadline(self, now: float) -> None:
        """Is it?"""
        state = self._state
        if now - state.shed_at < CALM_S:
            self._reactor.wheel.arm(self, state.shed_at + CALM_S)
            return
        state.relief = None
        state.news.add("shed", state.name, "", "shedding", "calm", f"nothing was refused for {CALM_S:g} s")


class CpuWatch(Timed):
    """Tells limiters how busy the host is, as long as any wants to know."""

    __slots__ = ("_busy", "_reactor", "_table", "_total", "running")

    def __init__(self, reactor: Reactor, table: Table) -> None:
        super().__init__()
        self._reactor = reactor
        self._table = table
        self._busy = 0
        self._total = 0
        self.running = False

    def start(self) -> None:
        """From now on."""
        if not self.running:
            self.running = True
            self._reactor.wheel.arm(self, self._reactor.now + CPU_EVERY_S)

    def on_deadline(self, now: float) -> None:
        """Look, tell, and come again."""
        wanting: list[Limiter] = []
        for service in self._table.services.values():
            wanting += cpu_limiters(service)
        if not wanting:
            self.running = False
            return
        self._reactor.wheel.arm(self, now + CPU_EVERY_S)
        busy, total = cpu_ticks()
        if self._total and total > self._total:
            percent = 100.0 * (busy - self._busy) / (total - self._total)
            for limiter in wanting:
                limiter.note_cpu(percent)
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
