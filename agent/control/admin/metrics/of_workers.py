"""What workers counted, added up: metrics of services, and of what workers have in common. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from agent.control.admin.state import WORST


def of_workers(workers: Sequence[dict[str, Any]]) -> list[Metric]:
    """From each one's figures; those of another version may lack some."""
    return [*_services(workers), *_in_common(workers)]


def _added(workers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every service's counters, summed over the workers."""
    total: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, service in worker.get("services", {}).items():
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
        return [a + b for a, b in zip(one, other, strict=False)]
    return one + other


def _services(workers: Sequence[dict[str, Any]]) -> list[Metric]:
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
        "plain": CounterMetricFamily(
            "shoal_plaintext_requests", "In plain text though its policy is permissive", labels=["service", "peer"]
        ),
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
    bounds: list[float] = next((worker["duration_bounds_s"] for worker in workers if "duration_bounds_s" in worker), [])
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
            for label, number in sorted(service.get(field, {}).items()):
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


def _in_common(workers: Sequence[dict[str, Any]]) -> list[Metric]:
    refused = CounterMetricFamily("shoal_refused_unrouted", "Refusals with no service behind them", labels=["policy"])
    policies = {policy for worker in workers for policy in worker.get("refused", {})}
    for policy in sorted(policies):
        refused.add_metric([policy], sum(worker.get("refused", {}).get(policy, 0) for worker in workers))
    worst = max((worker.get("loop_late_worst_s", 0.0) for worker in workers), default=0.0)
    return [
        refused,
        *(GaugeMetricFamily(name, text, value=_sum(workers, path)) for name, (text, *path) in _GAUGES.items()),
        *(CounterMetricFamily(name, text, value=_sum(workers, path)) for name, (text, *path) in _COUNTERS.items()),
        GaugeMetricFamily("shoal_worker_loop_late_worst_seconds", "Of the latest of the workers", value=worst),
    ]


def _sum(workers: Sequence[dict[str, Any]], path: Sequence[str]) -> float:
    total = 0.0
    for worker in workers:
        found: Any = worker
        for name in path:
            found = found.get(name, {})
        total += found or 0
    return total


_GAUGES: Final = {
    "shoal_connections_open": ("Client connections", "connections", "open"),
    "shoal_upstream_connections_open": ("Connections to endpoints", "pool", "open"),
    "shoal_upstream_connections_idle": ("Idle ones of them", "pool", "idle"),
    "shoal_tls_half_open": ("Handshakes of callers that are under way", "tls", "half_open"),
    "shoal_buffered_bytes": ("Held for those who do not take it yet", "buffers", "held"),
}
"""By name: the text, and where a worker's figures have it."""
_COUNTERS: Final = {
    "shoal_connections": ("Client connections accepted", "connections", "accepted"),
    "shoal_upstream_connects": ("Connections made to endpoints", "pool", "connects"),
    "shoal_upstream_reuses": ("Requests sent over a connection from the pool", "pool", "reused"),
    "shoal_tls_handshakes": ("Handshakes of callers that came to something", "tls", "secured"),
    "shoal_tls_handshakes_failed": ("Handshakes of callers that came to nothing", "tls", "failed"),
    "shoal_tls_handshakes_displaced": ("Of those, how many had to make way for others", "tls", "displaced"),
    "shoal_tls_connections_ended": (
        "Connections that were cut because what had proven them was revoked, or had ended",
        "tls",
        "ended",
    ),
    "shoal_connections_cut_off": ("Slowest connections, closed as all held too much", "buffers", "cut_off"),
    "shoal_connections_made_way": ("Connections closed for others, without a request", "connections", "made_way"),
    "shoal_given_up_calls": (
        "Calls of services that every try was made for, by request and by trace",
        "given_up",
        "noted",
    ),
    "shoal_given_up_calls_lost": ("Of those, how many gave way to others too early", "given_up", "lost"),
    "shoal_counts_lost": (
        "What a worker counted by itself because there was no place where all of them count",
        "counts_lost",
    ),
    "shoal_access_records_lost": ("Access records that nobody took", "records_lost"),
    "shoal_worker_loop_late_seconds": ("For how long workers were late", "loop_late_s"),
}
