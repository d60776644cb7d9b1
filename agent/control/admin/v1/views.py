"""The mesh as an agent's table has it, as the resources of the API. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from agent.control.admin.v1 import types
from agent.control.host.clock import text_of
from agent.control.mesh.distrust.suspects import record_of
from agent.control.mesh.documents.in_force import Policy, applies_at_every_level
from agent.control.mesh.service import Service
from agent.control.mesh.table import Table
from policies.language.names import candidates
from registry.records import Health, Instance

VANISHED: Final = "its record vanished without a word; it is used where there is nothing else"


def service_names(table: Table) -> list[str]:
    """Those that something runs or is written for."""
    return sorted(name for name, service in table.services.items() if service.present)


def service(table: Table, name: str) -> types.Service:
    """One that there is."""
    return types.Service(**_service(table, name))


def _service(table: Table, name: str) -> dict[str, Any]:
    known = table.services[name]
    found = list(instances_of(name, known))
    states = Counter(each.state for each in found)
    return {
        "name": name,
        "instances": len(found),
        "healthy": states["healthy"] + states["unchecked"],
        "draining": states["draining"],
        "versions": dict(sorted(Counter(each.version for each in found).items())),
        "policies": [
            *(_ref(kind, pattern, policy) for kind, pattern, policy in _in_force(table, name)),
            *(_ref(kind, pattern, policy, "audit") for kind, pattern, policy in _watched(table, name)),
        ],
    }


def _ref(kind: str, pattern: str, policy: Policy, mode: str = "enforce") -> types.PolicyRef:
    return types.PolicyRef(kind=kind, pattern=pattern, revision=policy.revision, mode=_mode(policy, mode))


def _mode(policy: Policy, mode: str = "enforce") -> types.Mode:
    return "audit" if policy.audit or mode == "audit" else "enforce"


def _in_force(table: Table, name: str) -> Iterator[tuple[str, str, Policy]]:
    """The most specific of each kind; of those that apply at every level all, the most specific first."""
    for kind, by_pattern in sorted(table.in_force.enforced.items()):
        for pattern in candidates(name):
            if pattern in by_pattern:
                yield kind, pattern, by_pattern[pattern]
                if not applies_at_every_level(kind):
                    break


def _watched(table: Table, name: str) -> Iterator[tuple[str, str, Policy]]:
    beside = table.in_force.watched
    for kind in sorted(table.audits.policies.keys() | beside.keys()):
        watched = table.audits.watched(kind)
        for pattern in candidates(name):
            policy = watched.get(pattern)
            if policy is not None:
                yield kind, pattern, policy
                if not applies_at_every_level(kind):
                    break


def detail(table: Table, name: str, calls: dict[str, dict[str, int]]) -> types.ServiceDetail:
    """A service with everything. `calls`: by caller, by service, how often."""
    known = table.services[name]
    closed = [
        types.NotKnown(kind=kind, pattern=pattern, reason=by_pattern[pattern])
        for kind, by_pattern in sorted(table.in_force.closed.items())
        for pattern in candidates(name)
        if pattern in by_pattern
    ]
    return types.ServiceDetail(
        **_service(table, name),
        members=list(instances_of(name, known))[: types.MOST],
        in_force=[policy_of(*each) for each in _in_force(table, name)],
        watched=[policy_of(*each, mode="audit") for each in _watched(table, name)],
        closed=closed,
        callers=sorted(caller for caller, services in calls.items() if name in services),
        calls=sorted(calls.get(name, {})),
    )


def policy_of(kind: str, pattern: str, policy: Policy, mode: str = "enforce") -> types.Policy:
    """With its document."""
    return types.Policy(
        kind=kind,
        pattern=pattern,
        revision=policy.revision,
        mode=_mode(policy, mode),
        document=msgspec.json.decode(policy.text),
    )


def policies(table: Table) -> Iterator[types.PolicyAt]:
    """Every document in force, and every one that is watched; by kind, pattern and mode."""
    found = [
        *((kind, pattern, policy, "") for kind, of in table.policies.items() for pattern, policy in of.items()),
        *((k, pattern, policy, "audit") for k, of in table.audits.policies.items() for pattern, policy in of.items()),
    ]
    for kind, pattern, policy, mode in sorted(found, key=lambda each: (each[0], each[1], each[3])):
        yield types.PolicyAt(kind, pattern, policy, _mode(policy, mode))


def instances(table: Table, first: str = "") -> Iterator[types.Instance]:
    """All, by service and id; made when they are asked for. `first`: the service to begin with."""
    for name in sorted(name for name in table.services if name >= first):
        yield from instances_of(name, table.services[name])


def count_instances(table: Table) -> int:
    """How many `instances` gives."""
    return table.instance_count + len(table.suspects)


def instances_of(name: str, known: Service) -> Iterator[types.Instance]:
    """A service's, by id; suspects among them."""
    for id in sorted(known.instances.keys() | known.suspects.keys()):
        record = known.instances.get(id)
        if record is not None:
            yield _instance(name, id, record, known.health.get(id))
        else:
            shown = _instance(name, id, record_of(known.suspects[id]), None)
            yield msgspec.structs.replace(shown, state="suspect", reason=VANISHED)


def _instance(name: str, id: str, record: Instance, health: Health | None) -> types.Instance:
    state: types.State = "unchecked" if health is None else "healthy" if health.healthy else "unhealthy"
    return types.Instance(
        service=name,
        id=id,
        address=record.address,
        port=record.port,
        version=record.version,
        zone=record.zone,
        weight=record.weight,
        agent=record.agent,
        state="draining" if record.state == "draining" else state,
        since=health.since if health is not None else "",
        reason=health.reason if health is not None else "",
        metadata=record.metadata,
    )


def targets(table: Table, mesh: str, port: int, now_s: float) -> list[types.Targets]:
    """Every agent that lives, at one port; and those that went without a word: who scrapes is to find that they do not
    answer, and not that nobody speaks of them any more."""
    found = []
    for host, record in sorted({**table.suspects.missed(now_s), **table.agents}.items()):
        address = f"[{record.address}]" if ":" in record.address else record.address
        labels = {"host": host, "mesh": mesh} | ({"zone": record.zone} if record.zone else {})
        found.append(types.Targets(targets=[f"{address}:{port}"], labels=labels))
    return found


def agent(table: Table, host: str) -> types.Agent:
    """One that lives, as far as the table knows it."""
    record, holds = table.agents[host], table.owners.holds.get(host)
    owned = sum(
        each.agent == host for name in table.owners.services(host) for each in table.services[name].instances.values()
    )
    return types.Agent(
        host=host,
        address=record.address,
        inbound_port=record.inbound_port,
        zone=record.zone,
        version=record.version,
        started=record.started,
        stopping=record.stopping,
        instances=owned,
        certificate_ends=text_of(holds.agent.timestamp()) if holds is not None and holds.agent is not None else "",
    )


def refused(table: Table) -> Iterator[types.Refused]:
    """Every document that is not in force, by kind and pattern."""
    closed = table.in_force.closed
    for watched, found in ((False, table.refused), (True, table.audits.refused)):
        for (kind, pattern), each in sorted(found.items()):
            yield types.Refused(
                host=table.host,
                kind=kind,
                pattern=pattern,
                path=each.path,
                reason=each.reason,
                revision=each.revision,
                last_good=each.last_good,
                closed=not watched and pattern in closed.get(kind, {}),
                watched=watched,
            )
