# mypyc: interpreted, because it answers control, and no request waits for it
"""What is under way now, and what each instance has come to: of those that this agent answers for.

Law: requests to an instance are counted by the agent of its host, which all of them pass; to one that no agent owns, by
each agent for itself. So the sum over all agents has each once.
"""

from __future__ import annotations

from typing import Any, Final

from agent.proxy.runtime import Runtime

MOST: Final = 5000
"""Endpoints that are looked at without a request served in between."""


def load(runtime: Runtime, after: str = "") -> dict[str, Any]:
    """Of services that were called, behind the name `after`: `pending`, requests that wait for a connection; and by
    instance: requests under way, those that it answered and those that failed so far, how long all of these took (s),
    and its version. `next`: where to go on; None: that was all."""
    table = runtime.table
    names = sorted(n for n, s in table.services.items() if n > after and (s.stats.active or s.plan.endpoints))
    host, looked, last = table.host, 0, after
    found: dict[str, Any] = {}
    for name in names:
        if looked > MOST:
            return {"services": found, "next": last}
        service, last = table.services[name], name
        looked += len(service.plan.endpoints) + 1
        instances = {
            e.id: [e.load.active, e.load.successes, e.load.failures, e.load.took_s, e.version]
            for e in service.plan.endpoints
            if e.agent in ("", host) and (e.load.requests or e.load.active)
        }
        if instances or service.tally.pending:
            found[name] = {"pending": service.tally.pending, "instances": instances}
    return {"services": found, "next": None}
