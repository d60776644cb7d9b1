"""What control counts itself, and the processes of the agent."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

import agent
from agent import build
from agent.control.admin.metrics import processes
from agent.control.admin.metrics.text import COUNTER, GAUGE, HISTOGRAM, INFO, Family, Writer, number_of
from agent.control.admin.state import table_age_s
from agent.control.parts import Parts
from agent.control.records.records import ACCESS_LOG
from agent.control.workers.convergence import BOUNDS_S

Counter: TypeAlias = tuple[str, ...]
"""A name of `COUNTERS`, and the values of its labels."""

GAUGES: Final = {
    "shoal_table_revision": "Revision that every worker of this host runs",
    "shoal_table_revision_heard": "Newest revision that etcd has told of",
    "shoal_table_age_seconds": "Since etcd was last heard of; of an agent that never did, since its start",
    "shoal_etcd_connected": "1 while the watch on etcd stands",
    "shoal_policies_refused": "Policies that are not in force",
    "shoal_policies_unknown": "Of those, the ones whose last good state this agent does not know",
    "shoal_policies_held": "Policies that are in force though etcd says otherwise, which nobody has confirmed",
    "shoal_checks_refused": "Instances of this host whose health policy asks for what this agent may not do",
    "shoal_instances_refused": "Instances of this host that are not in the mesh, because another has their id",
    "shoal_checks_unable": "Instances of this host that cannot be asked now, by a fault of this host",
    "shoal_instances": "Instances in the mesh",
    "shoal_services": "Services in the mesh",
    "shoal_suspects": "Endpoints whose record vanished without a word, and that are kept",
    "shoal_events_pending": "Events that some webhook has still to be told",
    "shoal_identity_held": "Certificates that this host shows, or signs with",
    "shoal_identity_missing": "What this host cannot prove, or soon not any more; /state says why",
    "shoal_identity_first_end_seconds": "Until the first of its certificates ends",
    "shoal_identity_bundle_sequence": "Of the trust bundle that is in force here",
    "shoal_identity_revoked": "Revocations that are known here",
    "shoal_identity_requests_waiting": "Signing requests that no issuer has answered, as this one sees them",
    "shoal_audit_waiting": "Audit records that are not written yet",
    "shoal_audit_failing": "1 while audit records cannot be written; /state says why",
    "shoal_audit_last": "Number of the last audit record of this host",
    "shoal_audit_countersigned": "Number of the last audit record whose head another agent has countersigned",
    "shoal_issuers": "Issuers of tokens whose keys this agent fetches",
    "shoal_issuer_failing": "Of those, the ones whose keys could not be fetched last",
    "shoal_issuer_unknown": "Of those, the ones whose keys were never got: their tokens are answered with 503",
    "shoal_issuer_keys_age_seconds": "Since the one that was heard of longest ago said which keys it has",
    "shoal_live_connections": "Pages that watch answers of this agent, by a WebSocket each",
    "shoal_live_watches": "Answers that they watch, those of each page for itself",
    "shoal_live_looks": "Different answers that are watched: each is asked for once, however many watch it",
    "shoal_control_loop_late_worst_seconds": "For how long control's loop was late at worst since it started",
}
COUNTERS: Final[dict[str, tuple[str, ...]]] = {
    "shoal_worker_restarts": ("Workers replaced",),
    "shoal_frames_mishandled": ("What workers told that control failed at, by a mistake of its own",),
    "shoal_resyncs": ("Snapshots taken from etcd",),
    "shoal_events_merged": (
        "Events that were not told, because a newer one of their condition was waiting, and too many did",
    ),
    "shoal_events_lost": ("Events that could not be kept, because there were too many at once",),
    "shoal_comparisons": ("Requests whose answers were compared",),
    "shoal_comparisons_dropped": ("Requests whose answers were not, because there were too many",),
    "shoal_access_log_lines_lost": ("Lines that could not be written",),
    "shoal_records": ("Records that a sink has taken", "sink", "kind"),
    "shoal_records_lost": ("Records that a sink has not taken, and never will", "sink", "kind"),
    "shoal_output_lines": ("Lines of programs' output that were taken",),
    "shoal_output_lines_lost": ("Lines of programs' output that there was no room for",),
    "shoal_questions": ("What people asked of all agents, each of them of one host",),
    "shoal_questions_unanswered": ("Of those, what was not answered", "why"),
    "shoal_live_asked": ("How often an answer was made for pages that watch",),
    "shoal_live_skipped": ("Answers that a slow page was not told, because a newer one had come",),
    "shoal_lease_grants": ("Leases taken",),
    "shoal_figures_folded": ("Rows of windows of figures that had no room, and are in others",),
    "shoal_figures_missed": ("Looks at figures that were not made in time",),
    "shoal_control_loop_late": ("How often control's loop was late by a quarter of a second or more",),
    "shoal_control_loop_late_seconds": ("For how long in all control's loop was late",),
    "shoal_identity_signed": ("Certificates that this host has signed",),
    "shoal_identity_refused": ("Signing requests that it has refused",),
    "shoal_audit_records": ("Audit records that were written",),
    "shoal_audit_records_lost": ("Audit records that were not",),
    "shoal_issuer_fetches": ("How often keys were fetched", "source", "outcome"),
    "shoal_hook_deliveries": ("What webhooks were told", "hook", "outcome"),
    "shoal_topic_requests": ("Requests for a topic", "topic", "outcome"),
}
"""By name: the text, and the labels."""
IN_FORCE: Final = Family(
    "shoal_revision_in_force_seconds",
    HISTOGRAM,
    "From when this agent heard of a revision to when every worker of this host ran it",
)


REPLICAS: Final = Family(
    "shoal_scale_replicas", GAUGE, "Instances that a service should have, at the agent that advises", ("service",)
)


class Figures(NamedTuple):
    """Of one moment, taken on control's loop; what is made of them is made elsewhere."""

    gauges: Mapping[str, float]
    counters: Mapping[Counter, float]
    topics: Sequence[Mapping[str, Any]]
    workers: Sequence[tuple[str, int]]
    """Index and process of each; those of the process before have no index."""
    scaled: Sequence[tuple[str, int]] = ()
    """Services that this agent advises for, and how many instances they should have."""


