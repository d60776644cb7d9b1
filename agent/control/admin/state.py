"""What an agent tells of itself: /state."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
import trio

import agent
from agent import build
from agent.control.admin.opas import unasked
from agent.control.events.delivery import digest
from agent.control.host.clock import text_of
from agent.control.mesh.table import Table
from agent.control.parts import Parts
from agent.ports import Ports
from agent.process.descriptors import affordable, limit

MAX_DISBELIEVED: Final = 100
"""That are listed."""
WORST: Final = {"closed": 0, "half-open": 1, "open": 2}
"""States of a breaker, by how bad they are."""


def table_age_s(parts: Parts) -> float | None:
    """Since etcd was heard of, by this agent or the one whose table it found on disk; None: never."""
    mirror = parts.updates.mirror.state
    if mirror.synced or mirror.last_contact:
        return 0.0 if mirror.connected else time.monotonic() - mirror.last_contact
    return time.time() - parts.mesh.saved.saved_at if parts.mesh.saved.saved_at else None


def state(
    parts: Parts,
    workers: list[dict[str, Any]],
    figures: list[dict[str, Any]],
    handshakes: list[dict[str, Any]],
    silent: list[list[dict[str, Any]]],
) -> dict[str, Any]:
    """What /state shows. `figures`: the workers' metrics; `handshakes`: the last of theirs that failed; `silent`: by
    worker, OPAs that do not answer it."""
    table, mirror, age_s = parts.mesh.table, parts.updates.mirror.state, table_age_s(parts)
    return {
        "host": parts.settings.host,
        "mesh": parts.settings.mesh,
        "zone": parts.settings.zone,
        "address": parts.here.address,
        "version": agent.VERSION,
        "build": build.kind(),
        "build_reason": build.reason(),
        "started": parts.here.started,
        "ready": not parts.not_ready(),
        "not_ready": parts.not_ready(),
        "etcd": {
            "endpoints": list(parts.settings.etcd.endpoints),
            "connected": mirror.connected,
            "error": mirror.error,
            "revision": mirror.revision,
            "resyncs": mirror.resyncs,
            "lease": f"{parts.here.holder.lease:x}" if parts.here.holder.lease else "",
            "lease_error": parts.here.holder.error,
            "not_allowed": list(parts.here.etcd_rights.lacking),
        },
        "loop": {
            "late": parts.here.watchdog.lateness.count,
            "late_s": round(parts.here.watchdog.lateness.total_s, 3),
            "worst_s": round(parts.here.watchdog.lateness.worst_s, 3),
            "stack": parts.here.watchdog.stack,
        },
        "table": {
            "revision": table.revision,
            "age_s": None if age_s is None else round(age_s, 3),
            "services": len(table.services),
            "instances": table.instance_count,
            "policies": sum(map(len, table.policies.values())),
        },
        "workers": [
            {"index": w.index, "pid": w.process.pid, "ready": w.ready, "revision": w.revision, "build": w.build}
            for w in parts.fleet.workers.values()
        ],
        "previous_workers": [it.pid for it in parts.fleet.previous.workers],
        "worker_restarts": parts.fleet.restarts,
        "recent_commits": [list(commit) for commit in parts.fleet.recent_commits],
        "agents": {host: msgspec.to_builtins(record) for host, record in table.agents.items()},
        "refused": [
            {
                "kind": kind,
                "service": pattern,
                "path": refused.path,
                "reason": refused.reason,
                "revision": refused.revision,
                "last_good": refused.last_good,
                "closed": pattern in table.in_force.closed.get(kind, {}),
            }
            for (kind, pattern), refused in table.refused.items()
        ],
        "audits_refused": [
            {"kind": kind, "service": pattern, "path": refused.path, "reason": refused.reason}
            for (kind, pattern), refused in table.audits.refused.items()
        ],
        "judged": judged(figures, table),
        "held": [
            {
                "kind": kind,
                "service": pattern,
                "reason": hold.reason,
                "revision": hold.revision,
                "stands": hold.stands,
            }
            for (kind, pattern), hold in table.distrusted.holding.holds.items()
        ],
        "audit": parts.audit.as_state(),
        "followed": {
            "filters": parts.traffic.following.filters,
            "taps": parts.traffic.tapping.taps,
            "lost": parts.traffic.following.lost + parts.traffic.tapping.lost,
        },
        "malformed": [{"key": key, "reason": reason} for key, reason in _malformed(parts).items()],
        "malformed_unlisted": table.malformed.unlisted,
        "instances_refused": [
            {"service": service, "id": identity, "reason": reason}
            for (service, identity), reason in parts.registrar.taken().items()
        ],
        "instances_exposed": parts.exposed.look(),
        "guard": {"ports": [[low, high] for low, high in Ports(parts.settings.guard.ports).ranges]},
        "checks_refused": [
            {"service": service, "id": identity, "reason": reason}
            for (service, identity), reason in parts.registrar.refused.items()
        ],
        "checks_unable": [
            {"service": service, "id": identity, "reason": reason}
            for (service, identity), reason in parts.registrar.unable().items()
        ],
        "listeners": [
            {"name": name, "address": address, "port": port}
            for name, (address, port) in parts.here.listeners.places(parts.here.address)
        ],
        "descriptors": {
            "limit": limit(),
            "connections": affordable(limit()) * parts.settings.worker_count,
            "connections_wanted": parts.settings.limits.max_connections,
        },
        "shadowed": [{"key": key, "reason": reason} for key, reason in table.shadowed()],
        "suspects": [
            {"service": service, "id": identity, "agent": doubt.agent, "since": _at(doubt.since_s)}
            for (service, identity), doubt in table.suspects.doubted()
        ],
        "lost": [
            {
                "host": each.host,
                "address": each.record.address,
                "since": _at(each.since_s),
                "suspects": each.suspects,
                "answers": each.believed,
            }
            for each in table.suspects.lost(trio.current_time())
        ],
        "happened": msgspec.to_builtins(list(parts.traffic.transitions.latest)),
        "events": {
            "waiting": parts.events.delivery.waiting,
            "slowed": parts.events.delivery.slowed,
            "pending": len(parts.events.outbox.events),
            "disbelieved": dict(sorted(parts.events.outbox.sources.disbelieved.items())[:MAX_DISBELIEVED]),
            "claims": parts.events.outbox.claims,
            "conditions": sorted(parts.events.outbox.conditions),
            "outcomes": digest(parts.events.delivery.outcomes),
            "failures": list(parts.events.delivery.failures),
        },
        "identity": parts.identity.as_state(),
        "issuers": parts.issuers.as_state(),
        "opas": unasked(
            table.in_force.policies.get("authz", {}),
            {service for service, _ in parts.registrar.local},
            parts.settings.opa.allow,
            silent,
        ),
        "client_certificates": {
            service: {"path": each.path, "reason": each.reason}
            for service, each in sorted(parts.client_certificates.found.items())
        },
        "people_certificate": web.as_state(time.time()) if (web := parts.web_certificate) is not None else {},
        "handshakes_failed": [
            {**each, "at": text_of(each["at"])} for each in sorted(handshakes, key=lambda each: float(each["at"]))
        ],
        "records": parts.records.as_state(),
        "topics": parts.traffic.requests.as_state(),
        "standing": msgspec.to_builtins(parts.traffic.transitions.in_force(table)),
        "local": [
            {"service": service, "id": identity, "source": local.source, **msgspec.to_builtins(local.record)}
            for (service, identity), local in parts.registrar.local.items()
        ],
        "services": services_of(workers),
    }


def _at(since_s: float) -> str:
    """When that was, by Trio's clock: in whole seconds, so that who asks twice hears the same."""
    return text_of(round(time.time() - (trio.current_time() - since_s)))


