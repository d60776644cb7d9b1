"""/metrics: the workers' counters added up, and control's own, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import agent
from agent import build
from agent.control.admin.state import WORST


class Collected:
    """Metrics of one moment, as a collector."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        return iter(self._metrics)


def render(
    workers: list[dict[str, Any]],
    control: dict[str, float],
    hooks: Mapping[tuple[str, str], int] | None = None,
    topics: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The whole page."""
    registry = CollectorRegistry(auto_describe=False)
    own = [*_control(control), _hooks(hooks or {}), *_topics(topics)]
    registry.register(Collected([*_services(workers), *_workers(workers), *own]))
    return generate_latest(registry)


def _added(workers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every service's counters, summed over the workers."""
    total: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, service in worker["services"].items():
            into = total.setdefault(name, {})
            for field, value in service.items():
                into[field] = _plus(into.get(field), value)
    return total


def _plus(one: Any, other: Any) -> Any:
    if one is None:
        return other
    if isinstance(other, dict):
        return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
    if isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other


def _services(workers: list[dict[str, Any]]) -> list[Metric]:
    requests = CounterMetricFamily("shoal_requests", "Requests by class of status", labels=["service", "status"])
    refused = CounterMetricFamily("shoal_refused", "Answers of the mesh's own", labels=["service", "policy"])
    failures = CounterMetricFamily("shoal_attempts_failed", "Failed attempts by kind", labels=["service", "kind"])
    retries = CounterMetricFamily("shoal_retries", "Attempts made again", labels=["service"])
    hedges = CounterMetricFamily("shoal_hedges", "Second attempts beside slow ones", labels=["service", "won"])
    audit = CounterMetricFamily(
        "shoal_audit",
        "What was done, and what a document that is only watched would have done",
        labels=["service", "kind", "document", "done", "would"],
    )
    received = CounterMetricFamily("shoal_request_bytes", "Bytes of request bodies", labels=["service"])
    sent = CounterMetricFamily("shoal_response_bytes", "Bytes of response bodies", labels=["service"])
    active = GaugeMetricFamily("shoal_requests_active", "Requests in flight", labels=["service"])
    duration = HistogramMetricFamily(
        "shoal_request_duration_seconds", "From the head to the end of the answer", labels=["service"]
    )
    by_label = {
        "limited": CounterMetricFamily("shoal_limited", "Requests refused by a limit", labels=["service", "limit"]),
        "faults": CounterMetricFamily("shoal_faults", "Faults injected on purpose", labels=["service", "rule"]),
        "copies": CounterMetricFamily("shoal_shadow", "Copies of requests", labels=["service", "outcome"]),
        "shed": CounterMetricFamily("shoal_shed", "Requests that were not let in", labels=["service", "outcome"]),
        "transitions": CounterMetricFamily(
            "shoal_breaker_transitions", "Changes of a breaker", labels=["service", "to"]
        ),
        "ejections": CounterMetricFamily("shoal_ejections", "Ejected by a worker", labels=["service", "endpoint"]),
    }
    breaker = GaugeMetricFamily(
        "shoal_breaker_state", "0 closed, 1 half-open, 2 open: the worst of the workers", labels=["service"]
    )
    ejected = GaugeMetricFamily("shoal_ejected", "Endpoints that some worker has ejected now", labels=["service"])
    bounds = workers[0]["duration_bounds_s"] if workers else []
    for name, service in sorted(_added(workers).items()):
        for status, number in sorted(service["requests"].items()):
            requests.add_metric([name, status], number)
        for policy, number in sorted(service["refused"].items()):
            refused.add_metric([name, policy], number)
        for kind, number in sorted(service["failures"].items()):
            if kind not in ("retries", "hedges", "hedges_won"):
                failures.add_metric([name, kind], number)
        for words, number in sorted(service["audit"].items()):
            labels = words.split("\t")
            if len(labels) == 4:  # a worker of before counts by kind alone
                audit.add_metric([name, *labels], number)
        for field, metric in by_label.items():
            for label, number in sorted(service[field].items()):
                metric.add_metric([name, label], number)
        if service["breaker"]:
            breaker.add_metric([name], max(WORST[state] for state in service["breaker"]))
        if service["ejections"]:
            ejected.add_metric([name], len(service["ejected"]))
        retries.add_metric([name], service["failures"].get("retries", 0))
        won = service["failures"].get("hedges_won", 0)
        hedges.add_metric([name, "true"], won)
        hedges.add_metric([name, "false"], service["failures"].get("hedges", 0) - won)
        received.add_metric([name], service["bytes_in"])
        sent.add_metric([name], service["bytes_out"])
        active.add_metric([name], service["active"])
        duration.add_metric([name], _buckets(bounds, service["duration_buckets"]), service["duration_sum_s"])
    counted = [requests, refused, failures, retries, hedges, audit, received, sent]
    return [*counted, active, duration, *by_label.values(), breaker, ejected]


def _buckets(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, number in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += number
        buckets.append((bound, total))
    return buckets


def _workers(workers: list[dict[str, Any]]) -> list[Metric]:
    refused = CounterMetricFamily("shoal_refused_unrouted", "Refusals with no service behind them", labels=["policy"])
    policies = {policy for worker in workers for policy in worker["refused"]}
    for policy in sorted(policies):
        refused.add_metric([policy], sum(worker["refused"].get(policy, 0) for worker in workers))
    metrics: list[Metric] = [refused]
    for name, text, part, field in (
        ("shoal_connections_open", "Client connections", "connections", "open"),
        ("shoal_upstream_connections_open", "Connections to endpoints", "pool", "open"),
        ("shoal_upstream_connections_idle", "Idle ones of them", "pool", "idle"),
    ):
        metrics.append(GaugeMetricFamily(name, text, value=sum(worker[part][field] for worker in workers)))
    for name, text, part, field in (
        ("shoal_connections", "Client connections accepted", "connections", "accepted"),
        ("shoal_upstream_connects", "Connections made to endpoints", "pool", "connects"),
        ("shoal_upstream_reuses", "Requests sent over a connection from the pool", "pool", "reused"),
    ):
        metrics.append(CounterMetricFamily(name, text, value=sum(worker[part][field] for worker in workers)))
    late = max((worker["loop_late_worst_s"] for worker in workers), default=0.0)
    metrics.append(
        GaugeMetricFamily("shoal_worker_loop_late_worst_seconds", "Of the latest of the workers", value=late)
    )
    late = sum(worker["loop_late_s"] for worker in workers)
    metrics.append(CounterMetricFamily("shoal_worker_loop_late_seconds", "For how long workers were late", value=late))
    # A worker of the version before, which has not gone yet, tells nothing of it.
    held = sum(worker.get("buffers", {}).get("held", 0) for worker in workers)
    metrics.append(GaugeMetricFamily("shoal_buffered_bytes", "Held for those who do not take it yet", value=held))
    for name, text, part, field in (
        ("shoal_connections_cut_off", "Slowest connections, closed as all held too much", "buffers", "cut_off"),
        ("shoal_connections_made_way", "Connections closed for others, without a request", "connections", "made_way"),
        (
            "shoal_given_up_calls",
            "Calls of services that every try was made for, by request and by trace",
            "given_up",
            "noted",
        ),
        ("shoal_given_up_calls_lost", "Of those, how many gave way to others too early", "given_up", "lost"),
    ):
        told = sum(worker.get(part, {}).get(field, 0) for worker in workers)
        metrics.append(CounterMetricFamily(name, text, value=told))
    lost = sum(worker.get("counts_lost", 0) for worker in workers)
    text = "What a worker counted by itself because there was no place where all of them count"
    metrics.append(CounterMetricFamily("shoal_counts_lost", text, value=lost))
    lost = sum(worker["records_lost"] for worker in workers)
    metrics.append(CounterMetricFamily("shoal_access_records_lost", "Access records that nobody took", value=lost))
    return metrics


def _hooks(outcomes: Mapping[tuple[str, str], int]) -> Metric:
    deliveries = CounterMetricFamily("shoal_hook_deliveries", "What webhooks were told", labels=["hook", "outcome"])
    for (hook, outcome), number in outcomes.items():
        deliveries.add_metric([hook, outcome], number)
    return deliveries


def _topics(topics: Sequence[Mapping[str, Any]]) -> list[Metric]:
    records = CounterMetricFamily("shoal_topic_requests", "Requests for a topic", labels=["topic", "outcome"])
    waiting = GaugeMetricFamily("shoal_topic_waiting", "Stored requests that the broker has not", labels=["topic"])
    size = GaugeMetricFamily("shoal_topic_disk_bytes", "What they take on disk", labels=["topic"])
    for topic in topics:
        for outcome in ("stored", "refused", "delivered"):
            records.add_metric([topic["url"], outcome], topic[outcome])
        waiting.add_metric([topic["url"]], topic["waiting"])
        size.add_metric([topic["url"]], topic["bytes"])
    return [records, waiting, size]


_OWN = {
    "table_revision": "Revision that every worker of this host runs",
    "table_age_seconds": "Since etcd was last heard of; of an agent that never did, since its start",
    "etcd_connected": "1 while the watch on etcd stands",
    "policies_refused": "Policies that are not in force",
    "policies_unknown": "Of those, the ones whose last good state this agent does not know",
    "policies_held": "Policies that are in force though etcd says otherwise, which nobody has confirmed",
    "checks_refused": "Instances of this host whose health policy asks for what this agent may not do",
    "checks_unable": "Instances of this host that cannot be asked now, by a fault of this host",
    "instances": "Instances in the mesh",
    "services": "Services in the mesh",
    "suspects": "Endpoints whose record vanished without a word, and that are kept",
    "worker_restarts": "Workers replaced since the agent started",
    "frames_mishandled": "What workers told that control failed at, by a mistake of its own",
    "resyncs": "Snapshots taken from etcd",
    "events_pending": "Events that some webhook has still to be told",
    "events_merged": "Events that were not told, because a newer one of their condition was waiting, and too many did",
    "events_lost": "Events that could not be kept, because there were too many at once",
    "comparisons": "Requests whose answers were compared since the agent started",
    "comparisons_dropped": "Requests whose answers were not, because there were too many",
    "access_log_lines_lost": "Lines that could not be written since the agent started",
    "lease_grants": "Leases taken since the agent started",
    "control_loop_late": "How often control's loop was late by a quarter of a second or more",
    "control_loop_late_seconds": "For how long in all it was late",
    "control_loop_late_worst_seconds": "For how long it was late at worst since the agent started",
}


def _control(control: dict[str, float]) -> list[Metric]:
    metrics: list[Metric] = [
        GaugeMetricFamily(f"shoal_{name}", _OWN[name], value=value) for name, value in control.items() if name in _OWN
    ]
    info = GaugeMetricFamily("shoal_build_info", "1, with what runs in its labels", labels=["version", "build"])
    info.add_metric([agent.VERSION, build.kind()], 1)
    metrics.append(info)
    metrics.append(GaugeMetricFamily("shoal_scrape_time_seconds", "When this page was made", value=time.time()))
    return metrics