def figures(parts: Parts) -> Figures:
    """Now."""
    fleet = parts.fleet
    return Figures(
        _gauges(parts),
        counters(parts),
        parts.traffic.requests.as_state(),
        [
            *((str(worker.index), worker.process.pid) for worker in fleet.workers.values()),
            *(("previous", it.pid) for it in fleet.previous.workers),
        ],
        [
            (service, standing.advice.replicas)
            for service, standing in sorted(parts.scaler.standing.items())
            if not standing.wanted.audit
        ],
    )


def _gauges(parts: Parts) -> dict[str, float]:
    age_s, table = table_age_s(parts), parts.mesh.table
    return {
        "shoal_table_revision": parts.fleet.revision,
        "shoal_table_revision_heard": table.revision,
        "shoal_table_age_seconds": _up_s(parts) if age_s is None else age_s,
        "shoal_etcd_connected": float(parts.updates.mirror.state.connected),
        "shoal_policies_refused": len(table.refused),
        "shoal_policies_unknown": len(table.in_force.unknown()),
        "shoal_policies_held": len(table.distrusted.holding.holds),
        "shoal_checks_refused": len(parts.registrar.refused),
        "shoal_instances_refused": len(parts.registrar.taken()),
        "shoal_checks_unable": len(parts.registrar.unable()),
        "shoal_instances": table.instance_count,
        "shoal_services": len(table.services),
        "shoal_suspects": len(table.suspects),
        "shoal_events_pending": len(parts.events.outbox.events),
        "shoal_live_connections": parts.watched.connections,
        "shoal_live_watches": parts.watched.watches,
        "shoal_live_looks": parts.watched.looks,
        "shoal_control_loop_late_worst_seconds": parts.here.watchdog.lateness.worst_s,
        **parts.issuers.gauges(),
        **parts.identity.gauges(),
        **parts.audit.gauges(),
    }


def _up_s(parts: Parts) -> float:
    return max(0.0, time.time() - datetime.fromisoformat(parts.here.started).timestamp())


