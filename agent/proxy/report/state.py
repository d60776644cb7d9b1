# mypyc: interpreted, because it answers control, and no request waits for it
"""What a worker tells of itself when asked: counters, and the services with their endpoints and live loads."""

from __future__ import annotations

from typing import Any

from agent.proxy.report.signals import BOUNDS_S
from agent.proxy.report.stats import ServiceStats
from agent.proxy.report.story import Policies
from agent.proxy.runtime import Runtime
from agent.proxy.table.service import Service
from policies.kinds.ratelimit.hot import MOST_KEYS

EDGES = 1_000
"""That are told of at a time, more or less; about a millisecond's work."""


def metrics(runtime: Runtime, after: str = "", most: int = 0) -> dict[str, Any]:
    """Counters of this worker; those of services that saw no request are left out. With `most`: of so many services,
    those behind the name `after`; `next` is then where the next ones begin, None behind the last."""
    services = runtime.table.services
    names = sorted(name for name in services if name > after) if most else list(services)
    chosen = _portion(services, names[:most]) if most else names
    more = {"next": chosen[-1] if len(chosen) < len(names) else None} if most else {}
    return {
        **more,
        "services": {
            name: {**services[name].stats.as_frame(), **_guards(services[name])}
            for name in chosen
            if _counted(services[name].stats)
        },
        "duration_bounds_s": list(BOUNDS_S),
        "refused": runtime.refused,
        "connections": {
            "open": len(runtime.connections),
            "accepted": runtime.accepted,
            "made_way": runtime.outbound.made_way + runtime.inbound.made_way,
        },
        "buffers": {
            "held": runtime.reactor.buffers.total,
            "most": runtime.reactor.buffers.most,
            "cut_off": runtime.reactor.buffers.cut_off,
        },
        "pool": {
            "open": runtime.pool.opened,
            "idle": runtime.pool.idle,
            "connects": runtime.pool.connects,
            "reused": runtime.pool.reused,
            "strangers": runtime.pool.doorkeeper.turned_down if runtime.pool.doorkeeper is not None else 0,
        },
        "tls": {
            "half_open": len(runtime.security.half_open),
            "secured": runtime.security.half_open.secured,
            "failed": runtime.security.half_open.failed,
            "displaced": runtime.security.half_open.displaced,
            "ended": runtime.custody.ended,
        },
        "judges": runtime.judges.as_frame(),
        "given_up": {"noted": runtime.given_up.noted, "lost": runtime.given_up.lost},
        "counts_lost": runtime.together.lost if runtime.together is not None else 0,
        "records_lost": runtime.recorder.lost,
        "spans": {"made": runtime.spans.made, "lost": runtime.spans.lost},
        "loop_late_s": runtime.lateness.total_s,
        "loop_late_worst_s": runtime.lateness.worst_s,
        "revision": runtime.table.revision,
    }


def _portion(services: dict[str, Service], names: list[str]) -> list[str]:
    """So many of them that nobody waits long for the answer, and one at least."""
    edges = 0
    for number, name in enumerate(names):
        edges += len(services[name].stats.signals.edges)
        if number and edges > EDGES:
            return names[:number]
    return names


def _counted(stats: ServiceStats) -> bool:
    return bool(stats.signals.edges or stats.active or stats.refused)


def _guards(service: Service) -> dict[str, Any]:
    """How the breaker stands, who is ejected, what is open and waits; figures that can be added up over workers. A
    limit is that of all workers; 0: there is none."""
    tally, limiter, pressed = service.tally, service.limiter, service.backpressure
    found: dict[str, Any] = {
        "breaker": {},
        "ejected": {},
        "connections": tally.open,
        "pending": tally.pending,
        "limit": limiter.limit if limiter is not None else 0.0,
        "window": pressed.window if pressed is not None else 0.0,
    }
    if service.circuit is not None and service.plan.breaker is not None:
        found["breaker"][service.circuit.state] = 1
    if service.ejector is not None and service.plan.outlier is not None:
        found["ejected"] = dict.fromkeys(service.ejector.ejected(), 1)
    return found


def demand(runtime: Runtime) -> dict[str, dict[str, float]]:
    """Requests that asked for a token, since ever: by service, by limit."""
    return {
        name: {limit.name: service.buckets.demand(limit.name) for limit in service.plan.limits.limits}
        for name, service in runtime.table.services.items()
        if service.buckets is not None and service.plan.limits is not None
    }


def keys(runtime: Runtime) -> dict[str, dict[str, dict[str, int]]]:
    """Of limits of the whole mesh with keys, how often each key was asked for since the last time: by service, by
    limit, by the key's hash."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, service in runtime.table.services.items():
        if service.buckets is not None and service.plan.limits is not None:
            for limit in service.plan.limits.limits:
                asked = service.buckets.meter(limit.name).take_asked(MOST_KEYS) if limit.shared and limit.key else {}
                if asked:
                    found.setdefault(name, {})[limit.name] = asked
    return found


def services(runtime: Runtime, name: str | None) -> dict[str, Any]:
    """One service, or all of them, as this worker runs them."""
    table = runtime.table
    chosen = table.services if name is None else {n: s for n, s in table.services.items() if n == name}
    return {
        "revision": table.revision,
        "ready": table.ready,
        "draining": runtime.draining,
        "services": {n: _service(s) for n, s in chosen.items()},
    }


def _policies(policies: Policies) -> dict[str, Any]:
    return {
        kind: {
            "key": policy.key,
            "revision": policy.revision,
            "mode": policy.mode,
            "wider": [{"key": each.key, "revision": each.revision} for each in policy.wider],
        }
        for kind, policy in policies.items()
    }


def _service(service: Service) -> dict[str, Any]:
    plan = service.plan
    return {
        "revision": plan.revision,
        "balance": plan.balancer.describe(),
        "policies": _policies(plan.policies),
        "audits": _policies(plan.watched.policies if plan.watched is not None else {}),
        "breaker": None
        if service.circuit is None or plan.breaker is None
        else {"state": service.circuit.state, "reason": service.circuit.reason, "active": service.circuit.active},
        "backpressure": None
        if service.backpressure is None
        else {"window": service.backpressure.window, "under_way": service.backpressure.under_way},
        "connections": service.tally.open,
        "pending": service.tally.pending,
        "endpoints": [
            {
                "id": e.id,
                "address": e.address,
                "port": e.port,
                "version": e.version,
                "zone": e.zone,
                "weight": e.weight,
                "healthy": e.healthy,
                "draining": e.draining,
                "suspect": e.suspect,
                "agent": e.agent,
                "via": e.via,
                "active": e.load.active,
                "requests": e.load.requests,
                "successes": e.load.successes,
                "failures": e.load.failures,
                "ewma_ms": round(e.load.ewma_s * 1000, 3),
                "breaker": e.load.circuit.state if e.load.circuit is not None and plan.breaker is not None else "",
                "ejected": plan.outlier is not None and service.ejector is not None and service.ejector.until(e.id) > 0,
            }
            for e in plan.endpoints
        ],
    }
