"""Whether a condition that was told to have begun has ended: judged by what is so, not by what was told. Pure.

Events tell how things end as long as somebody is there to see it. A host dies with the only agent, an instance comes
back on another port while nobody watches, an agent is started anew and its breakers with it: then this finds it.

Law: of what is only not known, an instance that is suspected, an agent that may live, nothing is said.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from agent.control.mesh.table import Table
from policies.language.names import candidates
from registry.records import Opened


class Ending(NamedTuple):
    """How it ended."""

    name: str
    """Of the type of event that tells it."""
    reason: str


def ending_of(subject: str, opened: Opened, table: Table, conditions: Container[str]) -> Ending | None:
    """None: it lasts, or nobody knows. `conditions`: subjects of what has begun and not ended, as it stands in etcd."""
    kind, _, rest = subject.partition("/")
    parts = rest.split("/")
    match kind, parts:
        case "instances", [service, instance]:
            return _instance(table, service, instance)
        case "services", [service]:
            return _service(table, service, subject in conditions)
        case "policies", [of, pattern]:
            standing = (of, pattern) in table.refused or (of, pattern) in table.distrusted.holding.holds
            return None if standing else Ending("policy.changed", "it is neither refused nor held any more")
        case "audits", [of, pattern]:
            refused = (of, pattern) in table.audits.refused
            return None if refused else Ending("policy.changed", "it is refused no more")
        case "agents", [host]:
            if host in table.agents:
                return Ending("agent.joined", "it is there")
            return None if subject in conditions else Ending("agent.joined", f"conditions/{subject} was deleted")
        case "etcd", [_]:
            return Ending("etcd.back", "it was told when etcd was back")
        case "breakers", [service, instance, host]:
            return _breaker(table, service, instance, host, opened)
        case "shedding", [service, host]:
            reason = _forgotten(table, host, opened) or _without(table, "shed", service)
            return Ending("shed.ended", reason) if reason else None
        case _:
            return None


def _instance(table: Table, service: str, instance: str) -> Ending | None:
    if (service, instance) in table.suspects:
        return None
    known = table.services.get(service)
    if known is None or instance not in known.instances:
        return Ending("instance.gone", "it is not registered any more")
    health = known.health.get(instance)
    if health is None or health.healthy:
        return Ending("instance.healthy", health.reason if health is not None else "")
    return None


def _service(table: Table, service: str, stands: bool) -> Ending | None:
    known = table.services.get(service)
    if known is None or not known.instances:
        suspected = known is not None and known.suspects
        return (
            None if stands or suspected else Ending("service.recovered", f"conditions/services/{service} was deleted")
        )
    healthy = sum(id not in known.health or known.health[id].healthy for id in known.instances)
    return Ending("service.recovered", f"{healthy} healthy") if healthy else None


def _breaker(table: Table, service: str, instance: str, host: str, opened: Opened) -> Ending | None:
    reason = _forgotten(table, host, opened) or _without(table, "breaker", service)
    if not reason and instance != "*" and (service, instance) not in table.suspects:
        known = table.services.get(service)
        if known is None or instance not in known.instances:
            reason = "the instance is not registered any more"
    return Ending("breaker.closed", reason) if reason else None


def _forgotten(table: Table, host: str, opened: Opened) -> str:
    """What an agent told of itself ends with that run of it, which is in its events' ids."""
    agent = table.agents.get(host)
    if agent is None:
        return "" if host in table.suspects.agents else f"the agent {host} is gone"
    return "" if opened.event.startswith(f"{agent.boot}-") else f"the agent {host} was started anew"


def _without(table: Table, kind: str, service: str) -> str:
    known = table.in_force.enforced.get(kind, {})
    return "" if any(name in known for name in candidates(service)) else f"no {kind} policy is in force any more"