def counters(parts: Parts) -> dict[Counter, float]:
    """Since the agent was started, by whichever of its processes; an upgrade and SIGHUP do not start it."""
    lateness, shadow, records = parts.here.watchdog.lateness, parts.traffic.shadow, parts.records
    found: dict[Counter, float] = {
        ("shoal_worker_restarts",): parts.fleet.restarts,
        ("shoal_frames_mishandled",): parts.fleet.mishandled.total(),
        ("shoal_resyncs",): parts.updates.mirror.state.resyncs,
        ("shoal_events_merged",): parts.events.delivery.merged,
        ("shoal_events_lost",): parts.events.detector.lost,
        ("shoal_comparisons",): shadow.compared,
        ("shoal_comparisons_dropped",): shadow.dropped,
        ("shoal_access_log_lines_lost",): records.lost(ACCESS_LOG),
        ("shoal_output_lines",): parts.output.lines,
        ("shoal_output_lines_lost",): parts.output.lost,
        ("shoal_questions",): parts.fanout.asked,
        ("shoal_live_asked",): parts.watched.asked,
        ("shoal_live_skipped",): parts.watched.skipped,
        ("shoal_lease_grants",): parts.here.holder.regrants,
        ("shoal_figures_folded",): parts.figures.sampler.folded,
        ("shoal_figures_missed",): parts.figures.sampler.late,
        ("shoal_control_loop_late",): lateness.count,
        ("shoal_control_loop_late_seconds",): lateness.total_s,
        **parts.identity.counters(),
        **parts.audit.counters(),
    }
    for (hook, outcome), number in parts.events.delivery.outcomes.items():
        found["shoal_hook_deliveries", hook, outcome] = number
    for sink in records.sinks:
        for kind in sink.kinds:
            found["shoal_records", sink.name, kind] = sink.waiting.delivered[kind]
            found["shoal_records_lost", sink.name, kind] = sink.waiting.lost[kind]
    for why, number in parts.fanout.unanswered.items():
        found["shoal_questions_unanswered", why] = number
    for (source, outcome), number in parts.issuers.fetches.items():
        found["shoal_issuer_fetches", source, outcome] = number
    for topic in parts.traffic.requests.as_state():
        for outcome in ("stored", "refused", "delivered"):
            found["shoal_topic_requests", topic["url"], outcome] = topic[outcome]
    took = parts.fleet.convergence
    for bucket, number in enumerate(took.buckets):
        found[IN_FORCE.name, str(bucket)] = number
    found[IN_FORCE.name, "sum"] = took.sum_s
    for counter, before in parts.carried.items():
        known = counter in found if counter[0] == IN_FORCE.name else len(counter) == len(COUNTERS.get(counter[0], ()))
        if known:
            found[counter] = found.get(counter, 0) + before
    return found


def saved(parts: Parts) -> bytes:
    """For the process that is executed next: `Parts.carried` there."""
    return msgspec.msgpack.encode(list(counters(parts).items()))


def write_control(page: Writer, told: Figures) -> None:
    """Its metrics. In a thread: the processes are asked for here."""
    for name, value in told.gauges.items():
        page.write(Family(name, GAUGE, GAUGES[name]), [((), value)])
    counted: dict[str, list[tuple[Sequence[str], float]]] = {name: [] for name in COUNTERS}
    for (name, *values), number in sorted(told.counters.items()):
        if name in counted:
            counted[name].append((values, number))
    for name, (text, *labels) in COUNTERS.items():
        page.write(Family(name, COUNTER, text, tuple(labels)), counted[name])
    _write_in_force(page, told.counters)
    for name, text, figure in _OF_TOPICS:
        page.write(Family(name, GAUGE, text, ("topic",)), [((topic["url"],), topic[figure]) for topic in told.topics])
    page.write(REPLICAS, [((service,), replicas) for service, replicas in told.scaled])
    info = {"version": agent.VERSION, "build": build.kind(), "python": platform.python_version()}
    page.write(Family("shoal_build", INFO, "What runs", tuple(info)), [(tuple(info.values()), 1)])
    processes.write(page, told.workers)


def _write_in_force(page: Writer, counters: Mapping[Counter, float]) -> None:
    name, total = page.begin(IN_FORCE), 0.0
    for bucket, bound in enumerate((*BOUNDS_S, math.inf)):
        total += counters.get((name, str(bucket)), 0)
        page.add(f'{name}_bucket{{le="{number_of(bound)}"}} {int(total)}\n')
    page.add(f"{name}_count {int(total)}\n{name}_sum {number_of(counters.get((name, 'sum'), 0.0))}\n")


_OF_TOPICS: Final = (
    ("shoal_topic_waiting", "Stored requests that the broker has not", "waiting"),
    ("shoal_topic_disk_bytes", "What they take on disk", "bytes"),
)
