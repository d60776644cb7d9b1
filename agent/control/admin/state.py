"""What an agent tells of itself: /state, and control's share of /metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

import agent
from agent import build
from agent.control.events.delivery import digest

if TYPE_CHECKING:
    from agent.control.main import Control


WORST: Final = {"closed": 0, "half-open": 1, "open": 2}
"""States of a breaker, by how bad they are."""


def figures(control: Control) -> dict[str, float]:
    """Control's own metrics."""
    mirror = control.mirror.state
    return {
        "table_revision": control.fleet.revision,
        "table_age_seconds": _age_s(control),
        "etcd_connected": float(mirror.connected),
        "policies_refused": len(control.table.refused),
        "policies_unknown": len(control.table.in_force.unknown()),
        "checks_refused": len(control.registrar.refused),
        "instances": control.table.instance_count,
        "services": len(control.table.services),
        "suspects": sum(1 for _ in control.table.suspects()),
        "worker_restarts": control.fleet.restarts,
        "frames_mishandled": control.fleet.mishandled.total(),
        "resyncs": mirror.resyncs,
        "lease_grants": control.holder.regrants,
        "control_loop_late": control.watchdog.lateness.count,
        "control_loop_late_seconds": control.watchdog.lateness.total_s,
        "control_loop_late_worst_seconds": control.watchdog.lateness.worst_s,
        "events_pending": len(control.outbox.events),
        "events_lost": control.detector.lost,
        "comparisons": control.comparing.compared,
        "comparisons_dropped": control.comparing.dropped,
        "access_log_lines_lost": control.access.lost if control.access is not None else 0,
    }


def _age_s(control: Control) -> float:
    mirror = control.mirror.state
    if mirror.synced or mirror.last_contact:
        return 0.0 if mirror.connected else time.monotonic() - mirror.last_contact
    return time.time() - control.keeper.saved_at if control.keeper.saved_at else 0.0


def state(control: Control, workers: list[dict[str, Any]]) -> dict[str, Any]:
    """What /state shows."""
    table, mirror = control.table, control.mirror.state
    return {
        "host": control.settings.host,
        "mesh": control.settings.mesh,
        "zone": control.settings.zone,
        "address": control.address,
        "version": agent.VERSION,
        "build": build.kind(),
        "build_reason": build.reason(),
        "started": control.started,
        "ready": not control.not_ready(),
        "not_ready": control.not_ready(),
        "etcd": {
            "endpoints": list(control.settings.etcd.endpoints),
            "connected": mirror.connected,
            "error": mirror.error,
            "revision": mirror.revision,
            "resyncs": mirror.resyncs,
            "lease": f"{control.holder.lease:x}" if control.holder.lease else "",
            "lease_error": control.holder.error,
        },
        "loop": {
            "late": control.watchdog.lateness.count,
            "late_s": round(control.watchdog.lateness.total_s, 3),
            "worst_s": round(control.watchdog.lateness.worst_s, 3),
            "stack": control.watchdog.stack,
        },
        "table": {
            "revision": table.revision,
            "age_s": round(_age_s(control), 3),
            "services": len(table.services),
            "instances": table.instance_count,
            "policies": sum(map(len, table.policies.values())),
        },
        "workers": [
            {"index": w.index, "pid": w.process.pid, "ready": w.ready, "revision": w.revision, "build": w.build}
            for w in control.fleet.workers.values()
        ],
        "worker_restarts": control.fleet.restarts,
        "recent_commits": [list(commit) for commit in control.fleet.recent_commits],
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
        "malformed": [{"key": key, "reason": reason} for key, reason in {**table.inward, **table.malformed}.items()],
        "checks_refused": [
            {"service": service, "id": identity, "reason": reason}
            for (service, identity), reason in control.registrar.refused.items()
        ],
        "shadowed": [{"key": key, "reason": reason} for key, reason in table.shadowed()],
        "suspects": [{"service": s.service, "id": s.id} for s in table.suspects()],
        "happened": list(control.happened),
        "events": {
            "waiting": control.delivery.waiting,
            "pending": len(control.outbox.events),
            "claims": control.outbox.claims,
            "conditions": sorted(control.outbox.conditions),
            "outcomes": digest(control.delivery.outcomes),
            "failures": list(control.delivery.failures),
        },
        "topics": control.storing.as_state(),
        "standing": list(control.standing.values()),
        "local": [
            {"service": service, "id": identity, "source": local.source, **msgspec.to_builtins(local.record)}
            for (service, identity), local in control.registrar.local.items()
        ],
        "services": _merged(workers),
    }


def _merged(workers: list[dict[str, Any]]) -> dict[str, Any]:
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