def _malformed(parts: Parts) -> dict[str, str]:
    return {**parts.mesh.table.inward, **parts.mesh.table.malformed, **parts.identity.malformed}


def judged(figures: list[dict[str, Any]], table: Table) -> list[dict[str, Any]]:
    """What was done, and what documents that are only watched would have done, and how often. Workers count on what was
    said of documents that are enforced now, or gone."""
    total: dict[tuple[str, ...], int] = {}
    for worker in figures:
        for name, service in worker["services"].items():
            for words, number in service["audit"].items():
                labels = (name, *words.split("\t"))
                total[labels] = total.get(labels, 0) + number
    fields = ("service", "kind", "document", "done", "would")
    return [
        {**dict(zip(fields, labels, strict=True)), "requests": number}
        for labels, number in sorted(total.items())
        if len(labels) == len(fields) and labels[2] in table.audits.watched(labels[1])
    ]


def services_of(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """The services as the workers run them: endpoints once, their loads added up."""
    merged: dict[str, Any] = {}
    for worker in workers:
        for name, service in worker["services"].items():
            known = merged.get(name)
            if known is None:
                merged[name] = service
                continue
            if service["breaker"] and known["breaker"]:
                known["breaker"] = max(known["breaker"], service["breaker"], key=lambda found: WORST[found["state"]])
            if service.get("backpressure") and known.get("backpressure"):
                for figure in ("window", "under_way"):
                    known["backpressure"][figure] += service["backpressure"][figure]
            loads = {endpoint["id"]: endpoint for endpoint in service["endpoints"]}
            for endpoint in known["endpoints"]:
                other = loads.get(endpoint["id"], {})
                for figure in ("active", "requests", "successes", "failures"):
                    endpoint[figure] += other.get(figure, 0)
                endpoint["ejected"] = endpoint["ejected"] or other.get("ejected", False)
                endpoint["breaker"] = max(
                    endpoint["breaker"], other.get("breaker", ""), key=lambda state: WORST.get(state, -1)
                )
    return merged
